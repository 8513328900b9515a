"""Areas: mapping and unmapping, splitting and merging, and what that means for their anon_vmas."""

from __future__ import annotations

import errno
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from mmreference.kernel.bug import bug_on
from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.address_space import vma_link_file, vma_unlink_file
from mmreference.mm.anon_vma import anon_vma_clone, unlink_anon_vmas
from mmreference.mm.mm_struct import (
    VM_HUGETLB,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NONLINEAR,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    Mm,
    Vma,
    update_hiwater_rss,
    update_hiwater_vm,
)
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.pagetable import pmd_index
from mmspec.contracts import operation
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace
    from mmreference.mm.anon_vma import AnonVma


async def vma_alloc(mm: Mm, start: int, end: int, flags: int, pgoff: int, mapping: AddressSpace | None) -> Vma | None:
    """A new area that nobody knows yet, or None without memory."""
    emit("alloc", what="vm_area_struct", may_reclaim=True)
    if await may_fail("vm_area_struct"):
        return None
    return Vma(mm.system.new_name("vma"), mm, start, end, flags, pgoff, mapping)


async def vma_copy(vma: Vma, mm: Mm) -> Vma | None:
    """A copy of the struct, `anon_vma` included, but with an empty chain; None without memory."""
    copy = await vma_alloc(mm, vma.vm_start, vma.vm_end, vma.vm_flags, vma.vm_pgoff, vma.vm_file)
    if copy is not None:
        copy.born = False
        copy.anon_vma = vma.anon_vma
        copy.born = True
    return copy


async def vma_link(vma: Vma) -> None:
    """Make an area known: to its address space and to its file."""
    mm = vma.mm
    if vma.vm_file is not None:
        async with vma.vm_file.i_mmap_mutex:
            mm.link(vma)
            vma_link_file(vma)
    else:
        mm.link(vma)
    vma.published = True


# -- merging ------------------------------------------------------------------------------------------------------------


def _in_line(low: Vma, high: Vma) -> bool:
    """Whether the areas touch and map one stretch of one object."""
    return (
        low.vm_end == high.vm_start
        and low.vm_file is high.vm_file
        and low.vm_pgoff + low.npages == high.vm_pgoff
        and not (low.vm_flags | high.vm_flags) & (VM_HUGETLB | VM_NONLINEAR)
    )


def anon_vma_compatible(one: Vma, other: Vma) -> bool:
    """Whether the areas could be merged once their rights are alike, so that they may share an anon_vma."""
    low, high = sorted((one, other), key=lambda v: v.vm_start)
    rights = VM_READ | VM_WRITE
    return _in_line(low, high) and (low.vm_flags ^ high.vm_flags) & ~rights == 0


def is_mergeable_anon_vma(one: AnonVma | None, other: AnonVma | None, vma: Vma) -> bool:
    """Whether two areas' anon_vmas let them become one; `vma` is the one that has none, if it is so."""
    if one is other:
        return True
    # One that was forked has more on its chain than the other would get.
    return (one is None or other is None) and len(vma.anon_vma_chain) <= 1


def can_merge(low: Vma, high: Vma) -> bool:
    """Whether two neighbours can become one area."""
    both = high if low.anon_vma is None else low
    return _in_line(low, high) and low.vm_flags == high.vm_flags and is_mergeable_anon_vma(low.anon_vma, high.anon_vma, both)


@operation()
async def vma_merge_neighbours(mm: Mm, start: int, end: int) -> None:
    """Merge the areas in and beside `[start, end)` (bytes) as far as they can be; without memory they stay apart."""
    merged = True
    while merged:
        merged = False
        for low, high in zip(mm.vmas, mm.vmas[1:], strict=False):
            if low.vm_end < start or high.vm_start > end or not can_merge(low, high):
                continue
            if await vma_adjust(low, low.vm_start, high.vm_end, low.vm_pgoff) == 0:
                merged = True
                break


@operation()
async def vma_adjust(vma: Vma, start: int, end: int, pgoff: int, insert: Vma | None = None) -> int:
    """Change the borders (bytes) of an area: 0, or -ENOMEM and nothing changed. With `mmap_sem` held for write.

    Growing over the next area swallows it or moves its border; shrinking without `insert` gives the rest to the next
    one; with `insert`, to that. Who takes over places with pages needs the anon_vmas of who had them before.
    """
    mm = vma.mm
    size = mm.system.page_size
    where = mm.vmas.index(vma)
    following = mm.vmas[where + 1] if where + 1 < len(mm.vmas) else None
    swallowed: Vma | None = None
    moved = 0
    importer = exporter = None
    if following is not None and insert is None:
        if end >= following.vm_end:
            swallowed, importer, exporter = following, vma, following
        elif end > following.vm_start:
            moved, importer, exporter = end - following.vm_start, vma, following
        elif end < vma.vm_end == following.vm_start and vma.anon_vma is not None and following.vm_pgoff:
            moved, importer, exporter = end - vma.vm_end, following, vma
    if importer is not None and exporter is not None and exporter.anon_vma is not None and importer.anon_vma is None:
        if await anon_vma_clone(importer, exporter):
            return -errno.ENOMEM
        touched((importer.name, "anon_vma"))
        importer.anon_vma = exporter.anon_vma
    note(swallowed=swallowed, moved=moved)
    async with AsyncExitStack() as locks:
        if vma.vm_file is not None:
            await locks.enter_async_context(vma.vm_file.i_mmap_mutex)
        anon_vma = vma.anon_vma or (following.anon_vma if following is not None and (moved or swallowed) else None)
        # Walkers must not see pages at an index that is in neither area. Where the end alone moves they can come to a page
        # by the area that had it, or by the one that has it now, which is on the list already.
        if anon_vma is not None and (importer is not None or start != vma.vm_start):
            emit("lock_root", root=anon_vma.root)
            await locks.enter_async_context(anon_vma.root.mutex)
        await Access((vma.name, "vm_end"), f"move the borders of {vma.name}", write=True)
        changed = [v for v in (vma, following if moved or swallowed else None) if v is not None]
        for one in changed:
            vma_unlink_file(one)
            touched((one.name, "bounds"))
        if anon_vma is not None:
            anon_vma.root.changes += 1
        vma.vm_start, vma.vm_end, vma.vm_pgoff = start, end, pgoff
        if moved:
            assert following is not None
            following.vm_start += moved
            following.vm_pgoff += moved // size
        touched((mm.name, "vmas"))
        emit("vma_adjusted", vma=vma, insert=insert, swallowed=swallowed)
        for one in changed:
            if one is not swallowed:
                vma_link_file(one)
        if swallowed is not None:
            mm.unlink(swallowed)
        if insert is not None:
            vma_link_file(insert)
            mm.link(insert)
            insert.published = True
    if swallowed is not None:
        # All its pages are on the chain of the one that stays.
        await unlink_anon_vmas(swallowed)
        swallowed.free()
    return 0


@operation()
async def split_vma(mm: Mm, vma: Vma, address: int, *, new_below: bool) -> int:
    """Cut an area at the address (bytes): 0 or -ENOMEM. `new_below` says which part is the new area."""
    from mmreference.mm.huge_memory import split_huge_page_pmd

    if vma.vm_flags & VM_HUGETLB and address % (mm.system.page_size << mm.system.huge_page_order):
        return -errno.EINVAL
    if address % mm.system.pmd_size and pmd_index(mm, address // mm.system.page_size) in mm.pmds:
        await split_huge_page_pmd(mm, address // mm.system.page_size)
    new = await vma_copy(vma, mm)
    if new is None:
        return -errno.ENOMEM
    grown = (address - vma.vm_start) // mm.system.page_size
    new.born = False
    if new_below:
        new.vm_end = address
    else:
        new.vm_start = address
        new.vm_pgoff += grown
    new.born = True
    note(new=new)
    if await anon_vma_clone(new, vma):
        new.free()
        return -errno.ENOMEM
    if new_below:
        error = await vma_adjust(vma, address, vma.vm_end, vma.vm_pgoff + grown, new)
    else:
        error = await vma_adjust(vma, vma.vm_start, address, vma.vm_pgoff, new)
    bug_on(error, "a split without a neighbour to import from needs no memory")
    return 0


async def split_to(mm: Mm, start: int, end: int) -> list[Vma] | int:
    """Split at the borders of `[start, end)` (bytes): the areas inside, or an error."""
    for border, below in ((start, False), (end, True)):
        vma = mm.area_at(border)
        if vma is not None and vma.vm_start < border:
            error = await split_vma(mm, vma, border, new_below=below)
            if error:
                return int(error)
    return [v for v in mm.vmas if start <= v.vm_start and v.vm_end <= end]


# -- mmap and munmap ----------------------------------------------------------------------------------------------------


def vm_flags_of(*, write: bool = True, shared: bool = False, read: bool = True) -> int:
    """The flags of a mapping with these rights."""
    flags = VM_MAYREAD | VM_MAYWRITE
    flags |= VM_READ if read else 0
    flags |= VM_WRITE if write else 0
    return flags | (VM_SHARED | VM_MAYSHARE if shared else 0)


def get_unmapped_area(mm: Mm, length: int, *, align: int = 0) -> int | None:
    """The lowest gap of `length` bytes, aligned to a page table; None if there is none."""
    system = mm.system
    address = system.first_pmd * system.pmd_size
    for vma in mm.vmas:
        if address + length <= vma.vm_start:
            break
        if vma.vm_end > address:
            address = vma.vm_end
            if align:
                address = -(-address // align) * align
    return address if address + length <= system.arch.user_end else None


@operation()
async def do_mmap(
    mm: Mm,
    length: int,
    flags: int,
    mapping: AddressSpace | None = None,
    pgoff: int = 0,
    address: int | None = None,
) -> int:
    """Map `length` bytes of a file from `pgoff` (base pages) on, or anonymous memory: the address, -EINVAL or -ENOMEM.

    `address` None takes the lowest gap; otherwise what is mapped there goes first.
    """
    system = mm.system
    if length <= 0 or length % system.page_size:
        return -errno.EINVAL
    async with mm.mmap_sem.write():
        if address is None:
            align = system.page_size << system.huge_page_order if flags & VM_HUGETLB else 0
            address = get_unmapped_area(mm, length, align=align)
            if address is None:
                return -errno.ENOMEM
        elif address % system.page_size or not 0 < address <= system.arch.user_end - length:
            return -errno.EINVAL
        else:
            error = await _do_munmap(mm, address, length)
            if error:
                return error
        if mapping is None:
            # So that areas that touch are also in line, and pages keep their index when areas move.
            pgoff = address // system.page_size
        vma = await vma_alloc(mm, address, address + length, flags, pgoff, mapping)
        if vma is None:
            return -errno.ENOMEM
        await vma_link(vma)
        mm.total_vm += length // system.page_size
        _note_peak_vm(mm)
        await vma_merge_neighbours(mm, address, address + length)
    return address


def _note_peak_vm(mm: Mm) -> None:
    """Ghost: between system calls no area is counted twice."""
    mm.true_peak_vm = max(mm.true_peak_vm, mm.total_vm)


@operation()
async def do_munmap(mm: Mm, address: int, length: int) -> int:
    """Unmap `length` bytes from the address: 0, -EINVAL, or -ENOMEM."""
    async with mm.mmap_sem.write():
        return await _do_munmap(mm, address, length)


async def _do_munmap(mm: Mm, address: int, length: int) -> int:
    system = mm.system
    if address % system.page_size or length <= 0:
        return -errno.EINVAL
    end = address + -(-length // system.page_size) * system.page_size
    vmas = await split_to(mm, address, end)
    if isinstance(vmas, int):
        return vmas
    for vma in vmas:
        if vma.locked:
            from mmreference.mm.mlock import munlock_vma_pages_range

            await munlock_vma_pages_range(vma, vma.vm_start, vma.vm_end)
    for vma in vmas:
        mm.unlink(vma)
    await unmap_region(mm, vmas)
    for vma in vmas:
        update_hiwater_vm(mm)
        mm.total_vm -= vma.npages
        vma.free()
    return 0


async def unmap_region(mm: Mm, vmas: list[Vma]) -> None:
    """Empty the areas, which nobody can find by address any more, then free their tables."""
    from mmreference.mm.memory import unmap_page_range

    for vma in vmas:
        await mmu_notifier_invalidate_range_start(mm, vma.vm_start, vma.vm_end)
    update_hiwater_rss(mm)
    for vma in vmas:
        await unmap_page_range(vma, vma.vm_start, vma.vm_end)
    await free_pgtables(mm, vmas)
    for vma in vmas:
        await mmu_notifier_invalidate_range_end(mm, vma.vm_start, vma.vm_end)


@operation()
async def free_pgtables(mm: Mm, vmas: list[Vma]) -> None:
    """Take the areas out of the reverse mapping, so that nobody walks to their tables; then free the tables."""
    for vma in vmas:
        await unlink_anon_vmas(vma)
        if vma.vm_file is not None:
            async with vma.vm_file.i_mmap_mutex:
                vma_unlink_file(vma)
    for vma in vmas:
        for vpn in vma.vpns:
            if vma.vm_flags & VM_HUGETLB:
                mm.huge_tables.pop(vpn, None)
                continue
            index = pmd_index(mm, vpn)
            if index in mm.tables and not _in_use(mm, index):
                touched((mm.name, "pmd", index))
                table = mm.tables.pop(index)
                bug_on(table.entries, f"{table.name} is freed with entries", "AVMA-UNLINK-004")
                emit("free_table", mm=mm, index=index)
                table.free()


def _in_use(mm: Mm, index: int) -> bool:
    start = index * mm.system.pmd_size
    return any(v.vm_start < start + mm.system.pmd_size and start < v.vm_end for v in mm.vmas)


