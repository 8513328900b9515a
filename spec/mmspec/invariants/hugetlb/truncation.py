"""HTLB-TRN: truncation and file size."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, precondition, state_invariant, transition
from mmspec.invariants.hugetlb.faults import in_fork
from mmspec.invariants.hugetlb.terms import region_growth
from mmspec.logic import Truth, every, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Event, Operation, Run

SIZE = ("inode.i_size",)
TRUNCATE = ("hugetlb_vmtruncate",)


@transition(
    "HTLB-TRN-001",
    over=Over.OPERATION,
    on=TRUNCATE,
    source=field("base") + gibson("H-nopage-a"),
    fields=SIZE,
    functions=TRUNCATE,
)
def size_mappings_pages_reservations(op: Operation) -> Truth:
    """Truncation MUST lower the size first, then unmap, then remove cached pages, then release reservations."""
    return (
        op.before("size_write", "unmap_range")
        and op.before("unmap_range", "cache_remove")
        and op.before("unmap_range", "unreserve")
        and not _after(op, "unreserve", "cache_remove")
    )


def _after(op: Operation, first: str, second: str) -> bool:
    kinds = op.kinds()
    return first in kinds and second in kinds[kinds.index(first) :]


@state_invariant(
    "HTLB-TRN-002",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=gibson("H-nopage-a"),
    fields=SIZE,
    functions=("hugetlb_vmtruncate", "hugetlb_no_page"),
    would_catch="a page left beyond the end by a fault that raced with truncation",
)
def nothing_beyond_the_end(world: Any) -> Truth:
    """With nothing in flight, no cached page and no page-table entry of a file MUST exist at or beyond its size."""
    cached = [idx < inode.i_size for inode in world.inodes for idx in inode.pages]
    mapped = [
        vma.index(vpn * vma.huge_page_size) < vma.vm_file.i_size
        for vma in world.vmas
        for vpn in vma.mm.ptes
        if vma.vm_start <= vpn * vma.huge_page_size < vma.vm_end
    ]
    return every(cached + mapped)


@lock_rule(
    "HTLB-TRN-003",
    on=("cache_remove",),
    source=gibson("H-nopage-a"),
    locks=("page_lock",),
    functions=("truncate_hugepages", "hugetlb_no_page"),
    fields=("inode.pages",),
)
def page_lock_orders_fault_and_removal(event: Event) -> Truth:
    """A page MUST be removed from the cache with its page lock held, the lock under which a fault tests the size."""
    return event.holds("page_lock", event.page)


@lock_rule(
    "HTLB-TRN-004",
    on=("cache_insert", "pte_insert", "unreserve", "size_write"),
    source=gibson("H-nopage-c") + whitcroft("H-lockrule"),
    locks=("fault_sem",),
    fields=SIZE,
    functions=("hugetlb_fault", "hugetlb_vmtruncate"),
    would_catch="a reservation released by truncation while a running fault had drawn it already",
)
def fault_and_truncation_are_serial(event: Event) -> Truth:
    """A fault that instantiates an index and a truncation that covers it MUST exclude each other as a whole."""
    op = event.op
    if event.kind in ("unreserve", "size_write"):
        return implies(
            op is not None and op.within("hugetlb_vmtruncate"), lambda: event.holds("fault_sem", event.inode)
        )
    inode = event.inode if event.kind == "cache_insert" else event.vma.vm_file
    return implies(not in_fork(event), lambda: event.holds("fault_sem:r", inode))


@postcondition(
    "HTLB-TRN-005",
    over=Over.RUN,
    on=(),
    source=gibson("H-nopage-a"),
    fields=SIZE,
    functions=("hugetlb_fault", "hugetlb_vmtruncate"),
)
def fault_and_truncation_have_a_serial_outcome(run: Run) -> Truth:
    """When fault and truncation have both finished, the outcome MUST equal that of one of the two serial orders, counters
    included.
    """
    return implies("serial_outcomes" in run.facts, lambda: run.facts["outcome"] in run.facts["serial_outcomes"])


@postcondition(
    "HTLB-TRN-006", on=TRUNCATE, source=field("base"), fields=("sb.free_blocks",), interfaces=("MemoryManager",)
)
def truncation_returns_quota(op: Operation) -> Truth:
    """Truncation MUST return one block of quota per page that it sends back to the pool and per promise it takes
    back.
    """
    calls = op.calls("hugetlb_unreserve_pages")
    released = sum(c.dropped - c.freed for c in calls)
    freed = [c for c in op.calls("free_huge_page") if c.was_charged]
    return op.delta("free_blocks") == len(freed) + released


@postcondition(
    "HTLB-TRN-007",
    on=TRUNCATE,
    source=whitcroft("M5"),
    fields=("resv_map.regions",),
    would_catch="an offset drawn a second time after its page was truncated away",
)
def truncation_keeps_private_consumption(op: Operation) -> Truth:
    """Removing a private page by truncation MUST NOT unmark its offset: the reservation stays consumed."""
    return not [e for e in op.all("write") if e.field == "regions" and e.obj.private and e.obj.refs > 0]


@postcondition("HTLB-TRN-008", on=("hugetlb_setattr",), source=field("base"), fields=("hstate.resv_huge_pages",))
def extension_reserves_nothing(op: Operation) -> Truth:
    """Extending the file MUST NOT create reservations: indices that come back are unreserved until somebody asks."""
    return implies(op.did("size_write"), lambda: region_growth(op) <= 0 and op.delta("resv_huge_pages") <= 0)


@precondition(
    "HTLB-TRN-009", over=Over.EVENT, on=("size_write",), source=field("base"), fields=SIZE, locks=("i_mutex",)
)
def size_changes_under_the_inode_lock(event: Event) -> Truth:
    """Size changes MUST be in whole huge pages and made with the inode lock held."""
    return event.size >= 0 and event.holds("i_mutex", event.inode)


@transition(
    "HTLB-TRN-010",
    over=Over.OPERATION,
    on=("evict_inode",),
    source=field("base"),
    fields=SIZE,
    functions=("evict_inode",),
)
def eviction_is_truncation_to_nothing(op: Operation) -> Truth:
    """Eviction of an inode MUST behave like truncation to 0: reservations released, cache and coverage empty."""
    truncations = op.calls("hugetlb_vmtruncate")
    removed = -sum(region_growth(t) for t in truncations)
    pages = sum(len(t.all("cache_remove")) for t in truncations)
    return (
        len(truncations) == 1
        and truncations[0].size == 0
        and op.delta("resv_huge_pages") == pages - removed
        and any(e.obj is op.inode for e in op.all("free"))
    )
