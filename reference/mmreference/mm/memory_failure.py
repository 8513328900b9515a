"""Memory failure: the hardware reports a frame whose content is lost.

The page is taken away from all who map it; those whose data is lost are killed when they ask for it. The frame is never
used again, so the handler's reference stays.
"""

from __future__ import annotations

import errno

from mmreference.kernel.memory import is_freed
from mmreference.kernel.scheduler import Access, touched
from mmreference.mm.anon_vma import page_lock_anon_vma, page_unlock_anon_vma
from mmreference.mm.filemap import delete_from_page_cache
from mmreference.mm.lru import isolate_lru_page, lru_add_drain_all
from mmreference.mm.mlock import clear_page_mlock
from mmreference.mm.mm_struct import Mm
from mmreference.mm.page import (
    Page,
    PageAnon,
    PageHuge,
    PageKsm,
    PageTransHuge,
    get_page,
    page_mapped,
    page_mapping,
    put_page,
)
from mmreference.mm.rmap.address import page_mapped_in_vma
from mmreference.mm.rmap.mkclean import page_mkclean
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_IGNORE_HWPOISON, TTU_IGNORE_MLOCK, TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import delete_from_swap_cache
from mmreference.mm.writeback import set_page_dirty
from mmspec.contracts import operation
from mmspec.errors import SWAP_FAIL, SWAP_SUCCESS, Signal, SwapResult
from mmspec.trace import emit, note


@operation()
async def collect_procs(page: Page) -> list[Mm]:
    """The address spaces that use the locked page; list mutex first, then the list of tasks, then page tables."""
    if page.mapping is None:
        return []
    return await (_collect_anon(page) if PageAnon(page) else _collect_file(page))


async def _collect_anon(page: Page) -> list[Mm]:
    found: dict[Mm, None] = {}
    anon_vma = await page_lock_anon_vma(page)
    if anon_vma is None:
        return []
    async with page.system.tasklist_lock.read():
        for vma in anon_vma.list:
            if vma.mm in page.system.mms and await page_mapped_in_vma(page, vma):
                found[vma.mm] = None
    page_unlock_anon_vma(anon_vma)
    return list(found)


async def _collect_file(page: Page) -> list[Mm]:
    """Those that map the place, even if not at this moment: for them the data is lost as well."""
    assert page.mapping is not None
    mapping = page.mapping.pointer
    async with mapping.i_mmap_mutex:
        async with page.system.tasklist_lock.read():
            return list({vma.mm: None for vma in mapping.prio_tree(page.index) if vma.mm in page.system.mms})


@operation()
async def hwpoison_user_mappings(page: Page) -> SwapResult:
    """Take the locked, poisoned page away from all who map it; SWAP_SUCCESS if nobody does any more.

    What can be read in again (a clean page of a file, one that is in swap) is only unmapped, the rest is marked lost.
    """
    if not page_mapped(page):
        return SWAP_SUCCESS
    if PageKsm(page):
        return SWAP_FAIL
    flags = TTU_UNMAP | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS
    kill = True
    if page.PG_swapcache:
        # Who swaps it in is going to find that it is lost.
        flags |= TTU_IGNORE_HWPOISON
    touched((page.name, "PG_dirty"), write=False)
    if not page.PG_dirty and not PageAnon(page) and page_mapping(page) is not None:
        if await page_mkclean(page):
            await set_page_dirty(page)
        else:
            kill = False
            flags |= TTU_IGNORE_HWPOISON
    killed = await collect_procs(page) if kill else []
    result = await try_to_unmap(page, flags)
    note(unmapped=result, flags=flags, killed=killed)
    for mm in killed:
        emit("send_signal", mm=mm, signal=Signal.SIGBUS, page=page)
    return result


@operation()
async def memory_failure(page: Page) -> int:
    """The hardware has reported the frame: 0 if nobody can come by it any more, else -EBUSY."""
    from mmreference.mm.huge_memory import split_huge_page

    # By frame number: nothing says what the frame is used for at this moment.
    await Access((page.name, "PG_hwpoison"), f"TestSetPageHWPoison {page.name}", write=True)
    if is_freed(page) or page.PG_hwpoison:
        return 0
    page.PG_hwpoison = True
    emit("set_hwpoison", page=page)
    await Access((page.name, "_count"), f"get_page_unless_zero {page.name}", write=True)
    if is_freed(page) or page._count == 0:
        # On its way to the free lists, which do not give it out again.
        return 0
    get_page(page)
    if not PageHuge(page):
        await lru_add_drain_all(page.system)
        if PageTransHuge(page) and await split_huge_page(page):
            await put_page(page)
            return -errno.EBUSY
        touched((page.name, "PG_lru"), write=False)
        if not page.PG_lru:
            # Somebody works on it; nothing can be done by us.
            await put_page(page)
            return -errno.EBUSY
    await page.lock.lock()
    error = 0
    if await hwpoison_user_mappings(page) is not SWAP_SUCCESS:
        error = -errno.EBUSY
    elif not PageHuge(page):
        error = await _page_action(page)
    page.lock.unlock()
    note(error=error)
    return error


async def _page_action(page: Page) -> int:
    """Take the unmapped page out of where others could find it: the LRU, and its file or the swap cache."""
    await clear_page_mlock(page)
    if not await isolate_lru_page(page):
        return -errno.EBUSY
    # The reference of the list; ours stays.
    page.isolated = False
    await put_page(page)
    touched((page.name, "PG_dirty"))
    if page.PG_swapcache:
        if page.PG_dirty:
            # What is in swap is older: the page stays, so that faults find it.
            page.PG_dirty = False
        else:
            await delete_from_swap_cache(page)
    elif not PageAnon(page) and page.mapping is not None:
        page.PG_dirty = False
        emit("truncate_page", page=page)
        await delete_from_page_cache(page)
    return 0
