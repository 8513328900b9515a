"""mprotect: changing the rights of areas, and of the entries that are there already."""

from __future__ import annotations

import errno

import attrs

from mmreference.kernel.scheduler import touched
from mmreference.mm.mm_struct import VM_HUGETLB, VM_READ, VM_WRITE, Mm, Vma
from mmreference.mm.mmap import split_to, vma_merge_neighbours
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.pagetable import (
    MigrationEntry,
    Present,
    entry_under_lock,
    pmd_index,
    prot_none,
    pte_lockptr,
    ptep_clear_flush,
    set_pte_at,
    store,
)
from mmspec.contracts import operation


@operation()
async def change_protection(vma: Vma, start: int, end: int, *, write: bool) -> None:
    """Give the entries of `[start, end)` (bytes) the rights of their area; those to write are given by faults, one by one."""
    from mmreference.mm.huge_memory import split_huge_page_pmd
    from mmreference.mm.hugetlb_anon import hugetlb_change_protection

    mm, system = vma.mm, vma.mm.system
    await mmu_notifier_invalidate_range_start(mm, start, end)
    if vma.vm_flags & VM_HUGETLB:
        await hugetlb_change_protection(vma, start, end, write=write)
        await mmu_notifier_invalidate_range_end(mm, start, end)
        return
    for vpn in range(start // system.page_size, end // system.page_size):
        if pmd_index(mm, vpn) in mm.pmds:
            await split_huge_page_pmd(mm, vpn)
        if pmd_index(mm, vpn) not in mm.tables:
            continue
        async with pte_lockptr(mm, vpn):
            entry = entry_under_lock(mm, vpn)
            if isinstance(entry, Present):
                # Cleared first, so that what hardware notes meanwhile is not lost.
                cleared = await ptep_clear_flush(vma, vpn)
                assert isinstance(cleared, Present)
                await set_pte_at(mm, vma, vpn, attrs.evolve(cleared, write=cleared.write and write, none=prot_none(vma)))
            elif isinstance(entry, MigrationEntry) and entry.write and not write:
                # Restored, it must not be writable.
                store(mm, vma, vpn, attrs.evolve(entry, write=False))
    await mmu_notifier_invalidate_range_end(mm, start, end)


@operation()
async def do_mprotect(mm: Mm, address: int, length: int, *, write: bool, read: bool = True) -> int:
    """Set the rights of `[address, address + length)` (bytes): 0, -ENOMEM for a hole or without memory, -EINVAL."""
    if address % mm.system.page_size or length <= 0:
        return -errno.EINVAL
    end = address + length
    flags = (VM_WRITE if write else 0) | (VM_READ if read else 0)
    async with mm.mmap_sem.write():
        vmas = await split_to(mm, address, end)
        if isinstance(vmas, int):
            return vmas
        if sum(v.vm_end - v.vm_start for v in vmas) != length:
            return -errno.ENOMEM
        for vma in vmas:
            touched((vma.name, "vm_flags"))
            vma.vm_flags = vma.vm_flags & ~(VM_READ | VM_WRITE) | flags
            await change_protection(vma, vma.vm_start, vma.vm_end, write=write)
        await vma_merge_neighbours(mm, address, end)
    return 0
