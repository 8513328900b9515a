"""What the suite says of right and of wrong implementations of `VirtualMemory` that know nothing of the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmconformance.adapters.loading import load_target
from mmconformance.check import check
from mmconformance.machines.base_pages import JUDGED
from mmconformance.replaying import replay
from mmconformance.verdicts import Report, Verdict
from mmspec.invariant import REGISTRY

VIRTUAL_MEMORIES = "mmconformance.miniatures.virtual_memory:"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSPEC_REPLAYS", str(tmp_path / "replays"))


def checked(name: str) -> Report:
    return check(load_target(name, "VirtualMemory"), archs=["x86_64"], variants=[""])


def test_the_invariants_that_name_the_interface_are_those_that_are_judged() -> None:
    assert {i.id for i in REGISTRY if "VirtualMemory" in i.interfaces} == set(JUDGED)


@pytest.mark.parametrize("name", ["mmreference.virtual_memory:ReferenceVirtualMemory", VIRTUAL_MEMORIES + "Right"])
def test_a_right_one_passes(name: str) -> None:
    assert {(r.id, r.verdict) for r in checked(name).results} == {(id_, Verdict.PASS) for id_ in JUDGED}


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("SwapLosesContent", "RMAP-UNMAP-027"),
        ("ForkShares", "RMAP-UNMAP-027"),
        ("ForkForgetsSwapped", "RMAP-UNMAP-027"),
        ("WritesThrough", "RMAP-UNMAP-027"),
        ("MoveLosesPages", "RMAP-UNMAP-027"),
        ("KeepsUnneeded", "RMAP-UNMAP-027"),
        ("NoEndOfFile", "RMAP-UNMAP-027"),
        ("IgnoresProtection", "RMAP-UNMAP-027"),
        ("ReclaimsLocked", "MLOCK-003"),
        ("CountsSwapped", "RSS-001"),
        ("PeakIsNow", "RSS-HIWATER-002"),
    ],
)
def test_a_wrong_one_fails_by_what_describes_the_mistake(name: str, id_: str) -> None:
    failed = {r.id: r.trace for r in checked(VIRTUAL_MEMORIES + name).results if r.trace is not None}
    assert id_ in failed
    again = replay(Path(failed[id_].replay_command.split()[-1]))
    assert again.violation is not None
    assert again.violation.invariant.id == id_
