"""Dirty pages: marking a page dirty from under a page-table lock, and writing it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.scheduler import Access, touched
from mmreference.mm.page import Page, PageAnon, page_mapping
from mmreference.mm.rmap.mkclean import page_mkclean
from mmspec.contracts import operation
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace


@operation()
async def set_page_dirty(page: Page) -> bool:
    """Mark the page dirty, and its inode with it; whether it was clean. May be called with a page-table lock held."""
    emit("set_page_dirty", page=page)
    touched((page.name, "PG_dirty"))
    if page.PG_dirty:
        return False
    mapping = page_mapping(page)
    page.PG_dirty = True
    if mapping is None or PageAnon(page):
        return True
    async with mapping.private_lock:
        async with mapping.tree_lock:
            emit("tag_dirty", page=page, mapping=mapping)
    await _mark_inode_dirty(mapping)
    return True


async def _mark_inode_dirty(mapping: AddressSpace) -> None:
    if mapping.inode_dirty:
        return
    async with mapping.i_lock:
        mapping.inode_dirty = True
    async with mapping.wb_list_lock:
        emit("inode_dirtied", mapping=mapping)


@operation()
async def clear_page_dirty_for_io(page: Page) -> bool:
    """Take the locked page's dirtiness for writing it out; whether it was dirty.

    What was written through mappings is collected first, and they are made to fault at the next write.
    """
    mapping = page_mapping(page)
    if mapping is not None and not PageAnon(page) and await page_mkclean(page):
        await set_page_dirty(page)
    touched((page.name, "PG_dirty"))
    was, page.PG_dirty = page.PG_dirty, False
    note(was_dirty=was)
    return was


@operation()
async def write_page(page: Page) -> None:
    """Write a locked, dirty page of a file or of the swap cache out."""
    system, mapping = page.system, page_mapping(page)
    if not await clear_page_dirty_for_io(page):
        return
    page.PG_writeback = True
    await Access((page.name, "content"), f"write out {page.name}")
    if page.PG_swapcache:
        assert system.swap is not None
        touched(system.swap.location(page.private))
        system.swap.data[page.private] = page.content
    else:
        touched((mapping.name, "disk", page.index))
        mapping.disk[page.index] = page.content
    emit("written", page=page, content=page.content)
    page.PG_writeback = False


@operation()
async def filemap_fdatawrite(mapping: AddressSpace) -> None:
    """Write all dirty pages of a file out."""
    from mmreference.mm.filemap import find_get_page
    from mmreference.mm.page import put_page

    async with mapping.wb_list_lock:
        async with mapping.tree_lock:
            mapping.inode_dirty = False
    for index in sorted(mapping.pages):
        page = await find_get_page(mapping, index)
        if page is None:
            continue
        await page.lock.lock()
        if page.mapping is not None and page.mapping.pointer is mapping:
            await write_page(page)
        page.lock.unlock()
        await put_page(page)
