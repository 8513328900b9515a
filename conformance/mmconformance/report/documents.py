"""The JSON documents, with their schemas."""

from __future__ import annotations

from typing import Any

import msgspec

from mmconformance.bugs import MutantResult
from mmconformance.counting import Claim
from mmconformance.engines.exhaustive import Exploration
from mmconformance.engines.lanes import text_lanes
from mmconformance.verdicts import Report


class FoundViolation(msgspec.Struct):
    """A violation that an exploration has found, with the decisions that lead to it."""

    id: str
    sentence: str
    values: dict[str, str]
    decisions: list[str | int]
    lanes: str


class ExplorationDocument(msgspec.Struct):
    """What `mmspec explore --json` writes."""

    scenario: str
    arch: str
    variant: str
    executions: int
    steps: int
    blocked: int
    complete: bool
    why_incomplete: str
    seconds: float
    deadlocks: int
    outcomes: dict[str, int]
    violations: list[FoundViolation]
    alike: list[list[str]]
    """Threads that can be exchanged: outcomes and violations are found up to exchanging their names."""


class CheckDocument(Report):
    """What `mmspec check --json` writes."""

    summary: dict[str, int] = {}
    """How many results have which verdict."""


SCHEMAS: dict[str, Any] = {
    "check": CheckDocument,
    "explore": ExplorationDocument,
    "bugs": list[MutantResult],
    "count": list[Claim],
}


def exploration_document(found: Exploration, arch: str, variant: str) -> ExplorationDocument:
    """An exploration, to be written."""
    return ExplorationDocument(
        found.scenario, arch, variant, found.executions, found.steps, found.blocked, found.complete,
        found.why_incomplete, found.seconds, found.deadlocks, dict(found.outcomes),
        [
            FoundViolation(
                e.violation.invariant.id, e.violation.invariant.sentence, e.violation.values, list(e.decisions),
                text_lanes(e),
            )
            for e in found.violations
            if e.violation is not None
        ],
        found.alike,
    )  # fmt: skip
