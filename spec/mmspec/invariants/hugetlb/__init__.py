"""Huge-page reservations and in-flight allocations.

One module per subject. Ids are never reused and never change their meaning; `mmspec/published.json` remembers all of
them.
"""

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

__all__ = [
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
