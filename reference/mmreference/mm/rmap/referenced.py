"""page_referenced: how many of a page's mappings were used since it was last asked."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.bug import bug_on
from mmreference.mm.anon_vma import page_lock_anon_vma, page_unlock_anon_vma
from mmreference.mm.memcontrol import mm_match_cgroup
from mmreference.mm.mm_struct import VM_LOCKED, VM_SEQ_READ, Mm, Vma
from mmreference.mm.page import Page, PageAnon, PageKsm, PageTransHuge, page_mapcount, page_mapped, page_rmapping
from mmreference.mm.pagetable import Present, entry_under_lock, ptep_clear_flush_young_notify, vpn_of
from mmreference.mm.rmap.address import page_check_address, vma_address
from mmreference.mm.storage_key import page_test_and_clear_young
from mmspec.contracts import operation
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.system import MemCgroup


@attrs.define
class Walk:
    """What a walk has found so far."""

    mapcount: int
    """How many mappings are left to find, by the count as it was when the walk began: a hint."""
    referenced: int = 0
    vm_flags: int = 0


def has_swap_token(mm: Mm) -> bool:
    """Whether the address space is the one that may keep its pages while it pages in."""
    return mm.system.swap_token is mm


@operation()
async def page_referenced_one(page: Page, vma: Vma, address: int, walk: Walk) -> int:
    """Look at one mapping: how many references that makes; notes the flags of an area that was referenced."""
    mm = vma.mm
    referenced = 0
    if PageTransHuge(page):
        async with mm.page_table_lock:
            vpn = vpn_of(mm, address)
            # Also while it is being split.
            entry = entry_under_lock(mm, vpn, "pmd")
            if not isinstance(entry, Present) or entry.page is not page or vpn % mm.system.ptrs_per_pte:
                return 0
            emit("slot_locked", mm=mm, vpn=vpn, lock=mm.page_table_lock)
            emit("visit_found", page=page, vma=vma, vpn=vpn, level="pmd", entry=entry, vm_flags=vma.vm_flags)
            if vma.locked:
                return _stop_for_mlock(vma, walk)
            if await ptep_clear_flush_young_notify(vma, vpn, "pmd"):
                referenced += 1
    else:
        found = await page_check_address(page, mm, address)
        if found is None:
            return 0
        emit(
            "visit_found", page=page, vma=vma, vpn=found.vpn, level=found.level, entry=found.entry, vm_flags=vma.vm_flags
        )
        if vma.locked:
            found.ptl.unlock()
            return _stop_for_mlock(vma, walk)
        young = await ptep_clear_flush_young_notify(vma, found.vpn, found.level)
        # A page that was read in sequence once is not going to be read again.
        if young and not vma.vm_flags & VM_SEQ_READ:
            referenced += 1
        found.ptl.unlock()
    # The mm may be about to be paged in, and keeps its pages.
    if mm is not mm.system.current_mm() and has_swap_token(mm) and mm.mmap_sem.is_locked():
        emit("swap_token", mm=mm)
        referenced += 1
    walk.mapcount -= 1
    if referenced:
        walk.vm_flags |= vma.vm_flags
    note(contribution=referenced, found=True)
    return referenced


def _stop_for_mlock(vma: Vma, walk: Walk) -> int:
    walk.mapcount = 0
    walk.vm_flags |= VM_LOCKED
    note(contribution=0, found=True, stopped=True)
    return 0


async def _visit(page: Page, vma: Vma, address: int, memcg: MemCgroup | None, walk: Walk) -> bool:
    """One area of a walk; whether the walk goes on."""
    # Others' use does not keep it in this group.
    if memcg is not None and not mm_match_cgroup(vma.mm, memcg):
        return True
    emit("visit", page=page, vma=vma)
    walk.referenced += await page_referenced_one(page, vma, address, walk)
    return walk.mapcount > 0


@operation()
async def page_referenced_anon(page: Page, memcg: MemCgroup | None) -> Walk:
    """Walk the areas of the page's anon_vma."""
    anon_vma = await page_lock_anon_vma(page)
    note(lookup=anon_vma)
    if anon_vma is None:
        return Walk(0)
    walk = Walk(page_mapcount(page))
    emit("sample_mapcount", page=page, mapcount=walk.mapcount)
    for vma in anon_vma.list:
        address = vma_address(page, vma)
        if address == -errno.EFAULT:
            continue
        if not await _visit(page, vma, address, memcg, walk):
            break
    page_unlock_anon_vma(anon_vma)
    return walk


@operation()
async def page_referenced_file(page: Page, memcg: MemCgroup | None) -> Walk:
    """Walk the linear areas of the page's file; with the page locked, so that it stays in its file."""
    bug_on(PageAnon(page), f"{page.name} is anonymous", "RMAP-REF-019")
    bug_on(not page.locked, f"{page.name} is not locked", "RMAP-REF-019")
    bug_on(page.mapping is None, f"{page.name} has no mapping", "RMAP-REF-019")
    assert page.mapping is not None
    mapping = page.mapping.pointer
    async with mapping.i_mmap_mutex:
        walk = Walk(page_mapcount(page))
        emit("sample_mapcount", page=page, mapcount=walk.mapcount)
        for vma in mapping.prio_tree(page.index):
            address = vma_address(page, vma)
            if address == -errno.EFAULT:
                continue
            if not await _visit(page, vma, address, memcg, walk):
                break
    return walk


@operation()
async def page_referenced(page: Page, is_locked: bool, memcg: MemCgroup | None = None) -> tuple[int, int]:
    """How many references to the page there were, and the flags of the areas that made them.

    `is_locked` says that the caller has the page locked; a page of a file or a merged one that cannot be locked at once
    counts as referenced.
    """
    from mmreference.mm.ksm import page_referenced_ksm

    note(was_mapped=page_mapped(page), was_anon=PageAnon(page), was_ksm=PageKsm(page), key_young=page.key_young)
    note(slots_before=dict(page.slots), locked_before=page.locked, had_mapping=page_rmapping(page) is not None)
    if not page_mapped(page) or page_rmapping(page) is None:
        return 0, 0
    we_locked = False
    if not is_locked and (not PageAnon(page) or PageKsm(page)):
        we_locked = page.lock.trylock()
        emit("trylock_page", page=page, got=we_locked)
        if not we_locked:
            return 1, 0
    if PageKsm(page):
        note(walker="ksm")
        walk = await page_referenced_ksm(page, memcg)
    elif PageAnon(page):
        note(walker="anon")
        walk = await page_referenced_anon(page, memcg)
    else:
        note(walker="file")
        walk = await page_referenced_file(page, memcg)
    if we_locked:
        page.lock.unlock()
    referenced = walk.referenced
    if page_test_and_clear_young(page):
        note(key_young_counted=True)
        referenced += 1
    return referenced, walk.vm_flags


