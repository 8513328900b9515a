"""Each mutant is the reference with one mistake, and is found by an invariant that describes it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from mmconformance.bugs import MUTANTS, MutantResult, run_mutants
from mmconformance.bugs.mutant import mutated
from mmspec.invariant import REGISTRY


@pytest.mark.parametrize("id_", list(MUTANTS))
def test_mutant_is_killed_by_an_invariant_that_describes_it(id_: str) -> None:
    results: list[MutantResult] = []
    run_mutants([id_], results.append)
    (result,) = results
    assert result.status == "killed", result.note
    assert result.killed_by in MUTANTS[id_].expects


@pytest.mark.parametrize("id_", list(MUTANTS))
def test_edits_fit_the_reference(id_: str) -> None:
    for module in {e.module for e in MUTANTS[id_].edits}:
        spec = find_spec(f"mmreference.{module}")
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).read_text()
        assert mutated(source, [e for e in MUTANTS[id_].edits if e.module == module]) != source


def test_expectations_exist() -> None:
    assert all(id_ in REGISTRY for mutant in MUTANTS.values() for id_ in mutant.expects)
