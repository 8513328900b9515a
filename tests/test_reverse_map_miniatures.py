"""What the suite says of right and of wrong implementations of `ReverseMap` that know nothing of the reference."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from commandline import mmspec

from mmconformance.adapters.loading import load_target
from mmconformance.check import check
from mmconformance.machines.reverse_map import JUDGED, NEEDS
from mmconformance.replaying import replay
from mmconformance.verdicts import Report, Verdict
from mmspec.invariant import REGISTRY

REVERSE_MAPS = "mmconformance.miniatures.reverse_map:"

#: What an implementation does not show that has no anon_vmas.
INSIDE = {id_ for id_, needs in NEEDS.items() if needs != {"statistics"}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSPEC_REPLAYS", str(tmp_path / "replays"))


def checked(name: str) -> Report:
    return check(load_target(name, "ReverseMap"), archs=["x86_64"], variants=[""])


def with_verdict(report: Report, verdict: Verdict) -> set[str]:
    return {r.id for r in report.results if r.verdict is verdict}


def test_the_invariants_that_name_the_interface_are_those_that_are_judged() -> None:
    assert {i.id for i in REGISTRY if "ReverseMap" in i.interfaces} == set(JUDGED)


@pytest.mark.parametrize(
    ("name", "fails", "unseen"),
    [
        ("mmreference.reverse_map:ReferenceReverseMap", set(), set()),
        (REVERSE_MAPS + "Right", set(), set()),
        (REVERSE_MAPS + "Direct", set(), INSIDE),
        # Right, and what it costs is told.
        (REVERSE_MAPS + "OneList", {"PERF-001"}, INSIDE),
    ],
)
def test_a_right_one_passes_whatever_its_lists_are_like(name: str, fails: set[str], unseen: set[str]) -> None:
    report = checked(name)
    assert with_verdict(report, Verdict.FAIL) == fails
    assert with_verdict(report, Verdict.NOT_OBSERVABLE) == unseen
    assert with_verdict(report, Verdict.PASS) == set(JUDGED) - fails - unseen


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("ChildIsAlone", "AVMA-FORK-002"),
        ("ChildHasNone", "AVMA-FORK-002"),
        ("NewAreasFirst", "AVMA-LIST-005"),
        ("ChainReversed", "AVMA-LIST-003"),
        ("RootNotInherited", "AVMA-ROOT-002"),
        ("RootIsParent", "AVMA-ROOT-001"),
        ("CountsFromZero", "RMAP-MAPCOUNT-002"),
        ("CountsMappings", "ZSTAT-EDGE-001 RMAP-MAPCOUNT-009"),
        ("AllAreFilePages", "ZSTAT-ANON-001 ZSTAT-FILE-001"),
        ("ForkCountsNothing", "RMAP-MAPCOUNT-009"),
        ("LastUnmapForgetsOwner", "RMAP-ANON-007"),
        ("NewestForShared", "RMAP-ANON-009"),
        ("OldestForAll", "RMAP-ANON-010"),
        ("OwnerChanges", "RMAP-ANON-011"),
        ("MovesToRoot", "RMAP-MOVE-002"),
        ("PrepareReplaces", "AVMA-PREP-002"),
        ("SharesForkedAnonVma", "AVMA-PREP-007"),
        ("UnlinkLeavesArea", "AVMA-UNLINK-001"),
        ("UnlinkTakesOthers", "AVMA-UNLINK-005 RMAP-ANON-004"),
        ("RootGoesEarly", "AVMA-ROOT-008"),
        ("Leaks", "AVMA-REF-008"),
        ("ReferencesRoot", "AVMA-REF-001"),
        ("AddressOffByOne", "RMAP-ADDR-001"),
        ("AddressUnchecked", "RMAP-ADDR-002"),
        ("EveryTree", "RMAP-ADDR-006"),
        ("EveryFile", "RMAP-ADDR-007"),
        ("SplitForgetsClone", "AVMA-CLONE-001"),
        ("MergeForgetsChain", "RMAP-ANON-004"),
        ("FileForgetsSplit", "RMAP-UNMAP-028"),
        ("DirectForgetsFork", "RMAP-ANON-004"),
        ("DirectLeavesPlaces", "PERF-002"),
    ],
)
def test_a_wrong_one_fails_by_what_describes_the_mistake(name: str, ids: str) -> None:
    failed = {r.id: r.trace for r in checked(REVERSE_MAPS + name).results if r.trace is not None}
    found = next(iter(set(ids.split()) & failed.keys()), None)
    assert found is not None, sorted(failed)
    again = replay(Path(failed[found].replay_command.split()[-1]))
    assert again.violation is not None
    assert again.violation.invariant.id == found


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("Lacking", 2, "lacks anon_vma_fork, anon_vma_prepare"),
        ("Raising", 3, "anon_vma_fork() raised RuntimeError: out of order"),
        ("WrongType", 3, "page_mapcount returned str"),
        ("Looping", 3, "did not return within 1 s"),
    ],
)
def test_an_unusable_one_gets_one_line(tmp_path: Path, name: str, status: int, says: str) -> None:
    done = mmspec("check", REVERSE_MAPS + name, "--interface", "ReverseMap", cwd=tmp_path, MMSPEC_CALL_LIMIT="1")
    assert done.returncode == status, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_class_served_as_a_program_has_its_optional_members(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(
        "from mmconformance.adapters import serve\n"
        "from mmconformance.miniatures.reverse_map import Right\n"
        "serve(Right, 'ReverseMap')\n"
    )
    subject = load_target(f"exec:{shlex.quote(sys.executable)} {tmp_path / 'served.py'}").make("x86_64", "")
    subject.new_area(1, 1, 4, 6, 4)
    assert subject.anon_vma_prepare(1) == 0
    subject.new_page(1)
    subject.page_add_new_anon_rmap(1, 1, 5)
    assert subject.page_address_in_vma(1, 1) == 5
    assert list(subject.chain(1)) == [subject.anon_vma(1)] == list(subject.live_anon_vmas())
    assert subject.statistics() == {"NR_ANON_PAGES": 1, "NR_FILE_MAPPED": 0}
