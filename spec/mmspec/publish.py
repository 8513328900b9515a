"""The record of published ids: `python -m mmspec.publish`.

`published.json` holds every id that was ever published, with the SHA-256 digest of its normative sentence. New ids are
added; a digest that is there changes only when its id is named with `--changed`; nothing is ever removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from mmspec.invariant import REGISTRY

#: Where the record is kept.
PUBLISHED = Path(__file__).with_name("published.json")

Digests = dict[str, str]


def digest(sentence: str) -> str:
    """SHA-256 of a normative sentence, in hexadecimal; runs of white space count as one space."""
    return hashlib.sha256(" ".join(sentence.split()).encode()).hexdigest()


def current() -> Digests:
    """The ids of today, with the digests of their sentences."""
    import mmspec.invariants  # noqa: F401 - fills the registry

    return {i.id: digest(i.sentence) for i in REGISTRY}


def read(path: Path = PUBLISHED) -> Digests:
    """The record; empty if there is none yet."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write(record: Mapping[str, str], path: Path = PUBLISHED) -> None:
    """Store the record, sorted by id."""
    path.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n", encoding="utf-8")


@attrs.frozen
class Difference:
    """How the invariants of today differ from the record; tuples of ids."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]

    @classmethod
    def between(cls, record: Mapping[str, str], today: Mapping[str, str]) -> Difference:
        """Compare."""
        return cls(
            tuple(sorted(today.keys() - record.keys())),
            tuple(sorted(i for i in today.keys() & record.keys() if today[i] != record[i])),
            tuple(sorted(record.keys() - today.keys())),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring the record up to date: 0, or 1 and nothing written if a sentence changed silently or an id is missing."""
    parser = argparse.ArgumentParser(prog="python -m mmspec.publish", description=__doc__)
    parser.add_argument("--changed", metavar="ID", action="append", default=[], help="accept the new sentence of ID")
    parser.add_argument("--file", type=Path, default=PUBLISHED, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    record, today = read(options.file), current()
    difference = Difference.between(record, today)
    problems = [f"{i}: no such invariant today" for i in options.changed if i not in today]
    problems += [
        f"{i}: its sentence has changed; if the meaning is the same, say `--changed {i}`, else take a new id"
        for i in difference.changed
        if i not in options.changed
    ]
    problems += [f"{i}: published, and gone; an id stays" for i in difference.missing]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    write(record | today, options.file)
    print(f"{len(today)} ids, {len(difference.new)} of them new, {len(difference.changed)} with a changed sentence")
    return 0


if __name__ == "__main__":
    sys.exit(main())
