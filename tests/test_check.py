"""What `mmspec check` says: of the reference, and of right and wrong miniature implementations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import MAPS, mmspec

from mmspec.invariant import REGISTRY

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_reference_passes_and_exercises_what_applies(tmp_path: Path) -> None:
    done = mmspec("check", "--arch", "i386", "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["summary"]["fail"] == 0
    exercised = {r["id"] for r in report["results"] if r["verdict"] == "pass" and r["evaluations"] > 0}
    assert len(exercised) >= 0.95 * len(REGISTRY), sorted({i.id for i in REGISTRY} - exercised)
    assert not [r for r in report["results"] if r["verdict"] == "pass" and r["evaluations"] == 0]


def test_same_seed_same_report(tmp_path: Path) -> None:
    reports = []
    for name in ("one", "two"):
        mmspec("check", "--arch", "s390x", "--variant", "tentative", "--engine", "sampled", "--seed", "7", "--json", name,
               cwd=tmp_path)  # fmt: skip
        reports.append(json.loads((tmp_path / name).read_text())["results"])
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("Uncoalesced", "HTLB-REG-003"),
        ("CountsTouching", "HTLB-REG-004"),
        ("ChargesTwice", "HTLB-REG-009"),
        ("TruncateOffByOne", "HTLB-REG-017"),
        ("AddForgets", "HTLB-REG-014"),
        ("CountingChanges", "HTLB-REG-005"),
    ],
)
def test_wrong_map_fails_by_the_right_invariant(tmp_path: Path, name: str, id_: str) -> None:
    done = mmspec("check", MAPS + name, "--arch", "x86_64", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {r["id"]: r["trace"] for r in json.loads((tmp_path / "r.json").read_text())["results"] if "trace" in r}
    assert id_ in failed
    assert len(failed[id_]["run"]) <= 4
    replayed = mmspec(*failed[id_]["replay_command"].split()[1:], cwd=tmp_path)
    assert replayed.returncode == 1
    assert id_ in replayed.stdout


@pytest.mark.parametrize("name", ["bitmap_map:CellMap", MAPS + "Right"])
def test_right_map_passes(tmp_path: Path, name: str) -> None:
    (tmp_path / "bitmap_map.py").write_text((EXAMPLES / "bitmap_map.py").read_text())
    done = mmspec("check", name, "--arch", "x86_64", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_subtly_wrong_example_fails(tmp_path: Path) -> None:
    (tmp_path / "narrow_map.py").write_text((EXAMPLES / "narrow_map.py").read_text())
    done = mmspec("check", "narrow_map:NarrowMap", "--arch", "x86_64", cwd=tmp_path)
    assert done.returncode == 1
    assert "HTLB-REG-008" in done.stdout


def test_contracts_off_cannot_check(tmp_path: Path) -> None:
    done = mmspec("check", cwd=tmp_path, MMSPEC_CONTRACTS="off")
    assert done.returncode == 2
    assert "MMSPEC_CONTRACTS" in done.stderr
