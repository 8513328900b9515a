"""The page cache: finding and adding pages, reading them in, and truncation."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.lru import lru_cache_add_lru
from mmreference.mm.memcontrol import mem_cgroup_newpage_charge, mem_cgroup_uncharge_cache_page
from mmreference.mm.page import Page, Tagged, get_page, page_mapped, put_page
from mmspec.contracts import operation
from mmspec.trace import emit, wrote

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace
    from mmreference.mm.mm_struct import Mm


async def find_get_page(mapping: AddressSpace, index: int) -> Page | None:
    """The cached page of the index (base pages) with a reference, or None."""
    async with mapping.tree_lock:
        touched((mapping.name, "pages", index), write=False)
        page = mapping.pages.get(index)
        if page is not None:
            get_page(page)
    return page


@operation()
async def add_to_page_cache(page: Page, mapping: AddressSpace, index: int, mm: Mm | None) -> int:
    """Make the page the one of the index, locked: 0, -EEXIST if there is one already, -ENOMEM.

    The cache takes a reference of its own.
    """
    if await mem_cgroup_newpage_charge(page, mm):
        return -errno.ENOMEM
    emit("alloc", what="radix tree node", may_reclaim=True)
    error = -errno.ENOMEM if await may_fail("radix tree node") else 0
    if not error:
        await page.lock.lock()
        async with mapping.tree_lock:
            if index in mapping.pages:
                touched((mapping.name, "pages", index), write=False)
                error = -errno.EEXIST
            else:
                get_page(page)
                page.mapping = Tagged(mapping, 0)
                page.index = index
                touched((mapping.name, "pages", index))
                mapping.pages[index] = page
                wrote(mapping, "pages", None, page)
        if error:
            page.lock.unlock()
    if error:
        await mem_cgroup_uncharge_cache_page(page)
    return error


async def delete_from_page_cache(page: Page) -> None:
    """Take a locked page out of the cache, and drop the cache's reference."""
    assert page.mapping is not None
    mapping = page.mapping.pointer
    async with mapping.tree_lock:
        touched((mapping.name, "pages", page.index))
        del mapping.pages[page.index]
        wrote(mapping, "pages", page, None)
        await Access((page.name, "mapping"), f"{page.name}.mapping = NULL", write=True)
        page.mapping = None
    emit("delete_from_page_cache", page=page, mapping=mapping, mapped=page._mapcount >= 0)
    await mem_cgroup_uncharge_cache_page(page)
    await put_page(page)


@operation()
async def read_mapping_page(mapping: AddressSpace, index: int, mm: Mm | None) -> Page | None:
    """The page of the index, locked and with a reference, read in if need be; None without memory."""
    while True:
        page = await find_get_page(mapping, index)
        if page is None:
            page = await mapping.system.alloc_page("page cache page")
            if page is None:
                return None
            error = await add_to_page_cache(page, mapping, index, mm)
            if error:
                await put_page(page)
                if error == -errno.ENOMEM:
                    return None
                continue
            page.content = mapping.disk.get(index, 0)
            page.PG_uptodate = True
            await lru_cache_add_lru(page, "inactive_file")
            return page
        await page.lock.lock()
        # It may have been truncated while we slept.
        if page.mapping is not None and page.mapping.pointer is mapping and page.index == index:
            return page
        page.lock.unlock()
        await put_page(page)


@operation()
async def truncate_inode_pages(mapping: AddressSpace, start: int) -> None:
    """Drop all cached pages from the index `start` on; who maps one that was left is unmapped first."""
    from mmreference.mm.memory import unmap_mapping_range
    from mmreference.mm.mlock import clear_page_mlock

    for index in sorted(i for i in mapping.pages if i >= start):
        page = await find_get_page(mapping, index)
        if page is None:
            continue
        await page.lock.lock()
        if page.mapping is not None and page.mapping.pointer is mapping:
            if page_mapped(page):
                # A fault has been faster than the first pass.
                await unmap_mapping_range(mapping, index, index + 1, even_cows=False)
            if page.PG_mlocked:
                await clear_page_mlock(page)
            page.PG_dirty = False
            emit("truncate_page", page=page)
            await delete_from_page_cache(page)
        page.lock.unlock()
        await put_page(page)


@operation()
async def vmtruncate(mapping: AddressSpace, size: int) -> int:
    """Set the size of the file (base pages); what is beyond goes from all mappings, private copies included."""
    from mmreference.mm.memory import unmap_mapping_range

    async with mapping.i_mutex:
        touched((mapping.name, "i_size"))
        await Access((mapping.name, "i_size"), f"{mapping.name}.i_size = {size}", write=True)
        before, mapping.i_size = mapping.i_size, size
        if size < before:
            # Before the pages go, so that no fault finds them; and after, for those private copies that a fault
            # made of them in between.
            await unmap_mapping_range(mapping, size, None, even_cows=True)
            await truncate_inode_pages(mapping, size)
            await unmap_mapping_range(mapping, size, None, even_cows=True)
            for index in [i for i in mapping.disk if i >= size]:
                del mapping.disk[index]
    return 0
