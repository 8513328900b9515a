"""Failing runs become easier to read."""

from __future__ import annotations

from toy import INVARIANTS, Body, toy

from mmconformance.engines.execution import Execution, Finish, TaskProgram
from mmconformance.engines.minimise import Sketched, minimise
from mmconformance.engines.schedules import Random
from mmreference.kernel.scheduler import First, Scheduler
from mmspec.errors import Violation
from mmspec.trace import Recorder

IDLE: Body = [("inc", "z"), ("pause",), ("inc", "z"), ("pause",), ("inc", "z")]
LOST: list[Body] = [
    [*IDLE, ("copy", "x", "y"), ("check", "y", 0, "TOY-A"), *IDLE],
    [*IDLE, ("inc", "x"), *IDLE],
    [*IDLE, ("choice", [], [("inc", "z")])],
]


def failing(program: TaskProgram, at_least: int) -> Execution:
    """A run, found by chance, that violates with many switches."""
    runs = (program(Random(seed, stay=0.2, failing=0.9)) for seed in range(2_000))
    return next(e for e in runs if e.violation is not None and e.switches >= at_least)


def test_the_fewest_switches_are_found() -> None:
    program = toy("lost", *LOST)
    given = failing(program, 8)
    small = minimise(program, given)
    assert small.violation is not None and given.violation is not None
    assert small.violation.invariant is given.violation.invariant
    assert (small.switches, small.failures) == (0, 0)


def test_a_preemption_that_is_needed_stays() -> None:
    # T0 must stand between its two steps while T1 runs, and T1 must not have run before.
    program = toy("torn", [*IDLE, ("copy", "x", "y"), *IDLE], [*IDLE, ("inc", "x"), *IDLE], never="x=1 y=0 z=12")
    small = minimise(program, failing(program, 6))
    assert small.switches == 1
    twice = toy(
        "twice",
        [("inc", "x"), ("pause",), ("check", "y", 1, "TOY-A")],
        [*IDLE, ("branch", "x", 1, [("inc", "y"), ("pause",), ("inc", "y")], []), *IDLE],
    )
    assert minimise(twice, failing(twice, 4)).switches == 2


def test_failures_that_are_not_needed_go() -> None:
    body: Body = [("pause",), ("choice", [], [("inc", "x")]), ("choice", [], [("inc", "y")])]
    program = toy("failing", [*body, ("check", "x", 1, "TOY-A")], [("pause",), ("choice", [], [("inc", "z")])])
    given = failing(program, 1)
    assert given.failures > 1
    small = minimise(program, given)
    assert (small.failures, small.switches) == (1, 0)


def test_without_time_the_given_run_comes_back() -> None:
    program = toy("lost", *LOST)
    given = failing(program, 8)
    assert minimise(program, given, budget_seconds=0) is given


def test_a_run_that_does_not_fail_comes_back() -> None:
    program = toy("fine", [("inc", "x")])
    given = program(First())
    assert minimise(program, given) is given


def test_a_sketch_that_does_not_fit_is_followed_as_far_as_it_goes() -> None:
    program = toy("locks", [("lock", "L", [("inc", "x")])], [("lock", "L", [("inc", "x")])])
    execution = program(Sketched(["T1", "T0", "T9", "T1"], {}))
    assert [s.task.name for s in execution.executed] == ["T1", "T1", "T0", "T0"]


def test_a_run_that_fails_before_its_first_step_comes_back() -> None:
    def build(scheduler: Scheduler, recorder: Recorder) -> Finish:
        raise Violation(INVARIANTS["TOY-A"], {})

    program = TaskProgram("set-up", build)
    execution = program(First())
    assert execution.violation is not None
    assert minimise(program, execution, budget_seconds=1) is execution
