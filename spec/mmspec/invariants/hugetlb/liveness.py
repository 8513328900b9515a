"""HTLB-LIV: what must happen in the end. Judged on complete runs, in which "never" is a deadlock or an endless retry."""

from __future__ import annotations

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.errors import VM_FAULT_OOM
from mmspec.invariant import liveness
from mmspec.invariants.hugetlb.terms import RETRY
from mmspec.logic import Truth, implies
from mmspec.sources import gibson, whitcroft
from mmspec.trace import Run

FAULT = ("hugetlb_fault",)


@liveness(
    "HTLB-LIV-001",
    implied_by=("HTLB-INF-005",),
    source=gibson("D3"),
    variants=(TENTATIVE,),
    functions=("keep_huge_page", "free_huge_page"),
    fields=("hstate.tentative_huge_pages",),
)
def every_page_in_flight_lands(run: Run) -> Truth:
    """Every page in flight MUST eventually be settled or returned."""
    flown = [e for e in run.events("tag_write") if e.value]
    landed = run.events("settle", "pool_return")
    return implies(flown, lambda: len(landed) == len(flown))


@liveness("HTLB-LIV-002", source=gibson("D4"), variants=(TENTATIVE,), functions=FAULT)
def retried_fault_terminates(run: Run) -> Truth:
    """A fault that was told to repeat MUST terminate once the pages in flight that it saw are settled and no new ones
    appear.
    """
    retried = [op for op in run.operations("alloc_huge_page") if op.result == RETRY]
    return implies(retried, lambda: not run.stuck)


@liveness(
    "HTLB-LIV-003",
    source=gibson("D4"),
    variants=(TENTATIVE,),
    functions=FAULT,
    would_catch="a leaked in-flight count: every later shortage is an endless retry",
)
def true_shortage_is_reported(run: Run) -> Truth:
    """A true shortage MUST eventually be reported as out of memory; the retry MUST NOT hide it for ever."""
    return implies(
        run.facts.get("excess", 0) > 0,
        lambda: not run.stuck and any(op.result is VM_FAULT_OOM for op in run.operations("hugetlb_fault")),
    )


@liveness("HTLB-LIV-004", source=gibson("D4"), variants=(TENTATIVE,), functions=FAULT)
def some_fault_makes_progress(run: Run) -> Truth:
    """Whenever threads run, some fault MUST make progress; an individual one may lose again and again."""
    accesses = [c for c in run.recorder.contexts if any(e.kind == "pte_read" for e in c.events)]
    return implies(accesses, lambda: bool(run.operations("access", "get_user_pages")))


@liveness(
    "HTLB-LIV-005",
    source=gibson("D4"),
    functions=("get_user_pages",),
    would_catch="page pinning that repeats inside the kernel on a leaked in-flight count",
)
def kernel_loops_end(run: Run) -> Truth:
    """Loops inside the kernel that repeat a fault, as page pinning does, MUST end as well."""
    begun = [
        c
        for c in run.recorder.contexts
        if any(op.name == "get_user_pages" for op in (c.op.ancestors() if c.op else ()))
    ]
    return implies(begun or run.operations("get_user_pages"), lambda: not begun)


@liveness(
    "HTLB-LIV-006",
    source=gibson("D2"),
    variants=(INSTANTIATION_MUTEX,),
    functions=FAULT,
    locks=("hugetlb_instantiation_mutex",),
)
def mutex_never_deadlocks(run: Run) -> Truth:
    """With the instantiation mutex every fault MUST complete: its holder never waits for another fault."""
    faults = run.operations("hugetlb_fault")
    return implies(faults or run.stuck, lambda: not run.stuck)


@liveness(
    "HTLB-LIV-007",
    implied_by=("HTLB-RSV-029", "HTLB-POOL-003"),
    source=gibson("R3") + whitcroft("M1"),
    functions=("mmput", "evict_inode"),
    fields=("hstate.resv_huge_pages", "hstate.free_huge_pages"),
    interfaces=("MemoryManager",),
)
def everything_returns_to_the_start(run: Run) -> Truth:
    """When all users are gone, the pool MUST be as it was at the start: nothing promised, nothing in flight, every page
    free.
    """
    end = run.facts.get("baseline")
    return implies(
        end is not None,
        lambda: end.resv_huge_pages == 0 and end.free_huge_pages == end.nr_huge_pages,  # type: ignore[union-attr]
    )
