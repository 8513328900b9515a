"""Sampled runs: Hypothesis draws operations, arguments, failures and schedules, and shrinks what fails."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, Self

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

from mmconformance.engines.deadline import Deadline
from mmconformance.engines.execution import Execution
from mmconformance.engines.schedules import Drawn
from mmconformance.hazards import violation_for
from mmconformance.machines.steps import Step, shortest
from mmconformance.scenarios.staging import Stage, performance
from mmspec.errors import Violation
from mmspec.trace import Recorder, recording


class Plan(attrs.AttrsInstance, Protocol):
    """A random concurrent program of a system: an attrs class whose fields can be written as JSON."""

    stage: ClassVar[type[Stage]]

    @property
    def picks(self) -> list[int]:
        """Which thread goes on, see :class:`~mmconformance.engines.schedules.Drawn`."""

    @property
    def failures(self) -> list[int]:
        """What fails."""

    @property
    def operations(self) -> int:
        """How many calls the threads make."""

    def script(self, stage: Any) -> None:
        """Set the stage and enter the threads."""

    @classmethod
    def drawn(cls) -> SearchStrategy[Any]:
        """How it is drawn."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """The one that was written as these fields.

        :raises TypeError, KeyError: if they are not those of a plan.
        """


@attrs.define
class Sampled:
    """What a sampled engine has found: the shortest run that violates something, if any."""

    operations: int = 0
    violation: Violation | None = None
    run: list[str] = attrs.field(factory=list)
    steps: list[Step] = attrs.field(factory=list)
    """The steps of the machine that made the run."""
    plan: Plan | None = None
    execution: Execution | None = None


def sample_settings(examples: int, steps: int = 40) -> settings:
    """Reproducible and quiet; the seed decides, not the clock."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def _recorded(record: bool) -> Iterator[None]:
    with recording(Recorder() if record else None):
        yield


#: Seconds beyond the end of its time that a search may use to make a failing run shorter.
SHRINKING = 30.0
#: Runs that a search may use for that; then steps are left out one by one.
SHRINKS = 500


class _TimeIsUp(KeyboardInterrupt):
    """Ends a search between two examples, in the one way in which Hypothesis lets itself be ended."""


def run_machine(
    machine: type[RuleBasedStateMachine],
    subject: Callable[[], Any],
    *,
    examples: int,
    seed_: int,
    record: bool,
    deadline: Deadline | None = None,
    steps: int = 40,
) -> Sampled:
    """Run a state machine over `subject`; `record` lets the subject's own contracts and monitors take part.

    No example begins after the deadline; each applies at most `steps` rules.
    """
    found = Sampled()
    clock = deadline or Deadline()
    failing: list[tuple[Violation, list[Step]]] = []
    searching = True
    shrinks = 0

    class Machine(machine):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            nonlocal shrinks
            shrinks += bool(failing)
            if searching and (clock.passed(SHRINKING if failing else 0.0) or shrinks > SHRINKS):
                raise _TimeIsUp
            # Each example has a history of its own.
            Recorder.active = Recorder() if record else None
            self.subject = subject
            super().__init__()

        def teardown(self) -> None:
            found.operations += self.operations
            found.steps = self.steps
            try:
                super().teardown()
            finally:
                problem = sys.exc_info()[1]
                # What is tried while shrinking is smaller than all that failed before.
                if isinstance(problem, Violation) and (not failing or failing[0][0].invariant is problem.invariant):
                    failing[:] = [(problem, self.steps)]

    with _recorded(record):
        try:
            test = seed(seed_)(Machine)
            run_state_machine_as_test(test, settings=sample_settings(examples, steps))
        except _TimeIsUp:
            if failing:
                found.violation, found.steps = failing[0]
        except Violation as violation:
            found.violation = violation
        except Exception as error:
            found.violation = violation_for(error)
            if found.violation is None:
                raise
        if found.violation is None:
            found.steps = []
        else:
            searching = False
            attempts = 0 if clock.passed(SHRINKING) else 400
            best = shortest(Machine, found.violation, found.steps, attempts)
            found.violation, found.steps, found.run = best.violation, best.steps, best.run
    return found


def run_plans(
    kind: type[Plan], arch: str, variant: str, *, examples: int, seed_: int, deadline: Deadline | None = None
) -> Sampled:
    """Run random concurrent programs on the reference; none begins after the deadline."""
    found = Sampled()
    clock = deadline or Deadline()
    failing: list[tuple[Violation, Plan, Execution]] = []

    @seed(seed_)
    @sample_settings(examples)
    @given(kind.drawn())
    def attempt(plan: Plan) -> None:
        if clock.passed(SHRINKING if failing else 0.0):
            raise _TimeIsUp
        found.plan = plan
        execution = found.execution = run_plan(plan, arch, variant)
        found.operations += plan.operations
        if execution.violation is not None:
            failing[:] = [(execution.violation, plan, execution)]
            raise execution.violation

    try:
        attempt()
        found.plan = found.execution = None
    except _TimeIsUp:
        found.violation, found.plan, found.execution = failing[0] if failing else (None, None, None)
    except Violation as violation:
        found.violation = violation
    return found


def run_plan(plan: Plan, arch: str, variant: str) -> Execution:
    """Run one drawn program under its drawn schedule."""
    program = performance("random program", plan.stage, plan.script, arch, variant)
    return program(Drawn(plan.picks, plan.failures))
