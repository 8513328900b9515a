"""Region lists: sets of huge-page offsets as sorted, disjoint, coalesced half-open ranges.

`region_chg` prepares (it may need memory, hence may fail), `region_add` commits (it needs none). A prepared range that
touches nothing is held open by an empty *placeholder* region, so that the commit only has to widen it.
"""

from __future__ import annotations

import attrs

from mmspec.contracts import operation
from mmspec.invariants.hugetlb.regions import Pairs, pairs


@attrs.define(slots=True)
class FileRegion:
    """`struct file_region`: the offsets `[frm, to)`, in huge pages; a placeholder if both are equal."""

    frm: int
    to: int


Regions = list[FileRegion]


def shown(regions: Regions) -> Pairs:
    """What the contracts see of a list."""
    return pairs(regions)


def first_at_or_after(regions: Regions, f: int) -> int:
    """Index of the first region that ends at or after `f`; `len(regions)` if there is none."""
    return next((k for k, rg in enumerate(regions) if rg.to >= f), len(regions))


def needs_placeholder(regions: Regions, f: int, t: int) -> bool:
    """Whether preparing `[f, t)` takes a new region, because nothing that is there touches it."""
    k = first_at_or_after(regions, f)
    return k == len(regions) or regions[k].frm > t


@operation(view=shown)
def region_chg(regions: Regions, f: int, t: int) -> int:
    """Prepare `[f, t)`: how many of its offsets are not covered. The memory for a placeholder is there."""
    k = first_at_or_after(regions, f)
    if needs_placeholder(regions, f, t):
        regions.insert(k, FileRegion(f, f))
        return t - f
    return t - f - region_count(regions, f, t)


@operation(view=shown)
def region_add(regions: Regions, f: int, t: int) -> int:
    """Commit `[f, t)`, which is prepared: how many offsets are covered now that were not before."""
    added = t - f - region_count(regions, f, t)
    k = first_at_or_after(regions, f)
    keep = regions[k]
    keep.frm = min(keep.frm, f)
    # Everything that the widened region now reaches is swallowed by it.
    while k + 1 < len(regions) and regions[k + 1].frm <= max(t, keep.to):
        keep.to = max(keep.to, regions.pop(k + 1).to)
    keep.to = max(keep.to, t)
    return added


@operation(view=shown)
def region_truncate(regions: Regions, end: int) -> int:
    """Drop all coverage at and above `end`: how many offsets that were."""
    dropped = 0
    while regions and regions[-1].to > end or regions and regions[-1].frm >= end:
        rg = regions[-1]
        dropped += rg.to - max(rg.frm, end)
        if rg.frm >= end:
            regions.pop()
        else:
            rg.to = end
    return dropped


@operation(view=shown)
def region_count(regions: Regions, f: int, t: int) -> int:
    """How many offsets of `[f, t)` are covered."""
    return sum(max(0, min(rg.to, t) - max(rg.frm, f)) for rg in regions)


def covered(regions: Regions, idx: int) -> bool:
    """Whether the offset `idx` is covered."""
    return region_count(regions, idx, idx + 1) == 1
