"""What `mmspec check` says of right and of wrong implementations that know nothing of the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import MANAGERS, MAPS, mmspec


@pytest.mark.parametrize(
    ("name", "unseen"), [(MAPS + "Right", {"HTLB-REG-012", "HTLB-REG-023"}), (MANAGERS + "Right", set())]
)
def test_a_right_one_passes(tmp_path: Path, name: str, unseen: set[str]) -> None:
    done = mmspec("check", name, "--arch", "x86_64", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    assert {r["id"] for r in results if r["verdict"] != "pass"} == unseen


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        (MAPS + "Uncoalesced", "HTLB-REG-003"),
        (MAPS + "CountsTouching", "HTLB-REG-004"),
        (MAPS + "ChargesTwice", "HTLB-REG-009"),
        (MAPS + "TruncateOffByOne", "HTLB-REG-017"),
        (MAPS + "MergeForgetsRest", "HTLB-REG-014"),
        (MAPS + "AddForgets", "HTLB-REG-014"),
        (MAPS + "CountingChanges", "HTLB-REG-005"),
        (MANAGERS + "ChildInheritsPromises", "HTLB-RSV-001"),
        (MANAGERS + "PromisesTooMuch", "HTLB-RSV-006 HTLB-RSV-002"),
        (MANAGERS + "TakesWhatIsPromised", "HTLB-RSV-023 HTLB-RSV-002 HTLB-RSV-003"),
        (MANAGERS + "KeepsPromisesAtUnmap", "HTLB-RSV-003"),
        (MANAGERS + "SplitKeepsWholePromise", "HTLB-VMA-015 HTLB-RSV-001 HTLB-RSV-003"),
        (MANAGERS + "KeepsPromisesAtTruncate", "HTLB-RSV-003"),
        (MANAGERS + "KeepsPagesMapped", "HTLB-FLT-008 HTLB-POOL-003"),
        (MANAGERS + "WritesToEverybody", "HTLB-COW-011 HTLB-POOL-003"),
        (MANAGERS + "CopiesNothing", "HTLB-COW-011"),
        (MANAGERS + "ShrinksBelowPromises", "HTLB-RSV-002"),
        (MANAGERS + "FailedMapKeepsBlocks", "HTLB-RSV-029"),
        (MANAGERS + "NoQuota", "HTLB-QTA-001 HTLB-RSV-029"),
        (MANAGERS + "NoEndOfFile", "HTLB-FLT-008"),
        (MANAGERS + "PromisesSharedTwice", "HTLB-RSV-024 HTLB-RSV-027 HTLB-RSV-003"),
        (MANAGERS + "PromisesNothing", "HTLB-RSV-024 HTLB-RSV-025 HTLB-RSV-006"),
        (MANAGERS + "ExitLeaks", "HTLB-POOL-003 HTLB-RSV-029"),
        (MANAGERS + "FilesLive", "HTLB-POOL-003 HTLB-RSV-003 HTLB-RSV-029"),
        (MANAGERS + "IgnoresProtection", "HTLB-ERR-008"),
        (MANAGERS + "StaleContent", "HTLB-FLT-006"),
        (MANAGERS + "RefusesNoreserve", "HTLB-RSV-027"),
        (MANAGERS + "RefusesLast", "HTLB-RSV-006"),
        (MANAGERS + "WrongError", "HTLB-ERR-004"),
        (MANAGERS + "ClaimsSize", "HTLB-POOL-018"),
        (MANAGERS + "NeverExtends", "HTLB-ERR-005"),
        (MANAGERS + "UnmapEmptiesFile", "HTLB-POOL-003"),
        (MANAGERS + "ReadCopies", "HTLB-POOL-003 HTLB-FLT-029"),
    ],
)
def test_a_wrong_one_fails_by_what_describes_the_mistake(tmp_path: Path, name: str, ids: str) -> None:
    done = mmspec("check", name, "--arch", "x86_64", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {r["id"]: r["trace"] for r in json.loads((tmp_path / "r.json").read_text())["results"] if "trace" in r}
    id_ = next(iter(set(ids.split()) & failed.keys()), None)
    assert id_ is not None, sorted(failed)
    assert len(failed[id_]["run"]) <= (6 if name.startswith(MAPS) else 20)
    replayed = mmspec(*failed[id_]["replay_command"].split()[1:], cwd=tmp_path)
    assert replayed.returncode == 1
    assert id_ in replayed.stdout


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("Lacking", 2, "lacks close_file, counters"),
        ("Raising", 3, "fork() raised RuntimeError: out of order"),
        ("WrongType", 3, "counters returned tuple"),
        ("Talkative", 3, "write() returned 1, not 0 or a signal"),
        ("Looping", 3, "did not return within 1 s"),
    ],
)
def test_an_unusable_manager_gets_one_line(tmp_path: Path, name: str, status: int, says: str) -> None:
    done = mmspec("check", MANAGERS + name, "--interface", "MemoryManager", cwd=tmp_path, MMSPEC_CALL_LIMIT="1")
    assert done.returncode == status, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
