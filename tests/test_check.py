"""What `mmspec check` says: of the reference, of right and wrong miniature implementations, of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmspec.invariant import REGISTRY

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"


def mmspec(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "mmconformance.cli", *arguments],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "MMSPEC_CALL_LIMIT": "1", **(env or {})}, timeout=300,
    )  # fmt: skip


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text((HERE / "implementations" / "broken.py").read_text())
    return tmp_path


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
def test_wrong_map_fails_by_the_right_invariant(broken: Path, name: str, id_: str) -> None:
    done = mmspec("check", f"broken:{name}", "--arch", "x86_64", "--json", "r.json", cwd=broken)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {r["id"]: r["trace"] for r in json.loads((broken / "r.json").read_text())["results"] if "trace" in r}
    assert id_ in failed
    assert len(failed[id_]["run"]) <= 4
    replayed = mmspec(*failed[id_]["replay_command"].split()[1:], cwd=broken)
    assert replayed.returncode == 1
    assert id_ in replayed.stdout


def test_right_map_passes(tmp_path: Path) -> None:
    for name, source in (("bitmap_map:CellMap", EXAMPLES / "bitmap_map.py"),):
        (tmp_path / source.name).write_text(source.read_text())
        done = mmspec("check", name, "--arch", "x86_64", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_subtly_wrong_example_fails(tmp_path: Path) -> None:
    (tmp_path / "narrow_map.py").write_text((EXAMPLES / "narrow_map.py").read_text())
    done = mmspec("check", "narrow_map:NarrowMap", "--arch", "x86_64", cwd=tmp_path)
    assert done.returncode == 1
    assert "HTLB-REG-008" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["show", "HTLB-NOPE-001"], 2, "HTLB-NOPE-001"),
        (["cite", "htlb-rsv-1"], 2, "did you mean"),
        (["check", "--arch", "vax"], 2, "vax"),
        (["check", "--variant", "lockless"], 2, "lockless"),
        (["check", "--engine", "warp"], 2, "warp"),
        (["check", "--budget", "nonsense"], 2, "--budget"),
        (["explore", "no_such_scenario"], 2, "no_such_scenario"),
        (["bugs", "Z-99"], 2, "Z-99"),
        (["replay", "missing.json"], 2, "missing.json"),
        (["replay", "broken.py"], 2, "broken.py"),
        (["check", "no_such_module:Thing"], 2, "no_such_module"),
        (["check", "broken:Absent"], 2, "Absent"),
        (["check", "broken:Lacking"], 2, "region_truncate"),
        (["check", "broken:Right", "--json", "no/such/folder/x.json"], 2, "no/such/folder"),
        (["check", "broken:Raising", "--arch", "x86_64"], 3, "out of order"),
        (["check", "broken:WrongType", "--arch", "x86_64"], 3, "str"),
        (["check", "broken:Looping", "--arch", "x86_64"], 3, "did not return"),
        (["check", "broken:Dying", "--arch", "x86_64"], 3, "broken:Dying"),
    ],
)
def test_bad_input_gets_one_line_and_its_status(broken: Path, arguments: list[str], status: int, says: str) -> None:
    done = mmspec(*arguments, cwd=broken)
    assert done.returncode == status, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(broken.glob("*.part"))


def test_contracts_off_cannot_check(tmp_path: Path) -> None:
    done = mmspec("check", cwd=tmp_path, env={"MMSPEC_CONTRACTS": "off"})
    assert done.returncode == 2
    assert "MMSPEC_CONTRACTS" in done.stderr
