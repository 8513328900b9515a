"""HTLB-OBS: what can be read from outside."""

from __future__ import annotations

from typing import Any

from mmspec.config import TENTATIVE
from mmspec.invariant import Over, postcondition
from mmspec.logic import Truth
from mmspec.sources import gibson, whitcroft

COUNTERS = ("hstate.nr_huge_pages", "hstate.free_huge_pages", "hstate.resv_huge_pages")


@postcondition(
    "HTLB-OBS-001",
    implied_by=("HTLB-RSV-001", "HTLB-RSV-002", "HTLB-POOL-007"),
    over=Over.CALL,
    on=("counters",),
    source=gibson("R3"),
    fields=COUNTERS,
    interfaces=("MemoryManager",),
)
def reported_reserve_is_plausible(result: Any) -> Truth:
    """The reported counters MUST satisfy 0 <= HugePages_Rsvd <= HugePages_Free <= HugePages_Total."""
    return bool(0 <= result.resv_huge_pages <= result.free_huge_pages <= result.nr_huge_pages)


@postcondition(
    "HTLB-OBS-002",
    over=Over.CALL,
    on=("counters",),
    source=gibson("D3"),
    variants=(TENTATIVE,),
    fields=(*COUNTERS, "hstate.tentative_huge_pages"),
)
def pages_in_flight_are_not_reported_free(result: Any) -> Truth:
    """Pages in flight MUST be reported neither as free nor as reserved."""
    return bool(result.nr_huge_pages - result.free_huge_pages >= result.tentative_huge_pages)


@postcondition(
    "HTLB-OBS-003",
    implied_by=("HTLB-RSV-001",),
    over=Over.CALL,
    on=("counters", "hugetlb_report_meminfo"),
    source=gibson("R3") + whitcroft("M2"),
    fields=COUNTERS,
    interfaces=("MemoryManager",),
)
def no_reader_sees_a_wrapped_value(result: Any) -> Truth:
    """A reader without a lock may see counters that do not fit together, and MUST NOT see a wrapped one."""
    values = (result.nr_huge_pages, result.free_huge_pages, result.resv_huge_pages, result.surplus_huge_pages)
    return all(0 <= value < 1 << 31 for value in values)
