"""From a failing run to one that is easier to read: fewer switches, fewer failures, fewer steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from itertools import groupby

from mmconformance.engines.execution import Execution, Program
from mmconformance.engines.exhaustive import explore
from mmreference.kernel.scheduler import Task

#: A run as it might be: the tasks' names in the order of their steps, and per task the values of its choices.
_Sketch = tuple[list[str], dict[str, list[int]]]


def minimise(program: Program, execution: Execution, *, budget_seconds: float = 10.0) -> Execution:
    """The easiest run found that violates the same invariant as `execution`; that one itself if there is none.

    First the parts of the given run are moved together as far as the violation stays. Then all runs with no
    preemption, with one, with two and so on are searched, until one fails or the time is used up.
    """
    if execution.violation is None:
        return execution
    end = time.monotonic() + budget_seconds
    best = _moved_together(program, execution, end - budget_seconds / 2)
    id_ = execution.violation.invariant.id
    for preemptions in range(best.switches):
        left = end - time.monotonic()
        if left <= 0:
            break
        found = explore(
            program, reduction=False, preemptions=preemptions, failures=best.failures, budget_seconds=left
        ).violation_of(id_)
        if found is not None:
            return min(found, best, key=lambda e: e.size)
    return best


def _moved_together(program: Program, execution: Execution, end: float) -> Execution:
    best = execution
    improved = True
    while improved:
        improved = False
        for names, choices in _simpler(best):
            if time.monotonic() > end:
                return best
            tried = program(Sketched(names, choices))
            if _violates(tried) == _violates(execution) and tried.size < best.size:
                best = tried
                improved = True
                break
    return best


def _violates(execution: Execution) -> str:
    return execution.violation.invariant.id if execution.violation is not None else ""


def _simpler(execution: Execution) -> Iterator[_Sketch]:
    """Runs that might do: without one of the failures, or with two parts of a task moved together."""
    names = [step.task.name for step in execution.executed]
    choices: dict[str, list[int]] = {}
    for choice in execution.choices:
        choices.setdefault(choice.task, []).append(choice.value)
    for task, values in choices.items():
        for position, value in enumerate(values):
            if value:
                yield names, {**choices, task: [*values[:position], 0, *values[position + 1 :]]}
    parts = [list(steps) for _, steps in groupby(names)]
    for position, part in enumerate(parts):
        later = next((i for i in range(position + 1, len(parts)) if parts[i][0] == part[0]), None)
        if later is None:
            continue
        between = parts[position + 1 : later]
        for order in ([part, parts[later], *between], [*between, part, parts[later]]):
            yield [name for p in [*parts[:position], *order, *parts[later + 1 :]] for name in p], choices


class Sketched:
    """A strategy that follows a sketch of a run as far as that goes.

    A task that cannot go on when its turn comes loses its turn; at the end of the sketch the running task goes on.
    """

    def __init__(self, names: list[str], choices: dict[str, list[int]]) -> None:
        self._names = deque(names)
        self._choices = {task: deque(values) for task, values in choices.items()}

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """The next task of the sketch that is able to go on."""
        able = {task.name: task for task in enabled}
        while self._names:
            name = self._names.popleft()
            if name in able:
                return able[name]
        return last if last is not None and last in enabled else enabled[0]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """What the task chose in the sketch, 0 at its end."""
        values = self._choices.get(task.name)
        return values.popleft() % alternatives if values else 0
