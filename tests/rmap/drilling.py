"""Drills as tests need them: run once, judged by all invariants or by few."""

from __future__ import annotations

from collections.abc import Iterable

from mmconformance.scenarios import drill
from mmspec.config import ALLYESCONFIG
from mmspec.errors import Violation
from mmspec.invariant import REGISTRY, Judge, judging


def rehearse(name: str, judge: Judge, arch: str = "x86_64", variant: str = ALLYESCONFIG) -> Violation | None:
    """What the drill finds in that profile, or None."""
    with judging(judge):
        return drill(name).rehearse(arch, variant).violation


def refused(name: str, ids: Iterable[str], arch: str = "x86_64") -> str:
    """The id among those that the drill finds broken; "" if none is. The others are not judged."""
    judge = Judge.of(arch, ALLYESCONFIG)
    judge.ignore({i.id for i in REGISTRY} - set(ids))
    violation = rehearse(name, judge, arch)
    return "" if violation is None else violation.invariant.id
