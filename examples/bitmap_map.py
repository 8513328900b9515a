"""A correct `ReservationMap` with another algorithm: a set of cells between cut points instead of a region list.

mmspec check bitmap_map:CellMap
"""

from bisect import bisect_left

from mmspec.interfaces import ReservationMap


class CellMap(ReservationMap):
    """Coverage as the sorted list of offsets at which it changes: covered from each even one to the next odd one."""

    def __init__(self) -> None:
        self._edges: list[int] = []

    @property
    def regions(self) -> list[tuple[int, int]]:
        return list(zip(self._edges[::2], self._edges[1::2], strict=True))

    def region_count(self, f: int, t: int) -> int:
        return sum(max(0, min(hi, t) - max(lo, f)) for lo, hi in self.regions)

    def region_chg(self, f: int, t: int) -> int:
        # Nothing has to be prepared: adding never needs more than two edges, and Python's lists grow by themselves.
        return t - f - self.region_count(f, t)

    def region_add(self, f: int, t: int) -> None:
        left, right = bisect_left(self._edges, f), bisect_left(self._edges, t + 1)
        begins = [] if left % 2 else [f]
        ends = [] if right % 2 else [t]
        self._edges[left:right] = begins + ends

    def region_truncate(self, end: int) -> int:
        top = self._edges[-1] if self._edges else end
        dropped = self.region_count(end, max(end, top))
        cut = bisect_left(self._edges, end)
        del self._edges[cut:]
        if cut % 2:
            self._edges.append(end)
        return dropped
