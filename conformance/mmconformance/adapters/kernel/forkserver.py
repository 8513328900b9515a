"""The caller's side of the fork server: real processes that do as they are told."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from mmconformance.adapters.kernel.server import BATCH, FORK, REPLY, REQUEST, SPAWN, WAIT, main
from mmspec.errors import ImplementationFailure

#: For how many seconds a system call may take before it counts as hung.
PATIENCE = 20.0

_ROOT = Path(__file__).resolve().parents[3]


def _socketpair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The kernel's own timeout: the socket stays blocking, and reading it is one system call.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(PATIENCE), 0))
    return ours, theirs


class Process:
    """One process: its pid as the system counts, and a channel over which it takes requests."""

    __slots__ = ("os_pid", "_socket", "_fd", "_pagemap")

    def __init__(self, os_pid: int, channel: socket.socket) -> None:
        self.os_pid = os_pid
        self._socket = channel
        self._fd = channel.fileno()
        self._pagemap = -1

    def ask(self, code: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> int:
        """One request and its result.

        :raises ImplementationFailure: the process is dead, or its system call hangs.
        """
        try:
            os.write(self._fd, REQUEST.pack(code, a, b, c, d, e))
            reply = os.read(self._fd, REPLY.size)
        except BlockingIOError:
            raise ImplementationFailure(f"process {self.os_pid} did not answer for {PATIENCE:.0f} s") from None
        except (BrokenPipeError, ConnectionResetError):
            reply = b""
        if not reply:
            raise ProcessDied(self.os_pid)
        return int(REPLY.unpack(reply)[0])

    def fork(self) -> Process | int:
        """A copy of the process, or a negative errno."""
        ours, theirs = _socketpair()
        try:
            os.write(self._fd, REQUEST.pack(FORK, 0, 0, 0, 0, 0))
            socket.send_fds(self._socket, [b"f"], [theirs.fileno()])
            pid = int(REPLY.unpack(os.read(self._fd, REPLY.size))[0])
        except BlockingIOError:
            raise ImplementationFailure(f"process {self.os_pid} did not come back from fork") from None
        except (BrokenPipeError, ConnectionResetError, struct.error):
            raise ProcessDied(self.os_pid) from None
        finally:
            theirs.close()
        if pid < 0:
            ours.close()
            return pid
        return Process(pid, ours)

    def pagemap_entry(self, address: int) -> int:
        """The entry of `/proc/<pid>/pagemap` for an address."""
        if self._pagemap < 0:
            self._pagemap = os.open(f"/proc/{self.os_pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        entry = os.pread(self._pagemap, 8, address // os.sysconf("SC_PAGESIZE") * 8)
        return int.from_bytes(entry, sys.byteorder)

    def hang_up(self) -> None:
        """Close the channel, upon which the process ends."""
        self._socket.close()
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1


class ProcessDied(ImplementationFailure):
    """A process that nobody told to end has ended."""

    def __init__(self, os_pid: int) -> None:
        self.os_pid = os_pid
        super().__init__(f"process {os_pid} died")


class ForkServer:
    """Makes processes and waits for them. Its own process is :attr:`os_pid`; killing that kills them all."""

    def __init__(self, huge_page: int, *, native: bool = True) -> None:
        """:param native: access memory by the processes' own instructions, not by the kernel on their behalf."""
        self._control, theirs = _socketpair()
        start = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from {main.__module__} import main; "
            f"main({theirs.fileno()}, {huge_page}, {os.getpid()}, {native})"
        )
        # -I -S: nothing of the caller's environment; a session of its own: no signal from the terminal.
        self._program = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", start],
            pass_fds=(theirs.fileno(),), start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        self._idle: list[Process] = []

    @property
    def os_pid(self) -> int:
        """The pid of the server."""
        return self._program.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs; if not, all its processes are dead or dying."""
        return self._program.poll() is None

    def _ask(self, *request: int) -> int:
        try:
            self._control.send(REQUEST.pack(*request))
        except OSError:
            raise ImplementationFailure(f"the fork server (process {self.os_pid}) is dead") from None
        return self._reply()

    def _reply(self) -> int:
        try:
            return int(REPLY.unpack(self._control.recv(REPLY.size))[0])
        except (BlockingIOError, ConnectionError, struct.error):
            raise ImplementationFailure(f"the fork server (process {self.os_pid}) does not answer") from None

    def stock(self, count: int) -> None:
        """Have at least `count` idle processes (at most 16)."""
        missing = min(count, BATCH) - len(self._idle)
        if missing <= 0:
            return
        pairs = [_socketpair() for _ in range(missing)]
        descriptors = array.array("i", [theirs.fileno() for _, theirs in pairs])
        try:
            self._control.sendmsg(
                [REQUEST.pack(SPAWN, missing, 0, 0, 0, 0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            )
        except OSError:
            raise ImplementationFailure(f"the fork server (process {self.os_pid}) is dead") from None
        for ours, theirs in pairs:
            theirs.close()
            self._idle.append(Process(self._reply(), ours))

    def take(self) -> Process:
        """A process that has no huge page mapped."""
        if not self._idle:
            self.stock(4)
        return self._idle.pop()

    def give_back(self, process: Process) -> None:
        """Take a process, with nothing mapped, for later use."""
        self._idle.append(process)

    def wait(self, process: Process) -> int:
        """Hang up and wait until the process and its memory are gone; its wait status."""
        process.hang_up()
        return self._ask(WAIT, process.os_pid, 0, 0, 0, 0)

    def close(self) -> None:
        """End all processes."""
        for process in self._idle:
            process.hang_up()
        self._idle.clear()
        self._control.close()
        # Its children are killed when the server dies, and may not outlive this call: nobody else waits for them.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(5)
        self._program.kill()
        self._program.wait()
