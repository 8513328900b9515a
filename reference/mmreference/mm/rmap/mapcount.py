"""Adding and removing mappings: the map count, who owns the page, and the statistics of first and last mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.bug import bug_on
from mmreference.kernel.scheduler import Access, touched
from mmreference.mm.anon_vma import AnonVma
from mmreference.mm.lru import UNEVICTABLE, add_page_to_unevictable_list, lru_cache_add_lru, page_evictable
from mmreference.mm.memcontrol import mem_cgroup_file_mapped, mem_cgroup_uncharge_page
from mmreference.mm.mm_struct import linear_page_index
from mmreference.mm.page import (
    PAGE_MAPPING_ANON,
    Page,
    PageAnon,
    PageHuge,
    PageKsm,
    PageTransHuge,
    page_anon_vma,
    set_page_mapping,
)
from mmreference.mm.storage_key import page_test_and_clear_dirty
from mmspec.contracts import operation
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Vma


def zone_counter(page: Page) -> str:
    """The counter of mapped pages that a page of this kind belongs to."""
    if not PageAnon(page):
        return "NR_FILE_MAPPED"
    return "NR_ANON_TRANSPARENT_HUGEPAGES" if PageTransHuge(page) else "NR_ANON_PAGES"


def mod_zone_page_state(page: Page, counter: str, amount: int) -> None:
    """Change a counter; not atomic, so preemption is off."""
    zone = page.system.zone
    touched((zone.name, counter))
    emit("zstat_mod", page=page, counter=counter, amount=amount, counted=page.counted)
    page.counted = counter if amount > 0 else ""
    setattr(zone, counter, getattr(zone, counter) + amount)


async def _own(page: Page, anon_vma: AnonVma) -> None:
    await set_page_mapping(page, anon_vma, PAGE_MAPPING_ANON)
    page.anon_generation = anon_vma.generation


async def __page_set_anon_rmap(page: Page, vma: Vma, address: int, *, exclusive: bool) -> None:
    """Make the page an anonymous one of the area; one that is anonymous already stays what it is.

    Unless nobody else uses it, it belongs to the root, which outlives all who may come to map it.
    """
    anon_vma = vma.anon_vma
    bug_on(anon_vma is None, f"{vma.name} has no anon_vma", "RMAP-ADD-007")
    assert anon_vma is not None
    if PageAnon(page):
        return
    if not exclusive:
        anon_vma = anon_vma.root
    await _own(page, anon_vma)
    page.index = linear_page_index(vma, address)


def __page_check_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """What must be so when another area maps an anonymous page: same tree, same index."""
    if not page.system.has("DEBUG_VM"):
        return
    anon_vma = page_anon_vma(page)
    bug_on(
        anon_vma is None or vma.anon_vma is None or anon_vma.root is not vma.anon_vma.root,
        f"{page.name} is of another tree than {vma.name}",
        "RMAP-ADD-005",
    )
    bug_on(page.index != linear_page_index(vma, address), f"{page.name} is mapped at another index", "RMAP-ADD-005")


async def page_add_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """Add a mapping of an anonymous page that others may use too; see :func:`do_page_add_anon_rmap`."""
    await do_page_add_anon_rmap(page, vma, address, exclusive=False)


@operation()
async def do_page_add_anon_rmap(page: Page, vma: Vma, address: int, *, exclusive: bool) -> None:
    """Add a mapping at the address (bytes), with the lock of its slot held, and the page locked unless it is merged.

    The address may lie outside of the area by now: migration may race with a boundary that moves to the neighbour.
    """
    note(was_anon=PageAnon(page), was_ksm=PageKsm(page), swap_refs=swap_references(page), mapped_before=page._mapcount + 1)
    first = await page.mapcount.inc_and_test()
    note(first=first)
    if first:
        mod_zone_page_state(page, "NR_ANON_TRANSPARENT_HUGEPAGES" if PageTransHuge(page) else "NR_ANON_PAGES", 1)
    if PageKsm(page):
        return
    bug_on(not page.locked, f"{page.name} is not locked", "RMAP-ADD-002")
    if first:
        await __page_set_anon_rmap(page, vma, address, exclusive=exclusive)
    else:
        __page_check_anon_rmap(page, vma, address)


def swap_references(page: Page) -> int:
    """How many entries refer to the page's swap slot."""
    swap = page.system.swap
    return swap.count(page.private) if swap is not None and page.PG_swapcache else 0


@operation()
async def page_add_new_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """Add the first mapping of a new page, with the lock of its slot held; nobody else can have seen the page."""
    bug_on(not vma.covers(address), f"{address:#x} is outside of {vma.name}", "RMAP-ADDNEW-001")
    note(mapcount_before=page._mapcount, seen=page.PG_lru or page.PG_swapcache or page.mapping is not None)
    page.PG_swapbacked = True
    touched((page.name, "_mapcount"))
    page._mapcount = 0
    mod_zone_page_state(page, "NR_ANON_TRANSPARENT_HUGEPAGES" if PageTransHuge(page) else "NR_ANON_PAGES", 1)
    await __page_set_anon_rmap(page, vma, address, exclusive=True)
    if page_evictable(page, vma):
        await lru_cache_add_lru(page, "active_anon")
    else:
        await add_page_to_unevictable_list(page)
    note(lru_target="active_anon" if not page.PG_mlocked else UNEVICTABLE)


@operation()
async def page_add_file_rmap(page: Page) -> None:
    """Add a mapping of a page of a file, with the lock of its slot held."""
    note(was_mapped=page._mapcount >= 0)
    if await page.mapcount.inc_and_test():
        mod_zone_page_state(page, "NR_FILE_MAPPED", 1)
        mem_cgroup_file_mapped(page, 1)


@operation()
async def page_dup_rmap(page: Page) -> None:
    """fork adds a mapping of a page that is mapped already."""
    note(was_mapped=page._mapcount >= 0)
    await page.mapcount.inc()


@operation()
async def page_remove_rmap(page: Page) -> None:
    """Take a mapping away, with the lock of its slot held; the reference of the mapping goes later.

    `mapping` stays: a page in the swap cache may be mapped again at this moment, and swapoff finds the place by it.
    """
    bug_on(page._mapcount < 0, f"{page.name} is not mapped", "RMAP-MAPCOUNT-006")
    note(was_anon=PageAnon(page), swapcache=page.PG_swapcache, key_dirty=page.key_dirty)
    await Access((page.name, "_mapcount"), f"atomic_add_negative {page.name}._mapcount", write=True)
    page._mapcount -= 1
    last = page._mapcount < 0
    note(last=last)
    if not last:
        return
    # Where the dirty bit is the page's, another entry for the same slot of swap may still need what was written.
    if (not PageAnon(page) or page.PG_swapcache) and page_test_and_clear_dirty(page, mapped=True):
        page.PG_dirty = True
    if PageHuge(page):
        return
    mod_zone_page_state(page, zone_counter(page), -1)
    if PageAnon(page):
        await mem_cgroup_uncharge_page(page)
    else:
        mem_cgroup_file_mapped(page, -1)


@operation()
async def page_move_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """After a write that found nobody else at the page, it is the area's own; with the page locked."""
    anon_vma = vma.anon_vma
    bug_on(not page.locked, f"{page.name} is not locked", "RMAP-MOVE-001")
    bug_on(anon_vma is None, f"{vma.name} has no anon_vma", "RMAP-MOVE-001")
    bug_on(page.index != linear_page_index(vma, address), f"{page.name} has another index", "RMAP-MOVE-001")
    assert anon_vma is not None
    note(mapcount=page._mapcount + 1, swap_refs=swap_references(page), before=page_anon_vma(page))
    await _own(page, anon_vma)


# -- hugetlb ------------------------------------------------------------------------------------------------------------


@operation()
async def hugepage_add_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """Add a mapping of an anonymous hugetlb page: no statistics, no LRU, no control group."""
    bug_on(not page.locked, f"{page.name} is not locked", "HTLB-001")
    note(was_anon=PageAnon(page))
    first = await page.mapcount.inc_and_test()
    note(first=first)
    if first:
        await __hugepage_set_anon_rmap(page, vma, address, exclusive=False)


@operation()
async def hugepage_add_new_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """Add the first mapping of a new hugetlb page."""
    bug_on(not vma.covers(address), f"{address:#x} is outside of {vma.name}", "HTLB-002")
    touched((page.name, "_mapcount"))
    page._mapcount = 0
    await __hugepage_set_anon_rmap(page, vma, address, exclusive=True)


async def __hugepage_set_anon_rmap(page: Page, vma: Vma, address: int, *, exclusive: bool) -> None:
    await __page_set_anon_rmap(page, vma, address, exclusive=exclusive)
