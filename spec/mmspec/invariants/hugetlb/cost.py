"""HTLB-PRF: counted work."""

from __future__ import annotations

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.invariant import Over, transition
from mmspec.logic import Truth, implies
from mmspec.sources import gibson, whitcroft
from mmspec.trace import Operation, Run


def clears_at_once(run: Run) -> int:
    """The largest number of pages that were being cleared or copied at the same time."""
    now = most = 0
    for event in run.events("clear_huge_page", "copy", "cleared", "copied"):
        now += 1 if event.kind in ("clear_huge_page", "copy") else -1
        most = max(most, now)
    return most


@transition(
    "HTLB-PRF-001",
    over=Over.RUN,
    source=gibson("D2", "D3"),
    variants=(TENTATIVE,),
    functions=("hugetlb_no_page", "clear_huge_page"),
    would_catch="page clearing serialised by a global mutex",
)
def clearing_overlaps(run: Run) -> Truth:
    """Clearing of different pages MUST be able to overlap: n threads that fault n distinct slots can all clear at the
    same time.
    """
    return implies("can_overlap" in run.facts, lambda: clears_at_once(run) == run.facts["can_overlap"])


@transition(
    "HTLB-PRF-002",
    over=Over.RUN,
    source=gibson("D2"),
    variants=(INSTANTIATION_MUTEX,),
    functions=("hugetlb_fault",),
    locks=("hugetlb_instantiation_mutex",),
)
def mutex_serialises_clearing(run: Run) -> Truth:
    """With the instantiation mutex at most one page MUST be cleared or copied at a time in the whole system.

    This is what the mutex costs, not what it is for.
    """
    return implies(run.events("clear_huge_page", "copy"), lambda: clears_at_once(run) <= 1)


@transition("HTLB-PRF-003", over=Over.RUN, source=gibson("D3"), variants=(TENTATIVE,), functions=("hugetlb_no_page",))
def wasted_clearing_is_bounded(run: Run) -> Truth:
    """Per race lost, at most one page MUST be cleared in vain: clears are pages settled plus pages returned."""
    clears = len(run.events("clear_huge_page"))
    landed = len(run.events("settle")) + len(run.events("pool_return"))
    return implies(clears and not run.stuck, lambda: clears <= landed)


@transition(
    "HTLB-PRF-004",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=whitcroft("H-commit", "H-close"),
    functions=("vma_commit_reservation", "hugetlb_vm_op_close"),
    fields=("resv_map.regions",),
)
def fault_touches_one_region(op: Operation) -> Truth:
    """A fault MUST touch one offset of one region list; its cost MUST NOT grow with the length of the mapping."""
    added = op.calls("map_region_add")
    return implies(op.did("prepare", "commit"), lambda: all(c.t - c.f == 1 for c in added) and len(added) <= 2)
