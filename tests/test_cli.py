"""The command line beyond `check`'s verdicts: listings, citations, reports, bad input, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mmspec.invariant import REGISTRY

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "mmconformance.cli"]


def mmspec(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MMSPEC_CALL_LIMIT": "1"}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text(
        (HERE / "implementations" / "broken.py").read_text()
        + "\n\nclass Exiting(Right):\n"
        + "    def region_chg(self, f, t):\n        raise SystemExit(0)\n"
        + "\n\nclass Wordy(Right):\n"
        + "    def region_chg(self, f, t):\n        raise RuntimeError('first line\\nsecond line')\n"
    )
    (tmp_path / "corrupt.json").write_text('{"format": "mmspec-replay", "version": 1, "arch"')
    (tmp_path / "newer.json").write_text('{"format": "mmspec-replay", "version": 999}')
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_list_as_json_and_by_area(tmp_path: Path) -> None:
    rows = json.loads(mmspec("list", "--json", cwd=tmp_path).stdout)
    assert [r["id"] for r in rows] == [i.id for i in REGISTRY]
    some = mmspec("list", "--area", "htlb-reg", cwd=tmp_path).stdout.splitlines()
    assert some
    assert all(line.startswith("HTLB-REG-") for line in some)


def test_cite_is_fit_for_a_mail(tmp_path: Path) -> None:
    done = mmspec("cite", "HTLB-RSV-001", cwd=tmp_path)
    assert done.returncode == 0
    assert all(len(line) <= 75 for line in done.stdout.splitlines())
    assert REGISTRY["HTLB-RSV-001"].sentence.split()[0] in done.stdout
    assert "https://mmspec.readthedocs.io/invariants.html#HTLB-RSV-001" in done.stdout


@pytest.mark.parametrize("name", ["check", "explore", "bugs"])
def test_schemas_are_json(tmp_path: Path, name: str) -> None:
    assert json.loads(mmspec("schema", name, cwd=tmp_path).stdout)


def test_plug_in_on_all_profiles_with_all_reports(here: Path) -> None:
    done = mmspec("check", "broken:ChargesTwice", "--arch", "x86_64,s390x", "--json", "r.json", "--junit", "r.xml",
                  "--html", "r.html", cwd=here)  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads((here / "r.json").read_text())
    assert {r["profile"] for r in report["results"]} == {"x86_64", "s390x"}
    assert report["summary"]["fail"] == int(ElementTree.parse(here / "r.xml").getroot().get("failures", ""))
    assert "HTLB-REG-009" in (here / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nonsense"], 2, "nonsense"),
        (["check", "--no-such-option"], 2, "--no-such-option"),
        (["check", "--html", "absent/r.html"], 2, "absent/r.html"),
        (["check", "--junit", "folder"], 2, "folder"),
        (["check", "--interface", "Scheduler"], 2, "Scheduler"),
        (["check", "exec:./absent"], 2, "absent"),
        (["check", "exec:'"], 2, "no command"),
        (["check", "exec:false", "--arch", "x86_64"], 3, "status 1"),
        (["check", "exec:sleep 60", "--arch", "x86_64"], 3, "within 1 s"),
        (["check", "broken:Exiting", "--arch", "x86_64"], 3, "SystemExit"),
        (["check", "broken:Exiting", "--arch", "x86_64,i386"], 3, "SystemExit"),
        (["check", "broken:Dying", "--arch", "x86_64,i386"], 3, "broken:Dying"),
        (["check", "broken:Looping", "--arch", "x86_64,i386"], 3, "did not return"),
        (["check", "broken:Wordy", "--arch", "x86_64"], 3, "first line second line"),
        (["list", "--area", "NONE"], 2, "areas are"),
        (["schema", "nothing"], 2, "nothing"),
        (["explore", "--arch", "vax", "no_such"], 2, "no_such"),
        (["replay", "corrupt.json"], 2, "corrupt.json"),
        (["replay", "newer.json"], 2, "999"),
        (["replay", "folder"], 2, "folder"),
    ],
)
def test_bad_input_gets_one_line_and_its_status(here: Path, arguments: list[str], status: int, says: str) -> None:
    done = mmspec(*arguments, cwd=here)
    assert done.returncode == status, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(here.glob("*.part"))


def test_interruption_is_130_and_leaves_no_report(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "check", "--arch", "all", "--budget", "120", "--json", "r.json"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "mmspec: interrupted"
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("r.json*"))
