"""Verdicts and their reports: JSON, JUnit XML, HTML, terminal."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from mmconformance.report import SCHEMAS, html_page, junit_xml, terminal
from mmconformance.verdicts import Failure, Report, Result, Verdict, judge_results
from mmspec.invariant import Judge

ROOT, FOLLOWS, OTHER = "HTLB-RSV-001", "HTLB-POOL-001", "HTLB-REG-001"


@pytest.fixture
def report() -> Report:
    failures = {
        ROOT: Failure(
            ROOT, "It <must> hold.", {"pool": "<pool & co>"}, "a note", "holder 2\ncounter 3", ["step one", "step two"],
            replay_command="mmspec replay x.json", consequences=[FOLLOWS],
        ),
        FOLLOWS: Failure(FOLLOWS, "That too.", replay_command="mmspec replay y.json"),
    }  # fmt: skip
    judge = Judge(frozenset({"D"}))
    judge.real.update({ROOT: 4, FOLLOWS: 1, OTHER: 9})
    judge.vacuous["C"] = 3
    judge.unobservable["E"] = 2
    results = judge_results(judge, "x86_64", [ROOT, FOLLOWS, OTHER, "C", "D", "E"], failures)
    return Report("them:Map", "ReservationMap", "0.1", 7, "all", results, {"python": "3"}, ["cut short"])


def test_verdicts(report: Report) -> None:
    assert [str(r.verdict) for r in report.results] == [
        "fail", "fail", "pass", "not exercised", "not applicable", "not observable",
    ]  # fmt: skip
    assert report.exit_status == 1
    assert not [r for r in report.results if r.verdict is Verdict.PASS and not r.evaluations]


def test_nothing_failed_is_status_0() -> None:
    assert Report("a", "b", "c", 0, "all", [Result("A", "p", Verdict.NOT_EXERCISED, 0)], {}).exit_status == 0


def test_json_is_as_its_schema_says(report: Report) -> None:
    text = msgspec.json.encode(report.document())
    again = msgspec.json.decode(text, type=SCHEMAS["check"])
    assert again.results == report.results
    document = msgspec.json.decode(text)
    assert document["summary"]["fail"] == 2
    assert set(document["results"][2]) == {"id", "profile", "verdict", "evaluations"}
    assert document["results"][0]["trace"]["consequences"] == [FOLLOWS]


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_output_has_a_schema(name: str) -> None:
    assert msgspec.json.schema(SCHEMAS[name])


def test_junit(report: Report) -> None:
    suite = ElementTree.fromstring(junit_xml(report))
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped")} == {"tests": "6", "failures": "2", "skipped": "3"}
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.text is not None
    assert "mmspec replay x.json" in failure.text


def test_html_names_roots_and_escapes_what_others_say(report: Report) -> None:
    page = html_page(report, "https://docs/invariants.html")
    assert "&lt;pool &amp; co&gt;" in page
    assert "<pool" not in page
    assert f'<h2 class="fail"><a href="https://docs/invariants.html#{ROOT}">' in page
    assert f'<h2 class="fail"><a href="https://docs/invariants.html#{FOLLOWS}">' not in page
    assert f"Follows from it: {FOLLOWS}" in page
    assert "holder 2\ncounter 3" in page
    assert "cut short" in page


def test_terminal_has_all_that_is_needed(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(report)
    shown = capsys.readouterr().out
    for part in ("them:Map", "seed 7", "It <must> hold.", "<pool & co>", "holder 2", "step two", "mmspec replay x.json"):
        assert part in shown
    assert f"FAIL {FOLLOWS}" not in shown
