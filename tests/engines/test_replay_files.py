"""Replay files: written, read, and refused with one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import toy

from mmconformance.engines.exhaustive import explore
from mmconformance.engines.replay import VERSION, Recording, load, save
from mmconformance.engines.schedules import Recorded
from mmspec.errors import UsageError

HEAD = b'{"format": "mmspec-replay", "version": 1'

RECORDING = Recording(
    arch="x86_64",
    variant="tentative",
    program={"scenario": "small", "size": 3},
    decisions=["T0", 1, "T1"],
    violates="HTLB-RSV-001",
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "run.json", RECORDING)
    assert load(tmp_path / "run.json") == RECORDING
    fields = json.loads((tmp_path / "run.json").read_text())
    assert (fields["format"], fields["version"]) == ("mmspec-replay", VERSION)


def test_the_text_is_always_the_same(tmp_path: Path) -> None:
    save(tmp_path / "one.json", RECORDING)
    save(tmp_path / "other.json", load(tmp_path / "one.json"))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_a_found_run_is_repeated_from_its_file(tmp_path: Path) -> None:
    program = toy("check", [("check", "x", 1, "TOY-A")], [("choice", [("inc", "x")], []), ("inc", "x")])
    (found,) = explore(program, failures=1).violations
    save(tmp_path / "run.json", Recording(arch="a", variant="v", program={}, decisions=found.decisions))
    strategy = Recorded(load(tmp_path / "run.json").decisions)
    again = program(strategy)
    strategy.finished()
    assert (again.decisions, again.outcome) == (found.decisions, found.outcome)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a replay file"),
        (b"\xff\xfe\x00", "is not a replay file"),
        (b"{", "is not a replay file"),
        (b"[1, 2]", "is not a replay file"),
        (b'{"version": "one"}', "is not a replay file"),
        (b'{"name": "something else", "version": 1}', "its format is not 'mmspec-replay'"),
        (b'{"format": "mmspec-replay", "version": 99, "news": 1}', "has version 99 .* reads up to 1; update mmspec"),
        (HEAD + b"}", "is a damaged replay file: .*arch"),
        (HEAD + b', "arch": "a", "variant": "v", "program": 3}', "damaged.*program"),
        (HEAD + b', "arch": "a", "variant": "v", "program": {}, "decisions": [1.5]}', "damaged.*decisions"),
        (HEAD + b', "arch": "a", "variant": "v", "program": {}, "other": 1}', "damaged.*other"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / name)
