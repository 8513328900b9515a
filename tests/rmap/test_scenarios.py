"""The scenarios of reverse mapping: each is explored to its end, and random schedules find nothing that was left out."""

from __future__ import annotations

import pytest

from mmconformance.engines.exhaustive import explore
from mmconformance.engines.schedules import Random
from mmconformance.scenarios import SCENARIOS
from mmspec.config import ALLYESCONFIG, RMAP
from mmspec.invariant import Judge, judging

NAMES = [name for name, scenario in SCENARIOS.items() if scenario.system == RMAP]


@pytest.mark.parametrize("name", NAMES)
def test_all_outcomes_are_found(name: str) -> None:
    program = SCENARIOS[name].program("x86_64", ALLYESCONFIG)
    with judging(Judge.of("x86_64", ALLYESCONFIG)):
        found = explore(program)
        assert found.complete
        assert not found.violations
        for seed in range(40):
            run = program(Random(seed, failing=0.0))
            assert run.violation is None
            assert run.outcome in found.outcomes, run.decisions
