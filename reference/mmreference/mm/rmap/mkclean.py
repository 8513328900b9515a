"""page_mkclean: write-protect and clean all shared mappings of a page, so that the next write is noticed."""

from __future__ import annotations

import errno

import attrs

from mmreference.kernel.bug import bug_on
from mmreference.mm.mm_struct import VM_SHARED, Vma
from mmreference.mm.page import Page, PageAnon, page_mapped, page_mapping
from mmreference.mm.pagetable import Present, flush_cache_page, ptep_clear_flush_notify, set_pte_at
from mmreference.mm.rmap.address import page_check_address, vma_address
from mmreference.mm.storage_key import page_test_and_clear_dirty
from mmspec.contracts import operation
from mmspec.trace import emit, note


@operation()
async def page_mkclean_one(page: Page, vma: Vma, address: int) -> int:
    """Clean one mapping; 1 if it was dirty or writable, else 0. No mapping may be missed."""
    found = await page_check_address(page, vma.mm, address, sync=True)
    if found is None:
        return 0
    cleaned = 0
    entry = found.entry
    if entry.dirty or entry.write:
        flush_cache_page(vma, found.vpn, found.level)
        before = await ptep_clear_flush_notify(vma, found.vpn, found.level)
        # What hardware has set up to that instant is in here.
        assert isinstance(before, Present)
        note(cleared=before)
        await set_pte_at(vma.mm, vma, found.vpn, attrs.evolve(before, write=False, dirty=False), found.level)
        cleaned = 1
    found.ptl.unlock()
    return cleaned


@operation()
async def page_mkclean_file(page: Page) -> int:
    """Clean all mappings in shared areas of the file; how many were dirty or writable."""
    bug_on(PageAnon(page), f"{page.name} is anonymous", "RMAP-MKCLEAN-001")
    assert page.mapping is not None
    mapping = page.mapping.pointer
    cleaned = 0
    async with mapping.i_mmap_mutex:
        for vma in mapping.prio_tree(page.index):
            if vma.vm_flags & VM_SHARED:
                address = vma_address(page, vma)
                if address == -errno.EFAULT:
                    continue
                emit("visit", page=page, vma=vma)
                cleaned += await page_mkclean_one(page, vma, address)
    return cleaned


@operation()
async def page_mkclean(page: Page) -> int:
    """Write-protect and clean a locked page: not 0 if it was dirty through any of its mappings."""
    bug_on(not page.locked, f"{page.name} is not locked", "RMAP-MKCLEAN-001")
    note(slots_before=dict(page.slots), key_dirty=page.key_dirty, was_mapped=page_mapped(page))
    if not page_mapped(page):
        return 0
    mapping = page_mapping(page)
    if mapping is None:
        return 0
    cleaned = await page_mkclean_file(page)
    if page_test_and_clear_dirty(page, mapped=True):
        cleaned = 1
    return cleaned
