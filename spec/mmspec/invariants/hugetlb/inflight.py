"""HTLB-INF: pages in flight, and the decision between "repeat" and "out of memory"."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.errors import VM_FAULT_SIGBUS
from mmspec.invariant import (
    QUIESCENT,
    Over,
    lock_rule,
    postcondition,
    precondition,
    state_invariant,
    transition,
)
from mmspec.invariants.hugetlb.terms import (
    NO_PAGE,
    RETRY,
    allocating,
    is_page,
    is_shortage,
    own_counters,
)
from mmspec.logic import Truth, implies
from mmspec.sources import field, gibson
from mmspec.trace import Event, Operation, Run, Section

INFLIGHT = ("hstate.tentative_huge_pages",)
TAG = ("page[1]._count",)
FAULT_ALLOCATION = ("alloc_huge_page",)
HERE: dict[str, Any] = {"variants": (TENTATIVE,)}


@state_invariant(
    "HTLB-INF-001",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("D3", "H-decl", "H-alloc", "H-free", "H-keep"),
    fields=INFLIGHT,
    functions=("alloc_huge_page", "keep_huge_page", "free_huge_page"),
    locks=("hugetlb_lock",),
    **HERE,
)
def in_flight_count_is_exact(pool: Any) -> Truth:
    """At every release of `hugetlb_lock`, `tentative_huge_pages` MUST equal the number of pages that were taken for a
    fault and are not settled; settling may lag publication and never precedes it.
    """
    return bool(pool.tentative_huge_pages == len(pool.inflight))


@state_invariant(
    "HTLB-INF-002",
    implied_by=("HTLB-INF-001",),
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("D3"),
    fields=INFLIGHT,
    functions=FAULT_ALLOCATION,
    **HERE,
)
def in_flight_count_in_range(pool: Any) -> Truth:
    """0 <= `tentative_huge_pages` <= `nr_huge_pages` - `free_huge_pages` MUST hold."""
    return bool(0 <= pool.tentative_huge_pages <= pool.nr_huge_pages - pool.free_huge_pages)


@state_invariant(
    "HTLB-INF-003",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("H-nopage-a", "H-nopage-b", "H-nopage-c", "H-cow"),
    fields=INFLIGHT,
    functions=("hugetlb_no_page", "hugetlb_cow"),
    **HERE,
)
def one_page_in_flight_per_thread(pool: Any) -> Truth:
    """A thread MUST own at most one page in flight.

    It settles one before it allocates the next, so the count is bounded by the number of faulting threads.
    """
    return implies(pool.inflight, lambda: max(Counter(pool.inflight.values()).values()) <= 1)


@transition(
    "HTLB-INF-004",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("D3", "H-alloc"),
    fields=INFLIGHT,
    functions=FAULT_ALLOCATION,
    **HERE,
)
def counted_as_it_leaves_the_pool(section: Section) -> Truth:
    """`tentative_huge_pages` MUST be raised, and the tag set, in the same section of `hugetlb_lock` that takes the page
    from the pool for a fault.
    """
    return implies(
        allocating(section) and section.did("dequeue"),
        lambda: section.delta("tentative_huge_pages") == 1 and any(e.value for e in section.did("tag_write")),
    )


@transition(
    "HTLB-INF-005",
    over=Over.RUN,
    source=gibson("D3"),
    fields=INFLIGHT,
    functions=("keep_huge_page", "free_huge_page"),
    **HERE,
)
def settled_exactly_once(run: Run) -> Truth:
    """Each page in flight MUST be settled exactly once: after insertion into the page cache, after insertion into a
    page table, or by return to the pool.
    """
    balance: Counter[str] = Counter()
    wrong = False
    seen = False
    for event in run.events("tag_write", "settle", "pool_return"):
        name = event.page.name
        if event.kind == "tag_write":
            if event.value:
                seen = True
                wrong = wrong or balance[name] != 0
                balance[name] += 1
        else:
            balance[name] -= 1
            wrong = wrong or balance[name] != 0
    return implies(seen, lambda: not wrong and (bool(run.stuck) or not any(balance.values())))


@transition(
    "HTLB-INF-006",
    over=Over.EVENT,
    on=("settle",),
    source=gibson("D3", "H-nopage-b", "H-nopage-c"),
    fields=INFLIGHT,
    functions=("keep_huge_page",),
    would_catch="keep before set_huge_pte_at: a competitor sees neither count nor page",
    **HERE,
)
def published_before_settled(event: Event) -> Truth:
    """Settling a page MUST come after it can be found, in the page cache or in a page table."""
    return event.page.mapping is not None or bool(event.page.ptes)


@postcondition(
    "HTLB-INF-007",
    on=("keep_huge_page",),
    source=gibson("H-keep"),
    fields=(*INFLIGHT, *TAG),
    **HERE,
)
def settling_is_idempotent(op: Operation, old: int) -> Truth:
    """`keep_huge_page` on a settled page MUST change nothing."""
    return implies(old == 0, lambda: not own_counters(op) and not op.did("commit", "settle", "tag_write"))


@postcondition(
    "HTLB-INF-008",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-keep"),
    fields=(*INFLIGHT, *TAG),
    functions=("keep_huge_page",),
    **HERE,
)
def settling_lowers_only_the_in_flight_count(section: Section) -> Truth:
    """`keep_huge_page` on a tagged page MUST clear the tag and lower `tentative_huge_pages` by one, leaving
    `free_huge_pages` and `resv_huge_pages` alone.
    """
    settled = section.did("settle")
    return implies(
        settled, lambda: section.deltas() == {"tentative_huge_pages": -1} and all(e.page.tag == 0 for e in settled)
    )


@postcondition(
    "HTLB-INF-009",
    on=("alloc_huge_page",),
    source=gibson("H-alloc"),
    fields=TAG,
    **HERE,
)
def tag_records_the_origin(op: Operation, result: Any) -> Truth:
    """The tag MUST record where the page came from: 2 for a draw from the reserve, 1 for the unreserved part."""
    return implies(is_page(result), lambda: result.tag == (2 if op.delta("resv_huge_pages") == -1 else 1))


@state_invariant(
    "HTLB-INF-010",
    over=Over.PAGE,
    guard="hugetlb_lock",
    source=gibson("H-nopage-b", "H-nopage-c"),
    fields=TAG,
    functions=("hugetlb_no_page", "hugetlb_cow"),
    **HERE,
)
def page_in_flight_is_out_of_reach(page: Any) -> Truth:
    """A tagged page MUST be out of other threads' reach: in no page cache and page table, or cached and locked, or in
    page tables whose `page_table_lock` is held.
    """
    return implies(
        page.tag != 0,
        lambda: (
            (page._count <= 1 and not page.ptes and page.mapping is None)
            or (page.mapping is not None and page.locked)
            or (bool(page.ptes) and all(mm.page_table_lock.writer is not None for mm in page.ptes.values()))
        ),
    )


@transition(
    "HTLB-INF-011",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("R1"),
    fields=INFLIGHT,
    functions=FAULT_ALLOCATION,
    would_catch="the in-flight count sampled after the lock of the failed dequeue was dropped (review of October 2006)",
    **HERE,
)
def shortage_is_judged_where_it_is_found(section: Section) -> Truth:
    """The decision between "repeat" and "out of memory" MUST be taken in the section of `hugetlb_lock` in which the
    availability test failed, with the in-flight count read there.

    Between the two, the page that was in flight can have become the very page that the fault wants.
    """
    return implies(allocating(section) and not section.did("dequeue"), lambda: bool(section.did("tentative_read")))


@postcondition("HTLB-INF-012", on=("alloc_huge_page",), source=gibson("D4", "H-alloc"), fields=INFLIGHT, **HERE)
def repeat_while_pages_are_in_flight(op: Operation, result: Any) -> Truth:
    """If the allocation cannot be satisfied while pages are in flight, the result MUST be the retry code."""
    return implies(not is_page(result) and op.at_test.tentative_huge_pages > 0, lambda: result == RETRY)


@postcondition(
    "HTLB-INF-013",
    on=("alloc_huge_page",),
    source=gibson("H-alloc"),
    fields=INFLIGHT,
    would_catch="an out-of-memory kill of the loser of a race for the last huge page",
    **HERE,
)
def out_of_memory_with_nothing_in_flight(op: Operation, result: Any) -> Truth:
    """Out of memory MUST be returned only if no page is in flight at the deciding instant."""
    return implies(result == NO_PAGE, lambda: op.at_test.tentative_huge_pages == 0)


@postcondition(
    "HTLB-INF-014",
    on=("alloc_huge_page",),
    source=gibson("R5", "D1"),
    fields=("hstate.gen",),
    would_catch="the patch of 2006 as posted: one preemption between lookup and allocation gives a spurious kill",
    **HERE,
)
def out_of_memory_with_nothing_news(op: Operation, result: Any) -> Truth:
    """Out of memory MUST additionally require that nothing was settled or returned since the fault looked at its slot.

    Otherwise the look is stale: the missing page may be the one that was just settled.
    """
    return implies(result == NO_PAGE, lambda: op.gen_at_test == op.seen_gen)


@transition(
    "HTLB-INF-015",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=field("analysis"),
    fields=("hstate.gen",),
    functions=("keep_huge_page", "free_huge_page"),
    **HERE,
)
def generation_moves_with_the_count(section: Section) -> Truth:
    """The settle generation MUST increase whenever `tentative_huge_pages` is lowered, in the same section."""
    moved = sum(e.new - e.old for e in section.did("write") if e.field == "gen")
    return implies(section.delta("tentative_huge_pages") < 0, lambda: moved >= -section.delta("tentative_huge_pages"))


@precondition(
    "HTLB-INF-016", on=("alloc_huge_page",), source=gibson("H-nopage-b", "H-nopage-c"), fields=INFLIGHT, **HERE
)
def allocates_with_nothing_in_flight(op: Operation) -> Truth:
    """A thread MUST NOT call the allocator while it owns a page in flight.

    It would see its own page as a reason to repeat, for ever.
    """
    return op.context.name not in op.vma.pool.inflight.values()


@lock_rule(
    "HTLB-INF-017",
    on=("tentative_read", "tag_read", "tag_write", "tentative_huge_pages"),
    source=gibson("H-decl", "H-free", "H-alloc", "H-keep"),
    fields=(*INFLIGHT, *TAG),
    locks=("hugetlb_lock",),
    functions=("alloc_huge_page", "keep_huge_page", "free_huge_page"),
    **HERE,
)
def in_flight_state_under_its_lock(event: Event) -> Truth:
    """`tentative_huge_pages` and all tags MUST be read and written only under `hugetlb_lock`."""
    return event.holds("hugetlb_lock")


@state_invariant(
    "HTLB-INF-018",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("D2"),
    variants=(INSTANTIATION_MUTEX,),
    fields=INFLIGHT,
    locks=("hugetlb_instantiation_mutex",),
    functions=("hugetlb_fault",),
)
def mutex_admits_one_page_in_flight(pool: Any) -> Truth:
    """With the instantiation mutex, at most one fault's page MUST be in flight in the whole system, and only while the
    mutex is held.
    """
    return implies(
        pool.inflight,
        lambda: len(pool.inflight) == 1 and pool.system.hugetlb_instantiation_mutex.writer is not None,
    )


@state_invariant(
    "HTLB-INF-019",
    implied_by=("HTLB-INF-005", "HTLB-INF-022"),
    over=Over.WORLD,
    guard=QUIESCENT,
    source=gibson("D3", "R4"),
    fields=INFLIGHT,
    functions=("hugetlb_fault",),
    **HERE,
)
def nothing_in_flight_at_rest(world: Any) -> Truth:
    """With no operation running, `tentative_huge_pages` MUST be 0."""
    return bool(world.pool.tentative_huge_pages == 0)


@precondition(
    "HTLB-INF-020",
    over=Over.EVENT,
    on=("tag_read", "tag_write"),
    source=gibson("H-tag"),
    fields=TAG,
    enforced_by="BUG_ON(!PageCompound(page)) in the accessors",
    **HERE,
)
def tag_belongs_to_a_head(event: Event) -> Truth:
    """The tag MUST be accessed through the head of a compound huge page."""
    return event.page.compound and event.page.head is event.page


@state_invariant(
    "HTLB-INF-021",
    over=Over.PAGE,
    guard="page_table_lock",
    source=gibson("H-tag"),
    fields=TAG,
    functions=("get_user_pages",),
    **HERE,
)
def tail_references_count_on_the_head(page: Any) -> Truth:
    """A reference taken through a tail page MUST count on the head; no other code MUST take the word that stores the
    tag for a reference count.
    """
    return implies(page.pins, lambda: page._count >= page.pins and page.tag in (0, 1, 2))


@transition(
    "HTLB-INF-022",
    implied_by=("HTLB-INF-027",),
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=gibson("R4"),
    fields=INFLIGHT,
    functions=("hugetlb_no_page", "hugetlb_cow"),
    would_catch="error and backout paths that left the in-flight count raised (review of October 2006)",
    **HERE,
)
def every_path_out_of_a_fault_settles(op: Operation) -> Truth:
    """A fault MUST leave `tentative_huge_pages` as it found it, whichever way it ends: insertion failure, lost race,
    lost copy, truncation.

    A count that leaks turns every later true shortage into an endless retry.
    """
    return implies(op.did("dequeue"), lambda: op.delta("tentative_huge_pages") == 0)


@transition(
    "HTLB-INF-023",
    over=Over.OPERATION,
    on=("hugetlb_cow",),
    source=gibson("H-cow"),
    fields=(*INFLIGHT, "page._count"),
    functions=("hugetlb_cow",),
    would_catch="a child killed while its parent drops the page that both were copying",
    **HERE,
)
def copy_settles_after_the_old_page_is_dropped(op: Operation) -> Truth:
    """After a copy, the new page MUST be settled only when the references to the old one are gone.

    A competitor in another address space decides by the old page's count. It must find the page sole, or something
    in flight.
    """
    return implies(op.did("pte_replace") and op.did("settle"), lambda: _dropped_first(op))


def _dropped_first(op: Operation) -> bool:
    old = next(e for e in op.events if e.kind == "copy").old
    kinds = [e.kind for e in op.events if e.kind == "settle" or (e.kind == "put_page" and e.page is old)]
    return kinds.index("settle") == len(kinds) - 1 and kinds.count("put_page") == 2


@lock_rule(
    "HTLB-INF-024",
    on=("settle",),
    source=gibson("H-nopage-b"),
    fields=INFLIGHT,
    locks=("page_lock",),
    functions=("hugetlb_no_page",),
    **HERE,
)
def cached_page_settles_under_its_page_lock(event: Event) -> Truth:
    """In a shared mapping, the page MUST be settled while its inserter still holds the page lock.

    Truncation must not find a page in the cache whose fate is open.
    """
    return implies(event.page.mapping is not None, lambda: event.holds("page_lock", event.page))


@transition(
    "HTLB-INF-025",
    over=Over.OPERATION,
    on=("alloc_huge_page",),
    source=gibson("D3"),
    fields=INFLIGHT,
    functions=FAULT_ALLOCATION,
    **HERE,
)
def every_page_for_a_fault_is_in_flight(op: Operation, result: Any) -> Truth:
    """Every page obtained for a fault MUST be counted in flight, also one that came from the buddy allocator."""
    return implies(is_page(result), lambda: result in op.vma.pool.inflight)


@transition(
    "HTLB-INF-026",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=gibson("H-nopage-a", "D1"),
    fields=("sb.free_blocks",),
    functions=("hugetlb_no_page",),
    would_catch="SIGBUS for the loser of a race for the last block of quota",
    **HERE,
)
def quota_in_flight_means_repeat(op: Operation, result: Any) -> Truth:
    """A fault that finds no quota MUST end in VM_FAULT_SIGBUS only if no block was held by an unsettled fault and
    nothing was settled since it looked; otherwise it repeats.
    """
    failed, final = op.one("quota_failed"), op.one("quota_exhausted")
    return implies(
        failed is not None and result is VM_FAULT_SIGBUS,
        lambda: failed.inflight == 0 and final is not None and final.gen == final.seen_gen,  # type: ignore[union-attr]
    )


@transition(
    "HTLB-INF-027",
    over=Over.OPERATION,
    on=("alloc_huge_page",),
    source=gibson("H-alloc", "H-nopage-a", "H-cow"),
    fields=INFLIGHT,
    functions=FAULT_ALLOCATION,
    **HERE,
)
def failed_allocation_leaves_no_trace(op: Operation, result: Any) -> Truth:
    """A failed allocation MUST leave no side effect: no tag, no count, no reference, no lock."""
    return implies(
        is_shortage(result),
        lambda: (
            op.context.held == op.held_at_entry
            and not own_counters(op)
            and op.context.name not in op.vma.pool.inflight.values()
        ),
    )


@postcondition(
    "HTLB-INF-028",
    implied_by=("HTLB-INF-012", "HTLB-INF-013", "HTLB-INF-014"),
    on=("alloc_huge_page",), source=gibson("H-alloc"), fields=INFLIGHT, **HERE,
)
def allocation_follows_the_table(op: Operation, result: Any) -> Truth:
    """The outcome MUST follow one table: an outstanding reservation gives its page; without one, a free page beyond
    the reserve does; otherwise the fault repeats while something is in flight or has been settled since it looked,
    and is out of memory if not.
    """
    t = op.at_test
    if op.get("policy_refused") or op.vma.pool.nr_overcommit_huge_pages:
        return implies(False, lambda: True)
    if op.backed or (t.free_huge_pages > t.resv_huge_pages and not op.get("slot_taken")):
        return is_page(result)
    hope = t.tentative_huge_pages > 0 or op.gen_at_test != op.seen_gen or op.get("slot_taken")
    return bool(result == (RETRY if hope else NO_PAGE))
