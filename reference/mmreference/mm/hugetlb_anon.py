"""Private anonymous hugetlb mappings, as far as reverse mapping is concerned: no statistics, no LRU, no control group.

Their reservations are a system of their own, in :mod:`mmreference.mm.hugetlb`.
"""

from __future__ import annotations

import errno

import attrs

from mmreference.kernel.scheduler import may_fail, touched
from mmreference.mm.anon_vma import anon_vma_prepare
from mmreference.mm.mm_struct import VM_WRITE, Mm, Vma
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.page import Page, get_page, get_page_unless_zero, page_mapcount, put_page
from mmreference.mm.pagetable import (
    HwPoisonEntry,
    MigrationEntry,
    Present,
    entry_under_lock,
    flush_slot,
    probe_entry,
    prot_none,
    ptep_clear_flush,
    set_pte_at,
    store,
    vpn_of,
)
from mmreference.mm.rmap.mapcount import (
    hugepage_add_new_anon_rmap,
    page_dup_rmap,
    page_move_anon_rmap,
    page_remove_rmap,
)
from mmspec.contracts import operation
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, VmFault
from mmspec.trace import emit, note


def huge_vpn(mm: Mm, vpn: int) -> int:
    """The first base page number of the hugetlb page that contains this one."""
    order = mm.system.huge_page_order
    return vpn >> order << order


def huge_vpns(mm: Mm, start: int, end: int) -> range:
    """The first base page numbers of the hugetlb pages in `[start, end)` (bytes)."""
    size = mm.system.page_size
    return range(start // size, end // size, 1 << mm.system.huge_page_order)


async def huge_pte_alloc(mm: Mm, vpn: int) -> bool:
    """Make sure that there is a table for the entry; False without memory."""
    touched((mm.name, "huge_tables", vpn), write=False)
    if vpn not in mm.huge_tables:
        emit("alloc", what="page table", may_reclaim=True)
        if await may_fail("page table"):
            return False
        async with mm.page_table_lock:
            touched((mm.name, "huge_tables", vpn))
            mm.huge_tables[vpn] = None
    return True


async def alloc_huge_page(vma: Vma) -> Page | None:
    """A hugetlb page, or None if the pool is empty."""
    system = vma.mm.system
    return await system.alloc_pages(system.huge_page_order, "hugetlb page", huge=True)


@operation()
async def hugetlb_fault(mm: Mm, vma: Vma, address: int, write: bool) -> VmFault:
    """Bring in the hugetlb page at the address (bytes), or make a private copy of it."""
    vpn = huge_vpn(mm, vpn_of(mm, address))
    if not await huge_pte_alloc(mm, vpn):
        return VM_FAULT_OOM
    entry = await probe_entry(mm, vpn, "huge")
    if entry is None:
        return await hugetlb_no_page(mm, vma, vpn, write)
    if isinstance(entry, MigrationEntry):
        note(waited=True)
        await _migration_entry_wait_huge(mm, vpn)
        return VM_FAULT_MINOR
    if isinstance(entry, HwPoisonEntry):
        return VM_FAULT_SIGBUS
    if write and isinstance(entry, Present) and not entry.write:
        return await _write_fault(mm, vma, vpn)
    async with mm.page_table_lock:
        now = entry_under_lock(mm, vpn, "huge")
        if isinstance(now, Present) and (now.write or not write):
            store(mm, vma, vpn, attrs.evolve(now, young=True, dirty=now.dirty or write), "huge")
    return VM_FAULT_MINOR


async def _migration_entry_wait_huge(mm: Mm, vpn: int) -> None:
    async with mm.page_table_lock:
        entry = entry_under_lock(mm, vpn, "huge")
        if not isinstance(entry, MigrationEntry):
            return
        page = entry.page
        if not await get_page_unless_zero(page):
            return
    emit("wait_page_lock", page=page, mm=mm, vpn=vpn)
    await page.lock.lock()
    page.lock.unlock()
    await put_page(page)


@operation()
async def hugetlb_no_page(mm: Mm, vma: Vma, vpn: int, write: bool) -> VmFault:
    """The first access: a zeroed hugetlb page of the area's own."""
    if await anon_vma_prepare(vma):
        return VM_FAULT_OOM
    page = await alloc_huge_page(vma)
    if page is None:
        return VM_FAULT_SIGBUS
    page.PG_uptodate = True
    await page.lock.lock()
    async with mm.page_table_lock:
        first = entry_under_lock(mm, vpn, "huge") is None
        if first:
            await hugepage_add_new_anon_rmap(page, vma, vpn * mm.system.page_size)
            writable = bool(vma.vm_flags & VM_WRITE)
            await set_pte_at(mm, vma, vpn, Present(page, write=writable, young=True, dirty=write), "huge")
    page.lock.unlock()
    if not first:
        await put_page(page)
    return VM_FAULT_MINOR


async def _write_fault(mm: Mm, vma: Vma, vpn: int) -> VmFault:
    """Lock the page that is mapped read-only, then make a copy of it if somebody else maps it."""
    async with mm.page_table_lock:
        entry = entry_under_lock(mm, vpn, "huge")
        if not isinstance(entry, Present) or entry.write:
            return VM_FAULT_MINOR
        page = entry.page
        get_page(page)
    await page.lock.lock()
    result = await hugetlb_cow(mm, vma, vpn, page)
    page.lock.unlock()
    await put_page(page)
    return result


@operation()
async def hugetlb_cow(mm: Mm, vma: Vma, vpn: int, old: Page) -> VmFault:
    """Give the area a hugetlb page of its own to write to; the old one is locked."""
    size = mm.system.page_size
    address = vpn * size
    async with mm.page_table_lock:
        entry = entry_under_lock(mm, vpn, "huge")
        if not isinstance(entry, Present) or entry.page is not old or entry.write:
            return VM_FAULT_MINOR
        if page_mapcount(old) == 1:
            await page_move_anon_rmap(old, vma, address)
            store(mm, vma, vpn, attrs.evolve(entry, write=True, dirty=True, young=True), "huge")
            await flush_slot(mm, vpn, "huge")
            return VM_FAULT_MINOR
    if await anon_vma_prepare(vma):
        return VM_FAULT_OOM
    new = await alloc_huge_page(vma)
    if new is None:
        return VM_FAULT_SIGBUS
    touched((old.name, "content"), write=False)
    new.content = old.content
    new.PG_uptodate = True
    end = address + (size << mm.system.huge_page_order)
    await mmu_notifier_invalidate_range_start(mm, address, end)
    async with mm.page_table_lock:
        now = entry_under_lock(mm, vpn, "huge")
        same = isinstance(now, Present) and now.page is old and not now.write
        if same:
            await ptep_clear_flush(vma, vpn, "huge")
            await page_remove_rmap(old)
            await hugepage_add_new_anon_rmap(new, vma, address)
            await set_pte_at(mm, vma, vpn, Present(new, write=bool(vma.vm_flags & VM_WRITE), young=True, dirty=True), "huge")
    await mmu_notifier_invalidate_range_end(mm, address, end)
    await put_page(old if same else new)
    return VM_FAULT_MINOR


@operation()
async def copy_hugetlb_page_range(dst: Mm, src: Mm, copy_vma: Vma, vma: Vma) -> int:
    """fork: both sides map the hugetlb pages read-only: 0 or -ENOMEM.

    Secondary MMUs are told, as fork tells them of base pages (3.2 forgets it, and they go on writing).
    """
    await mmu_notifier_invalidate_range_start(src, vma.vm_start, vma.vm_end)
    error = await _copy_range(dst, src, copy_vma, vma)
    await mmu_notifier_invalidate_range_end(src, vma.vm_start, vma.vm_end)
    return error


async def _copy_range(dst: Mm, src: Mm, copy_vma: Vma, vma: Vma) -> int:
    for vpn in huge_vpns(src, vma.vm_start, vma.vm_end):
        touched((src.name, "huge_tables", vpn), write=False)
        if vpn not in src.huge_tables:
            continue
        if not await huge_pte_alloc(dst, vpn):
            return -errno.ENOMEM
        await dst.page_table_lock.lock()
        await src.page_table_lock.lock(nested=True)
        entry = entry_under_lock(src, vpn, "huge")
        if isinstance(entry, MigrationEntry):
            if entry.write:
                entry = MigrationEntry(entry.page, write=False)
                store(src, vma, vpn, entry, "huge")
            store(dst, copy_vma, vpn, entry, "huge")
        elif isinstance(entry, Present):
            if entry.write:
                entry = attrs.evolve(entry, write=False)
                store(src, vma, vpn, entry, "huge")
            get_page(entry.page)
            await page_dup_rmap(entry.page)
            store(dst, copy_vma, vpn, entry, "huge")
        elif entry is not None:
            store(dst, copy_vma, vpn, entry, "huge")
        src.page_table_lock.unlock()
        dst.page_table_lock.unlock()
        if isinstance(entry, Present):
            await flush_slot(src, vpn, "huge")
    return 0


@operation()
async def hugetlb_change_protection(vma: Vma, start: int, end: int, *, write: bool) -> None:
    """Give the entries of `[start, end)` (bytes) the rights of their area; the one to write is given by faults."""
    mm = vma.mm
    for vpn in huge_vpns(mm, start, end):
        async with mm.page_table_lock:
            entry = entry_under_lock(mm, vpn, "huge")
            if isinstance(entry, Present):
                cleared = await ptep_clear_flush(vma, vpn, "huge")
                assert isinstance(cleared, Present)
                await set_pte_at(mm, vma, vpn, attrs.evolve(cleared, write=cleared.write and write, none=prot_none(vma)), "huge")
            elif isinstance(entry, MigrationEntry) and entry.write and not write:
                store(mm, vma, vpn, attrs.evolve(entry, write=False), "huge")


@operation()
async def unmap_hugepage_range(vma: Vma, start: int, end: int) -> None:
    """Empty the entries of `[start, end)` (bytes) of an area, and drop their pages after all CPUs have forgotten them."""
    mm = vma.mm
    for vpn in huge_vpns(mm, start, end):
        dropped: Page | None = None
        async with mm.page_table_lock:
            entry = entry_under_lock(mm, vpn, "huge")
            if isinstance(entry, Present):
                await ptep_clear_flush(vma, vpn, "huge")
                await page_remove_rmap(entry.page)
                dropped = entry.page
            elif entry is not None:
                store(mm, vma, vpn, None, "huge")
        if dropped is not None:
            await put_page(dropped)
