"""In which order threads run, and which allocations fail, where a drill says so."""

from __future__ import annotations

from collections.abc import Callable

from mmreference.kernel.scheduler import First, Task


class FailNth(First):
    """Lets the n-th allocation fail, counted from 0, and nothing else."""

    def __init__(self, number: int) -> None:
        self.left = number

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        self.left -= 1
        return int(self.left == -1)


class Failing(First):
    """Lets all allocations of one kind fail."""

    def __init__(self, what: str) -> None:
        self.label = f"{what} fails"

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return int(label == self.label)


class Interrupted(First):
    """The first thread runs until `when` is true; from then on the last one that can goes on, and so it comes last."""

    def __init__(self, when: Callable[[], bool]) -> None:
        self.when = when
        self.reached = False

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        self.reached = self.reached or self.when()
        return enabled[-1] if self.reached else enabled[0]


class InTurn(First):
    """Each thread makes one step, then the next one goes on."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        return enabled[0] if last is None else min(enabled, key=lambda t: (t.index <= last.index, t.index))


class Last(First):
    """The last thread that can goes on."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        return enabled[-1]
