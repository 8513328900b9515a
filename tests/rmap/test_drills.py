"""The drills of reverse mapping: the reference passes them everywhere, and together they evaluate its invariants."""

from __future__ import annotations

from collections import Counter

import pytest
from drilling import rehearse

from mmconformance.scenarios import DRILLS
from mmspec.config import ALLNOCONFIG, ALLYESCONFIG, RMAP
from mmspec.invariant import REGISTRY, Judge

#: What takes an order of steps that only the search through all orders comes to.
EXPLORED = {"AVMA-RCU-009", "AVMA-RCU-010", "HIST-024"}

#: Between them they have each architecture's way to keep dirty bits, to change entries, and to count addresses.
PROFILES = [(a, v) for a in ("x86_64", "s390x", "powerpc64", "i386", "arm64-64k") for v in (ALLYESCONFIG, ALLNOCONFIG)]

judged: Counter[str] = Counter()


@pytest.mark.parametrize(("arch", "variant"), PROFILES)
def test_the_reference_passes_all_drills(arch: str, variant: str) -> None:
    judge = Judge.of(arch, variant)
    drills = [d.name for d in DRILLS.values() if d.system == RMAP and d.applies(arch, variant)]

    assert {name: found for name in drills if (found := rehearse(name, judge, arch, variant))} == {}
    judged.update(judge.real)


def test_every_invariant_was_really_evaluated() -> None:
    """After the drills above; alone it runs them itself."""
    if not judged:
        for profile in PROFILES:
            test_the_reference_passes_all_drills(*profile)

    assert {i.id for i in REGISTRY if i.system == RMAP} - judged.keys() <= EXPLORED
