"""What the suite must not object to: states that look wrong, and are not."""

from __future__ import annotations

from mmconformance.engines.exhaustive import explore
from mmconformance.scenarios import scenario
from mmspec.invariant import Judge, judging


def test_a_mapping_may_be_restored_at_an_address_that_its_area_has_lost() -> None:
    judge = Judge.of("x86_64", "allyesconfig")
    with judging(judge):
        found = explore(scenario("split_against_migration").program("x86_64", "allyesconfig"))
    assert found.complete
    assert not found.violations
    # It does happen: an assertion that the address lies in the area would have stopped a right kernel.
    assert judge.real["RMAP-ADD-006"]
    assert judge.real["HIST-024"]
