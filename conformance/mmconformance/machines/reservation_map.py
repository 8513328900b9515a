"""Drives any :class:`~mmspec.interfaces.ReservationMap`; the contracts that the interface carries do the judging."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from mmconformance.machines.steps import Step, recorded
from mmspec.errors import ImplementationFailure
from mmspec.interfaces import ReservationMap

EDGE = 1 << 31
"""Where 32-bit arithmetic breaks; ranges lie near 0 or around here, so that regions meet."""

offsets = st.one_of(st.integers(0, 12), st.integers(EDGE - 4, EDGE + 4))
#: Many short ranges, and long ones that swallow several of them.
lengths = st.sampled_from([1, 1, 2, 3, 6, 10])


class ReservationMapMachine(RuleBasedStateMachine):
    """The rules. `subject` makes an empty map; set by the engine on a subclass."""

    subject: Callable[[], ReservationMap]

    def __init__(self) -> None:
        super().__init__()
        self.map = self.subject()
        self.log: list[str] = []
        self.operations = 0
        self.steps: list[Step] = []
        self.prepared: list[tuple[int, int]] = []

    def _say(self, line: str) -> None:
        self.log.append(f"{line}    # {list(self.map.regions)}")
        self.operations += 1

    @rule(f=offsets, length=lengths)
    @recorded
    def prepare(self, f: int, length: int) -> None:
        """region_chg alone, perhaps to be given up."""
        self._chg(f, f + length)

    @rule(f=offsets, length=lengths)
    @recorded
    def prepare_and_add(self, f: int, length: int) -> None:
        """region_chg and region_add."""
        if self._chg(f, f + length) >= 0:
            self._add(f, f + length)

    @precondition(lambda self: self.prepared)
    @rule(which=st.integers(0, 7))
    @recorded
    def add_what_was_prepared(self, which: int) -> None:
        """region_add some time after its region_chg."""
        self._add(*self.prepared.pop(which % len(self.prepared)))

    @rule(end=st.one_of(st.just(0), offsets))
    @recorded
    def truncate(self, end: int) -> None:
        """region_truncate; what was prepared is void."""
        self.prepared.clear()
        dropped = self.map.region_truncate(end)
        self._check("region_truncate", dropped)
        self._say(f"{dropped} = region_truncate({end})")

    @rule(f=offsets, length=st.integers(0, 12))
    @recorded
    def count(self, f: int, length: int) -> None:
        """region_count."""
        counted = self.map.region_count(f, f + length)
        self._check("region_count", counted)
        self._say(f"{counted} = region_count({f}, {f + length})")

    def _chg(self, f: int, t: int) -> int:
        missing = self.map.region_chg(f, t)
        self._check("region_chg", missing)
        self._say(f"{missing} = region_chg({f}, {t})")
        if missing >= 0:
            self.prepared.append((f, t))
        return missing

    def _add(self, f: int, t: int) -> None:
        self.map.region_add(f, t)
        self.prepared = [p for p in self.prepared if p != (f, t)]
        self._say(f"region_add({f}, {t})")

    @staticmethod
    def _check(method: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ImplementationFailure(f"{method}() returned {type(value).__name__}, not int")

    def teardown(self) -> None:
        """The last reference goes."""
        self.prepared.clear()
        self.map.region_truncate(0)


