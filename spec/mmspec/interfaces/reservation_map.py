"""A set of huge-page offsets, kept as regions: the data structure beneath all reservations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import icontract


class ReservationMap(icontract.DBC):
    """Which offsets of a mapping or a file are covered.

    All offsets are in huge pages, from 0 up to 2**63 - 1; ranges are half open, `[f, t)`.
    """

    @property
    @abstractmethod
    def regions(self) -> Sequence[tuple[int, int]]:
        """The regions `(from, to)` in ascending order; an empty one (`from == to`) is a placeholder."""

    @abstractmethod
    def region_chg(self, f: int, t: int) -> int:
        """Prepare to add `[f, t)`: how many of its offsets are not covered yet, or `-ENOMEM`."""

    @abstractmethod
    def region_add(self, f: int, t: int) -> object:
        """Add `[f, t)`, prepared by :meth:`region_chg`; cannot fail. The result is not looked at."""

    @abstractmethod
    def region_truncate(self, end: int) -> int:
        """Drop all coverage at and above `end`; how many offsets that were."""

    @abstractmethod
    def region_count(self, f: int, t: int) -> int:
        """How many offsets of `[f, t)` are covered; changes nothing."""
