"""try_to_unmap: replace all entries that map a page, for reclaim, migration, or because its memory has failed.

Entries are replaced one by one under the lock of their slot; the list mutex keeps areas from coming and going.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from mmreference.kernel.bug import bug_on
from mmreference.kernel.scheduler import touched
from mmreference.mm.anon_vma import page_lock_anon_vma, page_unlock_anon_vma
from mmreference.mm.mlock import mlock_vma_page
from mmreference.mm.mm_struct import (
    VM_GROWSDOWN,
    VM_GROWSUP,
    VM_STACK_INCOMPLETE_SETUP,
    Mm,
    Vma,
    add_mm_counter,
    rss_counter,
    update_hiwater_rss,
)
from mmreference.mm.page import (
    Page,
    PageAnon,
    PageHuge,
    PageKsm,
    PageTransHuge,
    page_mapcount,
    page_mapped,
    put_page,
)
from mmreference.mm.pagetable import (
    HwPoisonEntry,
    MigrationEntry,
    Present,
    SwapEntry,
    flush_cache_page,
    ptep_clear_flush_notify,
    ptep_clear_flush_young_notify,
    set_pte_at,
)
from mmreference.mm.rmap.address import Found, page_check_address, vma_address
from mmreference.mm.rmap.mapcount import page_remove_rmap
from mmreference.mm.rmap.nonlinear import try_to_unmap_nonlinear
from mmreference.mm.swapfile import swap_duplicate
from mmreference.mm.writeback import set_page_dirty
from mmspec.contracts import operation
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_MLOCK, SWAP_SUCCESS, SwapResult
from mmspec.trace import emit, note

#: What is to be done; exactly one of them, or-ed with what is to be ignored.
TTU_UNMAP: Final = 0
TTU_MIGRATION: Final = 1
TTU_MUNLOCK: Final = 2
TTU_ACTION_MASK: Final = 0xFF
TTU_IGNORE_MLOCK: Final = 1 << 8
TTU_IGNORE_ACCESS: Final = 1 << 9
TTU_IGNORE_HWPOISON: Final = 1 << 10


def TTU_ACTION(flags: int) -> int:  # noqa: N802 - the kernel's name
    """What the flags ask for."""
    return flags & TTU_ACTION_MASK


@operation()
def is_vma_temporary_stack(vma: Vma) -> bool:
    """Whether exec is still moving this stack, in whichever direction it grows."""
    if not vma.vm_flags & (VM_GROWSDOWN | VM_GROWSUP):
        return False
    return vma.vm_flags & VM_STACK_INCOMPLETE_SETUP == VM_STACK_INCOMPLETE_SETUP


@operation()
async def try_to_unmap_one(page: Page, vma: Vma, address: int, flags: int) -> SwapResult:
    """Replace the entry at the address (bytes), if it maps the page: SWAP_AGAIN, or why the walk is to stop."""
    mm = vma.mm
    found = await page_check_address(page, mm, address)
    if found is None:
        return SWAP_AGAIN
    emit(
        "visit_found", page=page, vma=vma, vpn=found.vpn, level=found.level, entry=found.entry, vm_flags=vma.vm_flags
    )
    note(found=True, entry=found.entry, swapcache=page.PG_swapcache, was_anon=PageAnon(page), slot=page.private)
    if not flags & TTU_IGNORE_MLOCK:
        if vma.locked:
            found.ptl.unlock()
            return await _mlock_instead(page, vma)
        if TTU_ACTION(flags) == TTU_MUNLOCK:
            found.ptl.unlock()
            return SWAP_AGAIN
    if not flags & TTU_IGNORE_ACCESS and await ptep_clear_flush_young_notify(vma, found.vpn, found.level):
        note(young=True)
        found.ptl.unlock()
        return SWAP_FAIL
    # Aliasing caches need the translation to find the lines.
    flush_cache_page(vma, found.vpn, found.level)
    cleared = await ptep_clear_flush_notify(vma, found.vpn, found.level)
    assert isinstance(cleared, Present)
    note(cleared=cleared)
    # Only now: until the flush a CPU could write, and note it in the entry.
    if cleared.dirty:
        await set_page_dirty(page)
    update_hiwater_rss(mm)
    if not await _replace(page, vma, found, cleared, flags):
        found.ptl.unlock()
        return SWAP_FAIL
    await page_remove_rmap(page)
    await put_page(page)
    note(removed=True)
    found.ptl.unlock()
    return SWAP_AGAIN


async def _replace(page: Page, vma: Vma, found: Found, cleared: Present, flags: int) -> bool:
    """Put what belongs there into the empty slot, and move the counters; False if the old entry had to go back."""
    mm, system, vpn = vma.mm, page.system, found.vpn
    if page.PG_hwpoison and not flags & TTU_IGNORE_HWPOISON:
        # Hugetlb mappings were never counted (3.2 subtracts them here).
        if not PageHuge(page):
            _dec_counter(mm, rss_counter(page))
        await set_pte_at(mm, vma, vpn, HwPoisonEntry(page), found.level)
    elif PageAnon(page) and page.PG_swapcache:
        if await swap_duplicate(system, page.private):
            await set_pte_at(mm, vma, vpn, cleared, found.level)
            note(swap_dup_failed=True)
            return False
        if not mm.on_mmlist:
            async with system.mmlist_lock:
                # Somebody may have been faster.
                if not mm.on_mmlist:
                    emit("mmlist_add", mm=mm)
                    mm.on_mmlist = True
        _dec_counter(mm, "rss_anon")
        mm.swapents += 1
        await set_pte_at(mm, vma, vpn, SwapEntry(page.private), found.level)
    elif PageAnon(page):
        bug_on(
            TTU_ACTION(flags) != TTU_MIGRATION or not system.has("MIGRATION"),
            f"{page.name} is to be unmapped without a place in swap",
            "RMAP-UNMAP-013",
        )
        await set_pte_at(mm, vma, vpn, MigrationEntry(page, cleared.write), found.level)
    elif system.has("MIGRATION") and TTU_ACTION(flags) == TTU_MIGRATION:
        await set_pte_at(mm, vma, vpn, MigrationEntry(page, cleared.write), found.level)
    elif not PageHuge(page):
        _dec_counter(mm, "rss_file")
    return True


def _dec_counter(mm: Mm, field: str) -> None:
    emit("dec_rss", mm=mm, field=field)
    touched((mm.name, field))
    add_mm_counter(mm, field, -1)


async def _mlock_instead(page: Page, vma: Vma) -> SwapResult:
    """The area is locked in memory, so its page is to be marked; only if its `mmap_sem` can be had at once.

    Holding a list mutex we must not wait for it; whoever munlocks holds it for write.
    """
    note(out_mlock=True)
    if not vma.mm.mmap_sem.trylock(shared=True):
        emit("mmap_sem_trylock", mm=vma.mm, got=False)
        return SWAP_AGAIN
    emit("mmap_sem_trylock", mm=vma.mm, got=True)
    note(sem=True)
    result = SWAP_AGAIN
    if vma.locked:
        await mlock_vma_page(page, vma)
        result = SWAP_MLOCK
    vma.mm.mmap_sem.up_read()
    return result


async def _try_all(page: Page, vmas: Iterable[Vma], flags: int, *, skip_stacks: bool = False) -> SwapResult:
    """Go through the areas until one says stop, or nothing maps the page any more."""
    result: SwapResult = SWAP_AGAIN
    for vma in vmas:
        # exec moves the area first and its entries later: an entry put here now might not be found again.
        if skip_stacks and is_vma_temporary_stack(vma):
            continue
        address = vma_address(page, vma)
        if address == -errno.EFAULT:
            continue
        emit("visit", page=page, vma=vma)
        result = await try_to_unmap_one(page, vma, address, flags)
        if result is not SWAP_AGAIN or not page_mapped(page):
            break
    return result


@operation()
async def try_to_unmap_anon(page: Page, flags: int) -> SwapResult:
    """Go through the areas of the page's anon_vma."""
    anon_vma = await page_lock_anon_vma(page)
    note(lookup=anon_vma)
    if anon_vma is None:
        return SWAP_AGAIN
    migration = page.system.has("MIGRATION") and TTU_ACTION(flags) == TTU_MIGRATION
    result = await _try_all(page, anon_vma.list, flags, skip_stacks=migration)
    page_unlock_anon_vma(anon_vma)
    return result


@operation()
async def try_to_unmap_file(page: Page, flags: int) -> SwapResult:
    """Go through the linear areas of the page's file, then scan the nonlinear ones if that was not enough."""
    assert page.mapping is not None
    mapping = page.mapping.pointer
    async with mapping.i_mmap_mutex:
        result = await _try_all(page, mapping.prio_tree(page.index), flags)
        # Where a page is in a nonlinear area nobody knows; munlock leaves such a page to reclaim.
        if (
            result is SWAP_AGAIN
            and page_mapped(page)
            and mapping.i_mmap_nonlinear
            and TTU_ACTION(flags) != TTU_MUNLOCK
        ):
            result = await try_to_unmap_nonlinear(page, mapping, flags)
    return result


@operation()
async def try_to_unmap(page: Page, flags: int) -> SwapResult:
    """Remove all mappings of a locked page: SWAP_SUCCESS if none is left, AGAIN, FAIL or MLOCK otherwise."""
    from mmreference.mm.ksm import try_to_unmap_ksm

    bug_on(not page.locked, f"{page.name} is not locked", "RMAP-UNMAP-001")
    bug_on(not PageHuge(page) and PageTransHuge(page), f"{page.name} has not been split", "RMAP-UNMAP-001")
    note(slots_before=dict(page.slots), was_mapped=page_mapped(page), was_ksm=PageKsm(page), count=page_mapcount(page))
    note(walker="ksm" if PageKsm(page) else "anon" if PageAnon(page) else "file")
    if PageKsm(page):
        raw = await try_to_unmap_ksm(page, flags)
    elif PageAnon(page):
        raw = await try_to_unmap_anon(page, flags)
    else:
        raw = await try_to_unmap_file(page, flags)
    note(raw=raw)
    return SWAP_SUCCESS if raw is not SWAP_MLOCK and not page_mapped(page) else raw


@operation()
async def try_to_munlock(page: Page) -> SwapResult:
    """Find out whether another area locks the isolated, locked page in memory, and mark it again if so.

    SWAP_MLOCK then; SWAP_AGAIN if there is none or its `mmap_sem` is not to be had; SWAP_FAIL if a merged page cannot
    be located.
    """
    from mmreference.mm.ksm import try_to_unmap_ksm

    bug_on(not page.locked or page.PG_lru, f"{page.name} is not locked, or not isolated", "MLOCK-004")
    note(slots_before=dict(page.slots), walker="ksm" if PageKsm(page) else "anon" if PageAnon(page) else "file")
    if PageKsm(page):
        return await try_to_unmap_ksm(page, TTU_MUNLOCK)
    if PageAnon(page):
        return await try_to_unmap_anon(page, TTU_MUNLOCK)
    return await try_to_unmap_file(page, TTU_MUNLOCK)


