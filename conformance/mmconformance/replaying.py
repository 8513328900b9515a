"""Runs that were recorded, and how to run them again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from mmconformance.adapters.loading import Target, load_target
from mmconformance.engines.execution import Execution
from mmconformance.engines.replay import Recording, digest, load, save
from mmconformance.engines.sampled import Plan, run_plan
from mmconformance.engines.schedules import Recorded
from mmconformance.machines.steps import Step, perform
from mmconformance.scenarios import drill, scenario
from mmconformance.suites import SUITES, judge_of, suite_of
from mmspec.config import system_of
from mmspec.errors import UsageError, Violation
from mmspec.invariant import Judge, judging
from mmspec.trace import Recorder
from mmspec.trace import recording as recording_of


def replay_directory() -> Path:
    """Where failing runs are kept: `MMSPEC_REPLAYS`, else `.mmspec/replays` in the current directory."""
    return Path(os.environ.get("MMSPEC_REPLAYS", ".mmspec/replays"))


def replay_command(arch: str, variant: str, source: dict[str, Any], execution: Execution) -> str:
    """Keep the run in a file; the command that replays exactly this run."""
    assert execution.violation is not None
    id_ = execution.violation.invariant.id
    return _keep(Recording(arch=arch, variant=variant, program=source, decisions=execution.decisions, violates=id_))


def keep_steps(arch: str, variant: str, implementation: str, interface: str, steps: list[Step], id_: str) -> str:
    """Keep the steps of a state machine in a file; the command that makes exactly these steps again."""
    program = {"interface": interface, "steps": [[name, arguments] for name, arguments in steps]}
    return _keep(
        Recording(
            arch=arch, variant=variant, program=program, violates=id_, implementation=implementation, kind="steps"
        )
    )


def _keep(recording: Recording) -> str:
    # The same run has the same name, another one that violates the same invariant does not replace it.
    parts = (recording.violates, recording.arch, recording.variant, digest(recording))
    path = replay_directory() / f"{'-'.join(filter(None, parts))}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, recording)
    except OSError as error:
        return f"(the run could not be kept in {path}: {error.strerror})"
    return f"mmspec replay {path}"


@attrs.define
class Replayed:
    """What came of a recorded run."""

    violation: Violation | None
    calls: list[str] = attrs.field(factory=list)
    """Of a state machine: the calls and their results."""
    execution: Execution | None = None
    """Of a program: its one execution."""


def machine_of(target: Target, arch: str, variant: str) -> Callable[[], Any]:
    """What makes the state machine by which implementations of that kind are driven, with the target as its subject.

    :raises UsageError: if there is none.
    """
    driver = suite_of(target, variant).driver
    if driver is None:
        raise UsageError(f"{variant} of {target.name} is not driven by single calls")

    base = driver.machine

    class Machine(base):  # type: ignore[valid-type, misc]
        def subject(self) -> Any:
            return target.make(arch, variant)

    return Machine


def _replay_steps(recording: Recording) -> Replayed:
    """Make the recorded steps again.

    :raises UsageError: if the implementation cannot be loaded, or the steps are not those of its machine.
    """
    target = load_target(None if recording.implementation == "reference" else recording.implementation)
    judge = judge_of(target, recording.arch, recording.variant)
    machine = machine_of(target, recording.arch, recording.variant)
    try:
        steps = [(str(name), dict(arguments)) for name, arguments in recording.program["steps"]]
        violation, made = violation_of(steps, machine, judge)
        first = violation
        # What else the run violates may come before what it was recorded for.
        while violation is not None and violation.invariant.id != recording.violates:
            judge.ignore([violation.invariant.id])
            violation, made = violation_of(steps, machine, judge)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("the recording holds steps that this version does not know") from None
    return Replayed(violation or first, made.log)


def violation_of(steps: list[Step], machine: Callable[[], Any], judge: Judge) -> tuple[Violation | None, Any]:
    """What the judge finds first when a new machine makes the steps; and the machine."""
    with judging(judge), recording_of(Recorder()):
        made = machine()
        return perform(made, steps), made


def replay(path: Path) -> Replayed:
    """Run a recorded run again.

    :raises UsageError: if the file is no recording, or of another version of the program.
    """
    recording = load(path)
    if "steps" in recording.program:
        return _replay_steps(recording)
    with judging(Judge.of(recording.arch, recording.variant)):
        execution = _execute(recording, path)
    return Replayed(execution.violation, execution=execution)


def _execute(recording: Recording, path: Path) -> Execution:
    source = recording.program
    if "scenario" in source:
        return scenario(source["scenario"]).program(recording.arch, recording.variant)(Recorded(recording.decisions))
    if "drill" in source:
        return drill(source["drill"]).rehearse(recording.arch, recording.variant)
    if "plan" in source:
        return run_plan(_plan(source["plan"], recording.variant), recording.arch, recording.variant)
    raise UsageError(f"{path} does not say which program it records")


def _plan(fields: dict[str, Any], variant: str) -> Plan:
    plan = SUITES[system_of(variant)].plan
    try:
        if plan is not None:
            return plan.read(fields)
    except (TypeError, KeyError):
        pass
    raise UsageError("the recording holds a program that this version does not know")
