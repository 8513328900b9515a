"""The machine's huge-page settings: read, changed, and put back whatever happens."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from mmconformance.adapters.kernel.guardian import put_back
from mmspec.errors import UsageError
from mmspec.state import PoolCounters

POOLS = Path("/sys/kernel/mm/hugepages")
NODES = Path("/sys/devices/system/node")

COUNTERS = ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages")


def pool_directory(huge_page: int) -> Path:
    """Where sysfs shows the pool of huge pages of `huge_page` bytes."""
    return POOLS / f"hugepages-{huge_page // 1024}kB"


def signed(count: int) -> int:
    """The number that an `unsigned long` stands for which may have been counted down below zero."""
    return count if count < 1 << 63 else count - (1 << 64)


class PoolFiles:
    """The pool's files in sysfs, kept open: counters are read and settings written without a path lookup."""

    def __init__(self, huge_page: int) -> None:
        directory = pool_directory(huge_page)
        self._counters = [os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC) for name in COUNTERS]
        self._nr = os.open(directory / "nr_hugepages", os.O_RDWR | os.O_CLOEXEC)
        self._overcommit = os.open(directory / "nr_overcommit_hugepages", os.O_RDWR | os.O_CLOEXEC)

    def counters(self) -> PoolCounters:
        """The four counters, read one after the other; one that went below zero is told as negative."""
        return PoolCounters(*[signed(int(os.pread(fd, 24, 0))) for fd in self._counters])

    def set_nr(self, count: int) -> None:
        """Ask for a persistent pool of `count` huge pages."""
        os.pwrite(self._nr, b"%d" % count, 0)

    def overcommit(self) -> int:
        """How many surplus pages are allowed."""
        return int(os.pread(self._overcommit, 24, 0))

    def set_overcommit(self, count: int) -> None:
        """Allow `count` surplus pages."""
        os.pwrite(self._overcommit, b"%d" % count, 0)

    def close(self) -> None:
        """Close the files."""
        for fd in (*self._counters, self._nr, self._overcommit):
            os.close(fd)


def meminfo_counters() -> tuple[int, PoolCounters]:
    """The size of the default huge page in bytes and the counters of its pool, from `/proc/meminfo`."""
    words = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free, resv, surplus = (signed(int(words[f"HugePages_{name}"])) for name in ("Total", "Free", "Rsvd", "Surp"))
    return int(words["Hugepagesize"].split()[0]) * 1024, PoolCounters(total, free, resv, surplus)


def holders() -> list[int]:
    """The pids of all processes with huge pages in their page tables."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            for line in status.read_text().splitlines():
                if line.startswith("HugetlbPages:") and line.split()[1] != "0":
                    found.append(int(status.parent.name))
    return found


def _saved_values(sizes: Sequence[int]) -> list[tuple[str, int]]:
    """Files and values to restore, in the order in which to write them."""
    values = []
    nodes = sorted(NODES.glob("node[0-9]*"))
    for size in sizes:
        directory = pool_directory(size)
        # Surplus first: with overcommit still allowed, a shrinking pool could keep pages that it must give back.
        overcommit = directory / "nr_overcommit_hugepages"
        values.append((str(overcommit), int(overcommit.read_text())))
        # The file shows all pages, and what is written to it is the persistent size.
        places = [directory]
        if len(nodes) > 1:
            # After the total, because that spreads the pages over the nodes in its own way.
            places += [node / "hugepages" / directory.name for node in nodes]
        for place in places:
            persistent = int((place / "nr_hugepages").read_text()) - int((place / "surplus_hugepages").read_text())
            values.append((str(place / "nr_hugepages"), persistent))
    return values


class SettingsGuard:
    """Holds the huge-page settings of the machine: exclusive among users of this class, restored in every case.

    :meth:`release` restores; leaving a `with` block and the end of the interpreter call it. Where the program ends
    without (any signal, SIGKILL included), a guardian process restores within some milliseconds.
    """

    #: An abstract socket with this name is bound by who holds the settings; the kernel frees it with its owner.
    LOCK = "\0mmspec-huge-page-settings"

    def __init__(self, sizes: Sequence[int] = (2 << 20,)) -> None:
        """:param sizes: huge page sizes in bytes."""
        self.sizes = tuple(sizes)
        self.values: list[tuple[str, int]] = []
        self._lock: socket.socket | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._owner = -1

    @property
    def held(self) -> bool:
        """Whether the settings are ours now."""
        return self._lock is not None and self._owner == os.getpid()

    @classmethod
    def taken(cls) -> bool:
        """Whether somebody holds the settings now."""
        probe = cls._bind()
        if probe is None:
            return True
        probe.close()
        return False

    @classmethod
    def _bind(cls) -> socket.socket | None:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(cls.LOCK)
        except OSError:
            lock.close()
            return None
        return lock

    def acquire(self) -> None:
        """Save the settings and start the guardian. From here on they may be changed.

        :raises UsageError: somebody else holds them.
        """
        self._lock = self._bind()
        if self._lock is None:
            raise UsageError("another run of mmspec uses the huge-page pool: wait for its end")
        self._owner = os.getpid()
        self.values = _saved_values(self.sizes)
        reader, self._pipe = os.pipe()
        script = str(Path(__file__).with_name("guardian.py"))
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(reader), str(os.getpid())],
            pass_fds=(reader,), start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(reader)
        # In the pipe before anything is changed; the guardian reads it also if we are dead by then.
        self._tell(f"restore {json.dumps(self.values)}")
        atexit.register(self.release)

    def kill_with_us(self, pid: int) -> None:
        """Have the guardian kill that process before it restores."""
        self._tell(f"kill {pid}")

    def _tell(self, line: str) -> None:
        os.write(self._pipe, line.encode() + b"\n")

    def restore(self) -> bool:
        """Put the settings back, and keep holding them; whether that went well at once."""
        return put_back(self.values)

    def release(self) -> None:
        """Put the settings back and let go of them. Without effect in a forked child or a second time."""
        if not self.held:
            return
        atexit.unregister(self.release)
        try:
            if self.restore():
                self._tell("done")
        finally:
            # Without "done" the guardian takes over, and has more patience.
            os.close(self._pipe)
            if self._guardian is not None:
                self._guardian.wait()
            if self._lock is not None:
                self._lock.close()
            self._lock = None

    def __enter__(self) -> SettingsGuard:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
