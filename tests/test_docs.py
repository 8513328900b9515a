"""The documentation builds without a warning, and each invariant can be linked to."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmspec.invariants  # noqa: F401 - fills the registry
from mmconformance.bugs import MUTANTS
from mmspec.invariant import REGISTRY

DOCS = Path(__file__).resolve().parent.parent / "docs"
NEEDED = ("sphinx", "furo", "sphinx_needs")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="sphinx is not installed"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The rendered pages, and how the build went."""
    target = tmp_path_factory.mktemp("docs") / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(target)]
    return target, subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_builds_without_warnings(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, process = built

    assert process.stderr == ""
    assert process.returncode == 0


def test_each_id_is_an_anchor_of_the_page_that_citations_link_to(
    built: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    target, _ = built
    anchors = set(re.findall(r'id="([^"]+)"', (target / "invariants.html").read_text(encoding="utf-8")))

    assert [i.id for i in REGISTRY if i.id not in anchors] == []


def test_each_id_has_its_full_entry(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    target, _ = built
    pages = [page.read_text(encoding="utf-8") for page in sorted((target / "areas").glob("*.html"))]

    assert [i.id for i in REGISTRY if [i.name in page for page in pages if f'id="{i.id}"' in page] != [True]] == []


def test_no_page_of_an_area_is_empty(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    target, _ = built
    pages = sorted((target / "areas").glob("*.html"))

    assert [page.name for page in pages if "No invariant of this area" in page.read_text(encoding="utf-8")] == []


def test_recorded_runs_are_of_mutants_and_end_in_what_describes_them() -> None:
    recorded = json.loads((DOCS / "recorded-runs.json").read_text(encoding="utf-8"))

    assert set(recorded) <= set(MUTANTS)
    assert [id_ for id_, run in recorded.items() if run["lines"] and run["violates"] not in REGISTRY] == []


def test_needs_json_has_every_invariant(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    target, _ = built
    document = json.loads((target / "needs.json").read_text(encoding="utf-8"))
    needs = document["versions"][document["current_version"]]["needs"]

    assert {i: needs[i]["sentence"] for i in needs} == {i.id: i.sentence for i in REGISTRY}

