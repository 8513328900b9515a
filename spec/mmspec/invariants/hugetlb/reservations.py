"""HTLB-RSV: `resv_huge_pages`, and who holds what it counts."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.errors import VM_FAULT_OOM
from mmspec.invariant import (
    QUIESCENT,
    Over,
    liveness,
    lock_rule,
    postcondition,
    precondition,
    state_invariant,
    transition,
)
from mmspec.invariants.hugetlb.terms import (
    VM_MAYSHARE,
    allocating,
    is_page,
    is_shortage,
    mapped_shared,
    outstanding_private,
    outstanding_shared,
    own_counters,
    own_effects,
    owner,
    private_map,
    region_growth,
    reserved,
)
from mmspec.logic import Truth, every, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Event, Operation, Run, Section

RESV = ("hstate.resv_huge_pages",)
RESV_FREE = ("hstate.resv_huge_pages", "hstate.free_huge_pages")


@state_invariant(
    "HTLB-RSV-001",
    implied_by=("HTLB-RSV-008", "HTLB-RSV-009", "HTLB-RSV-021"),
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("R3") + whitcroft("M1", "M2"),
    fields=RESV,
    functions=("hugetlb_acct_memory", "alloc_huge_page"),
    locks=("hugetlb_lock",),
    interfaces=("MemoryManager",),
    would_catch="HugePages_Rsvd of 18446744073709551615 after unmapping both halves of a split private mapping",
)
def reserve_is_not_negative(pool: Any) -> Truth:
    """`resv_huge_pages` MUST never go below zero; as an unsigned counter it MUST NOT wrap.

    A wrapped reserve exceeds any number of free pages, and nobody gets a huge page any more.
    """
    return bool(0 <= pool.resv_huge_pages < 1 << 63)


@state_invariant(
    "HTLB-RSV-002",
    implied_by=("HTLB-RSV-001", "HTLB-RSV-006", "HTLB-RSV-012", "HTLB-POOL-010", "HTLB-POOL-016"),
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("D5", "H-alloc"),
    fields=RESV_FREE,
    functions=("hugetlb_acct_memory", "set_max_huge_pages", "alloc_huge_page"),
    locks=("hugetlb_lock",),
    interfaces=("MemoryManager",),
    would_catch="reservations granted while surplus pages were being given back (2008)",
)
def reserve_is_backed_by_free_pages(pool: Any) -> Truth:
    """`resv_huge_pages` MUST NOT exceed `free_huge_pages` whenever `hugetlb_lock` is free.

    A promise without a page behind it ends in SIGBUS or an out-of-memory kill at some innocent access.
    """
    return bool(pool.resv_huge_pages <= pool.free_huge_pages)


@state_invariant(
    "HTLB-RSV-003",
    implied_by=("HTLB-RSV-007", "HTLB-RSV-008", "HTLB-RSV-019", "HTLB-RSV-020", "HTLB-RSV-021", "HTLB-RSV-024", "HTLB-RSV-028"),
    over=Over.WORLD,
    guard=QUIESCENT,
    source=whitcroft("M2", "M4", "M5") + gibson("D5"),
    fields=RESV,
    functions=("hugetlb_reserve_pages", "hugetlb_vm_op_close", "hugetlb_unreserve_pages", "vma_commit_reservation"),
    interfaces=("MemoryManager",),
    would_catch="a VMA split that duplicated the remaining reservation (2008)",
)
def reserves_equal_outstanding_reservations(world: Any) -> Truth:
    """With nothing in flight, `resv_huge_pages` MUST equal the reservations that files and owner VMAs hold and have
    not consumed.

    Too low, and somebody's promise is given away; too high, and pages lie idle until the next boot.
    """
    shared = sum(outstanding_shared(inode) for inode in world.inodes)
    private = sum(outstanding_private(vma) for vma in world.vmas)
    return bool(world.pool.resv_huge_pages == shared + private)


@state_invariant(
    "HTLB-RSV-004",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("D5", "H-alloc", "H-free"),
    fields=RESV,
    variants=(TENTATIVE,),
    functions=("alloc_huge_page", "free_huge_page"),
    locks=("hugetlb_lock",),
)
def promises_are_conserved(pool: Any) -> Truth:
    """At every release of `hugetlb_lock`, the outstanding reservations, those in transit included, MUST equal
    `resv_huge_pages` plus the pages in flight that were drawn from the reserve and are in no page cache yet.

    Faults run in parallel, so a draw and its record are apart in time; in between the page itself is the record.
    """
    return bool(pool.books.total() == pool.resv_huge_pages + pool.reserve_tagged_in_flight())


@state_invariant(
    "HTLB-RSV-005",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=whitcroft("H-decr", "H-commit"),
    fields=RESV,
    variants=(INSTANTIATION_MUTEX,),
    functions=("alloc_huge_page", "vma_commit_reservation"),
    locks=("hugetlb_lock", "hugetlb_instantiation_mutex"),
)
def at_most_one_draw_is_pending(pool: Any) -> Truth:
    """With the instantiation mutex, `resv_huge_pages` MUST differ from the outstanding reservations, those in transit
    included, by at most the one draw whose commit is pending, and by nothing while the mutex is free.
    """
    held = pool.system.hugetlb_instantiation_mutex.writer is not None
    return 0 <= pool.books.total() - pool.resv_huge_pages <= int(held)


@postcondition(
    "HTLB-RSV-006",
    on=("hugetlb_acct_memory",),
    source=gibson("D5") + whitcroft("H-reserve"),
    fields=RESV_FREE,
    locks=("hugetlb_lock",),
    would_catch="two mappings that each fit and together exceed the pool (chunked overcommit)",
    interfaces=("MemoryManager",),
)
def request_granted_exactly_if_covered(op: Operation, result: int) -> Truth:
    """A request for delta > 0 promises MUST be granted exactly if `resv_huge_pages` + delta can be covered by free and
    obtainable surplus pages, with test and increment in one section of `hugetlb_lock`.
    """
    delta = op.arguments["delta"]
    if delta <= 0 or not op.sections:
        return implies(False, lambda: True)
    last = op.sections[-1]
    if result == 0:
        return op.delta("resv_huge_pages") == delta and last.new.resv_huge_pages <= last.new.free_huge_pages
    return op.delta("resv_huge_pages") == 0 and last.new.resv_huge_pages + delta > last.new.free_huge_pages


@postcondition(
    "HTLB-RSV-007",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("H-reserve"),
    fields=RESV,
    would_catch="a reservation map leaked by each mmap that failed (CVE-2012-2390)",
    interfaces=("MemoryManager",),
)
def failed_reservation_leaves_nothing(op: Operation, result: int) -> Truth:
    """A failed reservation MUST leave counters, quota, region coverage, the VMA's private data and the population of
    reservation maps unchanged.
    """
    return implies(result < 0, lambda: not own_effects(op))


@postcondition(
    "HTLB-RSV-008",
    on=("hugetlb_vm_op_close",),
    source=whitcroft("M5", "H-close"),
    fields=RESV,
    interfaces=("MemoryManager",),
    would_catch="close that counted the whole map instead of its own span",
)
def close_returns_its_unconsumed_span(op: Operation, old: Any) -> Truth:
    """Closing an owner VMA MUST return exactly its length minus the consumed offsets inside its own span.

    The map is shared by all parts of the original mapping; each part speaks for itself only.
    """
    return implies(old.owner, lambda: op.delta("resv_huge_pages") == -(old.npages - old.used))


@precondition(
    "HTLB-RSV-009",
    on=("hugetlb_acct_memory",),
    source=whitcroft("M1", "M2") + field("base"),
    fields=RESV,
    would_catch="a release that was refused because the unsigned sum had wrapped (2006)",
)
def release_within_the_reserve(op: Operation) -> Truth:
    """A release MUST NOT exceed the current reserve, and MUST NOT be refused.

    What is released was promised once, so it is in the counter; refusing it only hides that it is not.
    """
    return implies(op.arguments["delta"] < 0, lambda: -op.arguments["delta"] <= op.h.resv_huge_pages)


@liveness(
    "HTLB-RSV-010",
    implied_by=("HTLB-RSV-022",),
    source=gibson("D5") + whitcroft("H-comment"), fields=RESV, functions=("hugetlb_fault",),
)
def promised_page_is_delivered(run: Run) -> Truth:
    """A fault on an offset whose reservation is outstanding MUST eventually succeed, as long as the file is not
    truncated and the VMA stays.

    This is what a reservation is.
    """
    faults = [op for op in run.operations("hugetlb_fault") if op.get("reserved_at_entry")]
    truncated = [op for op in run.operations("hugetlb_vmtruncate") if op.within("evict_inode") is None]
    return implies(
        faults and not truncated,
        lambda: (
            not run.stuck
            and all(
                op.result is not VM_FAULT_OOM
                for op in faults
                if op.did("availability_test") and not op.did("anon_vma_failed")
            )
        ),
    )


@transition(
    "HTLB-RSV-011",
    over=Over.EVENT,
    on=("draw",),
    source=whitcroft("M4", "M5") + gibson("D5"),
    fields=RESV,
    functions=("alloc_huge_page",),
    would_catch="a draw decided by the owner flag alone, for an offset consumed before",
)
def each_reservation_is_drawn_once(event: Event) -> Truth:
    """A draw from the reserve MUST be for an offset whose reservation is outstanding and for which no other page is on
    its way.

    The second page for one offset is somebody else's.
    """
    return reserved(event.vma, event.idx)


@postcondition(
    "HTLB-RSV-012",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc") + whitcroft("H-hasres"),
    fields=RESV_FREE,
    functions=("alloc_huge_page",),
)
def unreserved_page_only_beyond_the_reserve(section: Section) -> Truth:
    """An allocation without reservation MUST succeed only if free > resv before."""
    return implies(
        allocating(section) and section.did("dequeue") and not section.did("draw"),
        lambda: section.old.free_huge_pages > section.old.resv_huge_pages,
    )


@postcondition(
    "HTLB-RSV-013",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc") + whitcroft("H-decr"),
    fields=RESV_FREE,
    functions=("alloc_huge_page",),
)
def reserved_page_takes_its_promise_along(section: Section) -> Truth:
    """An allocation for an outstanding reservation MUST lower `resv_huge_pages` and `free_huge_pages` by one each, in
    the same section.
    """
    return implies(
        allocating(section) and section.op is not None and section.op.get("backed") and section.did("dequeue"),
        lambda: section.delta("free_huge_pages") == -1 and section.delta("resv_huge_pages") == -1,
    )


@postcondition(
    "HTLB-RSV-014",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc") + whitcroft("H-decr"),
    fields=RESV_FREE,
    functions=("alloc_huge_page",),
)
def unreserved_page_leaves_the_reserve(section: Section) -> Truth:
    """An allocation without reservation MUST lower `free_huge_pages` by one and leave `resv_huge_pages` alone."""
    return implies(
        allocating(section) and section.op is not None and not section.op.get("backed") and section.did("dequeue"),
        lambda: section.delta("free_huge_pages") == -1 and section.delta("resv_huge_pages") == 0,
    )


def _returning(section: Section, tag: int) -> bool:
    op = section.op
    return op is not None and op.name == "free_huge_page" and op.get("tag") == tag and bool(section.did("pool_return"))


@postcondition(
    "HTLB-RSV-015",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("D5", "H-free"),
    fields=RESV_FREE,
    variants=(TENTATIVE,),
    functions=("free_huge_page",),
    would_catch="the loser's page going to the general pool, from where a private fault steals it",
)
def drawn_page_returns_to_the_reserve(section: Section) -> Truth:
    """A page drawn from the reserve that turns out unneeded MUST go back to the reserve: free + 1 and resv + 1 in the
    same section.
    """
    return implies(
        _returning(section, 2),
        lambda: section.deltas() == {"free_huge_pages": 1, "resv_huge_pages": 1, "tentative_huge_pages": -1},
    )


@postcondition(
    "HTLB-RSV-016",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-free"),
    fields=RESV_FREE,
    variants=(TENTATIVE,),
    functions=("free_huge_page",),
)
def undrawn_page_returns_to_the_general_pool(section: Section) -> Truth:
    """A page drawn from the unreserved part that turns out unneeded MUST raise `free_huge_pages` only."""
    return implies(
        _returning(section, 1) and section.old.surplus_huge_pages == 0,
        lambda: section.deltas() == {"free_huge_pages": 1, "tentative_huge_pages": -1},
    )


@transition(
    "HTLB-RSV-017",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc", "H-free") + whitcroft("H-decr", "H-close", "H-reserve"),
    fields=RESV,
    functions=("hugetlb_acct_memory", "alloc_huge_page", "free_huge_page"),
)
def reserve_changes_in_three_places(section: Section) -> Truth:
    """`resv_huge_pages` MUST change only by accounting a request or a release, by a draw, and by a restore, and by as
    much as these say.
    """
    accounted = sum(e.delta for e in section.did("acct"))
    drawn, restored = len(section.did("draw")), len(section.did("restore"))
    return implies(
        section.delta("resv_huge_pages") or accounted or drawn or restored,
        lambda: section.delta("resv_huge_pages") == accounted - drawn + restored,
    )


@lock_rule(
    "HTLB-RSV-018",
    on=("resv_huge_pages",),
    source=whitcroft("H-comment") + gibson("H-decl"),
    fields=RESV,
    locks=("hugetlb_lock",),
    functions=("hugetlb_acct_memory", "alloc_huge_page", "free_huge_page"),
)
def reserve_is_written_under_its_lock(event: Event) -> Truth:
    """Every change of `resv_huge_pages` MUST happen under `hugetlb_lock`."""
    return event.holds("hugetlb_lock")


@transition(
    "HTLB-RSV-019",
    over=Over.OPERATION,
    on=("hugetlb_vm_op_close",),
    source=whitcroft("H-comment", "H-accessors"),
    fields=RESV,
    functions=("hugetlb_vm_op_close",),
    interfaces=("MemoryManager",),
)
def shared_reservation_survives_unmapping(op: Operation, old: Any) -> Truth:
    """A shared reservation belongs to the file: closing a shared VMA MUST leave `resv_huge_pages` and the file's map
    alone.

    It ends by truncation, eviction, or by becoming a page.
    """
    return implies(old.shared, lambda: op.delta("resv_huge_pages") == 0 and region_growth(op) == 0)


@transition(
    "HTLB-RSV-020",
    over=Over.EVENT,
    on=("regions",),
    source=whitcroft("M4", "M5", "H-close"),
    fields=RESV,
    functions=("vma_commit_reservation", "resv_map_release"),
)
def private_reservation_ends_by_use_or_close(event: Event) -> Truth:
    """The consumed offsets of a private map MUST change only by the commit of a page, and at the release of the map."""
    op = event.op
    return implies(
        event.obj.private,
        lambda: (
            op is not None
            and (op.within("vma_commit_reservation") is not None or op.within("resv_map_release") is not None)
        ),
    )


@postcondition(
    "HTLB-RSV-021",
    on=("dup_mm",),
    source=whitcroft("H-comment"),
    fields=(*RESV, "vma.vm_private_data"),
    interfaces=("MemoryManager",),
    would_catch="a child that inherits the owner flag and uses up its parent's promises",
)
def fork_gives_the_child_no_reservation(op: Operation, result: Any) -> Truth:
    """fork MUST NOT change `resv_huge_pages`, and no private VMA of the child MUST have reservations.

    Only the process that called mmap was promised anything.
    """
    if not is_page(result):
        return op.delta("resv_huge_pages") == 0
    return op.delta("resv_huge_pages") == 0 and not any(owner(v) for v in result.vmas)


@postcondition(
    "HTLB-RSV-022",
    implied_by=("HTLB-RSV-011", "HTLB-RSV-023"),
    on=("hugetlb_fault",),
    source=gibson("D5") + whitcroft("M2"),
    fields=RESV,
    interfaces=("MemoryManager",),
    would_catch="an out-of-memory kill on a mapping with reservation",
)
def reserved_fault_is_not_out_of_memory(op: Operation, old: Any, new: Any, result: Any) -> Truth:
    """A fault on an offset whose reservation is outstanding from beginning to end MUST NOT end in VM_FAULT_OOM for
    want of a huge page.
    """
    return implies(
        old.reserved and new.promised and op.did("availability_test") and not op.did("anon_vma_failed"),
        lambda: result is not VM_FAULT_OOM,
    )


@transition(
    "HTLB-RSV-023",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("D5", "H-alloc"),
    fields=RESV_FREE,
    functions=("alloc_huge_page",),
    interfaces=("MemoryManager",),
)
def nobody_takes_a_promised_page(section: Section) -> Truth:
    """An allocation without reservation MUST fail rather than take a page that backs somebody else's promise."""
    return implies(
        allocating(section) and not section.did("draw"),
        lambda: section.new.free_huge_pages >= section.new.resv_huge_pages,
    )


@postcondition(
    "HTLB-RSV-024",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("H-reserve", "H-comment"),
    fields=RESV,
    interfaces=("MemoryManager",),
)
def shared_offsets_are_charged_once(op: Operation, result: int) -> Truth:
    """Overlapping shared mappings of one file MUST reserve each offset once: the charge is the number of offsets that
    the request has added to the file's map, less those whose page is there already.
    """
    vma = op.vma
    return implies(
        result == 0 and (vma is None or mapped_shared(vma)) and op.did("prepare"),
        lambda: op.delta("resv_huge_pages") == region_growth(op, op.inode.resv_map) - op.get("filled", 0),
    )


@postcondition(
    "HTLB-RSV-025",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("M4", "H-reserve"),
    fields=RESV,
    interfaces=("MemoryManager",),
)
def private_mapping_reserves_its_length(op: Operation, result: int) -> Truth:
    """A private mapping MUST reserve its full length, whatever is in the file's page cache.

    Each offset may be written, and each write needs a page of its own.
    """
    vma = op.vma
    return implies(
        result == 0 and vma is not None and not mapped_shared(vma) and private_map(vma) is not None,
        lambda: op.delta("resv_huge_pages") == op.to - op.frm,
    )


@postcondition(
    "HTLB-RSV-026",
    on=("hugetlb_reserve_pages",),
    source=field("base"),
    fields=RESV,
    interfaces=("MemoryManager",),
)
def noreserve_is_not_charged(op: Operation) -> Truth:
    """A mapping made with MAP_NORESERVE MUST NOT be charged and MUST get no reservation map."""
    return implies(
        op.vma is not None and op.vma.vm_flags & (1 << 21),
        lambda: op.delta("resv_huge_pages") == 0 and private_map(op.vma) is None,
    )


@postcondition(
    "HTLB-RSV-027",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("H-reserve", "H-count"),
    fields=RESV,
    interfaces=("MemoryManager",),
)
def empty_charge_succeeds(op: Operation, result: int) -> Truth:
    """A request whose charge is 0 MUST succeed without changing any counter."""
    return implies(op.get("charge") == 0 and not op.did("acct"), lambda: result == 0 and not own_counters(op))


@postcondition(
    "HTLB-RSV-028",
    on=("hugetlb_vmtruncate",),
    source=field("base") + whitcroft("H-lockrule"),
    fields=RESV,
    interfaces=("MemoryManager",),
    would_catch="HugePages_Rsvd absurd after truncation (2006)",
)
def truncation_releases_what_was_not_instantiated(op: Operation) -> Truth:
    """Truncation MUST release exactly the reservations of the file beyond the new end that had no page."""
    removed = -region_growth(op, op.inode.resv_map)
    pages = len(op.all("cache_remove"))
    return op.delta("resv_huge_pages") == -(removed - pages)


@state_invariant(
    "HTLB-RSV-029",
    implied_by=("HTLB-RSV-003", "HTLB-MAP-002", "HTLB-INF-019"),
    over=Over.WORLD,
    guard=QUIESCENT,
    source=gibson("R3") + whitcroft("M1"),
    fields=(*RESV_FREE, "hstate.nr_huge_pages", "hstate.tentative_huge_pages", "sb.free_blocks"),
    functions=("hugetlb_vm_op_close", "evict_inode"),
    interfaces=("MemoryManager",),
)
def baseline_without_users(world: Any) -> Truth:
    """With no huge-page mapping, no file and nothing in flight, the reserve and the in-flight count MUST be 0, every
    page free, all quota returned, and no reservation map alive.
    """
    pool, sb = world.pool, world.super
    return implies(
        not world.vmas and not world.inodes and not any(p.pins for p in world.pages),
        lambda: (
            pool.resv_huge_pages == 0
            and pool.tentative_huge_pages == 0
            and pool.free_huge_pages == pool.nr_huge_pages
            and not world.maps
            and sb.free_blocks == sb.max_blocks
        ),
    )


@state_invariant(
    "HTLB-RSV-030",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("R2", "D3", "D5"),
    fields=RESV_FREE,
    functions=("alloc_huge_page", "keep_huge_page"),
    would_catch="two counters of different meaning under one name",
)
def promised_and_in_flight_are_distinct(pool: Any) -> Truth:
    """Promised pages and pages in flight MUST be disjoint: a page in flight is on no free list, and the promised ones
    all are.
    """
    free = [p for pages in pool.hugepage_freelists.values() for p in pages]
    return every(p not in pool.inflight for p in free) and pool.resv_huge_pages <= len(free)


@transition(
    "HTLB-RSV-031",
    over=Over.EVENT,
    on=("draw", "commit", "pte_insert"),
    source=gibson("H-alloc", "H-nopage-c") + whitcroft("H-accessors", "H-decr", "H-reserve"),
    fields=("vma.vm_flags",),
    functions=("alloc_huge_page", "hugetlb_no_page", "hugetlb_reserve_pages"),
    would_catch="a MAP_SHARED mapping of a file opened read-only, whose VM_SHARED bit is clear (fixed 2009)",
)
def one_predicate_for_shared(event: Event) -> Truth:
    """Reserve, draw, insertion and release MUST classify a mapping by the same predicate, mapped MAP_SHARED
    (VM_MAYSHARE), never partly by VM_SHARED.
    """
    shared = bool(event.vma.vm_flags & VM_MAYSHARE)
    if event.kind == "pte_insert":
        return implies(shared, lambda: event.page.mapping is event.vma.vm_file)
    resv_map = event.vma.vm_file.resv_map if shared else event.vma.map
    return implies(resv_map is not None, lambda: resv_map.private is not shared)


@postcondition(
    "HTLB-RSV-032",
    on=("alloc_huge_page",),
    source=gibson("H-alloc"),
    fields=RESV_FREE,
    would_catch="a draw that was not undone when the free list turned out empty",
)
def failed_allocation_changes_no_counter(op: Operation, result: Any) -> Truth:
    """An allocation that returns an error MUST leave `resv_huge_pages` and all other counters as before."""
    return implies(not is_page(result), lambda: not own_counters(op))


@postcondition(
    "HTLB-RSV-033",
    on=("alloc_huge_page",),
    source=gibson("D5", "H-alloc"),
    fields=RESV,
    variants=(TENTATIVE,),
    would_catch="the assertion of 2006 as posted, hit by a shared fault on an offset without reservation",
)
def empty_reserve_is_no_impossible_state(op: Operation, result: Any) -> Truth:
    """Finding the reserve at zero on a shared mapping MUST lead to a retry, to the unreserved path, or to a genuine
    shortage, never to an assertion failure.
    """
    return implies(
        mapped_shared(op.vma) and op.at_test.resv_huge_pages == 0, lambda: is_page(result) or is_shortage(result)
    )


@transition(
    "HTLB-RSV-034",
    over=Over.RUN,
    source=gibson("D5"),
    fields=RESV,
    variants=(TENTATIVE,),
    functions=("free_huge_page", "alloc_huge_page"),
)
def lost_race_robs_nobody(run: Run) -> Truth:
    """When a fault backs out with a page drawn from the reserve, nobody with an outstanding reservation MUST have seen
    a final failure on account of it.
    """
    returned = [e for e in run.events("pool_return") if e.tag == 2]
    return implies(
        returned,
        lambda: all(
            op.result is not VM_FAULT_OOM or not op.did("availability_test") or op.did("anon_vma_failed")
            for op in run.operations("hugetlb_fault")
            if op.get("reserved_at_entry")
        ),
    )


@transition(
    "HTLB-RSV-035",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=whitcroft("H-commit", "H-decr"),
    fields=RESV,
    functions=("vma_commit_reservation", "alloc_huge_page"),
    would_catch="an offset marked consumed for a surplus page that had not come from the reserve",
)
def consumption_coincides_with_a_draw(op: Operation) -> Truth:
    """A fault in an owner VMA MUST mark exactly as many offsets consumed as it has drawn from the reserve and not
    restored.
    """
    return implies(
        owner(op.vma) and op.did("draw", "commit"),
        lambda: region_growth(op, private=True) == len(op.all("draw")) - len(op.all("restore")),
    )


@postcondition(
    "HTLB-RSV-036",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("H-reserve"),
    fields=RESV,
)
def segment_without_vma_counts_as_shared(op: Operation, result: int) -> Truth:
    """A shared memory segment, which has no VMA when it reserves, MUST be accounted like a shared mapping."""
    return implies(
        op.vma is None and result == 0,
        lambda: op.delta("resv_huge_pages") == op.charge == region_growth(op, op.inode.resv_map),
    )


@postcondition(
    "HTLB-RSV-037",
    on=("hugetlb_acct_memory",),
    source=gibson("D3"),
    fields=RESV_FREE,
)
def refusal_names_a_real_shortage(op: Operation, result: int) -> Truth:
    """A request MUST NOT be refused while `resv_huge_pages` + delta <= `free_huge_pages` at the deciding instant.

    Pages in flight may cause a refusal: mmap does not wait for faults.
    """
    delta = op.arguments["delta"]
    return implies(
        delta > 0 and result == -errno.ENOMEM,
        lambda: op.sections[-1].new.resv_huge_pages + delta > op.sections[-1].new.free_huge_pages,
    )
