"""One complete run of a concurrent program, and programs that can be run from scratch any number of times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import attrs

from mmreference.kernel.scheduler import Executed, Scheduler, StepLimit, Strategy, Stuck, Task
from mmspec.errors import Violation
from mmspec.trace import Recorder, Run, recording

Decision = str | int
"""The name of the task that goes on, or the value of a choice that it makes meanwhile."""


class Abandoned(Exception):  # noqa: N818 - it is an order, not an error
    """A strategy wants the run to end here; programs let it pass."""


class Chosen(NamedTuple):
    """A choice as it was made."""

    begun: int
    """How many steps had begun by then, its own included."""
    value: int
    """0 is the usual."""
    task: str
    label: str
    """What the unusual is, such as "kmalloc fails"."""


@attrs.define(eq=False)
class Execution:
    """What came of one run."""

    program: str
    executed: list[Executed] = attrs.field(factory=list, repr=False)
    """The steps, in the order in which they happened."""
    choices: list[Chosen] = attrs.field(factory=list, repr=False)
    results: dict[str, Any] = attrs.field(factory=dict)
    """Task to what it returned, for the tasks that ended."""
    stuck: list[str] = attrs.field(factory=list)
    """The tasks that can never go on."""
    stuck_because: str = ""
    """"" (nobody is stuck), "deadlock" or "endless retry"."""
    violation: Violation | None = None
    outcome: str = ""
    """What an observer sees in the end, in a form that can be compared and printed."""
    tasks: list[Task] = attrs.field(factory=list, repr=False)
    ended: bool = False
    """Whether the tasks went on until nobody could; not so if a violation or the limit of steps came first."""
    limited: bool = False
    """Whether the run was cut off at the limit of steps."""

    @property
    def decisions(self) -> list[Decision]:
        """Names of tasks and values of choices, in the order in which they were taken: this replays the run."""
        decisions: list[Decision] = []
        choices = deque(self.choices)
        for number in range(len(self.executed) + 1):
            if number:
                decisions.append(self.executed[number - 1].task.name)
            while choices and choices[0].begun == number:
                decisions.append(choices.popleft().value)
        return decisions

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.executed)

    @property
    def switches(self) -> int:
        """How often another task went on than the one that had moved before."""
        return sum(a.task is not b.task for a, b in zip(self.executed, self.executed[1:], strict=False))

    @property
    def failures(self) -> int:
        """How many choices went another way than the usual one."""
        return sum(choice.value != 0 for choice in self.choices)

    @property
    def size(self) -> tuple[int, int, int]:
        """What makes a run hard to read: switches, failures, steps."""
        return self.switches, self.failures, self.steps


class Program(Protocol):
    """Something that can be run from scratch, under a strategy, any number of times.

    The same decisions give the same run: no clock, no `id()`, no order of sets. An :class:`Abandoned` that the
    strategy raises has to pass through.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    def __call__(self, strategy: Strategy) -> Execution:
        """Run it once."""


class Noting:
    """A strategy that leaves all decisions to another one and remembers the choices."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.pick = strategy.pick
        self.choices: list[Chosen] = []

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """The other strategy's choice."""
        value = self.strategy.choose(task, alternatives, label)
        scheduler = Scheduler.current
        assert scheduler is not None
        self.choices.append(Chosen(len(scheduler.executed), value, task.name, label))
        return value


Finish = Callable[[Run], str]
"""Called when nobody can go on; gives the outcome, and may raise :class:`~mmspec.errors.Violation`."""

Build = Callable[[Scheduler, Recorder], Finish]
"""Sets the scene and spawns the tasks."""

Translate = Callable[[Exception], Violation | None]
"""The violation that an exception of the model's kernel stands for, or None if it is none."""


class TaskProgram:
    """A program that consists of the tasks that `build` spawns.

    `limit` bounds the steps of one run. Exceptions which `translate` does not know are failures of the harness and
    propagate, with the decisions that lead to them attached as a note.
    """

    def __init__(self, name: str, build: Build, *, translate: Translate | None = None, limit: int = 20_000) -> None:
        self.name = name
        self.build = build
        self.translate = translate
        self.limit = limit

    def __call__(self, strategy: Strategy) -> Execution:
        """Run it once, from scratch."""
        recorder = Recorder()
        noting = Noting(strategy)
        scheduler = Scheduler(noting, recorder, self.limit)
        execution = Execution(self.name, scheduler.executed, noting.choices, tasks=scheduler.tasks)
        with recording(recorder):
            try:
                self._perform(scheduler, recorder, execution)
            except Abandoned:
                raise
            except Violation as violation:
                execution.violation = violation
            except StepLimit:
                execution.limited = True
                execution.outcome = "no end"
            except Exception as error:
                execution.violation = self.translate(error) if self.translate is not None else None
                if execution.violation is None:
                    error.add_note(f"{self.name}, decisions: {execution.decisions}")
                    raise
        if execution.violation is not None:
            execution.outcome = f"violates {execution.violation.invariant.id}"
        return execution

    def _perform(self, scheduler: Scheduler, recorder: Recorder, execution: Execution) -> None:
        run = Run(self.name, recorder)
        run.results = execution.results
        run.stuck = execution.stuck
        finish = self.build(scheduler, recorder)
        try:
            scheduler.run()
        except Stuck as stuck:
            run.stuck.extend(t.name for t in stuck.tasks)
            run.stuck_because = execution.stuck_because = stuck.why
        finally:
            run.results.update((t.name, t.result) for t in scheduler.tasks if t.done)
        execution.ended = True
        execution.outcome = finish(run)
