"""Huge-page table entries: reading, setting, clearing, and the translations that CPUs remember.

An entry is changed only with the `page_table_lock` of its address space; whoever reads it without the lock may use
what it saw only to choose a path.
"""

from __future__ import annotations

import attrs

from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.hugetlb.page import Page, hand_over, put_page, take_over
from mmreference.mm.hugetlb.vma import Mm, Pte, Vma
from mmspec.trace import emit, wrote


def huge_page_number(mm: Mm, address: int) -> int:
    """The key of the entry for an address (in bytes)."""
    return address // mm.system.arch.huge_page_size


async def huge_pte_alloc(mm: Mm, address: int) -> bool:
    """Make sure that the table for the entry exists; whether it does."""
    table = huge_page_number(mm, address) // mm.system.entries_per_table
    if table not in mm.tables:
        if await may_fail("page table"):
            emit("pte_alloc_failed", mm=mm)
            return False
        mm.tables[table] = None
    return True


async def huge_ptep_get(mm: Mm, vpn: int) -> Pte | None:
    """The entry as it is now, read without a lock."""
    await Access((mm.name, "pte", vpn), f"read pte {mm.name}[{vpn - mm.system.first_vpn}]")
    entry = mm.ptes.get(vpn)
    emit("pte_read", mm=mm, vpn=vpn, entry=entry)
    return entry


def pte_same(mm: Mm, vpn: int, entry: Pte | None) -> bool:
    """Whether the entry is still what it was; under the lock."""
    same = mm.ptes.get(vpn) == entry
    emit("pte_check", mm=mm, vpn=vpn, same=same, entry=mm.ptes.get(vpn))
    return same


def _store(mm: Mm, vpn: int, entry: Pte | None) -> Pte | None:
    before = mm.ptes.get(vpn)
    if entry is None:
        del mm.ptes[vpn]
    else:
        mm.ptes[vpn] = entry
    mm.changes += 1
    touched((mm.name, "pte", vpn))
    if before is not None and (entry is None or entry.page is not before.page):
        del before.page.ptes[mm.name, vpn]
    if entry is not None:
        entry.page.ptes[mm.name, vpn] = mm
    wrote(mm, f"ptes[{vpn}]", before, entry)
    return before


def set_huge_pte_at(mm: Mm, vma: Vma, vpn: int, entry: Pte) -> None:
    """Fill an empty entry; the caller's reference to the page becomes the entry's."""
    emit("pte_insert", mm=mm, vma=vma, vpn=vpn, entry=entry, page=entry.page, locked=entry.page.locked)
    _store(mm, vpn, entry)
    mm.file_rss += mm.system.base_pages_per_huge_page
    hand_over(entry.page)


def replace_huge_pte(mm: Mm, vma: Vma, vpn: int, entry: Pte) -> Page:
    """Put another page in a present entry; the old page's reference is the caller's now.

    No CPU may use the old translation any more when the new entry can be seen.
    """
    emit("pte_replace", mm=mm, vma=vma, vpn=vpn, entry=entry, page=entry.page)
    flush_tlb_page(mm, vpn)
    before = _store(mm, vpn, entry)
    assert before is not None
    hand_over(entry.page)
    take_over(before.page)
    return before.page


def set_huge_ptep_writable(mm: Mm, vma: Vma, vpn: int) -> None:
    """The page is ours alone, or shared for writing: allow writes through the entry."""
    entry = mm.ptes[vpn]
    emit("pte_mkwrite", mm=mm, vma=vma, vpn=vpn, page=entry.page)
    _store(mm, vpn, attrs.evolve(entry, writable=True))
    flush_tlb_page(mm, vpn)


def huge_ptep_set_wrprotect(mm: Mm, vma: Vma, vpn: int) -> None:
    """Forbid writes through the entry."""
    entry = mm.ptes[vpn]
    emit("pte_wrprotect", mm=mm, vma=vma, vpn=vpn, page=entry.page)
    _store(mm, vpn, attrs.evolve(entry, writable=False))


def huge_ptep_clear_flush(mm: Mm, vma: Vma, vpn: int) -> Page:
    """Empty the entry; its reference to the page is the caller's now."""
    emit("pte_clear", mm=mm, vma=vma, vpn=vpn, page=mm.ptes[vpn].page)
    before = _store(mm, vpn, None)
    assert before is not None
    flush_tlb_page(mm, vpn)
    mm.file_rss -= mm.system.base_pages_per_huge_page
    take_over(before.page)
    return before.page


def flush_tlb_page(mm: Mm, vpn: int) -> None:
    """No CPU remembers the translation any more."""
    mm.system.tlbs.flush_tlb_page(mm, vpn)
    emit("tlb_flush", mm=mm, vpn=vpn)


async def unmap_hugepage_range(vma: Vma, start: int, end: int) -> None:
    """Empty all entries for `[start, end)` (bytes) of the VMA, then drop their pages.

    The pages are dropped after the flush and without the lock, because the last reference frees.
    """
    mm = vma.mm
    emit("unmap_pages", vma=vma, start=start, end=end)
    pages: list[Page] = []
    async with mm.page_table_lock:
        for address in range(start, end, vma.huge_page_size):
            vpn = huge_page_number(mm, address)
            if vpn in mm.ptes:
                pages.append(huge_ptep_clear_flush(mm, vma, vpn))
    for page in pages:
        await put_page(page)
