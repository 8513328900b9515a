"""mremap: moving areas with all their entries to another address."""

from __future__ import annotations

import errno
from contextlib import AsyncExitStack

from mmreference.kernel.scheduler import touched
from mmreference.mm.anon_vma import anon_vma_clone, anon_vma_moveto_tail
from mmreference.mm.mm_struct import VM_HUGETLB, VM_NONLINEAR, Mm, Vma
from mmreference.mm.mmap import (
    _do_munmap,
    _note_peak_vm,
    can_merge,
    get_unmapped_area,
    split_to,
    vma_adjust,
    vma_copy,
    vma_link,
    vma_merge_neighbours,
)
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.pagetable import (
    entry_under_lock,
    pmd_index,
    pte_alloc,
    pte_lockptr,
    ptep_clear_flush,
    set_pte_at,
)
from mmspec.contracts import operation
from mmspec.trace import emit, note


@operation()
async def move_page_tables(vma: Vma, old: int, new_vma: Vma, new: int, length: int) -> int:
    """Move the entries of `length` bytes from `old` to `new`: how many bytes were moved before memory ran out.

    Walkers of the anon_vma are not kept out: they come to the old place first, and to the new one after it.
    """
    from mmreference.mm.huge_memory import split_huge_page_pmd

    mm, system = vma.mm, vma.mm.system
    await mmu_notifier_invalidate_range_start(mm, old, old + length)
    moved = 0
    while moved < length:
        vpn, target = (old + moved) // system.page_size, (new + moved) // system.page_size
        if pmd_index(mm, vpn) in mm.pmds:
            await split_huge_page_pmd(mm, vpn)
        if pmd_index(mm, vpn) in mm.tables and entry_under_lock(mm, vpn) is not None:
            if await pte_alloc(mm, target) is None:
                break
            await move_pte(vma, vpn, new_vma, target)
        moved += system.page_size
    await mmu_notifier_invalidate_range_end(mm, old, old + length)
    return moved


async def move_pte(vma: Vma, vpn: int, new_vma: Vma, target: int) -> None:
    """Move one entry, with both places locked; truncation of the file is kept out."""
    mm = vma.mm
    async with AsyncExitStack() as locks:
        if vma.vm_file is not None:
            await locks.enter_async_context(vma.vm_file.i_mmap_mutex)
        await locks.enter_async_context(pte_lockptr(mm, vpn))
        other = pte_lockptr(mm, target)
        if other is not pte_lockptr(mm, vpn):
            await other.lock(nested=True)
        entry = await ptep_clear_flush(vma, vpn)
        if entry is not None:
            await set_pte_at(mm, new_vma, target, entry)
            emit("move_pte", src=vma, dst=new_vma, vpn=vpn, target=target)
        if other is not pte_lockptr(mm, vpn):
            other.unlock()


@operation()
async def copy_vma(vma: Vma, address: int, length: int, pgoff: int) -> Vma | None:
    """The area at the new place (bytes) for what is going to be moved: a new one, or a neighbour that has grown."""
    mm = vma.mm
    untouched = vma.vm_file is None and vma.anon_vma is None
    if untouched:
        pgoff = address // mm.system.page_size
    new = await vma_copy(vma, mm)
    if new is None:
        return None
    new.born = False
    new.vm_start, new.vm_end, new.vm_pgoff = address, address + length, pgoff
    new.born = True
    grown = _neighbour(mm, new)
    if grown is not None:
        new.free()
        low = grown.vm_start if grown.vm_start < address else address
        first = grown.vm_pgoff if grown.vm_start < address else pgoff
        if await vma_adjust(grown, low, max(grown.vm_end, address + length), first):
            return None
        if grown.anon_vma is not None:
            # It may stand before the area that the entries come from.
            emit("lock_root", root=grown.anon_vma.root)
            async with grown.anon_vma.root.mutex:
                anon_vma_moveto_tail(grown)
        note(merged=grown)
        return grown
    if await anon_vma_clone(new, vma):
        new.free()
        return None
    await vma_link(new)
    return new


def _neighbour(mm: Mm, new: Vma) -> Vma | None:
    """An area with which one at the new place, not yet linked, could be merged."""
    for near in mm.vmas:
        low, high = (near, new) if near.vm_start < new.vm_start else (new, near)
        if can_merge(low, high) and near.anon_vma is new.anon_vma and (near.vm_end <= new.vm_start or near.vm_start >= new.vm_end):
            return near
    return None


@operation()
async def move_vma(vma: Vma, old: int, length: int, new: int) -> int:
    """Move `length` bytes of an area: the new address, or -ENOMEM and everything where it was."""
    from mmreference.mm.ksm import unmerge_ksm_pages

    mm, system = vma.mm, vma.mm.system
    # Merged pages are found by where they were merged, not by where they are moved to.
    if await unmerge_ksm_pages(vma, old, old + length):
        return -errno.ENOMEM
    pgoff = vma.vm_pgoff + (old - vma.vm_start) // system.page_size
    # Both places count while we move, which is no peak that anybody should see.
    hiwater_vm = mm.hiwater_vm
    destination = await copy_vma(vma, new, length, pgoff)
    if destination is None:
        return -errno.ENOMEM
    mm.total_vm += length // system.page_size
    emit("moving", src=vma, dst=destination)
    moved = await move_page_tables(vma, old, destination, new, length)
    if moved < length:
        # Back again: what is needed for that is still there. Now the new place is where entries come from.
        if vma.anon_vma is not None and vma is not destination:
            emit("lock_root", root=vma.anon_vma.root)
            async with vma.anon_vma.root.mutex:
                anon_vma_moveto_tail(vma)
        await move_page_tables(destination, new, vma, old, moved)
        await _do_munmap(mm, new, length)
        mm.hiwater_vm = max(hiwater_vm, min(mm.hiwater_vm, mm.true_peak_vm))
        return -errno.ENOMEM
    error = await _do_munmap(mm, old, length)
    mm.hiwater_vm = hiwater_vm
    emit("moved", dst=destination)
    return error or new


@operation()
async def do_mremap(mm: Mm, old: int, length: int, new: int | None = None) -> int:
    """Move `length` bytes from `old` to `new` (None: wherever there is room): the new address or a negative errno."""
    system = mm.system
    if old % system.page_size or length <= 0 or length % system.page_size:
        return -errno.EINVAL
    async with mm.mmap_sem.write():
        vma = mm.area_at(old)
        if vma is None or vma.vm_end < old + length:
            return -errno.EFAULT
        if vma.vm_flags & (VM_HUGETLB | VM_NONLINEAR):
            return -errno.EINVAL
        if new is None:
            new = get_unmapped_area(mm, length)
            if new is None:
                return -errno.ENOMEM
        elif new % system.page_size or (new < old + length and old < new + length):
            return -errno.EINVAL
        else:
            error = await _do_munmap(mm, new, length)
            if error:
                return error
        # The part that moves must be an area of its own, to be unmapped after.
        vmas = await split_to(mm, old, old + length)
        if isinstance(vmas, int):
            return vmas
        touched((mm.name, "vmas"))
        result = await move_vma(vmas[0], old, length, new)
        if result >= 0:
            _note_peak_vm(mm)
            await vma_merge_neighbours(mm, new, new + length)
        return result
