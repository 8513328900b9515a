"""Running `mmspec` as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "mmconformance.cli"]

#: Where the small implementations are, right and wrong.
MAPS = "mmconformance.miniatures.reservation_map:"
MANAGERS = "mmconformance.miniatures.memory_manager:"


def mmspec(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


def interrupted(*arguments: str, cwd: Path, after: float = 0.0, once: str = "") -> subprocess.CompletedProcess[str]:
    """Press Ctrl-C after so many seconds, counted from when a line on standard error has said `once`."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    while once and once not in said:
        line = process.stderr.readline()
        assert line, f"ended without {once!r}: {said}"
        said += line
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    errors = said + errors
    assert "Traceback" not in errors
    assert not list(cwd.glob("*.part"))
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
