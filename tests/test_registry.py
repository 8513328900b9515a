"""What each declared invariant must have, so that reports and pages can rely on it."""

from __future__ import annotations

import pytest

import mmspec.invariants  # noqa: F401 - fills the registry
from mmspec.arch import ARCHITECTURES
from mmspec.config import SYSTEMS
from mmspec.interfaces import INTERFACES
from mmspec.invariant import REGISTRY, Invariant

each = pytest.mark.parametrize("invariant", REGISTRY, ids=lambda i: i.id)


@each
def test_the_sentence_is_normative_and_sourced(invariant: Invariant) -> None:
    assert "MUST" in invariant.sentence
    assert invariant.sources


@each
def test_what_it_names_exists(invariant: Invariant) -> None:
    assert set(invariant.variants) <= set(SYSTEMS[invariant.system])
    assert set(invariant.architectures or ()) <= set(ARCHITECTURES)
    assert set(invariant.interfaces) <= set(INTERFACES)


@each
def test_reasons_are_ids_and_never_lead_back(invariant: Invariant) -> None:
    reasons, seen = list(invariant.implied_by), set()
    while reasons:
        reason = reasons.pop()
        assert reason != invariant.id
        if reason not in seen:
            seen.add(reason)
            reasons += REGISTRY[reason].implied_by
