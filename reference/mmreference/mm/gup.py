"""Looking up and pinning the pages behind addresses."""

from __future__ import annotations

from mmreference.kernel.scheduler import Retry
from mmreference.mm.mm_struct import VM_HUGETLB, VM_WRITE, Mm, Vma
from mmreference.mm.page import Page, get_page
from mmreference.mm.pagetable import Present, entry_under_lock, pmd_index, prot_none, pte_lockptr, vpn_of
from mmspec.contracts import operation
from mmspec.errors import Signal


@operation()
async def follow_page(vma: Vma, address: int, *, write: bool = False) -> Page | None:
    """The page that is mapped at the address (bytes), with a reference; None if there is none, or not to `write`.

    Asks the page table only, not the permissions of the area. A trans-huge page is returned as its head.
    """
    mm = vma.mm
    vpn = vpn_of(mm, address)
    level = "huge" if vma.vm_flags & VM_HUGETLB else "pmd" if pmd_index(mm, vpn) in mm.pmds else "pte"
    if level == "huge":
        vpn = vpn >> mm.system.huge_page_order << mm.system.huge_page_order
    async with pte_lockptr(mm, vpn) if level == "pte" else mm.page_table_lock:
        entry = entry_under_lock(mm, vpn, level)
        if not isinstance(entry, Present) or (write and not entry.write):
            return None
        get_page(entry.page)
        return entry.page


@operation()
async def get_user_page(mm: Mm, address: int, *, write: bool) -> Page | Signal:
    """Pin the page at the address (bytes), bringing it in as a fault would; with `mmap_sem` held.

    The page with a reference, or the signal that the fault ended with.
    """
    from mmreference.mm.memory import fault_signal, handle_mm_fault

    while True:
        vma = mm.area_at(address)
        if vma is None or prot_none(vma) or (write and not vma.vm_flags & VM_WRITE):
            return Signal.SIGSEGV
        page = await follow_page(vma, address, write=write)
        if page is not None:
            return page
        signal = fault_signal(await handle_mm_fault(mm, vma, address, write=write))
        if signal is not None:
            return signal
        page = await follow_page(vma, address, write=write)
        if page is not None:
            return page
        await Retry(f"repeat pinning of {mm.name}[{vpn_of(mm, address) - mm.system.first_vpn}]")
