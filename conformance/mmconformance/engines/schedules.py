"""Strategies: who goes on, and how the unusual is chosen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from mmconformance.engines.execution import Decision
from mmreference.kernel.scheduler import Task
from mmspec.errors import UsageError


class Recorded:
    """Repeats a recorded run exactly.

    :raises UsageError: when the program does not come by where the recording says it does; the recording belongs to
        another program, or to another version of it.
    """

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self.decisions = list(decisions)
        self.position = 0

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """The recorded task."""
        decision = self._next(f"one of {', '.join(t.name for t in enabled)} goes on")
        for task in enabled:
            if task.name == decision:
                return task
        able = ", ".join(t.name for t in enabled)
        raise self._misfit(f"says {decision!r} where only {able} can go on")

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """The recorded value."""
        decision = self._next(f"{task.name} chooses whether {label}")
        if not isinstance(decision, int) or not 0 <= decision < alternatives:
            raise self._misfit(f"says {decision!r} where {task.name} chooses one of {alternatives} ({label})")
        return decision

    def finished(self) -> None:
        """To be called after the run.

        :raises UsageError: if the recording goes on.
        """
        left = len(self.decisions) - self.position
        if left:
            raise self._misfit(f"has {left} more decisions than the run")

    def _next(self, needed: str) -> Decision:
        if self.position == len(self.decisions):
            raise self._misfit(f"ends where {needed}")
        decision = self.decisions[self.position]
        self.position += 1
        return decision

    def _misfit(self, what: str) -> UsageError:
        return UsageError(f"the recording does not fit the program: after {self.position} decisions it {what}")


class Drawn:
    """Decides by small integers, as Hypothesis draws and shrinks them.

    One is used wherever several tasks are able to go on, and wherever there is a choice (from `choices`, if given).
    0, and a list that is used up, mean: stay with the task that moved before, or take the first one, and nothing
    unusual happens. So shrinking leads to few switches and few failures.
    """

    def __init__(self, picks: Sequence[int], choices: Sequence[int] | None = None) -> None:
        self._picks = iter(picks)
        self._choices = self._picks if choices is None else iter(choices)

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """The drawn task."""
        if len(enabled) == 1:
            return enabled[0]
        usual = enabled.index(last) if last is not None and last in enabled else 0
        return enabled[(usual + next(self._picks, 0)) % len(enabled)]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """The drawn value."""
        return next(self._choices, 0) % alternatives


class Random:
    """Decides by a pseudo-random generator: the same seed gives the same run.

    `stay` is the probability of staying with the task that moved before, `failing` that of an unusual choice.
    """

    def __init__(self, seed: int, *, stay: float = 0.5, failing: float = 0.1) -> None:
        self._random = random.Random(seed)
        self._stay = stay
        self._failing = failing

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """The running task or any."""
        if last is not None and last in enabled and self._random.random() < self._stay:
            return last
        return enabled[self._random.randrange(len(enabled))]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """Mostly 0."""
        if alternatives > 1 and self._random.random() < self._failing:
            return self._random.randrange(1, alternatives)
        return 0
