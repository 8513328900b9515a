"""What `mmspec check` says: of the reference and of the examples."""

from __future__ import annotations

import json
from pathlib import Path

from commandline import mmspec

import mmspec.invariants as invariants  # noqa: F401 - fills the registry
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


def test_right_example_passes(tmp_path: Path) -> None:
    (tmp_path / "bitmap_map.py").write_text((EXAMPLES / "bitmap_map.py").read_text())
    done = mmspec("check", "bitmap_map:CellMap", "--arch", "x86_64", cwd=tmp_path)
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
