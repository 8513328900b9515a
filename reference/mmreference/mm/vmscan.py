"""Reclaim: taking a page away from those who map it, writing it out, and freeing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.memory import is_freed
from mmreference.kernel.scheduler import touched
from mmreference.mm.filemap import delete_from_page_cache
from mmreference.mm.lru import isolate_lru_page_by_frame, lru_add_drain_all, putback_lru_page
from mmreference.mm.mm_struct import VM_LOCKED
from mmreference.mm.page import Page, PageAnon, page_mapped, page_mapping, put_page
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import add_to_swap, delete_from_swap_cache, try_to_free_swap
from mmreference.mm.writeback import write_page
from mmspec.contracts import operation
from mmspec.errors import SWAP_SUCCESS
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.system import MemCgroup, System


@operation()
async def page_check_references(page: Page, memcg: MemCgroup | None) -> bool:
    """Whether reclaim may take the locked page: it was not used lately, and no area locks it in memory."""
    referenced, vm_flags = await page_referenced(page, True, memcg)
    note(referenced=referenced)
    if vm_flags & VM_LOCKED:
        # try_to_unmap is going to mark it.
        return True
    return referenced == 0


@operation()
async def shrink_page(page: Page, memcg: MemCgroup | None = None) -> bool:
    """Try to reclaim an isolated page, for which the caller has a reference: whether it is free now.

    Otherwise it is back on its list. The caller's reference is gone in either case.
    """
    from mmreference.mm.huge_memory import split_huge_page

    if not page.lock.trylock():
        await putback_lru_page(page)
        return False
    freed = False
    # One that is marked need not be looked for.
    if not page.PG_mlocked and not page.PG_writeback and await page_check_references(page, memcg):
        # One that nothing maps any more cannot be split; whoever unmapped it frees it.
        whole = page.order and not page.huge and await split_huge_page(page)
        freed = not whole and await _pageout(page)
    if freed:
        page.isolated = False
        page.lock.unlock()
        await put_page(page)
        return True
    if page.PG_swapcache and page.PG_mlocked:
        await try_to_free_swap(page)
    page.lock.unlock()
    await putback_lru_page(page)
    return False


async def _pageout(page: Page) -> bool:
    """Unmap, write out and take out of its cache a locked page: whether all of that succeeded."""
    if PageAnon(page) and not page.PG_swapcache and not await add_to_swap(page):
        return False
    if page_mapped(page):
        result = await try_to_unmap(page, TTU_UNMAP)
        note(unmapped=result)
        if result is not SWAP_SUCCESS:
            return False
    if page.PG_dirty:
        await write_page(page)
    return await _remove_mapping(page)


async def _remove_mapping(page: Page) -> bool:
    """Take the page out of its cache if only the cache and we have a reference."""
    if page_mapping(page) is None:
        return page._count == 1
    touched((page.name, "_count"), write=False)
    touched((page.name, "PG_dirty"), write=False)
    # The count first, then the flag: who holds a reference may still set it.
    if page._count != 2 or page.PG_dirty or page_mapped(page):
        return False
    emit("remove_mapping", page=page, dirty=page.PG_dirty)
    if page.PG_swapcache:
        await delete_from_swap_cache(page)
    else:
        await delete_from_page_cache(page)
    return True


@operation()
async def reclaim_page(page: Page, memcg: MemCgroup | None = None) -> bool:
    """Isolate one page and try to reclaim it: whether it is free now."""
    # Nobody but the list keeps it for us.
    if not await isolate_lru_page_by_frame(page.system, page):
        return False
    return await shrink_page(page, memcg)


@operation()
async def shrink_lists(system: System) -> int:
    """One pass over all pages that may be evicted: how many were freed."""
    await lru_add_drain_all(system)
    freed = 0
    candidates = [p for name, pages in system.zone.lists.items() if name != "unevictable" for p in pages]
    for page in candidates:
        # Somebody else may have freed it since.
        if not is_freed(page):
            emit("scan", page=page, mlocked=page.PG_mlocked)
            freed += await reclaim_page(page)
    return freed
