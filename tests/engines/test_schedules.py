"""Strategies that repeat, draw and guess."""

from __future__ import annotations

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from toy import Body, Generator, toy

from mmconformance.engines.execution import Execution, TaskProgram
from mmconformance.engines.exhaustive import explore
from mmconformance.engines.schedules import Drawn, Random, Recorded
from mmreference.kernel.scheduler import First
from mmspec.errors import UsageError

WORK: Body = [("choice", [("inc", "x")], [("inc", "y")]), ("inc", "x"), ("lock", "L", [("inc", "y")])]


def work() -> TaskProgram:
    return toy("work", WORK, WORK)


def trail(execution: Execution) -> list[object]:
    """All that is to be equal in a repeated run."""
    steps = [(step.task.name, step.label, sorted(step.footprint.items(), key=str)) for step in execution.executed]
    violates = str(execution.violation)
    return [steps, execution.choices, execution.outcome, execution.stuck, execution.stuck_because, violates]


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_recorded_run_is_repeated_exactly(seed: int) -> None:
    program = toy("random", *Generator(seed).bodies())
    once = program(Random(seed, failing=0.5))
    strategy = Recorded(once.decisions)
    again = program(strategy)
    strategy.finished()
    assert trail(again) == trail(once)
    assert again.decisions == once.decisions


def test_a_found_violation_is_repeated_exactly() -> None:
    program = toy("check", [("check", "x", 1, "TOY-A")], [("inc", "x"), ("inc", "x")])
    (found,) = explore(program).violations
    assert trail(program(Recorded(found.decisions))) == trail(found)


def test_decisions_name_tasks_and_hold_choices_in_order() -> None:
    # T1 takes the lock with its third step; T0 gets as far as the lock.
    expected = [1, 0, "T1", "T1", "T1", "T0", "T0", "T1", "T0", "T0"]
    assert work()(Drawn([1, 0, 0, 1], choices=[1])).decisions == expected


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([], r"after 0 decisions it ends where T0 chooses whether unusual"),
        ([0, 0], r"after 2 decisions it ends where one of T0, T1 goes on"),
        ([0, 0, "T7"], r"after 3 decisions it says 'T7' where only T0, T1 can go on"),
        ([0, 0, 1], r"it says 1 where only T0, T1 can go on"),
        (["T0"], r"it says 'T0' where T0 chooses one of 2 \(unusual\)"),
        ([2], r"it says 2 where T0 chooses one of 2"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused(decisions: list[str | int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        work()(Recorded(decisions))


def test_a_recording_that_is_too_long_is_noticed() -> None:
    strategy = Recorded([*work()(First()).decisions, "T0"])
    work()(strategy)
    with pytest.raises(UsageError, match="1 more decisions than the run"):
        strategy.finished()


def test_an_empty_drawing_stays_with_the_running_task_and_fails_nothing() -> None:
    execution = work()(Drawn([]))
    assert execution.switches == 1
    assert execution.failures == 0
    assert trail(execution) == trail(work()(First()))


def test_a_drawing_uses_one_number_where_several_tasks_can_go_on() -> None:
    picks = Drawn([0] * 3 + [1] + [0] * 50, choices=[])
    execution = toy("two", [("inc", "x")] * 5, [("inc", "x")] * 5)(picks)
    names = [step.task.name for step in execution.executed]
    assert names == ["T0"] * 3 + ["T1"] * 5 + ["T0"] * 2


def test_any_number_may_be_drawn() -> None:
    execution = work()(Drawn([17, 9, 250, 3], choices=[9, 8]))
    assert execution.choices[0].value == 1
    assert execution.ended


def test_drawings_shrink_to_few_switches() -> None:
    program = toy("check", [("pause",), ("check", "x", 1, "TOY-A")], [("pause",), ("inc", "x"), ("inc", "x")])
    drawn = find(
        st.lists(st.integers(0, 2), max_size=12),
        lambda picks: program(Drawn(picks)).violation is not None,
        settings=settings(derandomize=True, database=None),
    )
    assert program(Drawn(drawn)).switches == 2 - (drawn[0] != 0)


def test_the_same_seed_gives_the_same_run() -> None:
    program = toy("many", *[[("inc", "x")] * 6] * 3)
    assert trail(program(Random(7))) == trail(program(Random(7)))
    assert len({program(Random(seed)).outcome for seed in range(20)}) > 5
