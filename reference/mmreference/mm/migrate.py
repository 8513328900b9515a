"""Page migration: moving a page to another frame under its users.

Each mapping is replaced by a migration entry, at which faults wait for the page lock; the page is copied, and the
entries become mappings of the copy. No `mmap_sem` is needed, so the page's anon_vma has to be pinned while the page is
still mapped: from the first migration entry to the last restored one nothing else may keep it.

Correction to the code of 3.2: merged pages can be migrated while the scanner runs; it asks a node again whose page has
moved (upstream c8d6553b9580).
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mmreference.kernel.bug import bug_on
from mmreference.kernel.memory import is_freed
from mmreference.kernel.scheduler import Access, touched
from mmreference.mm.anon_vma import page_get_anon_vma, unpin_anon_vma
from mmreference.mm.lru import isolate_lru_page, isolate_lru_page_by_frame, lru_add_drain_all, putback_lru_page
from mmreference.mm.memcontrol import mem_cgroup_end_migration, mem_cgroup_prepare_migration, mem_cgroup_replace_page
from mmreference.mm.mm_struct import Mm, Vma
from mmreference.mm.page import (
    Page,
    PageAnon,
    PageHuge,
    PageKsm,
    PageTransHuge,
    get_page,
    get_page_unless_zero,
    page_count,
    page_mapped,
    page_mapping,
    put_page,
)
from mmreference.mm.pagetable import (
    MigrationEntry,
    Present,
    entry_under_lock,
    flush_cache_page,
    pmd_index,
    prot_none,
    pte_lockptr,
    set_pte_at,
    slot_lock,
    vpn_of,
)
from mmreference.mm.rmap.address import page_address_in_vma
from mmreference.mm.rmap.mapcount import hugepage_add_anon_rmap, page_add_anon_rmap, page_add_file_rmap, page_dup_rmap
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_IGNORE_MLOCK, TTU_MIGRATION, try_to_unmap
from mmreference.mm.rmap.walk import rmap_walk
from mmreference.mm.storage_key import page_set_key
from mmreference.mm.system import System
from mmspec.contracts import operation
from mmspec.errors import SWAP_AGAIN, SwapResult
from mmspec.trace import emit, note, wrote

NewPage = Callable[[Page], Awaitable[Page | None]]
"""Allocates the frame that a page is to move to; None without memory."""

#: How often pages that could not be moved are tried again, and from which round on their locks are waited for.
ROUNDS: Final = 3
FORCE_FROM: Final = 1


# -- migration entries --------------------------------------------------------------------------------------------------


@operation()
async def remove_migration_pte(new: Page, vma: Vma, address: int, old: Page) -> SwapResult:
    """Where a migration entry for `old` is at the address (bytes), map `new` instead; the walk goes on."""
    mm = vma.mm
    vpn = vpn_of(mm, address)
    if PageHuge(new):
        level = "huge"
        if vpn not in mm.huge_tables:
            return SWAP_AGAIN
    else:
        level = "pte"
        touched((mm.name, "pmd", pmd_index(mm, vpn)), write=False)
        if pmd_index(mm, vpn) not in mm.tables:
            return SWAP_AGAIN
    # No look without the lock: entries may be moving, and mremap does not keep walks away.
    ptl = slot_lock(mm, vpn, level)
    async with ptl:
        emit("slot_locked", mm=mm, vpn=vpn, lock=ptl)
        entry = entry_under_lock(mm, vpn, level)
        if not isinstance(entry, MigrationEntry) or entry.page is not old:
            return SWAP_AGAIN
        note(restored=entry)
        get_page(new)
        flush_cache_page(vma, vpn)
        await set_pte_at(mm, vma, vpn, Present(new, write=entry.write, none=prot_none(vma)), level)
        if PageHuge(new):
            await (hugepage_add_anon_rmap(new, vma, address) if PageAnon(new) else page_dup_rmap(new))
        elif PageAnon(new):
            await page_add_anon_rmap(new, vma, address)
        else:
            await page_add_file_rmap(new)
        # Nothing was present, so no translation has to be forgotten.
        emit("migration_restored", old=old, new=new, mm=mm, vma=vma, vpn=vpn, entry=entry)
    return SWAP_AGAIN


@operation()
async def remove_migration_ptes(old: Page, new: Page) -> None:
    """Turn all migration entries for `old` into mappings of `new`, which is locked (and may be `old`)."""

    async def visitor(page: Page, vma: Vma, address: int) -> SwapResult:
        return await remove_migration_pte(page, vma, address, old)

    await rmap_walk(new, visitor)
    old.migrating = False


@operation()
async def migration_entry_wait(mm: Mm, vpn: int) -> None:
    """A fault has met a migration entry at the base page number: wait until the page is unlocked."""
    async with pte_lockptr(mm, vpn):
        entry = entry_under_lock(mm, vpn)
        if not isinstance(entry, MigrationEntry):
            return
        page = entry.page
        # While the page is exchanged in its file it cannot be had; the fault is repeated then.
        if not await get_page_unless_zero(page):
            return
    emit("wait_page_lock", page=page, mm=mm, vpn=vpn)
    await page.lock.lock()
    page.lock.unlock()
    await put_page(page)


# -- moving one page ----------------------------------------------------------------------------------------------------


@operation()
async def migrate_page_move_mapping(newpage: Page, page: Page) -> int:
    """Put the new page in the old one's place in its file or in the swap cache: 0, or -EAGAIN if others use the page."""
    mapping = page_mapping(page)
    if mapping is None:
        # Nobody but us: what mapped it was unmapped.
        count = page_count(page)
        note(count=count, expected=1)
        return 0 if count == 1 else -errno.EAGAIN
    async with mapping.tree_lock:
        index = page.private if page.PG_swapcache else page.index
        count = page_count(page)
        note(count=count, expected=2)
        touched((mapping.name, "pages", index))
        if count != 2 or mapping.pages.get(index) is not page:
            return -errno.EAGAIN
        get_page(newpage)
        if page.PG_swapcache:
            newpage.private = page.private
            newpage.PG_swapcache = True
            # Both words say the same of the page that is not the cache's any more.
            page.PG_swapcache = False
            page.private = None
        mapping.pages[index] = newpage
        touched((page.name, "_count"))
        page._count -= 1
        wrote(mapping, "pages", page, newpage)
    return 0


async def migrate_page_copy(newpage: Page, page: Page) -> None:
    """Copy the content and the flags; both are locked, and nothing maps either."""
    from mmreference.mm.ksm import ksm_migrate_page

    await Access((page.name, "content"), f"copy {page.name} to {newpage.name}")
    newpage.content = page.content
    page_set_key(newpage, dirty=True)
    newpage.PG_uptodate = page.PG_uptodate
    newpage.PG_referenced = page.PG_referenced
    newpage.PG_active = page.PG_active
    touched((page.name, "PG_dirty"))
    if page.PG_dirty or (page.system.storage_keys and page.key_dirty):
        page.PG_dirty = False
        newpage.PG_dirty = True
    _mlock_migrate_page(newpage, page)
    await ksm_migrate_page(newpage, page)
    emit("migrate_copy", page=page, newpage=newpage, content=newpage.content)


def _mlock_migrate_page(newpage: Page, page: Page) -> None:
    """The new page is marked instead of the old one; the number of marked pages stays."""
    touched((page.name, "PG_mlocked"))
    if page.PG_mlocked:
        page.PG_mlocked = False
        touched((newpage.name, "PG_mlocked"))
        newpage.PG_mlocked = True
        emit("mlock_migrated", page=page, newpage=newpage)


@operation()
async def move_to_new_page(newpage: Page, page: Page, *, remap: bool) -> int:
    """Make the new page what the locked, unmapped old one is, and map it wherever that was mapped: 0 or -EAGAIN.

    `remap` is False for a page that nothing mapped.
    """
    note(old_mlocked=page.PG_mlocked, old_content=page.content, old_memcg=page.memcg, old_index=page.index)
    got = newpage.lock.trylock()
    bug_on(not got, f"{newpage.name} is somebody's already")
    newpage.index = page.index
    # Before the copy is in the file: who finds it there asks for its owner.
    newpage.mapping = page.mapping
    newpage.anon_generation = page.anon_generation
    newpage.PG_swapbacked = page.PG_swapbacked
    error = await migrate_page_move_mapping(newpage, page)
    if error:
        newpage.mapping = None
    else:
        await migrate_page_copy(newpage, page)
        mem_cgroup_replace_page(page, newpage)
        emit("migrate_moved", page=page, newpage=newpage)
        if remap:
            newpage.migrating = True
            await remove_migration_ptes(page, newpage)
            newpage.migrating = False
        await Access((page.name, "mapping"), f"{page.name}.mapping = NULL", write=True)
        page.mapping = None
    newpage.lock.unlock()
    return error


@operation()
async def unmap_and_move(page: Page, newpage: Page, *, force: bool) -> int:
    """Move an isolated page to the new frame, without `mmap_sem`: 0, -EAGAIN, or -EBUSY.

    An anonymous page that nothing maps is left alone unless it is in the swap cache: its anon_vma may be gone already.
    """
    note(was_anon=PageAnon(page), was_ksm=PageKsm(page), old_mlocked=page.PG_mlocked, old_memcg=page.memcg)
    if not page.lock.trylock():
        if not force:
            return _result(page, newpage, -errno.EAGAIN)
        await page.lock.lock()
    error, anon_vma, remap = -errno.EAGAIN, None, True
    if page.PG_writeback:
        page.lock.unlock()
        return _result(page, newpage, -errno.EBUSY)
    if PageAnon(page) and not PageKsm(page):
        anon_vma = await page_get_anon_vma(page)
        note(pinned=anon_vma)
        if anon_vma is None:
            # Without a pin there may be no walk.
            remap = False
            if not page.PG_swapcache:
                page.lock.unlock()
                return _result(page, newpage, -errno.EAGAIN)
    mem_cgroup_prepare_migration(page)
    if remap and page.mapping is not None:
        page.migrating = True
        await try_to_unmap(page, TTU_MIGRATION | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS)
    if not page_mapped(page):
        error = await move_to_new_page(newpage, page, remap=remap) if page.mapping is not None else -errno.EAGAIN
    if error:
        emit("migrate_abandoned", page=page, mapped=page_mapped(page))
        if remap and page.mapping is not None:
            await remove_migration_ptes(page, page)
    page.migrating = False
    await mem_cgroup_end_migration(page if error else newpage)
    if anon_vma is not None:
        await unpin_anon_vma(anon_vma)
    note(new_mlocked=newpage.PG_mlocked, new_memcg=newpage.memcg)
    page.lock.unlock()
    return _result(page, newpage, error)


def _result(page: Page, newpage: Page, error: int) -> int:
    emit("migrate_result", page=page, newpage=newpage, error=error)
    return error


# -- moving lists of pages ----------------------------------------------------------------------------------------------


@operation()
async def migrate_pages(pages: Sequence[Page], get_new_page: NewPage) -> int:
    """Move isolated pages, and put them back to the LRU: how many could not be moved, or -ENOMEM."""
    from mmreference.mm.huge_memory import split_huge_page

    left = list(pages)
    failed = 0
    for round_ in range(ROUNDS):
        again: list[Page] = []
        for page in left:
            newpage = await get_new_page(page)
            if newpage is None:
                await _putback(left[left.index(page) :] + again)
                return -errno.ENOMEM
            if page_count(page) == 1:
                # Its last user has gone meanwhile.
                await putback_lru_page(page)
                await put_page(newpage)
                continue
            if PageTransHuge(page) and not PageHuge(page) and await split_huge_page(page):
                error = -errno.EAGAIN
            else:
                error = await unmap_and_move(page, newpage, force=round_ >= FORCE_FROM)
            if error:
                await put_page(newpage)
                if error == -errno.EAGAIN:
                    again.append(page)
                else:
                    failed += 1
                    await putback_lru_page(page)
                continue
            await _to_lru(newpage)
            page.isolated = False
            await put_page(page)
        left = again
    await _putback(left)
    return failed + len(left)


async def _putback(pages: Sequence[Page]) -> None:
    for page in pages:
        await putback_lru_page(page)


async def _to_lru(page: Page) -> None:
    """The new page takes the old one's place on the LRU."""
    page.isolated = True
    emit("lru_new", page=page)
    await putback_lru_page(page)


@operation()
async def new_vma_page(page: Page, start: Vma) -> Page | None:
    """A frame by the policy of the area that maps the page: the first one from `start` on that may; None without memory.

    Pages come in the order of their addresses, so areas before `start` need not be asked.
    """
    vmas = start.mm.vmas
    vma = next((v for v in vmas[vmas.index(start) :] if page_address_in_vma(page, v) != -errno.EFAULT), None)
    emit("policy_vma", page=page, start=start, vma=vma)
    note(policy_vma=vma)
    return await page.system.alloc_page("page to migrate to")


@operation()
async def migrate_range(mm: Mm, start: int, end: int) -> int:
    """Move what `[start, end)` (bytes) maps, as mbind does: how many pages could not be moved, or a negative error."""
    from mmreference.mm.gup import follow_page

    await lru_add_drain_all(mm.system)
    async with mm.mmap_sem.write():
        vmas = [v for v in mm.vmas if v.vm_start < end and start < v.vm_end]
        if not vmas:
            return -errno.EFAULT
        pages: list[Page] = []
        for vma in vmas:
            for vpn in vma.vpns:
                address = vpn * mm.system.page_size
                if not start <= address < end:
                    continue
                page = await follow_page(vma, address)
                if page is None:
                    continue
                # Only those that nobody else uses, as MPOL_MF_MOVE.
                if not PageHuge(page) and page.first_page is None and page not in pages and await isolate_lru_page(page):
                    pages.append(page)
                await put_page(page)

        async def get_new_page(page: Page) -> Page | None:
            return await new_vma_page(page, vmas[0])

        return await migrate_pages(pages, get_new_page)


@operation()
async def compact_page(system: System, page: Page) -> int:
    """Move one page that is on the LRU out of the way, as compaction does: pages not moved (0 or 1), or -ENOMEM."""
    await lru_add_drain_all(system)
    if not await isolate_lru_page_by_frame(system, page):
        return 1

    async def get_new_page(page: Page) -> Page | None:
        return await page.system.alloc_page("page to migrate to")

    return await migrate_pages([page], get_new_page)


@operation()
async def migrate_page(page: Page) -> bool:
    """Move one page that is on the LRU to another frame, whoever maps it: whether that was done.

    The page is known by its frame only, and may be free by now.
    """
    return not is_freed(page) and await compact_page(page.system, page) == 0
