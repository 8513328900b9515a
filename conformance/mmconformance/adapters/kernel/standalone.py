"""What a program written by :mod:`~mmconformance.adapters.kernel.program` consists of besides its list of operations.

Never imported by such a program: its source text, and that of :mod:`~mmconformance.adapters.kernel.syscalls`, become
part of it. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

from mmconformance.adapters.kernel import syscalls

Operation = tuple[str, str, tuple[Any, ...], dict[str, Any]]
Counters = tuple[int, int, int, int]

FIRST_ADDRESS = 1 << 36
NAMES = ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages")


def pool_file(huge_page: int, name: str) -> str:
    return f"/sys/kernel/mm/hugepages/hugepages-{huge_page // 1024}kB/{name}"


def get(huge_page: int, name: str) -> int:
    with open(pool_file(huge_page, name)) as file:
        count = int(file.read())
    # An unsigned long that was counted down below zero is told as the negative number it stands for.
    return count if count < 1 << 63 else count - (1 << 64)


def put(huge_page: int, name: str, value: int) -> None:
    with open(pool_file(huge_page, name), "w") as file:
        file.write(str(value))


def say(result: int) -> str:
    if result >= 1 << 30:
        return hex(result)
    return str(result) if result >= 0 else f"{result} ({os.strerror(-result)})"


def say_access(result: int) -> str:
    return str(result) if result >= 0 else signal.Signals(-result).name


class Worker:
    """A process of the run: does one operation after the other, as told over its socket."""

    def __init__(self, program: Program, number: int) -> None:
        self.program = program
        self.number = number
        try:
            self.load, self.store = syscalls.native_accesses()
        except OSError:
            self.load, self.store = syscalls.copying_accesses()

    def serve(self) -> None:
        """Never returns; a fork comes back from it as another process."""
        while packet := self.program.ends[self.number][1].recv(65536):
            name, args, options = eval(packet)
            self.program.ends[self.number][1].send(struct.pack("q", self.perform(name, args, options)))
        os._exit(0)

    def perform(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> int:
        if name == "mmap":
            path = options.pop("path", None)
            fd = -1 if path is None else os.open(path, os.O_RDWR)
            try:
                return syscalls.mmap_huge(args[0], args[1], self.program.huge_page, fd=fd, **options)
            finally:
                if fd >= 0:
                    os.close(fd)
        if name == "fork":
            return self.program.fork(args[0], self)
        actions: dict[str, Callable[..., int]] = {
            "munmap": syscalls.munmap,
            "dontneed": syscalls.dontneed,
            "mprotect": syscalls.mprotect,
            "read": self.load,
            "write": self.store,
        }
        return actions[name](*args)


class Program:
    """Performs a list of operations, and says after each what the counters are and which law does not hold.

    `laws` are `(id, sentence, predicate)`; a predicate sees the counters (total, free, reserved, surplus), whether it
    is the end, where nobody uses a huge page any more, and the free blocks and the size of the quota (or None twice).
    `expected` tells the results and counters that the law demands, for each operation or None. `finding` is an
    operation's number, a result and counters that break another law, with its id and sentence.
    """

    def __init__(
        self,
        operations: list[Operation],
        laws: list[tuple[str, str, Callable[..., bool]]],
        expected: list[tuple[int, Counters] | None],
        finding: tuple[int, int, Counters, str, str] | None,
        *,
        huge_page: int,
        pool: int,
        overcommit: int,
        quota: int | None,
    ) -> None:
        self.operations, self.laws, self.expected, self.finding = operations, laws, expected, finding
        self.huge_page, self.pool, self.overcommit, self.quota = huge_page, pool, overcommit, quota
        # Before anything is forked, so that every process has the sockets of all.
        count = sum(name in ("spawn", "fork") for _, name, _, _ in operations)
        self.ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        for ours, _ in self.ends:
            ours.settimeout(30)
        self.pids: list[int] = []
        self.files: list[int] = []
        self.maps: list[int] = []
        self.next_address: list[int] = []
        self.main_pid = os.getpid()
        self.mount = -1
        self.broken = 0

    def fork(self, number: int, worker: Worker | None = None) -> int:
        """Fork process `number`, a child of the main program in either case so that that can wait for it."""
        pid = os.fork() if worker is None else syscalls.clone_sibling()
        if pid:
            return pid
        syscalls.die_with_parent(self.main_pid)
        # The main program's ends are its own: a process notices its death. The others' are for processes to be forked.
        for ours, _ in self.ends:
            ours.close()
        worker = worker or Worker(self, number)
        worker.number = number
        worker.serve()
        return 0

    def ask(self, number: int, name: str, *args: Any, **options: Any) -> int:
        end = self.ends[number - 1][0]
        end.send(repr((name, args, options)).encode())
        return int(struct.unpack("q", end.recv(8))[0])

    def address(self, place: tuple[int, int]) -> int:
        mapping, page = place
        return self.maps[mapping - 1] + page * self.huge_page

    def file_descriptor(self) -> int:
        if self.mount < 0:
            size = None if self.quota is None else self.quota * self.huge_page
            self.mount = syscalls.detached_hugetlbfs(self.huge_page, size)
        if self.mount < 0:
            return syscalls.huge_memfd(self.huge_page)
        fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.mount)
        os.unlink("file", dir_fd=self.mount)
        return fd

    def perform(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> int:
        page = self.huge_page
        if name == "spawn":
            self.pids.append(self.fork(len(self.pids)))
            self.next_address.append(FIRST_ADDRESS)
            return len(self.pids)
        if name == "fork":
            pid = self.ask(args[0], "fork", len(self.pids))
            if pid < 0:
                return pid
            self.pids.append(pid)
            self.next_address.append(self.next_address[args[0] - 1])
            return len(self.pids)
        if name == "exit":
            self.ends[args[0] - 1][0].close()
            os.waitpid(self.pids[args[0] - 1], 0)
            self.pids[args[0] - 1] = 0
            return 0
        if name == "create_file":
            self.files.append(self.file_descriptor())
            os.ftruncate(self.files[-1], args[0] * page)
            return len(self.files) - 1
        if name == "mmap":
            return self.map(*args, **options)
        if name in ("munmap", "dontneed"):
            return self.ask(args[0], name, self.address(args[1]), args[2] * page)
        if name == "mprotect":
            return self.ask(args[0], name, self.address(args[1]), args[2] * page, bool(args[3]))
        if name in ("read", "write"):
            return self.ask(args[0], name, self.address(args[1]), *args[2:])
        if name == "truncate":
            return syscalls.ftruncate(self.files[args[0]], args[1] * page)
        if name in ("fallocate", "punch_hole"):
            hole = name == "punch_hole"
            return syscalls.fallocate(self.files[args[0]], args[1] * page, args[2] * page, punch_hole=hole)
        if name == "close_file":
            os.close(self.files[args[0]])
            self.files[args[0]] = -1
            return 0
        setting = "nr_hugepages" if name == "set_nr_hugepages" else "nr_overcommit_hugepages"
        put(page, setting, args[0])
        return get(page, setting) if name == "set_nr_hugepages" else 0

    def map(self, process: int, length: int, file: int | None = None, offset: int = 0, **options: bool) -> int:
        rights = {"shared": False, "noreserve": False, "writable": True} | options
        start, size = self.next_address[process - 1], length * self.huge_page
        fd = -1 if file is None else self.files[file]
        if fd >= 0:
            # The file is opened by the process itself, as another one that has not inherited it would do.
            path = f"/proc/{self.main_pid}/fd/{fd}"
            result = self.ask(process, "mmap", start, size, path=path, offset=offset * self.huge_page, **rights)
        else:
            result = self.ask(process, "mmap", start, size, **rights)
        self.maps.append(result)
        if result >= 0:
            self.next_address[process - 1] += size + self.huge_page
        return result

    def look(self, *, end: bool = False) -> Counters:
        """Print the counters and the laws that do not hold."""
        total, free, resv, surplus = (get(self.huge_page, name) for name in NAMES)
        quota_free = os.fstatvfs(self.mount).f_bfree if self.quota is not None and self.mount >= 0 else self.quota
        told = f"total {total} free {free} reserved {resv} surplus {surplus}"
        print(f"    {told}" + ("" if self.quota is None else f" quota free {quota_free}"))
        for identity, sentence, holds in self.laws:
            if not holds((total, free, resv, surplus), end, quota_free, self.quota):
                self.broken += 1
                print(f"    BROKEN {identity}: {sentence}")
        return total, free, resv, surplus

    def run(self) -> None:
        """All operations, and then everybody leaves."""
        for number, (text, name, args, options) in enumerate(self.operations):
            result = self.perform(name, args, options)
            told = say_access(result) if name in ("read", "write") else say(result)
            print(f"{number + 1:3} {text} = {told}")
            counters = self.look()
            result = min(result, 0) if name == "mmap" else result
            if self.finding is not None and self.finding[:3] == (number + 1, result, counters):
                self.broken += 1
                print(f"    BROKEN {self.finding[3]}: {self.finding[4]}")
            expected = self.expected[number] if number < len(self.expected) else None
            if expected is not None and (result, counters) != expected:
                self.broken += 1
                print(f"    BROKEN expectation: result {expected[0]}, (total, free, reserved, surplus) {expected[1]}")
        self.leave()
        print("end: all processes have exited, all files are closed")
        self.look(end=True)

    def leave(self) -> None:
        """End all processes and close all files."""
        for index, pid in enumerate(self.pids):
            self.ends[index][0].close()
            if pid:
                os.waitpid(pid, 0)
                self.pids[index] = 0
        for fd in self.files:
            if fd >= 0:
                os.close(fd)
        self.files.clear()

    def main(self) -> int:
        """Run with the pool as wanted, and put the settings back: 0 all laws held, 1 not, 2 the run was impossible."""
        if os.geteuid() != 0:
            print("needs root")
            return 2
        total, free, resv, surplus = (get(self.huge_page, name) for name in NAMES)
        if free != total or resv or surplus:
            print(f"the pool is in use: total {total} free {free} reserved {resv} surplus {surplus}")
            return 2
        overcommit = get(self.huge_page, "nr_overcommit_hugepages")
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(2))
        try:
            put(self.huge_page, "nr_hugepages", self.pool)
            put(self.huge_page, "nr_overcommit_hugepages", self.overcommit)
            print(f"Linux {os.uname().release}, pool {self.pool}, overcommit {self.overcommit}, quota {self.quota}")
            self.run()
        except Exception:
            traceback.print_exc()
            return 2
        finally:
            with contextlib.suppress(OSError, ChildProcessError):
                self.leave()
            put(self.huge_page, "nr_overcommit_hugepages", overcommit)
            put(self.huge_page, "nr_hugepages", total)
        print("all laws held" if not self.broken else f"{self.broken} laws broken")
        return 1 if self.broken else 0
