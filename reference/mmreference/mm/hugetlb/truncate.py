"""Truncation, and the end of a file."""

from __future__ import annotations

import errno

from mmreference.mm.hugetlb.file import Inode, covered_beyond, i_size_write, remove_from_page_cache
from mmreference.mm.hugetlb.page import put_page
from mmreference.mm.hugetlb.pagetable import unmap_hugepage_range
from mmreference.mm.hugetlb.pool import hugetlb_acct_memory
from mmreference.mm.hugetlb.quota import hugetlb_put_quota
from mmreference.mm.hugetlb.resv_map import map_region_truncate, resv_map_put
from mmspec.contracts import operation
from mmspec.trace import emit, note


@operation()
async def hugetlb_setattr(inode: Inode, size: int) -> int:
    """Set the size of the file to `size` huge pages: 0, or -EINVAL."""
    if size < 0:
        return -errno.EINVAL
    async with inode.i_mutex:
        # Also where the file grows: a mapping that may not write can have promises beyond the end.
        await hugetlb_vmtruncate(inode, size)
    return 0


@operation()
async def hugetlb_vmtruncate(inode: Inode, size: int) -> None:
    """Set the size, with `i_mutex` held: size first, then mappings, then pages, then reservations."""
    async with inode.fault_sem.write():
        inode.system.pool.books.withdraw(covered_beyond(inode, size))
        inode.truncating = size
        i_size_write(inode, size)
        await hugetlb_vmtruncate_list(inode, size)
        freed = await truncate_hugepages(inode, size)
        await hugetlb_unreserve_pages(inode, size, freed)
        inode.truncating = None


@operation()
async def hugetlb_vmtruncate_list(inode: Inode, size: int) -> None:
    """Unmap everything beyond the new end from all mappings of the file."""
    emit("unmap_range", inode=inode, size=size)
    async with inode.i_mmap_lock:
        for vma in inode.i_mmap:
            if vma.hi > size:
                await unmap_hugepage_range(vma, vma.address(max(vma.lo, size)), vma.vm_end)


@operation()
async def truncate_hugepages(inode: Inode, size: int) -> int:
    """Drop the cached pages beyond the new end: how many that were."""
    beyond = sorted(idx for idx in inode.pages if idx >= size)
    for idx in beyond:
        page = inode.pages[idx]
        async with page.lock:
            await remove_from_page_cache(page)
        await put_page(page)
    note(freed=len(beyond))
    return len(beyond)


@operation()
async def hugetlb_unreserve_pages(inode: Inode, end: int, freed: int) -> None:
    """Take back the promises beyond the new end, except for the `freed` pages that were instantiated."""
    dropped = await map_region_truncate(inode.resv_map, end)
    note(dropped=dropped)
    emit("unreserve", inode=inode, dropped=dropped, freed=freed)
    if dropped != freed:
        await hugetlb_put_quota(inode.sb, dropped - freed)
        await hugetlb_acct_memory(inode.system.pool, freed - dropped)


async def iput(inode: Inode) -> None:
    """Drop an interest in the file; without a name, a handle and a mapping it goes."""
    if inode.open_files == 0 and not inode.i_mmap:
        await evict_inode(inode)


@operation()
async def evict_inode(inode: Inode) -> None:
    """The end of a file: a truncation to nothing, with nobody left to see it."""
    async with inode.i_mutex:
        await hugetlb_vmtruncate(inode, 0)
    system = inode.system
    system.forget_inode(inode)
    resv_map_put(inode.resv_map)
    inode.free()
