"""Counted work: the claims hold, and pages that are as light as can be are walked like real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import mmspec

from mmconformance import counting
from mmconformance.counting import CHAINED, SHARED


@pytest.mark.parametrize(("children", "pages"), [(1, 1), (3, 2), (5, 4)])
def test_light_pages_are_walked_like_those_of_the_reference(children: int, pages: int) -> None:
    assert counting.visits(children, pages, CHAINED) == counting.reference_visits(children, pages)


@pytest.mark.parametrize("children", [1, 2, 7, 40])
@pytest.mark.parametrize("pages", [1, 3])
def test_visits_per_page(children: int, pages: int) -> None:
    shared, chained = (counting.visits(children, pages, linking) for linking in (SHARED, CHAINED))

    assert (shared.mean_full, shared.mean_early) == (children + 1, (children + 2) / 2)
    assert chained.mean_full == pytest.approx(2 - 1 / (children + 1))
    assert chained.mean_early == 1
    assert shared.walked == shared.pages == (children + 1) * pages


def test_the_mean_does_not_depend_on_the_number_of_pages() -> None:
    few, many = (counting.visits(20, pages, CHAINED) for pages in (1, 50))

    assert few.mean_full == pytest.approx(many.mean_full)


def test_a_thousand_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "SAMPLE", 20)
    shared, chained = counting.visits(1000, 1000, SHARED), counting.visits(1000, 1, CHAINED)

    assert (shared.pages, shared.full, shared.walked) == (1_001_000, 1_001_000 * 1001, 20)
    assert (shared.mean_full, shared.mean_early) == (1001.0, 501.0)
    assert round(chained.mean_full, 3) == 1.999
    assert chained.mean_early == 1.0


def test_a_walk_that_differs_from_its_list_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_walk", lambda *_: (1, 1))

    with pytest.raises(AssertionError, match="does not visit"):
        counting.visits(2, 1, SHARED)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_other_claims_hold(size: int) -> None:
    assert [claim.name for claim in counting.other_claims(size) if not claim.holds] == []


@pytest.mark.parametrize("processes", [1, 3, 6])
def test_unmapping_costs_one_of_each_per_process(processes: int) -> None:
    assert counting.unmapping(processes) == counting.Unmapping(processes, processes, processes, processes)


@pytest.mark.parametrize(("areas", "mapped"), [(4, 4), (4, 1), (7, 3)])
def test_empty_slots_cost_no_lock_unless_that_is_wanted(areas: int, mapped: int) -> None:
    assert counting.ptl_acquisitions(areas, mapped, sync=False) == mapped
    assert counting.ptl_acquisitions(areas, mapped, sync=True) == areas


@pytest.mark.parametrize("generation", range(4))
def test_fork_costs_more_with_each_generation(generation: int) -> None:
    assert len(counting.lineage(generation).anon_vma_chain) == generation + 1
    assert counting.fork_allocations(generation) == generation + 3


def test_lookups() -> None:
    assert counting.lookup_atomics(contended=False) == 1
    assert counting.lookup_atomics(contended=True) >= 3


@pytest.mark.parametrize(
    ("arch", "guest_huge", "host_huge", "levels"),
    [
        ("x86_64", False, False, (4, 4)),
        ("x86_64", False, True, (4, 3)),
        ("x86_64", True, False, (3, 4)),
        ("x86_64", True, True, (3, 3)),
        ("i386", False, False, (2, 2)),
        ("i386", True, True, (1, 1)),
    ],
)
def test_two_dimensional_walks(arch: str, guest_huge: bool, host_huge: bool, levels: tuple[int, int]) -> None:
    guest, host = levels

    loads = counting.nested_loads(guest_huge=guest_huge, host_huge=host_huge, arch=arch)

    assert loads == (guest + 1) * (host + 1) - 1


def test_a_two_dimensional_walk_finds_the_page() -> None:
    machine = counting.NestedMachine(counting.architecture("x86_64"), "pte", "pmd")
    frame = machine.allocate(guest=True)
    machine.guest.map(0x12345, frame)

    assert machine.guest.walk(0x12345) == frame
    assert machine.host.walk(frame + 7) == machine.host.walk(frame) + 7


def test_command(tmp_path: Path) -> None:
    done = mmspec("count", "--children", "10", "--pages", "2", "--json", "c.json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    claims = json.loads((tmp_path / "c.json").read_text())
    assert claims[0] == {
        "name": "areas per full walk, one anon_vma for all",
        "expected": 11.0,
        "counted": 11.0,
        "how": "22 of 22 pages walked",
        "holds": True,
    }
    assert "page-table entries per TLB miss" in done.stdout
    assert mmspec("count", "--children", "0", cwd=tmp_path).returncode == 2
