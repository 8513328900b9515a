"""Huge-page reservations and in-flight allocations.

One module per subject. Ids are never reused and never change their meaning; `mmspec/published.json` remembers all of
them.
"""

from mmspec.invariant import REGISTRY
from mmspec.invariants.hugetlb import (
    allocation,
    cost,
    cow,
    faults,
    inflight,
    liveness,
    locks,
    maps,
    observation,
    pool,
    quota,
    regions,
    reservations,
    results,
    truncation,
    vmas,
)

#: The areas, from what others rest on to what follows from it.
AREAS = (
    "HTLB-POOL",
    "HTLB-RSV",
    "HTLB-REG",
    "HTLB-MAP",
    "HTLB-VMA",
    "HTLB-ALC",
    "HTLB-INF",
    "HTLB-FLT",
    "HTLB-COW",
    "HTLB-TRN",
    "HTLB-QTA",
    "HTLB-LCK",
    "HTLB-ERR",
    "HTLB-LIV",
    "HTLB-OBS",
    "HTLB-PRF",
)
REGISTRY.order(AREAS)

__all__ = [
    "AREAS",
    "allocation",
    "cost",
    "cow",
    "faults",
    "inflight",
    "liveness",
    "locks",
    "maps",
    "observation",
    "pool",
    "quota",
    "regions",
    "reservations",
    "results",
    "truncation",
    "vmas",
]
