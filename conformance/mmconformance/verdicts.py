"""Verdicts: what a check run says of each invariant on each profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from mmspec.invariant import Judge

#: Exit status after Ctrl-C, as shells give it.
INTERRUPTED: Final = 130


class Verdict(StrEnum):
    """What is known of an invariant after a run."""

    PASS = "pass"
    FAIL = "fail"
    NOT_EXERCISED = "not exercised"
    NOT_APPLICABLE = "not applicable"
    NOT_OBSERVABLE = "not observable"


class Failure(msgspec.Struct, omit_defaults=True):
    """How an invariant was broken, by the shortest run that was found."""

    id: str
    sentence: str
    values: dict[str, str] = {}
    note: str = ""
    ledger: str = ""
    run: list[str] = []
    lanes: str = ""
    replay_command: str = ""
    consequences: list[str] = []


class Result(msgspec.Struct, omit_defaults=True):
    """The verdict on one invariant in one profile; `evaluations` leaves vacuous ones out."""

    id: str
    profile: str
    verdict: Verdict
    evaluations: int
    trace: Failure | None = None


class Report(msgspec.Struct):
    """What `mmspec check` has found."""

    implementation: str
    interface: str
    version: str
    seed: int
    engine: str
    results: list[Result]
    environment: dict[str, str]
    notes: list[str] = []
    interrupted: bool = False
    """Whether it was stopped before its end; what is said is what was known by then."""

    @property
    def summary(self) -> dict[str, int]:
        """How many results have which verdict."""
        counts = Counter(str(r.verdict) for r in self.results)
        return {str(v): counts[str(v)] for v in Verdict}

    @property
    def failures(self) -> list[Result]:
        """The results that say "fail"."""
        return [r for r in self.results if r.verdict is Verdict.FAIL]

    @property
    def exit_status(self) -> int:
        """0 if nothing failed, 1 if something did, 130 if it was interrupted."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.failures else 0

    def document(self) -> dict[str, Any]:
        """The report as it is written to JSON."""
        body = msgspec.to_builtins(self)
        return {**body, "summary": self.summary}


def judge_results(judge: Judge, profile: str, in_scope: Iterable[str], failures: dict[str, Failure]) -> list[Result]:
    """The verdict on each invariant `in_scope`; a pass needs at least one evaluation that was not vacuous."""
    results = []
    for id_ in in_scope:
        real = judge.real[id_]
        if id_ in failures:
            verdict = Verdict.FAIL
        elif id_ in judge.inapplicable:
            verdict = Verdict.NOT_APPLICABLE
        elif real:
            verdict = Verdict.PASS
        elif judge.unobservable[id_]:
            verdict = Verdict.NOT_OBSERVABLE
        else:
            verdict = Verdict.NOT_EXERCISED
        results.append(Result(id_, profile, verdict, real, failures.get(id_)))
    return results
