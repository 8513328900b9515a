"""The command line beyond `check`'s verdicts: listings, citations, reports, bad input, interruption."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commandline import MAPS, interrupted, mmspec

import mmspec.invariants as invariants  # noqa: F401 - fills the registry
from mmconformance.bugs import MUTANTS
from mmspec.invariant import REGISTRY


@pytest.fixture
def here(tmp_path: Path) -> Path:
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
    of_system = mmspec("list", "--json", "--system", "hugetlb", cwd=tmp_path).stdout
    assert [r["id"] for r in json.loads(of_system)] == [i.id for i in REGISTRY if i.system == "hugetlb"]


def test_cite_is_fit_for_a_mail(tmp_path: Path) -> None:
    done = mmspec("cite", "HTLB-RSV-001", cwd=tmp_path)
    assert done.returncode == 0
    assert all(len(line) <= 75 for line in done.stdout.splitlines())
    assert REGISTRY["HTLB-RSV-001"].sentence.split()[0] in done.stdout
    assert "https://mmspec.readthedocs.io/invariants.html#HTLB-RSV-001" in done.stdout


@pytest.mark.parametrize("name", ["check", "explore", "bugs", "count"])
def test_schemas_are_json(tmp_path: Path, name: str) -> None:
    assert json.loads(mmspec("schema", name, cwd=tmp_path).stdout)


def test_plug_in_on_all_profiles_with_all_reports(here: Path) -> None:
    files = ["--json", "r.json", "--junit", "r.xml", "--html", "r.html"]
    done = mmspec("check", MAPS + "ChargesTwice", "--arch", "x86_64,s390x", *files, cwd=here)
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
        (["check", MAPS + "Exiting", "--arch", "x86_64"], 3, "SystemExit"),
        (["check", MAPS + "Exiting", "--arch", "x86_64,i386"], 3, "SystemExit"),
        (["check", MAPS + "Dying", "--arch", "x86_64,i386"], 3, MAPS + "Dying"),
        (["check", MAPS + "Looping", "--arch", "x86_64,i386"], 3, "did not return"),
        (["check", MAPS + "Wordy", "--arch", "x86_64"], 3, "first line second line"),
        (["show", "HTLB-NOPE-001"], 2, "HTLB-NOPE-001"),
        (["cite", "htlb-rsv-1"], 2, "did you mean"),
        (["check", "--arch", "vax"], 2, "vax"),
        (["check", "--variant", "lockless"], 2, "lockless"),
        (["check", "--system", "vfs"], 2, "vfs"),
        (["check", "--variant", "allyesconfig", "--system", "hugetlb"], 2, "allyesconfig"),
        (["check", MAPS + "Right", "--system", "vfs"], 2, "vfs"),
        (["list", "--system", "vfs"], 2, "known are hugetlb"),
        (["explore", "two_reserves", "--variant", "allyesconfig"], 2, "instantiation_mutex, tentative"),
        (["explore", "two_reserves", "--variant", "lockless"], 2, "lockless"),
        (["check", "--engine", "warp"], 2, "warp"),
        (["check", "--budget", "nonsense"], 2, "--budget"),
        (["check", "no_such_module:Thing"], 2, "no_such_module"),
        (["check", MAPS + "Absent"], 2, "Absent"),
        (["check", MAPS + "Lacking"], 2, "region_truncate"),
        (["check", MAPS + "Right", "--json", "no/such/folder/x.json"], 2, "no/such/folder"),
        (["check", MAPS + "Raising", "--arch", "x86_64"], 3, "out of order"),
        (["check", MAPS + "WrongType", "--arch", "x86_64"], 3, "str"),
        (["check", MAPS + "Looping", "--arch", "x86_64"], 3, "did not return"),
        (["check", MAPS + "Dying", "--arch", "x86_64"], 3, MAPS + "Dying"),
        (["explore", "no_such_scenario"], 2, "no_such_scenario"),
        (["bugs", "Z-99"], 2, "Z-99"),
        (["replay", "missing.json"], 2, "missing.json"),
        (["list", "--area", "NONE"], 2, "areas are"),
        (["schema", "nothing"], 2, "nothing"),
        (["explore", "--arch", "vax", "no_such"], 2, "no_such"),
        (["replay", "corrupt.json"], 2, "corrupt.json"),
        (["replay", "newer.json"], 2, "999"),
        (["replay", "folder"], 2, "folder"),
    ],
)
def test_bad_input_gets_one_line_and_its_status(here: Path, arguments: list[str], status: int, says: str) -> None:
    done = mmspec(*arguments, cwd=here, MMSPEC_CALL_LIMIT="1")
    assert done.returncode == status, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(here.glob("*.part"))


def test_an_interrupted_check_says_what_it_knows_so_far(tmp_path: Path) -> None:
    done = interrupted("check", "--system", "hugetlb", "--budget", "300", "--json", "r.json", cwd=tmp_path, after=6)
    assert done.returncode == 130
    assert done.stderr.strip().splitlines()[-1] == "mmspec: interrupted"
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["interrupted"]
    assert report["summary"]["pass"] > 100
    assert "x86_64/tentative: interrupted" in report["notes"]
    assert "riscv64-sv48/tentative: not run" in report["notes"]


def test_an_interrupted_exploration_says_what_it_knows_so_far(tmp_path: Path) -> None:
    done = interrupted("explore", "private_last_page_3", "--json", "r.json", cwd=tmp_path, after=3)
    assert done.returncode == 130
    assert done.stderr.strip().splitlines()[-1] == "mmspec: interrupted"
    assert "incomplete: interrupted" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["executions"] > 10


def test_interrupted_mutants_say_what_they_know_so_far(tmp_path: Path) -> None:
    done = interrupted("bugs", "--json", "r.json", cwd=tmp_path, once="C-01")
    assert done.returncode == 130
    assert done.stderr.strip().splitlines()[-1] == "mmspec: interrupted"
    assert 0 < len(json.loads((tmp_path / "r.json").read_text())) < len(MUTANTS)


def test_a_campaign_replays_what_failed_before(tmp_path: Path) -> None:
    wrong = ["campaign", MAPS + "Uncoalesced", "--arch", "x86_64", "--budget", "2"]
    first = mmspec(*wrong, cwd=tmp_path)
    assert first.returncode == 1, first.stdout + first.stderr
    (kept, *_) = (tmp_path / ".mmspec" / "replays").glob("*.json")
    again = mmspec(*wrong, cwd=tmp_path)
    assert f"{kept.name}: still violates {kept.name[:12]}" in again.stdout
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"implementation": MAPS + "Right"}))
    good = mmspec("campaign", MAPS + "Right", "--arch", "x86_64", "--budget", "2", cwd=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    assert f"{kept.name}: violates nothing any more" in good.stdout
