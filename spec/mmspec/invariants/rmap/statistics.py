"""ZSTAT, RSS, LRU: what is counted, against what there is; and the lists of pages."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    MAP_COUNTERS,
    VM_LOCKED,
    Census,
    Place,
    census,
    is_anon,
    is_trans_huge,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

ADDING = ("do_page_add_anon_rmap", "page_add_new_anon_rmap", "page_add_file_rmap")
MAPPERS = (*ADDING, "page_dup_rmap", "page_remove_rmap", "hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap")
ZONE = tuple(f"zone.{name}" for name in MAP_COUNTERS)
UNEVICTABLE = "unevictable"


def _mapped(counted: Census, kind: str) -> int:
    """How many pages are mapped that belong to that counter, by the page tables."""
    return sum(1 for page in counted.maps if _counter_of(page) == kind)


def _counter_of(page: Any) -> str:
    """The counter that a mapped page belongs to, "" for one that belongs to none."""
    if page.huge:
        return ""
    if not is_anon(page):
        return "NR_FILE_MAPPED"
    return "NR_ANON_TRANSPARENT_HUGEPAGES" if is_trans_huge(page) else "NR_ANON_PAGES"


# -- zones -------------------------------------------------------------------------------------------------------------


@state_invariant(
    "ZSTAT-ANON-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("do_page_add_anon_rmap", "page_add_new_anon_rmap", "page_remove_rmap"),
    fields=("zone.NR_ANON_PAGES",),
    functions=(*ADDING, "page_remove_rmap"),
    implied_by=("ZSTAT-EDGE-001", "ZSTAT-KIND-001", "ZSTAT-KSM-001"),
    interfaces=("ReverseMap", "VirtualMemory"),
)
def anonymous_pages_are_counted(world: Any) -> Truth:
    """NR_ANON_PAGES MUST be the number of anonymous pages, merged ones included, that at least one entry maps, without hugetlb
    and trans-huge pages.

    /proc/meminfo shows it as AnonPages, and reclaim weighs with it how much there is to scan.
    """
    counted = census(world)
    return implies(counted.maps, lambda: _mapped(counted, "NR_ANON_PAGES") == world.zone.NR_ANON_PAGES)


@state_invariant(
    "ZSTAT-FILE-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("page_add_file_rmap", "page_remove_rmap"),
    fields=("zone.NR_FILE_MAPPED",),
    functions=("page_add_file_rmap", "page_remove_rmap"),
    implied_by=("ZSTAT-EDGE-001", "ZSTAT-KIND-001"),
    interfaces=("ReverseMap", "VirtualMemory"),
)
def file_pages_are_counted(world: Any) -> Truth:
    """NR_FILE_MAPPED MUST be the number of pages of files, hugetlb left out, that at least one entry maps.

    /proc/meminfo shows it as Mapped. One that is counted down for an anonymous page makes both counters wrong for ever.
    """
    counted = census(world)
    return implies(counted.maps, lambda: _mapped(counted, "NR_FILE_MAPPED") == world.zone.NR_FILE_MAPPED)


@state_invariant(
    "ZSTAT-THP-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("do_page_add_anon_rmap", "page_add_new_anon_rmap", "page_remove_rmap", "thp"),
    fields=("zone.NR_ANON_TRANSPARENT_HUGEPAGES",),
    functions=(*ADDING, "page_remove_rmap"),
    features=("TRANSPARENT_HUGEPAGE",),
    since="2.6.38",
    implied_by=("ZSTAT-EDGE-001", "ZSTAT-KIND-001"),
)
def trans_huge_pages_are_counted(world: Any) -> Truth:
    """NR_ANON_TRANSPARENT_HUGEPAGES MUST be the number of mapped trans-huge pages, each counted once and not by its size.

    AnonHugePages is derived from it; after a split the frames belong to another counter.
    """
    counted = census(world)
    name = "NR_ANON_TRANSPARENT_HUGEPAGES"
    return implies(
        any(is_trans_huge(p) for p in counted.maps) or getattr(world.zone, name),
        lambda: getattr(world.zone, name) == _mapped(counted, name),
    )


@transition(
    "ZSTAT-EDGE-001",
    over=Over.OPERATION,
    on=MAPPERS,
    source=rmap(*ADDING, "page_remove_rmap"),
    fields=(*ZONE, "page._mapcount"),
    functions=MAPPERS,
    would_catch="two first mappings at once, each of which found the count at its start",
    interfaces=("ReverseMap",),
)
def counters_change_with_first_and_last_mapping(op: Operation, page: Any) -> Truth:
    """A zone's counter of mapped pages MUST change by one, in the step's direction, when a page gets its first mapping or loses
    its last, and not otherwise.

    Which mapping is the first is known only from the atomic step that adds it.
    """
    steps = [e for e in op.events if e.kind == "write" and e.data["obj"] is page and e.data["field"] == "_mapcount"]
    edges = [(e.new >= 0) - (e.old >= 0) for e in steps]
    changes = [e.amount for e in op.all("zstat_mod")]
    return implies(not page.huge, lambda: changes == [edge for edge in edges if edge])


@transition(
    "ZSTAT-HTLB-001",
    over=Over.OPERATION,
    on=("hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap", "page_remove_rmap", "page_add_file_rmap", "page_dup_rmap"),
    source=rmap("page_remove_rmap", "hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap"),
    fields=ZONE,
    functions=("hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap", "page_remove_rmap"),
    features=("HUGETLB_PAGE",),
    since="2.6.36",
)
def hugetlb_pages_are_not_counted(op: Operation, page: Any) -> Truth:
    """Mapping and unmapping hugetlb pages MUST leave the zone's counters of mapped pages alone.

    They are counted in a pool of their own; what is subtracted without having been added makes a counter wrap.
    """
    return implies(page.huge, lambda: not op.did("zstat_mod"))


@postcondition(
    "ZSTAT-KSM-001",
    on=("do_page_add_anon_rmap",),
    source=rmap("do_page_add_anon_rmap"),
    fields=("zone.NR_ANON_PAGES", "page.mapping"),
    features=("KSM",),
    since="2.6.33",
    would_catch="merged pages that leave the statistics when they come back from swap",
)
def merged_pages_are_counted_as_anonymous(op: Operation, page: Any) -> Truth:
    """The first mapping of a merged page MUST be counted in NR_ANON_PAGES, although its `mapping` and `index` stay as they are.

    The early return for merged pages, which have no anon_vma to be set, comes after the counting.
    """
    steps = [e for e in op.events if e.kind == "write" and e.data["obj"] is page]
    first = any(e.field == "_mapcount" and e.old < 0 <= e.new for e in steps)
    merged = page.mapping is not None and page.mapping.bits == 3
    return implies(
        merged and first,
        lambda: [(e.counter, e.amount) for e in op.all("zstat_mod")] == [("NR_ANON_PAGES", 1)]
        and not any(e.field in ("mapping", "index") for e in steps),
    )


@transition(
    "ZSTAT-KIND-001",
    over=Over.EVENT,
    on=("zstat_mod",),
    source=rmap("page_remove_rmap", "do_page_add_anon_rmap") + field_2011("base"),
    fields=ZONE,
    functions=(*ADDING, "page_remove_rmap", "__split_huge_page_refcount"),
    would_catch="AnonPages that shrink below zero after trans-huge pages were split",
)
def same_counter_up_and_down(event: Event) -> Truth:
    """The counter that the last unmapping of a page lowers MUST be the one that its first mapping raised; if the page changes
    its kind while it is mapped, as by a split, the contribution is moved.

    Up and down each go by what the page is at that moment.
    """
    return bool(event.counted == ("" if event.amount > 0 else event.counter))


@lock_rule(
    "ZSTAT-PREEMPT-001",
    on=("zstat_mod",),
    source=rmap("do_page_add_anon_rmap", "page_add_file_rmap", "page_remove_rmap"),
    fields=ZONE,
    functions=MAPPERS,
    enforced_by="nobody before CONFIG_DEBUG_PREEMPT of later kernels",
)
def counters_are_for_holders_of_a_spinlock(event: Event) -> Truth:
    """Who changes a zone's counter of mapped pages MUST hold a spinlock, as that of the slot, or have preemption disabled in
    another way.

    The helpers add to a counter of this CPU in several instructions.
    """
    return bool(event.spinlocks)


# -- resident sets -----------------------------------------------------------------------------------------------------


def _size(place: Place) -> int:
    """Base pages that an entry stands for in the counters; hugetlb is not counted."""
    if place.level == "huge":
        return 0
    return int(place.mm.system.hpage_pmd_nr) if place.level == "pmd" else 1


def _resident(places: list[Place], *, anon: bool) -> int:
    return sum(_size(p) for p in places if p.entry.kind in ("present", "migration") and is_anon(p.entry.page) is anon)


@state_invariant(
    "RSS-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster"),
    fields=("mm.rss_stat",),
    functions=("try_to_unmap_one", "try_to_unmap_cluster", "copy_page_range", "unmap_page_range"),
    implied_by=("LOCK-PROT-018", "LAT-005"),
    enforced_by='"BUG: Bad rss-counter state" when an address space ends, since 3.4',
    interfaces=("VirtualMemory",),
)
def resident_set_is_what_is_there(world: Any) -> Truth:
    """For each address space, the count of anonymous pages MUST be that of its entries that map one or stand for one in
    migration, the count of file pages likewise, and the count of swap entries that of its entries in swap. A trans-huge page
    counts by its base pages, a hugetlb page not at all.

    The killer of last resort chooses by these numbers, and nothing ever puts a wrong one right.
    """
    counted = census(world)

    def right(mm: Any) -> bool:
        places = [p for p in counted.places if p.mm is mm]
        swapped = sum(1 for p in places if p.entry.kind == "swap")
        sets = mm.rss_anon == _resident(places, anon=True) and mm.rss_file == _resident(places, anon=False)
        return bool(sets and mm.swapents == swapped)

    return every(right(mm) for mm in world.mms)


def _own_raise(event: Event, mm: Any) -> bool:
    return (
        event.kind == "write"
        and event.data["obj"] is mm
        and event.data["field"] in ("rss_anon", "rss_file")
        and event.data["new"] > event.data["old"]
    )


@transition(
    "RSS-HIWATER-001",
    over=Over.EVENT,
    on=("rss_anon", "rss_file"),
    source=rmap("hiwater", "try_to_unmap_one", "try_to_unmap_cluster"),
    fields=("mm.hiwater_rss", "mm.rss_stat"),
    functions=("try_to_unmap_one", "try_to_unmap_cluster", "unmap_page_range"),
)
def peak_is_noted_before_it_passes(event: Event) -> Truth:
    """Before a thread lowers the resident set of an address space it MUST raise the mark of its peak to what the set is then;
    an exchange of one page for another, which leaves the sum as it is, needs no mark.

    Nobody notes the peak when it is reached, so what is not noted here is lost.
    """
    mm = event.obj
    if mm.over is not Over.MM or event.new >= event.old or event.op is None or event.op.name == "do_wp_page":
        return VACUOUS
    for step in reversed(event.op.context.events):
        if step.kind == "update_hiwater_rss" and step.mm is mm:
            return True
        if _own_raise(step, mm):
            return False
    return False


@transition(
    "RSS-HIWATER-002",
    over=Over.EVENT,
    on=("hiwater_rss",),
    source=rmap("hiwater"),
    fields=("mm.hiwater_rss",),
    functions=("update_hiwater_rss",),
    interfaces=("VirtualMemory",),
)
def mark_never_falls(event: Event) -> Truth:
    """The mark of the largest resident set MUST NOT be lowered.

    VmHWM in /proc is the peak of a whole life.
    """
    return bool(event.new >= event.old)


@state_invariant(
    "RSS-HIWATER-003",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("hiwater"),
    fields=("mm.hiwater_rss", "mm.rss_stat"),
    functions=("update_hiwater_rss", "get_mm_hiwater_rss"),
    implied_by=("RSS-HIWATER-001", "RSS-HIWATER-002"),
)
def reported_peak_is_the_true_one(world: Any) -> Truth:
    """The larger one of mark and resident set, which is what a reader is told, MUST be the true peak; where threads raised and
    lowered the set at once it may be less, but never more.

    With the mark brought up to date only before the set shrinks, the mark alone is stale while it grows.
    """

    def right(mm: Any) -> bool:
        told = max(mm.hiwater_rss, mm.rss_anon + mm.rss_file)
        return bool(told == mm.true_peak_rss or (mm.raced and told < mm.true_peak_rss))

    return every(right(mm) for mm in world.mms)


@transition(
    "RSS-HIWATER-004",
    over=Over.EVENT,
    on=("rss_anon", "rss_file"),
    source=rmap("hiwater"),
    fields=("mm.hiwater_rss",),
    functions=("handle_mm_fault", "copy_page_range"),
)
def raising_costs_no_mark(event: Event) -> Truth:
    """Who raises the resident set MUST NOT bother with the mark of its peak.

    That is the path of each fault; the mark is brought up to date where the set shrinks, which is rarer.
    """
    if event.obj.over is not Over.MM or event.new <= event.old or event.op is None:
        return VACUOUS
    return not any(e.mm is event.obj for e in event.op.all("update_hiwater_rss"))


@transition(
    "RSS-HIWATER-005",
    over=Over.EVENT,
    on=("hiwater_rss",),
    source=rmap("hiwater"),
    fields=("mm.hiwater_rss",),
    functions=("update_hiwater_rss",),
)
def races_make_the_mark_low_at_most(event: Event) -> Truth:
    """The mark is written without a lock; a race MUST NOT do more harm than to leave it below the peak: no value is stored
    that the resident set never had.

    Low by a page or two is what the saving of a lock is worth; too high would be a peak that never was.
    """
    return bool(event.new <= event.obj.true_peak_rss)


@postcondition(
    "RSS-HIWATER-006",
    on=("do_mremap",),
    source=rmap("hiwater"),
    fields=("mm.hiwater_vm", "mm.total_vm"),
    functions=("move_vma", "do_mremap"),
    would_catch="VmPeak that counts a moved area twice",
)
def moving_is_no_peak(mm: Any) -> Truth:
    """After mremap the mark of the largest address space MUST NOT be above what its size between system calls ever was.

    While an area moves, both places count. Unmapping the old one notes that as a peak, which must not stay.
    """
    return bool(mm.hiwater_vm <= mm.true_peak_vm)


# -- lists of pages ----------------------------------------------------------------------------------------------------


def _lists(page: Any) -> list[str]:
    return [name for name, pages in page.system.zone.lists.items() for one in pages if one is page]


def _list_by_flags(page: Any) -> str:
    if page.PG_unevictable:
        return UNEVICTABLE
    return f"{'active' if page.PG_active else 'inactive'}_{'anon' if page.PG_swapbacked else 'file'}"


@state_invariant(
    "LRU-001",
    over=Over.PAGE,
    guard="lru_lock",
    source=rmap("page_add_new_anon_rmap", "mlock"),
    fields=("page.PG_lru", "page.PG_active", "page.PG_unevictable", "page.PG_swapbacked", "zone.lru"),
    functions=("page_add_new_anon_rmap", "isolate_lru_page", "putback_lru_page"),
    locks=("zone.lru_lock",),
)
def page_is_on_the_list_that_its_flags_say(page: Any) -> Truth:
    """A page with PG_lru MUST be on exactly one list of pages, the one that its flags select; one without is on none.

    Whoever takes it off finds the list by the flags, and counts it out of that one.
    """
    lists = _lists(page)
    return lists == ([_list_by_flags(page)] if page.PG_lru else [])


@state_invariant(
    "LRU-002",
    over=Over.PAGE,
    guard="lru_lock",
    source=field_2011("base") + rmap("mlock"),
    fields=("page.PG_unevictable", "page.PG_active"),
    functions=("add_page_to_unevictable_list", "putback_lru_page"),
    locks=("zone.lru_lock",),
    since="2.6.28",
)
def unevictable_pages_are_not_active(page: Any) -> Truth:
    """A listed page MUST NOT have both PG_unevictable and PG_active.

    The list without eviction knows no age; a page that is active there is counted in the wrong list when it leaves.
    """
    return implies(page.PG_lru, lambda: not (page.PG_unevictable and page.PG_active))


@state_invariant(
    "LRU-003",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("page_add_new_anon_rmap"),
    fields=("page.PG_swapbacked",),
    functions=("page_add_new_anon_rmap",),
    since="2.6.28",
)
def anonymous_pages_are_swap_backed(world: Any) -> Truth:
    """From its first mapping on, an anonymous page MUST have PG_swapbacked, hugetlb pages excepted.

    Without it the page is on a list of file pages, where reclaim looks for what can be written to a file.
    """
    return every(bool(p.PG_swapbacked) for p in census(world).maps if is_anon(p) and not p.huge)


@state_invariant(
    "LRU-004",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=field_2011("base") + rmap("page_add_new_anon_rmap"),
    fields=("page.PG_lru",),
    functions=("lru_cache_add_lru", "lru_add_drain", "putback_lru_page"),
)
def no_page_gets_lost_on_its_way(world: Any) -> Truth:
    """A mapped page MUST get to a list of pages: when nothing is in flight it is on one, in the batch of some CPU on its way
    to one, or in the hands of somebody who has isolated it.

    A page on no list is never looked at by reclaim again.
    """
    waiting = [page for batch in world.pagevecs.values() for page, _ in batch]
    return every(p.PG_lru or p.isolated or p in waiting for p in census(world).maps if not p.huge)


@postcondition(
    "LRU-005",
    on=("page_add_new_anon_rmap",),
    source=rmap("mlock", "page_add_new_anon_rmap"),
    fields=("page.PG_mlocked", "vma.vm_flags"),
    functions=("page_evictable", "page_add_new_anon_rmap"),
    since="2.6.28",
)
def evictability_is_asked_of_page_and_area(page: Any, vma: Any, op: Operation) -> Truth:
    """Whether a new page can be evicted MUST be asked of both: it cannot if it is marked as locked in memory, or if the area of
    the fault is locked.

    The mark may come only now, with the fault.
    """
    locked = bool(page.PG_mlocked or vma.vm_flags & VM_LOCKED)
    added = [e.lru for e in op.all("lru_add") if e.page is page]
    return bool(added) and all((lru == UNEVICTABLE) is locked for lru in added)


#: Functions of mm/rmap.c that must leave the lists of pages alone.
OTHERS = (
    "page_referenced",
    "page_mkclean",
    "page_move_anon_rmap",
    "do_page_add_anon_rmap",
    "page_add_file_rmap",
    "page_dup_rmap",
    "page_remove_rmap",
    "try_to_unmap",
    "try_to_munlock",
    "page_get_anon_vma",
    "page_lock_anon_vma",
)


@transition(
    "LRU-006",
    over=Over.OPERATION,
    on=OTHERS,
    source=rmap("page_add_new_anon_rmap", "try_to_unmap_one", "page_remove_rmap"),
    fields=("page.PG_lru", "zone.lru"),
    functions=OTHERS,
)
def walks_leave_the_lists_alone(op: Operation) -> Truth:
    """Apart from adding a new page and from marking one as locked in memory, no function of reverse mapping MUST move a page
    between lists.

    They run with locks of page tables held, for callers who have the page off its list, or rely on where it is.
    """
    allowed = [c.page for c in op.calls("mlock_vma_page")] + [e.page for e in op.all("free_page")]
    moved = [e.data["obj"] for e in op.events if e.kind == "write" and e.field == "PG_lru" and e.old != e.new]
    return all(any(page is other for other in allowed) for page in moved)


