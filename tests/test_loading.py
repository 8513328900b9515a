"""Finding an implementation and keeping it in check: modules, types, endless calls, programs behind a pipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from mmconformance.adapters import loading
from mmconformance.adapters import subprocess as pipe
from mmconformance.adapters.loading import load_target
from mmconformance.adapters.results import checked
from mmspec.errors import ImplementationFailure, UsageError
from mmspec.state import PoolCounters, Setup

HERE = Path(__file__).parent

MODULE = """
from mmspec.interfaces import ReservationMap

class Plain:
    def __init__(self): self.regions = []
    def region_chg(self, f, t): return t - f
    def region_add(self, f, t): pass
    def region_truncate(self, end): return 0
    def region_count(self, f, t): return 0

def factory(): return Plain()
instance = Plain()
number = 3

class Half(ReservationMap):
    def region_chg(self, f, t): return 0

class Exits(Plain):
    def region_chg(self, f, t): raise SystemExit(0)

class Stubborn(Plain):
    def region_chg(self, f, t):
        while True:
            try:
                while True: pass
            except Exception: pass

class Pairless(Plain):
    def __init__(self): self.regions = [1]
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loaded_module.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import a_module_that_is_not_there")
    (tmp_path / "falls_over.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loaded_module", raising=False)
    for module in (loading, pipe):
        monkeypatch.setattr(module, "CALL_LIMIT", 0.3)


@pytest.mark.parametrize("attribute", ["Plain", "factory", "instance"])
def test_class_factory_and_instance_are_recognised(attribute: str) -> None:
    target = load_target(f"loaded_module:{attribute}")
    assert target.interface == "ReservationMap"
    assert target.make("x86_64", "").region_chg(0, 3) == 3


def test_reference_is_the_default() -> None:
    assert load_target(None).kind == "reference"
    assert load_target("reference").kind == "reference"
    assert load_target("reference-regions").interface == "ReservationMap"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("loaded_module:Absent", "no Absent"),
        ("loaded_module:", "package.module:attribute"),
        (":Plain", "package.module:attribute"),
        ("..up:Plain", "package.module:attribute"),
        ("nowhere_module:Plain", "no module 'nowhere_module'"),
        ("needs_more:Plain", "a_module_that_is_not_there"),
        ("falls_over:Plain", "ZeroDivisionError"),
        ("loaded_module:number", "none of the methods"),
        ("loaded_module:Half", "region_add"),
        ("not-installed", "no installed implementation"),
        ("exec:", "names no program"),
        ("exec:'", "no command"),
        ("exec:./absent", "cannot be started"),
    ],
)
def test_what_cannot_be_loaded_is_wrong_use(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load_target(name)
    assert "\n" not in str(caught.value)


def test_unknown_interface_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="Scheduler"):
        load_target(None, "Scheduler")


@pytest.mark.parametrize(
    ("attribute", "says"),
    [("Exits", "SystemExit"), ("Stubborn", "did not return within 0.3 s")],
)
def test_no_call_gets_away(attribute: str, says: str) -> None:
    with pytest.raises(ImplementationFailure, match=says):
        load_target(f"loaded_module:{attribute}").make("x86_64", "").region_chg(0, 1)


def test_regions_must_be_pairs() -> None:
    with pytest.raises(ImplementationFailure, match="regions returned list"):
        _ = load_target("loaded_module:Pairless").make("x86_64", "").regions


@pytest.mark.parametrize(
    ("interface", "name", "right", "wrong"),
    [
        ("ReservationMap", "region_chg", [0, -12], [None, True, "0", 1.0]),
        ("ReservationMap", "region_add", [None, 0, "whatever"], []),
        ("ReservationMap", "regions", [[], [(0, 1)], ([0, 1],)], [None, "ab", [0], [(0, 1, 2)], [("a", 1)], {(0, 1)}]),
        ("MemoryManager", "counters", [PoolCounters(1, 1, 0)], [None, (1, 1, 0), {"nr_huge_pages": 1}]),
        ("MemoryManager", "quota_free", [None, 3], ["3", False]),
        ("MemoryManager", "page_at", [None, 3, "a"], [[3]]),
        ("MemoryManager", "mappings", [[], ()], [[1], None]),
        ("MemoryManager", "start", [None, 1], []),
    ],
)
def test_results_are_of_the_promised_type(interface: str, name: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert checked(interface, name, value) is value
    for value in wrong:
        with pytest.raises(ImplementationFailure, match=name):
            checked(interface, name, value)


# -- programs ------------------------------------------------------------------------------------------------------------


def program(text: str) -> str:
    """A shell command as a target."""
    return f"exec:sh -c {shlex.quote(text)}"


HELLO = """read line; echo '{"jsonrpc": "2.0", "id": 1, "result": {"interface": "ReservationMap", "version": 1}}'; """


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo gone wrong >&2; exit 3", r"status 3\): gone wrong"),
        ("sleep 60", "was not answered within 0.3 s"),
        ("read line; sleep 60 & exit 3", "was not answered within 0.3 s"),
        ("while :; do echo noise >&2; done", "was not answered within 0.3 s"),
        ("echo why >&2; exec >&-; sleep 60", r"closed its output\): why"),
        ("read line; echo hello", "no response"),
        ("""read line; echo '{"jsonrpc": "1.0", "id": 1, "result": {}}'""", "no response"),
        ("""read line; echo '{"jsonrpc": "2.0", "id": 7, "result": {}}'""", "answered request 7"),
        ("""read line; echo '{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no, thanks"}}'""", "no, thanks"),
        ("""read line; echo '{"jsonrpc": "2.0", "id": 1, "result": {"interface": 3}}'""", "hello wrongly"),
        (HELLO.replace('"version": 1', '"version": 99') + "cat", "version 99"),
    ],
)
def test_program_that_breaks_the_protocol_is_a_failure(text: str, says: str) -> None:
    with pytest.raises(ImplementationFailure, match=says):
        load_target(program(text))


def test_program_of_another_interface_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="ReservationMap"):
        load_target(program(HELLO + "cat"), "MemoryManager")


def test_plain_program_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "CALL_LIMIT", 10.0)
    script = HERE.parent / "examples" / "exec_reservation_map.py"
    subject = load_target(f"exec:{sys.executable} {script}").make("x86_64", "")
    assert subject.region_chg(0, 2) == 2
    subject.region_add(0, 2)
    assert subject.region_count(0, 9) == 2
    assert list(subject.regions) == [(0, 2)]
    assert subject.region_truncate(1) == 1


def test_python_class_served_as_program_has_its_optional_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "CALL_LIMIT", 10.0)
    monkeypatch.setattr(loading, "CALL_LIMIT", 10.0)
    (tmp_path / "served.py").write_text(
        "from mmconformance.adapters import serve\n"
        "from mmreference.manager import ReferenceMemoryManager\n"
        "serve(ReferenceMemoryManager, 'MemoryManager')\n"
    )
    subject = load_target(f"exec:{sys.executable} {tmp_path / 'served.py'}").make("x86_64", "")
    subject.start(Setup(pool=3, quota=5))
    assert "quota_free" in subject.capabilities
    assert subject.quota_free() == 5
    assert subject.counters().free_huge_pages == 3
    pid = subject.spawn()
    address = subject.mmap(pid, 2)
    assert [m.length for m in subject.mappings(pid)] == [2]
    assert subject.page_at(pid, address) is None
    assert subject.write(pid, address, 7) == 0
    assert subject.read(pid, address) == 7
    with pytest.raises(ImplementationFailure, match="KeyError"):
        subject.munmap(pid + 40, address, 1)
