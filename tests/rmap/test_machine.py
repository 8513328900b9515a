"""Random runs of reverse mapping: what the oracle knows, that it sees what goes wrong, and that runs can be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import find, settings

from mmconformance.engines.sampled import Sampled, run_machine, run_plan
from mmconformance.machines.memory_shadow import Cell, Memory, ShadowFile, Spot
from mmconformance.machines.rmap_plans import Call, Mapped, Plan, plans
from mmconformance.machines.steps import perform
from mmconformance.machines.virtual_memory import VirtualMemoryMachine
from mmreference.machine import Machine
from mmreference.mm import memory
from mmspec.config import ALLNOCONFIG, ALLYESCONFIG
from mmspec.errors import Signal, Violation
from mmspec.invariant import REGISTRY, Judge, judging
from mmspec.trace import Recorder, recording

# -- what processes must find -------------------------------------------------------------------------------------------


def _memory(*spots: Spot) -> Memory:
    return Memory({1: dict(enumerate(spots))})


def test_private_memory_is_copied_by_fork() -> None:
    world = _memory(Spot(None, 0, False, True))
    assert world.readable(1, 0) == {0}
    world.has_written(1, 0, 5)
    world.forked(1, 2)
    world.has_written(2, 0, 6)
    assert (world.readable(1, 0), world.readable(2, 0)) == ({5}, {6})


def test_a_hugetlb_page_stays_one_cell_when_it_is_inherited() -> None:
    cell = Cell()
    world = _memory(*(Spot(None, 0, False, True, huge=True, cell=cell) for _ in range(2)))
    world.forked(1, 2)
    world.has_written(2, 0, 6)
    assert [world.readable(p, v) for p in (1, 2) for v in (0, 1)] == [{0}, {0}, {6}, {6}]


def test_a_private_mapping_shows_the_file_until_it_is_written() -> None:
    file = ShadowFile(0, 2)
    world = _memory(Spot(file, 1, False, True), Spot(file, 1, True, True))
    world.has_written(1, 1, 4)
    assert world.readable(1, 0) == {4}
    world.has_written(1, 0, 5)
    world.has_written(1, 1, 6)
    assert (world.readable(1, 0), world.readable(1, 1)) == ({5}, {6})
    world.truncated(file, 1)
    assert world.readable(1, 0) == world.writable(1, 1) == {Signal.SIGBUS}
    world.truncated(file, 2)
    assert world.readable(1, 0) == {0}


def test_a_copy_that_was_perhaps_made_is_settled_by_the_next_load() -> None:
    file = ShadowFile(0, 1)
    world = _memory(Spot(file, 0, False, True), Spot(file, 0, True, True))
    world.processes[1][0].copy_perhaps(surely=False)
    world.has_written(1, 1, 3)
    assert world.readable(1, 0) == {0, 3}
    world.has_read(1, 0, 0)
    world.has_written(1, 1, 4)
    assert world.readable(1, 0) == {0}


def test_memory_that_failed_may_be_lost_for_those_who_had_it() -> None:
    world = _memory(Spot(None, 0, False, True), Spot(None, 1, False, True))
    world.has_written(1, 0, 5)
    world.failed(1, 0)
    assert world.readable(1, 0) == {5, Signal.SIGBUS}
    assert world.readable(1, 1) == {0}
    assert world.readable(1, 9) == world.writable(1, 9) == {Signal.SIGSEGV}


# -- the machine --------------------------------------------------------------------------------------------------------

Steps = list[tuple[str, dict[str, Any]]]

MAP = ("mmap", {"who": 0, "length": 2, "kind": "anonymous", "offset": 0, "write": True, "beside": 0, "fail": 0})
STORE = ("write", {"which": 0, "page": 0, "value": 3, "fail": 0})
SHRINK = ("shrink", {"times": 2, "fail": 0})


def _start(*without: str) -> tuple[str, dict[str, Any]]:
    return ("start", {"without": list(without)})


def _perform(steps: Steps, kernel: Callable[[], Any], variant: str = ALLYESCONFIG) -> tuple[Violation | None, VirtualMemoryMachine]:
    class Driven(VirtualMemoryMachine):
        def subject(self) -> Any:
            return kernel()

    with judging(Judge.of("x86_64", variant)), recording(Recorder()):
        machine = Driven()
        return perform(machine, steps), machine


@pytest.mark.parametrize("variant", [ALLYESCONFIG, ALLNOCONFIG])
def test_random_runs_find_nothing_wrong_with_the_reference(variant: str) -> None:
    with judging(Judge.of("x86_64", variant)) as judge:
        found = run_machine(VirtualMemoryMachine, lambda: Machine("x86_64", variant), examples=8, seed_=1, record=True)
    assert found.violation is None
    assert judge is not None and judge.real["RMAP-UNMAP-027"] > 50


class Forgetful(Machine):
    """Loads from a page that was in swap see zeros."""

    async def read(self, pid: int, address: int) -> int:
        swapped = self.page_at(pid, address) is None
        value = await super().read(pid, address)
        return 0 if swapped and value > 0 else value


def test_a_wrong_value_is_found_and_the_run_that_shows_it_is_short() -> None:
    assert _perform([_start(), MAP, STORE, SHRINK], Machine)[0] is None
    with judging(Judge.of("x86_64", ALLYESCONFIG)):
        found: Sampled = run_machine(VirtualMemoryMachine, Forgetful, examples=40, seed_=1, record=True)
    assert found.violation is not None and found.violation.invariant.id == "RMAP-UNMAP-027"
    assert len(found.steps) <= 5
    # The steps can be kept as JSON, and made again.
    steps = [(name, arguments) for name, arguments in json.loads(json.dumps(found.steps))]
    again, _ = _perform(steps, Forgetful)
    assert again is not None and again.invariant is found.violation.invariant


def test_what_is_left_in_the_end_is_found() -> None:
    class Leaking(Machine):
        async def munmap(self, pid: int, address: int, length: int) -> int:
            page = self.page_at(pid, address)
            if page is not None:
                page._count += 1
            return await super().munmap(pid, address, length)

    unmap = ("munmap", {"which": 0, "page": 0, "length": 1, "fail": 0})
    violation, machine = _perform([_start(), MAP, STORE, unmap], Leaking)
    assert violation is not None and violation.invariant.id in ("RMAP-MAPCOUNT-007", "AVMA-REF-008")
    assert machine.log[-1].startswith("the end violates") or "munmap" in machine.log[-1]


def test_a_shortage_must_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = ("write", {**STORE[1], "fail": 1})
    violation, machine = _perform([_start(), MAP, failing], Machine)
    assert violation is None
    assert any("SIGKILL = write" in line and "fails" in line for line in machine.log)
    monkeypatch.setattr(memory, "fault_signal", lambda result: Signal.SIGKILL)
    violation, _ = _perform([_start(), MAP, STORE], Machine)
    assert violation is not None and violation.invariant.id == "RMAP-UNMAP-027"


def test_features_that_a_kernel_lacks_are_not_judged_and_come_back() -> None:
    judge = Judge.of("x86_64", ALLYESCONFIG)
    of_swap = {i.id for i in REGISTRY if "SWAP" in i.features}
    before = judge.inapplicable
    assert of_swap and not of_swap <= before
    with judge.without(["SWAP"]):
        assert of_swap <= judge.inapplicable
        judge.ignore(["RMAP-UNMAP-027"])
    assert judge.inapplicable == before | {"RMAP-UNMAP-027"}
    _, machine = _perform([_start("SWAP", "KSM"), MAP, STORE, SHRINK], Machine)
    assert machine.system.swap is None
    assert machine.log[0] == "boot without KSM, SWAP"


# -- plans --------------------------------------------------------------------------------------------------------------

PLAN = Plan(
    mappings=[Mapped(2, "anonymous", 2)],
    forks=1,
    observed=True,
    prelude=[Call("shrink", 0, 0, 0, 0), Call("shrink", 0, 0, 0, 0)],
    threads=[[Call("read", 0, 0, 0, 0)], [Call("write", 1, 0, 0, 4)]],
    picks=[1, 0, 2],
    failures=[],
)


def test_a_plan_can_be_kept_and_read() -> None:
    drawn = find(plans, lambda plan: plan.operations > 2, settings=settings(database=None, max_examples=50))
    for plan in (PLAN, drawn):
        assert Plan.read(json.loads(json.dumps(attrs.asdict(plan)))) == plan


@pytest.mark.parametrize("variant", [ALLYESCONFIG, ALLNOCONFIG])
def test_a_plan_runs_the_same_each_time(variant: str) -> None:
    with judging(Judge.of("x86_64", variant)):
        first, second = run_plan(PLAN, "x86_64", variant), run_plan(PLAN, "x86_64", variant)
    assert first.violation is None
    assert first.results["T0"] == [1] and first.results["T1"] == [0]
    assert [s.label for s in first.executed] == [s.label for s in second.executed]


def test_a_value_that_nobody_stored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Machine.read

    async def read(self: Machine, pid: int, address: int) -> int:
        return await original(self, pid, address) + 7

    monkeypatch.setattr(Machine, "read", read)
    with judging(Judge.of("x86_64", ALLYESCONFIG)):
        execution = run_plan(PLAN, "x86_64", ALLYESCONFIG)
    assert execution.violation is not None and execution.violation.invariant.id == "RMAP-UNMAP-027"
