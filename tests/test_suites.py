"""Several systems side by side: each is judged by what it brings along itself, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmconformance import hazards
from mmconformance.adapters.loading import Target, load_target
from mmconformance.bugs import MUTANTS, Edit, Mutant
from mmconformance.engines.replay import Recording, save
from mmconformance.replaying import replay
from mmconformance.scenarios import DRILLS, SCENARIOS, Scenario, drill, scenario
from mmconformance.scenarios.staging import Stage, conditions, performance
from mmconformance.suites import SUITES, in_scope, judge_of, suite_of, systems, variants_of
from mmreference.kernel.bug import KernelBug, bug_on
from mmreference.kernel.lockdep import LockOrderViolation
from mmreference.kernel.locks import LockMisuse, SleepInAtomic
from mmreference.kernel.memory import UseAfterFree
from mmreference.kernel.scheduler import First, Pause
from mmspec.config import ALLNOCONFIG, ALLYESCONFIG, HUGETLB, INSTANTIATION_MUTEX, RMAP, SYSTEMS, TENTATIVE
from mmspec.errors import UsageError
from mmspec.invariant import REGISTRY, Judge, Over, judging
from mmspec.trace import Run

# -- suites ----------------------------------------------------------------------------------------------------------


def test_every_system_has_a_suite_and_a_usual_variant() -> None:
    assert list(SUITES) == list(SYSTEMS)
    assert all(suite.usual in SYSTEMS[system] for system, suite in SUITES.items())


def test_each_scenario_and_drill_is_in_the_suite_of_its_system() -> None:
    assert [s for suite in SUITES.values() for s in suite.scenarios] == list(SCENARIOS.values())
    assert [d for suite in SUITES.values() for d in suite.drills] == list(DRILLS.values())
    for system, suite in SUITES.items():
        for one in (*suite.scenarios, *suite.drills):
            assert one.system == system
            assert set(one.variants) <= set(SYSTEMS[system])


@pytest.fixture
def reference() -> Target:
    return load_target(None)


def test_the_reference_is_judged_by_the_invariants_of_the_system_alone(reference: Target) -> None:
    for system, variants in SYSTEMS.items():
        for variant in variants:
            assert suite_of(reference, variant) is SUITES[system]
            assert in_scope(reference, variant) == [i for i in REGISTRY if i.system == system]
            judge = judge_of(reference, "x86_64", variant)
            assert judge.system == system
            assert {i.id for i in REGISTRY if i.system != system} <= judge.inapplicable


def test_an_interface_has_a_machine_and_no_variants() -> None:
    target = load_target(None, "ReservationMap")
    assert variants_of(target) == [""]
    assert [i.id for i in in_scope(target, "")] == [i.id for i in REGISTRY if "ReservationMap" in i.interfaces]
    suite = suite_of(target, "")
    assert suite.driver is not None
    assert not suite.scenarios
    assert suite.system == HUGETLB


def test_variants_of_systems_without_invariants_are_not_there(reference: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmconformance.suites.REGISTRY", [i for i in REGISTRY if i.system == HUGETLB])
    assert list(systems()) == [HUGETLB]
    assert variants_of(reference) == [INSTANTIATION_MUTEX, TENTATIVE]
    monkeypatch.setattr("mmconformance.suites.REGISTRY", [SimpleNamespace(system=s) for s in SYSTEMS])
    assert variants_of(reference) == [v for variants in SYSTEMS.values() for v in variants]
    assert variants_of(reference, system=RMAP) == [ALLYESCONFIG, ALLNOCONFIG]
    assert variants_of(reference, ALLNOCONFIG) == [ALLNOCONFIG]


@pytest.mark.parametrize(
    ("variant", "system", "says"),
    [
        ("lockless", "all", "no variant is called 'lockless'"),
        ("all", "vfs", "no system is called 'vfs'"),
        (ALLYESCONFIG, HUGETLB, "no variant of hugetlb is called 'allyesconfig'"),
    ],
)
def test_selections_that_name_nothing_are_refused_in_one_line(
    reference: Target, variant: str, system: str, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        variants_of(reference, variant, system)
    assert says in str(caught.value)
    assert HUGETLB in str(caught.value) or TENTATIVE in str(caught.value)


def test_what_is_of_one_system_cannot_be_judged_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmconformance.suites.REGISTRY", [SimpleNamespace(system=s) for s in SYSTEMS])
    target = load_target(None, "ReservationMap")
    assert variants_of(target, system=HUGETLB) == [""]
    with pytest.raises(UsageError, match="'hugetlb'"):
        variants_of(target, system=RMAP)


# -- scenarios -------------------------------------------------------------------------------------------------------


class Counter(Stage):
    """A world that is one number; whoever races adds to it."""

    def __init__(self, *profile: Any) -> None:
        super().__init__(*profile)
        self.number = 0
        self.cleared = 0

    @property
    def system(self) -> Any:
        return self.number

    def outcome(self, run: Run) -> str:
        return f"number={self.number}"

    def clear(self) -> None:
        self.cleared += 1
        self.number = 0

    def baseline(self) -> int:
        return self.number

    async def add(self) -> int:
        await Pause("add")
        self.number += 1
        return self.number


@conditions(features=("KSM",), failures=1)
def two_adders(stage: Counter) -> None:
    """Two add."""
    seen.append(stage)
    stage.facts["serial_outcomes"] = ("one", "two")
    for name in ("a", "b"):
        stage.race_body(name, stage.add, alike="adder")


seen: list[Counter] = []


def test_a_stage_says_what_is_seen_and_what_is_left() -> None:
    seen.clear()
    program = performance("two adders", Counter, two_adders, "x86_64", TENTATIVE)
    assert program(First()).outcome == "a=1 b=2 number=2"
    with judging(Judge(frozenset(i.id for i in REGISTRY))):
        assert program(First()).outcome == "a=1 b=2 number=2"
        assert program(First()).outcome == "a=1 b=2 number=2"
    # From a state that everybody has left before, nobody has to leave again.
    assert [stage.cleared for stage in seen] == [1, 1, 0]


def adders(**changes: Any) -> Scenario:
    stated: dict[str, Any] = {"variants": SYSTEMS[RMAP], **two_adders.conditions, **changes}  # type: ignore[attr-defined]
    return Scenario("two_adders", "Two add.", RMAP, Counter, two_adders, **stated)


@pytest.mark.parametrize(
    ("arch", "variant", "there"), [("x86_64", ALLYESCONFIG, True), ("x86_64", ALLNOCONFIG, False), ("x86_64", TENTATIVE, False)]
)
def test_a_scenario_runs_where_its_conditions_are_met(arch: str, variant: str, there: bool) -> None:
    assert adders().failures == 1
    assert adders().applies(arch, variant) is there
    if there:
        assert adders().rehearse(arch, variant).results == {"a": 1, "b": 2}
    else:
        with pytest.raises(UsageError, match="allyesconfig, allnoconfig, with KSM"):
            adders().program(arch, variant)


@pytest.mark.parametrize("find", [scenario, drill])
def test_unknown_names_are_refused(find: Callable[[str], Scenario]) -> None:
    with pytest.raises(UsageError, match="no_such_thing"):
        find("no_such_thing")


@pytest.mark.parametrize(
    ("program", "variant", "says"),
    [
        ({"scenario": "two_reserves"}, ALLYESCONFIG, "does not run on x86_64/allyesconfig"),
        ({"drill": "no_such_drill"}, TENTATIVE, "no_such_drill"),
        ({"plan": {}}, TENTATIVE, "does not know"),
        ({"plan": {}}, "lockless", "lockless"),
    ],
)
def test_recordings_of_what_there_is_not_are_refused(tmp_path: Path, program: dict[str, Any], variant: str, says: str) -> None:
    save(tmp_path / "r.json", Recording(arch="x86_64", variant=variant, program=program))
    with pytest.raises(UsageError, match=says):
        replay(tmp_path / "r.json")


# -- mutants ---------------------------------------------------------------------------------------------------------


def test_mutants_belong_to_the_system_that_they_edit() -> None:
    assert all(set(m.variants) <= set(SYSTEMS[m.system]) for m in MUTANTS.values())
    edit = Edit("mm.rmap.mapcount", "a", "b")
    assert Mutant("R-01", "name", "story", "citation", (edit,), ()).variants == SYSTEMS[RMAP]


# -- hazards ---------------------------------------------------------------------------------------------------------


def freed(over: Over) -> UseAfterFree:
    return UseAfterFree(type("Object", (), {"over": over})(), "field", "somebody")


@pytest.mark.parametrize(
    ("hazard", "of_hugetlb", "of_rmap"),
    [
        (freed(Over.PAGE), "HTLB-POOL-004", "RMAP-MAPCOUNT-007"),
        (freed(Over.VMA), "HTLB-VMA-006", "AVMA-UNLINK-004"),
        (freed(Over.FILE), "HTLB-TRN-010", "RMAP-ANON-016"),
        (freed(Over.ANON_VMA), "HTLB-POOL-004", "AVMA-ROOT-008"),
        (freed(Over.MM), "HTLB-POOL-004", "RMAP-MAPCOUNT-007"),
        (LockOrderViolation(["a", "a"], {("a", "a"): "task"}), "HTLB-LCK-001", "LOCK-ORD-019"),
        (SleepInAtomic("kmalloc under hugetlb_lock"), "HTLB-ALC-015", "LOCK-ORD-024"),
        (SleepInAtomic("mutex under hugetlb_lock"), "HTLB-LCK-002", "LOCK-ORD-024"),
        (SleepInAtomic("mutex under page_table_lock"), "HTLB-LCK-003", "LOCK-ORD-024"),
        (LockMisuse("not held"), "HTLB-FLT-022", "LOCK-ORD-025"),
        (KernelBug("impossible"), "HTLB-ERR-007", "RMAP-MAPCOUNT-006"),
        (KernelBug("impossible", "OF-ITS-001"), "OF-ITS-001", "OF-ITS-001"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_hazards_break_an_invariant_of_the_judged_system(
    hazard: Exception, of_hugetlb: str, of_rmap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [of_hugetlb, of_rmap]
    monkeypatch.setattr(hazards, "REGISTRY", {n: SimpleNamespace(id=n, sentence="It MUST.") for n in names})
    for system, expected in ((HUGETLB, of_hugetlb), (RMAP, of_rmap)):
        with judging(Judge(system=system)) as judge:
            found = hazards.violation_for(hazard)
        assert found is not None
        assert found.invariant.id == expected
        assert judge is not None
        assert judge.real[expected] == 1


def test_other_exceptions_are_no_hazards() -> None:
    assert hazards.violation_for(ValueError("a fault of this suite")) is None


def test_assertions_name_their_invariant() -> None:
    bug_on(False, "fine", id="HTLB-RSV-001")
    with pytest.raises(KernelBug, match="^not fine$") as caught:
        bug_on(True, "not fine", id="HTLB-RSV-001")
    assert caught.value.id == "HTLB-RSV-001"


def test_hazards_of_systems_with_invariants_have_them() -> None:
    for system in systems():
        by = hazards.FORBIDDEN[system]
        named = {*by.freed.values(), by.freed_other, *by.sleep.values(), by.order, by.misuse, by.bug}
        assert {id_ for id_ in named if id_ not in REGISTRY} == set()
