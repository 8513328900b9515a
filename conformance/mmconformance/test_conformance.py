"""The suite as pytest sees it; :mod:`mmconformance.pytest_plugin` makes the parameters."""

from __future__ import annotations

import pytest

from mmconformance.verdicts import Result, Verdict


def test_invariant(mm_result: Result) -> None:
    """The verdict on one invariant in one profile."""
    if mm_result.verdict is Verdict.FAIL and mm_result.trace is not None:
        trace = mm_result.trace
        run = trace.lanes or "\n".join(trace.run)
        pytest.fail(f"{trace.id}: {trace.sentence}\n{trace.values}\n{trace.ledger}\n{run}\n{trace.replay_command}", False)
    if mm_result.verdict is not Verdict.PASS:
        pytest.skip(str(mm_result.verdict))
    assert mm_result.evaluations > 0
