"""Recorded runs as files: JSON that says what was run, and every decision that was taken."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import msgspec

from mmspec.errors import UsageError

#: What distinguishes these files from other JSON.
FORMAT: Final = "mmspec-replay"

#: The version that is written. Older ones are read, newer ones are refused.
VERSION: Final = 1


class Recording(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A run that can be repeated."""

    arch: str
    """The architecture profile."""
    variant: str
    """The locking variant."""
    program: dict[str, Any]
    """What was run, in the terms of whoever runs it."""
    decisions: list[str | int] = []
    """Names of tasks and values of choices, in the order in which they were taken."""
    violates: str = ""
    """The id of the invariant that the run violates, "" if it violates none."""
    kind: str = "schedule"
    """What sort of run it is, in the terms of whoever runs it."""
    implementation: str = "reference"
    """The implementation that was run, as the command line names it."""
    format: str = FORMAT
    version: int = VERSION


class _Envelope(msgspec.Struct):
    """The part that all versions have in common."""

    format: str = ""
    version: int = 0


def save(path: Path, recording: Recording) -> None:
    """Write the recording; the text is the same for the same recording.

    :raises OSError: if that cannot be done.
    """
    path.write_bytes(_text(recording))


def digest(recording: Recording) -> str:
    """Eight hexadecimal digits that tell recordings apart."""
    return hashlib.sha256(_text(recording)).hexdigest()[:8]


def _text(recording: Recording) -> bytes:
    return msgspec.json.format(msgspec.json.encode(recording, order="deterministic"), indent=1) + b"\n"


def load(path: Path) -> Recording:
    """Read a recording.

    :raises UsageError: if there is no such file, or it is no recording, or a newer version has written it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        envelope = msgspec.json.decode(content, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a replay file: {error}") from None
    if envelope.format != FORMAT:
        raise UsageError(f"{path} is not a replay file: its format is not {FORMAT!r}")
    if envelope.version > VERSION:
        raise UsageError(
            f"{path} has version {envelope.version} of the format and this program reads up to {VERSION}; update mmspec"
        )
    try:
        return msgspec.json.decode(content, type=Recording)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is a damaged replay file: {error}") from None
