"""Contracts: cited by name, inherited, counted, and gone without a trace when they are off."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mmconformance.scenarios  # noqa: F401 - imports the reference of every system, which registers what it cites
from mmspec.contracts import CITED_BY
from mmspec.errors import Violation
from mmspec.interfaces import ReservationMap
from mmspec.invariant import REGISTRY, Judge, Kind, Over, judging
from mmspec.logic import VACUOUS, every, implies


def test_every_contract_invariant_is_cited_by_some_function() -> None:
    cited = {id_ for ids in CITED_BY.values() for id_ in ids}
    wanted = {i.id for i in REGISTRY if i.over in (Over.OPERATION, Over.CALL) and i.variants}
    assert wanted <= cited


def test_every_invariant_is_complete() -> None:
    for invariant in REGISTRY:
        assert "MUST" in invariant.sentence, invariant.id
        assert invariant.sources, invariant.id
        assert invariant.guard or invariant.on or invariant.over is Over.RUN, invariant.id
        assert (invariant.kind is Kind.STATE) == (invariant.guard is not None), invariant.id


class Forgetful(ReservationMap):
    """Covers nothing."""

    @property
    def regions(self) -> list[tuple[int, int]]:
        return []

    def region_chg(self, f: int, t: int) -> int:
        return t - f

    def region_add(self, f: int, t: int) -> None:
        return None

    def region_truncate(self, end: int) -> int:
        return 0

    def region_count(self, f: int, t: int) -> int:
        return 0


def test_implementation_inherits_contracts() -> None:
    with judging(Judge()) as judge:
        subject = Forgetful()
        assert subject.region_chg(1, 3) == 2
        with pytest.raises(Violation) as caught:
            subject.region_add(1, 3)
    assert caught.value.invariant.id == "HTLB-REG-014"
    assert caught.value.values["f"] == "1"
    assert judge is not None and judge.real["HTLB-REG-009"] == 1


def test_vacuous_is_no_evidence() -> None:
    assert implies(False, lambda: False) is VACUOUS
    assert every([]) is VACUOUS
    assert every([VACUOUS, True]) is True
    assert every([VACUOUS, False]) is False
    with judging(Judge()) as judge:
        REGISTRY["HTLB-REG-008"].holds(old=(), f=0, t=1, result=0)
    assert judge is not None and judge.real["HTLB-REG-008"] == 0 and judge.vacuous["HTLB-REG-008"] == 1


def test_off_leaves_the_plain_function() -> None:
    program = (
        "from mmreference.mm.hugetlb.region import region_count\n"
        "from mmreference.mm.hugetlb.pool import HugePagePool, alloc_huge_page\n"
        "assert not hasattr(region_count, '__wrapped__') and region_count.__code__.co_name == 'region_count'\n"
        "assert not hasattr(alloc_huge_page, '__wrapped__')\n"
        "assert 'resv_huge_pages' not in vars(HugePagePool)\n"
        "from mmreference.manager import ReferenceMemoryManager\n"
        "m = ReferenceMemoryManager(); p = m.spawn(); a = m.mmap(p, 2)\n"
        "assert m.write(p, a, 5) == 0 and m.read(p, a) == 5 and m.counters().resv_huge_pages == 1\n"
    )
    import os

    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "MMSPEC_CONTRACTS": "off"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
