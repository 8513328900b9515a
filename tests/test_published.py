"""Ids are never reused, never disappear, and never change their sentence silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmspec import publish


def test_every_published_id_is_there_with_its_sentence() -> None:
    difference = publish.Difference.between(publish.read(), publish.current())

    assert difference.missing == ()
    assert difference.changed == (), "on purpose? python -m mmspec.publish --changed ID"


def test_every_id_is_published() -> None:
    assert publish.PUBLISHED.exists(), "python -m mmspec.publish"
    assert publish.Difference.between(publish.read(), publish.current()).new == (), "python -m mmspec.publish"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "published.json"
    publish.write(publish.current(), path)
    return path


def test_new_ids_are_added(record: Path) -> None:
    known = publish.read(record)
    removed = sorted(known)[0]
    publish.write({i: d for i, d in known.items() if i != removed}, record)

    assert publish.main(["--file", str(record)]) == 0
    assert publish.read(record) == known


def test_a_silent_change_is_refused(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    id_ = sorted(publish.current())[0]
    publish.write(publish.current() | {id_: publish.digest("something else")}, record)
    before = record.read_text()

    assert publish.main(["--file", str(record)]) == 1
    assert id_ in capsys.readouterr().err
    assert record.read_text() == before


def test_a_named_change_is_accepted(record: Path) -> None:
    id_ = sorted(publish.current())[0]
    publish.write(publish.current() | {id_: publish.digest("something else")}, record)

    assert publish.main(["--file", str(record), "--changed", id_]) == 0
    assert publish.read(record) == publish.current()


def test_a_withdrawn_id_is_refused(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish.write(publish.current() | {"HTLB-GONE-001": publish.digest("gone")}, record)

    assert publish.main(["--file", str(record)]) == 1
    assert "HTLB-GONE-001" in capsys.readouterr().err


def test_white_space_is_no_change() -> None:
    assert publish.digest("a  b\n c") == publish.digest("a b c")
