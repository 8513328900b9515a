"""A subtly wrong `ReservationMap`: it counts in 32 bits, as a patch of 2008 did. A plain class, without any import.

mmspec check narrow_map:NarrowMap --interface ReservationMap
"""


def _int(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


class NarrowMap:
    """Regions in a list; everything is right below offset 2**31."""

    def __init__(self) -> None:
        self.regions: list[tuple[int, int]] = []

    def region_count(self, f: int, t: int) -> int:
        return sum(_int(min(hi, t)) - _int(max(lo, f)) for lo, hi in self.regions if hi > f and lo < t)

    def region_chg(self, f: int, t: int) -> int:
        return t - f - sum(max(0, min(hi, t) - max(lo, f)) for lo, hi in self.regions)

    def region_add(self, f: int, t: int) -> None:
        touching = [r for r in self.regions if r[0] <= t and r[1] >= f]
        apart = [r for r in self.regions if r not in touching]
        merged = (min([f, *(lo for lo, _ in touching)]), max([t, *(hi for _, hi in touching)]))
        self.regions = sorted([*apart, merged])

    def region_truncate(self, end: int) -> int:
        dropped = sum(max(0, hi - max(lo, end)) for lo, hi in self.regions)
        self.regions = [(lo, min(hi, end)) for lo, hi in self.regions if lo < end]
        return dropped
