"""Mapping and unmapping: `mmap`, `munmap`, `mprotect`, and the reservations that come and go with them."""

from __future__ import annotations

import errno

from mmreference.kernel.scheduler import may_fail
from mmreference.mm.hugetlb.file import Inode
from mmreference.mm.hugetlb.pagetable import flush_tlb_page, huge_page_number, huge_ptep_set_wrprotect, unmap_hugepage_range
from mmreference.mm.hugetlb.pool import hugetlb_acct_memory
from mmreference.mm.hugetlb.quota import hugetlb_get_quota, hugetlb_put_quota
from mmreference.mm.hugetlb.region import covered
from mmreference.mm.hugetlb.resv_map import (
    HPAGE_RESV_OWNER,
    map_region_add,
    map_region_chg,
    map_region_count,
    resv_map_alloc,
    resv_map_put,
    set_vma_resv_flags,
    set_vma_resv_map,
    vma_resv_map,
)
from mmreference.mm.hugetlb.truncate import iput
from mmreference.mm.hugetlb.vma import VM_NORESERVE, VM_WRITE, Mm, Vma, split_vma
from mmspec.contracts import operation
from mmspec.invariants.hugetlb.views import vma_view
from mmspec.trace import emit, note


@operation()
async def hugetlb_reserve_pages(inode: Inode, frm: int, to: int, vma: Vma | None) -> int:
    """Promise the offsets `[frm, to)` of the file to a mapping, or to a segment without one: 0, -ENOMEM, -ENOSPC.

    With `i_mutex` held. An error leaves nothing behind.
    """
    if vma is not None and vma.vm_flags & VM_NORESERVE:
        note(charge=0)
        return 0
    if vma is None or vma.is_shared:
        return await _reserve_for_file(inode, frm, to)
    return await _reserve_for_vma(inode, frm, to, vma)


async def _promise(inode: Inode, charge: int) -> int:
    """Quota and pages for `charge` promises: 0, -ENOSPC or -ENOMEM."""
    note(charge=charge)
    if charge == 0:
        return 0
    if await hugetlb_get_quota(inode.sb, charge):
        return -errno.ENOSPC
    error = await hugetlb_acct_memory(inode.system.pool, charge)
    if error:
        await hugetlb_put_quota(inode.sb, charge)
    return error


async def _reserve_for_file(inode: Inode, frm: int, to: int) -> int:
    charge = await map_region_chg(inode.resv_map, frm, to)
    if charge < 0:
        return charge
    error = await _promise(inode, charge)
    if error:
        inode.resv_map.forget_preparations()
        return error
    async with inode.resv_map.lock:
        filled = sum(1 for idx in range(frm, to) if idx in inode.pages and not covered(inode.resv_map.regions, idx))
        added = map_region_add(inode.resv_map, frm, to) - filled
        inode.system.pool.books.enter(inode, added)
        note(filled=filled)
    if added < charge:
        # A fault without reservation has covered an offset since we counted, or is about to; it needs no promise.
        note(charge=added)
        await hugetlb_acct_memory(inode.system.pool, added - charge)
        await hugetlb_put_quota(inode.sb, charge - added)
    return 0


async def _reserve_for_vma(inode: Inode, frm: int, to: int, vma: Vma) -> int:
    resv_map = await resv_map_alloc(inode.system, private=True)
    if resv_map is None:
        return -errno.ENOMEM
    error = await _promise(inode, to - frm)
    if error:
        resv_map_put(resv_map)
        return error
    # Attached only now, so that a failed mmap has nothing to give back.
    resv_map.lo, resv_map.hi = frm, to
    set_vma_resv_map(vma, resv_map)
    set_vma_resv_flags(vma, HPAGE_RESV_OWNER)
    inode.system.pool.books.open(vma)
    return 0


@operation(view=vma_view)
async def hugetlb_vm_op_close(vma: Vma) -> None:
    """The VMA goes: give back what it had promised and not consumed, within its own span.

    With `mmap_sem` held for write or nobody else left, and all pages of the span unmapped.
    """
    emit("vm_op_close", vma=vma)
    reservations = vma_resv_map(vma)
    if reservations is None:
        return
    reserve = vma.npages - await map_region_count(reservations, vma.lo, vma.hi)
    note(released=reserve, map=reservations)
    books = vma.pool.books
    books.close(vma)
    # Counting comes before the reference goes: the last one takes the regions along.
    resv_map_put(reservations)
    if reserve:
        await hugetlb_acct_memory(vma.pool, -reserve)
        await hugetlb_put_quota(vma.vm_file.sb, reserve)


@operation()
async def do_mmap(mm: Mm, length: int, inode: Inode, offset: int, flags: int) -> int:
    """Map `length` huge pages of the file from `offset` (huge pages): the address in bytes, or a negative errno."""
    system = mm.system
    size = system.arch.huge_page_size
    if length <= 0 or offset < 0:
        return -errno.EINVAL
    async with mm.mmap_sem.write():
        start = get_unmapped_area(mm, length * size)
        if start is None or await may_fail("vm_area_struct"):
            return -errno.ENOMEM
        pgoff = offset * size // system.arch.page_size
        vma = Vma(system.new_name("vma"), mm, start, start + length * size, pgoff, flags, inode)
        note(vma=vma)
        async with inode.i_mutex:
            error = await hugetlb_reserve_pages(inode, offset, offset + length, vma)
            if error:
                vma.free()
                return error
            if flags & VM_WRITE and inode.i_size < offset + length:
                from mmreference.mm.hugetlb.file import i_size_write

                i_size_write(inode, offset + length)
        async with inode.i_mmap_lock:
            inode.i_mmap[vma] = None
        mm.link(vma)
    return start


def get_unmapped_area(mm: Mm, length: int) -> int | None:
    """The lowest free address (bytes) with room for `length` bytes, or None."""
    arch = mm.system.arch
    start = mm.system.first_vpn * arch.huge_page_size
    for vma in mm.vmas:
        if start + length <= vma.vm_start:
            break
        start = max(start, vma.vm_end)
    return start if start + length <= mm.system.mmap_end else None


@operation()
async def do_munmap(mm: Mm, address: int, length: int) -> int:
    """Unmap `length` bytes from the address: 0, -EINVAL off a huge-page boundary, -ENOMEM if a split fails."""
    size = mm.system.arch.huge_page_size
    if address % size or length % size or length <= 0:
        return -errno.EINVAL
    async with mm.mmap_sem.write():
        return await _unmap_range(mm, address, address + length)


async def _unmap_range(mm: Mm, start: int, end: int) -> int:
    for vma in [v for v in mm.vmas if v.vm_start < end and start < v.vm_end]:
        if vma.vm_start < start:
            error = await split_vma(mm, vma, start, new_below=True)
            if error:
                return error
        if end < vma.vm_end:
            error = await split_vma(mm, vma, end, new_below=False)
            if error:
                return error
        await unmap_hugepage_range(vma, vma.vm_start, vma.vm_end)
        mm.unlink(vma)
        await remove_vma(vma)
    return 0


async def remove_vma(vma: Vma) -> None:
    """Close the VMA and forget it."""
    inode = vma.vm_file
    async with inode.i_mmap_lock:
        inode.i_mmap.pop(vma, None)
    await hugetlb_vm_op_close(vma)
    vma.closes += 1
    vma.free()
    await iput(inode)


@operation()
async def do_mremap(mm: Mm, address: int, length: int) -> int:
    """Huge-page mappings neither move nor grow: -EINVAL."""
    async with mm.mmap_sem.write():
        return -errno.EINVAL


@operation()
async def do_mprotect(mm: Mm, address: int, length: int, writable: bool) -> int:
    """Allow or forbid writes to `length` bytes from the address: 0 or a negative errno."""
    size = mm.system.arch.huge_page_size
    if address % size or length % size or length <= 0:
        return -errno.EINVAL
    end = address + length
    async with mm.mmap_sem.write():
        for vma in [v for v in mm.vmas if v.vm_start < end and address < v.vm_end]:
            for at, below in ((address, True), (end, False)):
                if vma.vm_start < at < vma.vm_end:
                    error = await split_vma(mm, vma, at, new_below=below)
                    if error:
                        return error
            vma.vm_flags = vma.vm_flags | VM_WRITE if writable else vma.vm_flags & ~VM_WRITE
            await _change_protection(mm, vma)
    return 0


@operation()
async def madvise_dontneed(mm: Mm, address: int, length: int) -> int:
    """Forget what is mapped in `length` bytes from the address; a file keeps its pages. 0 or -EINVAL.

    The sources' releases answer -EINVAL for huge pages; later ones do this.
    """
    size = mm.system.arch.huge_page_size
    if address % size or length % size or length <= 0:
        return -errno.EINVAL
    end = address + length
    async with mm.mmap_sem.read():
        for vma in [v for v in mm.vmas if v.vm_start < end and address < v.vm_end]:
            await unmap_hugepage_range(vma, max(address, vma.vm_start), min(end, vma.vm_end))
    return 0


async def _change_protection(mm: Mm, vma: Vma) -> None:
    if vma.vm_flags & VM_WRITE:
        return
    async with mm.page_table_lock:
        for address in range(vma.vm_start, vma.vm_end, vma.huge_page_size):
            vpn = huge_page_number(mm, address)
            entry = mm.ptes.get(vpn)
            if entry is not None and entry.writable:
                huge_ptep_set_wrprotect(mm, vma, vpn)
                flush_tlb_page(mm, vpn)
