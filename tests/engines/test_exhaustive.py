"""The reduced search against the plain one, and against counts that are known."""

from __future__ import annotations

import pytest
from toy import Body, Generator, toy, translate

from mmconformance.engines import exhaustive
from mmconformance.engines.execution import TaskProgram
from mmconformance.engines.exhaustive import Exploration, NotDeterministic, Reduced, explore
from mmreference.kernel.scheduler import Pause
from mmspec.errors import UsageError

#: Random programs that are compared; each takes some ten milliseconds.
SEEDS = 250
#: Programs with more plain executions are left out.
MOST = 3_000


def outcomes(exploration: Exploration) -> set[str]:
    assert exploration.complete, exploration.why_incomplete
    return set(exploration.outcomes)


def both(*bodies: Body, failures: int = 0) -> tuple[Exploration, Exploration]:
    program = toy("both", *bodies)
    return explore(program, failures=failures), explore(program, reduction=False, failures=failures)


def differing(seeds: range) -> list[int]:
    """The seeds of programs whose outcomes differ between the two searches."""
    found = []
    for seed in seeds:
        program = toy(f"seed {seed}", *Generator(seed).bodies())
        plain = explore(program, reduction=False, max_executions=MOST, failures=seed % 3)
        if plain.complete and outcomes(explore(program, failures=seed % 3)) != outcomes(plain):
            found.append(seed)
    return found


@pytest.mark.parametrize("first", range(0, SEEDS, 25))
def test_random_programs_have_the_same_outcomes_with_and_without_reduction(first: int) -> None:
    assert differing(range(first, first + 25)) == []


def differing_kin(seeds: range) -> list[int]:
    """The seeds of programs with tasks that are alike whose outcomes, up to names, differ between the two searches."""
    found = []
    for seed in seeds:
        generator = Generator(seed)
        kin = 2 + seed % 2
        bodies = [generator.body(5 - kin)] * kin + [generator.body(2)] * (seed % 4 == 0)
        program = toy(f"seed {seed}", *bodies, alike=kin)
        plain = explore(program, reduction=False, max_executions=MOST, failures=seed % 3)
        if plain.complete and outcomes(explore(program, failures=seed % 3)) != outcomes(plain):
            found.append(seed)
    return found


@pytest.mark.parametrize("first", range(0, SEEDS, 25))
def test_random_programs_have_the_same_outcomes_up_to_the_names_of_tasks_that_are_alike(first: int) -> None:
    assert differing_kin(range(first, first + 25)) == []


def test_programs_of_tasks_that_are_alike_that_once_differed() -> None:
    assert differing_kin(range(1669, 1670)) + differing_kin(range(3979, 3980)) == []


def test_of_tasks_that_are_alike_one_order_is_enough() -> None:
    bodies: list[Body] = [[("pause",), ("lock", "L", [("inc", "x")])]] * 4
    found = explore(toy("alike", *bodies, alike=4))
    assert (found.executions, found.complete, found.alike) == (1, True, [["T0", "T1", "T2", "T3"]])
    assert explore(toy("not alike", *bodies)).executions == 24


# Programs that once were, or might be, explored incompletely; each says in its name what it takes.
TELLING: dict[str, tuple[Body, ...]] = {
    "a woken step reads less than it would have": (
        [("peek", "y", "x")],
        [("lock", "L", [("inc", "y")])],
        [("inc", "x")],
    ),
    "a woken step writes less than it would have": (
        [("nudge", "y", "x")],
        [("pause",), ("inc", "y")],
        [("read", "x")],
    ),
    "a deadlock is reached only if nobody finishes first": (
        [("lock", "M", [("lock", "S", [])])],
        [("lock", "S", [("lock", "M", [])])],
    ),
    "a lock that is never given back": ([("keep", "M"), ("inc", "x")], [("lock", "M", [("inc", "x")])]),
    "readers overlap, a writer fits between": (
        [("shared", "S", [("inc", "x")])],
        [("shared", "S", [("inc", "x")])],
        [("lock", "S", [("poke", "x")])],
    ),
    "the lock is free only after an independent step": (
        [("shared", "S", [("read", "x")]), ("inc", "y")],
        [("shared", "S", [("read", "x")])],
        [("inc", "z"), ("lock", "S", [("write", "y", 5)])],
    ),
    "a section that changes nothing waits for a reader": (
        [("pause",), ("lock", "S", []), ("write", "x", 1)],
        [("shared", "S", [("until", "x", 1)])],
    ),
    "a section that changes nothing waits for a writer": (
        [("pause",), ("lock", "M", []), ("write", "x", 1)],
        [("lock", "M", [("until", "x", 1)])],
    ),
    "a trylock fails within a section": (
        [("lock", "L", [("inc", "x")])],
        [("attempt", "L", [("inc", "x")], [("inc", "y")])],
        [("lock", "L", [("poke", "x")])],
    ),
    "a retry is woken by either of two writers": (
        [("again2", "x", "y")],
        [("inc", "x")],
        [("pause",), ("inc", "y")],
    ),
    "a step waits in a way of its own": ([("until", "x", 2)], [("inc", "x")], [("inc", "x"), ("write", "x", 0)]),
    "a violation hides others": (
        [("check", "x", 0, "TOY-A")],
        [("check", "y", 1, "TOY-B")],
        [("inc", "y"), ("check", "z", 0, "TOY-C")],
    ),
    "a choice before the first step": ([("choice", [("inc", "x")], [("write", "x", 7)])], [("read", "x")]),
}


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize("failures", [0, 2])
def test_telling_programs_have_the_same_outcomes_with_and_without_reduction(name: str, failures: int) -> None:
    reduced, plain = both(*TELLING[name], failures=failures)
    assert outcomes(reduced) == outcomes(plain)
    assert reduced.executions <= plain.executions


@pytest.mark.parametrize(
    ("bodies", "reduced", "plain"),
    [
        ([[("inc", "x"), ("inc", "x")], [("inc", "y"), ("inc", "y")], [("inc", "z")]], 1, 30),
        ([[("read", "x"), ("read", "y")], [("read", "y"), ("read", "x")]], 1, 6),
        ([[("write", "x", 1)], [("write", "x", 2)]], 2, 2),
        ([[("write", "x", 1)], [("write", "x", 2)], [("write", "x", 3)]], 6, 6),
        ([[("write", "x", 1), ("write", "x", 1)], [("write", "x", 2), ("write", "x", 2)]], 6, 6),
        # One writer among n readers: each reader before it or after it, 2 to the power of n.
        ([[("write", "x", 1)], [("read", "x")], [("read", "x")], [("read", "x")]], 8, 24),
        # Sections that change nothing may change places, also with short ones for read.
        ([[("lock", "M", [])], [("lock", "M", [])], [("lock", "M", [])]], 1, 6),
        ([[("lock", "R", [])], [("lock", "R", [])], [("shared", "R", [])]], 1, 6),
        # Sections of a lock exclude each other, so only their order counts.
        ([[("lock", "L", [("inc", "x")])], [("lock", "L", [("inc", "x")])], [("lock", "L", [("inc", "x")])]], 6, 6),
        ([[("inc", "z"), ("lock", "L", [("inc", "x")])], [("inc", "y"), ("lock", "L", [("inc", "x")])]], 2, 8),
    ],
)
def test_the_number_of_executions_is_the_number_of_inequivalent_ones(
    bodies: list[Body], reduced: int, plain: int
) -> None:
    found = both(*bodies)
    assert (found[0].executions, found[1].executions) == (reduced, plain)
    assert found[0].complete and found[1].complete


def test_independent_tasks_need_one_execution_without_any_cut_off() -> None:
    found = explore(toy("independent", *[[("inc", field)] * 6 for field in "xyz"]))
    assert (found.executions, found.blocked) == (1, 0)


def test_waiting_for_a_lock_after_an_independent_step_cuts_off_nothing() -> None:
    body: Body = [("inc", "y"), ("lock", "M", [("inc", "x"), ("inc", "x")])]
    other: Body = [("inc", "z"), ("lock", "M", [("inc", "x"), ("inc", "x")])]
    found = explore(toy("locks", body, other))
    assert (found.executions, found.blocked) == (2, 0)


def test_a_deadlock_is_found_and_counted() -> None:
    found = explore(toy("abba", *TELLING["a deadlock is reached only if nobody finishes first"]))
    assert found.deadlocks == 1
    assert any("deadlock ['T0', 'T1']" in outcome for outcome in found.outcomes)


def test_an_endless_retry_is_found_and_counted() -> None:
    found = explore(toy("retry", [("again", "x", 2)], [("inc", "x")]))
    assert found.complete
    assert found.endless_retries == found.executions > 0


def test_a_retry_ends_when_others_have_written() -> None:
    found = explore(toy("retry", [("again", "x", 2)], [("inc", "x")], [("inc", "x")]))
    assert found.complete
    assert found.endless_retries == 0


# T0 must be interrupted between its steps twice, at the right places.
RARE: tuple[Body, Body] = (
    [("inc", "y"), ("inc", "x"), ("inc", "z"), ("branch", "z", 2, [("write", "y", 9)], [])],
    [("branch", "x", 1, [("inc", "z")], []), ("inc", "y"), ("branch", "y", 9, [("check", "x", 1, "TOY-A")], [])],
)


def test_a_bug_that_takes_two_preemptions_is_found() -> None:
    program = toy("rare", *RARE)
    assert not explore(program, reduction=False, preemptions=0).violations
    assert not explore(program, reduction=False, preemptions=1).violations
    assert explore(program, reduction=False, preemptions=2).violation_of("TOY-A")
    found = explore(program)
    assert found.violation_of("TOY-A")
    assert found.complete


def test_failures_bounds_unusual_choices() -> None:
    body: Body = [("choice", [], [("inc", "x")]), ("pause",), ("choice", [], [("inc", "x")])]
    finals = [{o.split()[0] for o in outcomes(both(body, [("pause",)], failures=n)[0])} for n in (0, 1, 2)]
    assert finals == [{"x=0"}, {"x=0", "x=1"}, {"x=0", "x=1", "x=2"}]


def test_a_violation_at_the_end_of_a_run_is_found() -> None:
    found = explore(toy("end", [("copy", "x", "y")], [("inc", "x")], never="x=1 y=1 z=0"))
    assert [e.violation and e.violation.invariant.id for e in found.violations] == ["TOY-END"]
    assert found.violations[0].ended


def test_violations_are_kept_once_per_invariant_with_the_easiest_run() -> None:
    found = explore(toy("many", *TELLING["a violation hides others"]))
    ids = [e.violation.invariant.id for e in found.violations if e.violation]
    assert sorted(ids) == ["TOY-A", "TOY-B", "TOY-C"]
    assert found.violations[ids.index("TOY-A")].switches == 0


def test_stopping_at_the_first_violation_is_not_complete() -> None:
    found = explore(toy("rare", *RARE), stop_at_first=True)
    assert len(found.violations) == 1
    assert (found.complete, found.why_incomplete) == (False, "stopped at the first violation")


def test_a_budget_of_runs_is_kept_and_told() -> None:
    program = toy("large", *[[("inc", "x")] * 4] * 3)
    found = explore(program, max_executions=10)
    assert found.executions + found.blocked == 10
    assert (found.complete, found.why_incomplete) == (False, "the budget of 10 runs is used up")
    assert explore(toy("small", [("inc", "x")]), max_executions=1).complete


def test_a_budget_of_time_is_kept_and_told() -> None:
    found = explore(toy("large", *[[("inc", "x")] * 9] * 3), budget_seconds=0.05)
    assert not found.complete
    assert "0.05 seconds" in found.why_incomplete
    assert found.seconds < 5


def test_an_interrupt_gives_what_is_known() -> None:
    calls = 0

    class Impatient(TaskProgram):
        def __call__(self, strategy):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            return super().__call__(strategy)

    program = toy("large", *[[("inc", "x")] * 3] * 3)
    found = explore(Impatient("impatient", program.build))
    assert (found.executions, found.complete, found.why_incomplete) == (3, False, "interrupted")


def test_runs_beyond_the_limit_of_steps_prove_nothing() -> None:
    found = explore(toy("long", [("inc", "x")] * 9, limit=5))
    assert (found.limited, found.complete) == (1, False)
    assert "limit of steps" in found.why_incomplete


def test_a_bound_on_preemptions_proves_nothing() -> None:
    program = toy("small", [("inc", "x")], [("inc", "x")])
    assert not explore(program, reduction=False, preemptions=1).complete
    with pytest.raises(UsageError, match="plain search"):
        explore(program, preemptions=1)


def test_the_same_search_twice_is_the_same() -> None:
    program = toy("twice", *Generator(3).bodies())
    one, other = explore(program, failures=1), explore(program, failures=1)
    assert list(one.outcomes.items()) == list(other.outcomes.items())
    assert (one.steps, one.blocked) == (other.steps, other.blocked)


def test_a_program_that_does_not_repeat_itself_is_refused() -> None:
    runs = 0

    def build(scheduler, recorder):  # type: ignore[no-untyped-def]
        nonlocal runs
        runs += 1

        async def body(steps: int) -> None:
            for _ in range(steps):
                await Pause("pause")

        scheduler.spawn("T0", body(3 if runs == 1 else 1))
        scheduler.spawn("T1", body(3))
        return lambda run: ""

    with pytest.raises(NotDeterministic):
        explore(TaskProgram("changing", build), reduction=False)


def test_a_failure_of_the_harness_propagates_with_the_decisions() -> None:
    def build(scheduler, recorder):  # type: ignore[no-untyped-def]
        async def body() -> None:
            await Pause("pause")
            raise ZeroDivisionError

        scheduler.spawn("T0", body())
        return lambda run: ""

    with pytest.raises(ZeroDivisionError) as raised:
        explore(TaskProgram("crashing", build, translate=translate))
    assert raised.value.__notes__ == ["crashing, decisions: ['T0']"]


# -- the tests themselves: with each of these mistakes the comparison must fail --------------------------------------


def _telling_fail() -> bool:
    for bodies in TELLING.values():
        program = toy("telling", *bodies)
        if set(explore(program).outcomes) != set(explore(program, reduction=False).outcomes):
            return True
    return False


def test_the_comparison_notices_that_elders_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reduced, "_has_to_wait_for_elders", lambda self, task: task.alike != "" and task.index > 0)
    with pytest.raises(AssertionError):
        assert differing_kin(range(12)) == []


def test_the_comparison_notices_missing_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reduced, "_latest", lambda self, rivals: [])
    assert _telling_fail()


def test_the_comparison_notices_sleepers_that_are_never_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "_conflict", lambda one, other: False)
    assert _telling_fail()


def test_the_comparison_notices_that_waiting_steps_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reduced, "_waiting", lambda self, mask: None)
    assert _telling_fail()


def test_the_comparison_notices_that_woken_steps_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    inherit = Reduced._inherit

    def forgetful(node, parent):  # type: ignore[no-untyped-def]
        inherit(node, parent)
        node.known.clear()

    monkeypatch.setattr(Reduced, "_inherit", staticmethod(forgetful))
    assert _telling_fail()


def test_the_comparison_notices_that_lock_races_end_at_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reduced, "_races_of_waiting", lambda self, *_: [])
    assert _telling_fail()
