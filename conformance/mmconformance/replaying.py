"""Runs that were recorded, and how to run them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmspec.errors import UsageError
from mmspec.invariant import Judge, judging
from mmconformance.engines.execution import Execution
from mmconformance.engines.replay import Recording, load, save
from mmconformance.engines.schedules import Drawn, Recorded
from mmconformance.machines.concurrent import Call, Mapped, Plan
from mmconformance.scenarios import drill, program
from mmconformance.scenarios.drills import ClearLast
from mmconformance.scenarios.stage import performance


def replay_directory() -> Path:
    """Where failing runs are kept: `MMSPEC_REPLAYS`, else `.mmspec/replays` in the current directory."""
    return Path(os.environ.get("MMSPEC_REPLAYS", ".mmspec/replays"))


def replay_command(arch: str, variant: str, source: dict[str, Any], execution: Execution) -> str:
    """Keep the run in a file; the command that replays exactly this run."""
    assert execution.violation is not None
    id_ = execution.violation.invariant.id
    path = replay_directory() / f"{id_}-{arch}-{variant}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, Recording(arch=arch, variant=variant, program=source, decisions=execution.decisions, violates=id_))
    except OSError as error:
        return f"(the run could not be kept in {path}: {error.strerror})"
    return f"mmspec replay {path}"


def replay(path: Path) -> Execution:
    """Run a recorded run again.

    :raises UsageError: if the file is no recording, or of another version of the program.
    """
    recording = load(path)
    source = recording.program
    with judging(Judge.of(recording.arch, recording.variant)):
        if "scenario" in source:
            return program(source["scenario"], recording.arch, recording.variant)(Recorded(recording.decisions))
        if "drill" in source:
            return drill(source["drill"], recording.arch, recording.variant)(ClearLast())
        if "plan" in source:
            plan = _plan(source["plan"])
            return performance("random program", plan.script, recording.arch, recording.variant)(
                Drawn(plan.picks, plan.failures)
            )
    raise UsageError(f"{path} does not say which program it records")


def _plan(fields: dict[str, Any]) -> Plan:
    try:
        return Plan(
            **{
                **fields,
                "mappings": [Mapped(**m) for m in fields["mappings"]],
                "threads": [[Call(**c) for c in calls] for calls in fields["threads"]],
            }
        )
    except (TypeError, KeyError):
        raise UsageError("the recording holds a program that this version does not know") from None


