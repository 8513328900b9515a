"""A tiny process that puts settings back when the program that changed them dies without doing so.

Run as a script, `python guardian.py DESCRIPTOR PID`, with the values to restore as JSON in the first message. It
has a session of its own, so that nothing typed at a terminal reaches it. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

#: For how many seconds restoring is tried again, while memory held by dying processes comes back.
PATIENCE = 10.0


def put_back(values: list[tuple[str, int]]) -> bool:
    """Write each value to its file; whether all read back as written."""
    with contextlib.suppress(OSError):
        for path, value in values:
            _write(path, value)
        for path, value in values:
            seen = _read(path)
            if seen > value:
                # Free surplus pages stay until they have become a part of the persistent pool.
                _write(path, seen)
                _write(path, value)
        return all(_read(path) == value for path, value in values)
    return False


def _read(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:
        file.write(str(value))


def main(descriptor: int, program: int) -> None:
    """Wait for `done` or for the end of the program; in the second case end its helpers and restore."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    helpers: list[int] = []
    # A process that the program forked may hold the pipe open beyond the program's death: watch the program itself too.
    watched = [descriptor]
    with contextlib.suppress(ProcessLookupError):
        watched.append(os.pidfd_open(program))
    # If it was dead before this process was up, what it has said is in the pipe, and nothing more will come.
    wait = None if len(watched) == 2 else 0.0
    values: list[tuple[str, int]] = []
    pending = b""
    while True:
        readable, _, _ = select.select(watched, [], [], wait)
        chunk = os.read(descriptor, 65536) if descriptor in readable else b""
        pending += chunk
        *lines, pending = pending.split(b"\n")
        for line in lines:
            word, _, argument = line.decode().partition(" ")
            if word == "done":
                return
            if word == "restore":
                values = [(path, value) for path, value in json.loads(argument)]
            elif word == "kill":
                with contextlib.suppress(ProcessLookupError):
                    helpers.append(os.pidfd_open(int(argument)))
        if not chunk:
            break
    for helper in helpers:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(helper, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while not put_back(values) and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
