"""Where an area would map a page, and whether it really does."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mmreference.kernel.locks import SpinLock
from mmreference.kernel.scheduler import touched
from mmreference.mm.mm_struct import VM_HUGETLB, Vma, linear_page_index
from mmreference.mm.page import Page, PageAnon, PageHuge, page_anon_vma
from mmreference.mm.pagetable import Entry, Present, entry_under_lock, pmd_index, probe_entry, pte_lockptr, vpn_of
from mmspec.contracts import operation
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Mm


@operation()
def vma_address(page: Page, vma: Vma) -> int:
    """The address (bytes) at which the area maps the page if it does, or -EFAULT.

    Computed without wrapping, whatever the size of a machine word: 3.2 shifts modulo the word size, and on 32 bits
    aliases a page far away in the file into the area.
    """
    system = vma.mm.system
    pgoff = page.index << system.huge_page_order if vma.vm_flags & VM_HUGETLB else page.index
    if not 0 <= pgoff - vma.vm_pgoff < vma.npages:
        return -errno.EFAULT
    return vma.vm_start + (pgoff - vma.vm_pgoff) * system.page_size


@operation()
def page_address_in_vma(page: Page, vma: Vma) -> int:
    """As :func:`vma_address`, or -EFAULT if the area cannot map the page: another tree, another file, nonlinear.

    A positive answer does not say that the page is mapped there.
    """
    if PageAnon(page):
        anon_vma = page_anon_vma(page)
        # By root: any anon_vma of the tree may be the page's. A merged page has none.
        if vma.anon_vma is None or anon_vma is None or vma.anon_vma.root is not anon_vma.root:
            return -errno.EFAULT
    elif page.mapping is not None and not vma.nonlinear:
        if vma.vm_file is None or vma.vm_file is not page.mapping.pointer:
            return -errno.EFAULT
    else:
        return -errno.EFAULT
    return vma_address(page, vma)


class Found:
    """A mapping that was found, with the lock of its slot held."""

    __slots__ = ("mm", "vpn", "entry", "ptl", "level")

    def __init__(self, mm: Mm, vpn: int, entry: Present, ptl: SpinLock, level: str) -> None:
        self.mm = mm
        self.vpn = vpn
        self.entry = entry
        self.ptl = ptl
        self.level = level

    def __repr__(self) -> str:
        return f"<{self.mm}[{self.vpn - self.mm.system.first_vpn}] {self.entry.page}>"

    def read(self) -> Entry | None:
        """The entry as it is now."""
        return entry_under_lock(self.mm, self.vpn, self.level)


@operation()
async def page_check_address(page: Page, mm: Mm, address: int, *, sync: bool = False) -> Found | None:
    """The slot at the address (bytes) if it maps the page, with its lock held; None and nothing held otherwise.

    Unless `sync`, a slot that is empty at a first look without the lock is believed to be: good enough for reclaim, not
    for those who must not miss a mapping. Trans-huge mappings are not found.
    """
    vpn = vpn_of(mm, address)
    if PageHuge(page):
        note(walk="huge")
        # There may be no table for it yet; 3.2 does not ask.
        if vpn not in mm.huge_tables:
            note(walk="no huge table")
            return None
        return await _locked(page, mm, vpn, mm.page_table_lock, "huge")
    index = pmd_index(mm, vpn)
    touched((mm.name, "pmd", index), write=False)
    if index in mm.pmds:
        note(walk="thp")
        return None
    if index not in mm.tables:
        note(walk="pmd")
        return None
    note(walk="pte")
    if not sync:
        probed = await probe_entry(mm, vpn)
        note(probed=probed)
        if not isinstance(probed, Present):
            return None
    return await _locked(page, mm, vpn, pte_lockptr(mm, vpn), "pte")


async def _locked(page: Page, mm: Mm, vpn: int, ptl: SpinLock, level: str) -> Found | None:
    await ptl.lock()
    emit("slot_locked", mm=mm, vpn=vpn, lock=ptl)
    note(ptl=ptl)
    entry = entry_under_lock(mm, vpn, level)
    if isinstance(entry, Present) and entry.page is page:
        return Found(mm, vpn, entry, ptl, level)
    ptl.unlock()
    return None


@operation()
async def page_mapped_in_vma(page: Page, vma: Vma) -> int:
    """1 if the (linear) area maps the page, else 0; exact."""
    address = vma_address(page, vma)
    if address == -errno.EFAULT:
        return 0
    found = await page_check_address(page, vma.mm, address, sync=True)
    if found is None:
        return 0
    found.ptl.unlock()
    return 1


__all__ = [
    "Found", "linear_page_index", "page_address_in_vma", "page_check_address", "page_mapped_in_vma", "vma_address",
]  # fmt: skip
