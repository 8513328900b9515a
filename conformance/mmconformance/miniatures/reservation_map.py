"""A right `ReservationMap`, and wrong ones with one mistake each: what the suite says of each is tested."""


class Right:
    """A set of offsets; slow, plain, right."""

    def __init__(self):
        self._cells = set()

    @property
    def regions(self):
        found = []
        for cell in sorted(self._cells):
            if found and found[-1][1] == cell:
                found[-1] = (found[-1][0], cell + 1)
            else:
                found.append((cell, cell + 1))
        return found

    def region_chg(self, f, t):
        return len(set(range(f, t)) - self._cells)

    def region_add(self, f, t):
        self._cells |= set(range(f, t))

    def region_truncate(self, end):
        dropped = {c for c in self._cells if c >= end}
        self._cells -= dropped
        return len(dropped)

    def region_count(self, f, t):
        return len(self._cells & set(range(f, t)))


class Uncoalesced(Right):
    """Touching regions stay apart."""

    @property
    def regions(self):
        return [(c, c + 1) for c in sorted(self._cells)]


class CountsTouching(Right):
    """An end point is counted as an overlap."""

    def region_count(self, f, t):
        return len(self._cells & set(range(f, t + 1)))


class ChargesTwice(Right):
    """The charge is the length of the range, whatever is covered."""

    def region_chg(self, f, t):
        return t - f


class TruncateOffByOne(Right):
    """The offset at the new end survives."""

    def region_truncate(self, end):
        return super().region_truncate(end + 1 if end else 0)


class AddForgets(Right):
    """The last offset of the range is not added."""

    def region_add(self, f, t):
        super().region_add(f, max(f, t - 1))


class MergeForgetsRest(Right):
    """A range that swallows several regions ends with the last of them."""

    def region_add(self, f, t):
        inside = [hi for lo, hi in self.regions if f <= lo and hi <= t]
        super().region_add(f, t)
        if len(inside) > 1:
            self._cells -= set(range(inside[-1], t))


class CountingChanges(Right):
    """Counting drops what was counted."""

    def region_count(self, f, t):
        counted = super().region_count(f, t)
        self._cells -= set(range(f, t))
        return counted


class Lacking:
    """No region_truncate."""

    regions = ()

    def region_chg(self, f, t):
        return 0

    def region_add(self, f, t):
        return None

    def region_count(self, f, t):
        return 0


class Raising(Right):
    """Cannot add."""

    def region_add(self, f, t):
        raise RuntimeError("out of order")


class WrongType(Right):
    """Counts in words."""

    def region_count(self, f, t):
        return "three"


class Looping(Right):
    """Never comes back."""

    def region_chg(self, f, t):
        while True:
            pass


class Dying(Right):
    """Takes its process along."""

    def region_chg(self, f, t):
        import os

        os._exit(9)


class Exiting(Right):
    """Wants to end the interpreter, as if all were well."""

    def region_chg(self, f, t):
        raise SystemExit(0)


class Wordy(Right):
    """Complains in several lines."""

    def region_chg(self, f, t):
        raise RuntimeError("first line\nsecond line")
