"""A set of huge-page offsets, kept as regions: the data structure beneath all reservations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import icontract

from mmspec.contracts import contracted, maintains
from mmspec.invariants.hugetlb.regions import Pairs, pairs


def shown(self: ReservationMap) -> Pairs:
    """What the contracts see of a map."""
    return pairs(self.regions)


@maintains("HTLB-REG-001", "HTLB-REG-002", "HTLB-REG-003")
class ReservationMap(icontract.DBC):
    """Which offsets of a mapping or a file are covered.

    All offsets are in huge pages, from 0 up to 2**63 - 1; ranges are half open, `[f, t)`.
    """

    def __init__(self) -> None:
        """An empty map. (Without this, the state invariants would be evaluated before a subclass has its fields.)"""

    @property
    @abstractmethod
    def regions(self) -> Sequence[tuple[int, int]]:
        """The regions `(from, to)` in ascending order; an empty one (`from == to`) is a placeholder."""

    @abstractmethod
    @contracted(view=shown)
    def region_chg(self, f: int, t: int) -> int:
        """Prepare to add `[f, t)`: how many of its offsets are not covered yet, or `-ENOMEM`."""

    @abstractmethod
    @contracted(view=shown)
    def region_add(self, f: int, t: int) -> object:
        """Add `[f, t)`, prepared by :meth:`region_chg`; cannot fail. The result is not looked at."""

    @abstractmethod
    @contracted(view=shown)
    def region_truncate(self, end: int) -> int:
        """Drop all coverage at and above `end`; how many offsets that were."""

    @abstractmethod
    @contracted(view=shown)
    def region_count(self, f: int, t: int) -> int:
        """How many offsets of `[f, t)` are covered; changes nothing."""
