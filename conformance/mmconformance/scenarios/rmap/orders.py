"""In which order threads run, and which allocations fail, where a drill says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    """The first thread runs until `when` is true, and `later` steps on; then the last thread that can goes on, so that the first
    one ends last.
    """

    def __init__(self, when: Callable[[], bool], later: int = 0) -> None:
        self.when = when
        self.reached = False
        self.left = later

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        self.reached = self.reached or self.when()
        if self.reached and self.left == 0:
            return enabled[-1]
        self.left -= self.reached
        return enabled[0]


class InTurn(First):
    """Each thread makes one step, then the next one goes on."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        return enabled[0] if last is None else min(enabled, key=lambda t: (t.index <= last.index, t.index))


class Last(First):
    """The last thread that can goes on."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        return enabled[-1]


class InPhases(First):
    """In each phase one thread (by number) runs until something is true, or as far as it can; then all run to their ends."""

    def __init__(self, phases: Sequence[tuple[int, Callable[[], bool]]]) -> None:
        self.phases = list(phases)

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        while self.phases:
            number, over = self.phases[0]
            task = next((t for t in enabled if t.index == number), None)
            if task is not None and not over():
                return task
            del self.phases[0]
        return super().pick(enabled, last)
