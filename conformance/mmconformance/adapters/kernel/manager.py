"""The running kernel behind the interface :class:`~mmspec.interfaces.MemoryManager`."""

from __future__ import annotations

import atexit
import errno
import os
import platform
from collections.abc import Hashable, Sequence
from types import TracebackType

import attrs

from mmconformance.adapters.kernel import syscalls
from mmconformance.adapters.kernel.forkserver import ForkServer, Process, ProcessDied
from mmconformance.adapters.kernel.probe import available, capabilities
from mmconformance.adapters.kernel.server import (
    DONTNEED,
    FATAL_LOAD,
    FATAL_STORE,
    LOAD,
    MMAP,
    MPROTECT,
    MUNMAP,
    NORESERVE,
    SHARED,
    STORE,
    WRITABLE,
)  # fmt: skip
from mmconformance.adapters.kernel.settings import PoolFiles, SettingsGuard, holders, meminfo_counters
from mmspec.errors import ImplementationFailure, Signal, UsageError
from mmspec.interfaces import MemoryManager
from mmspec.state import Mapping, PoolCounters, Setup

__all__ = ["PoolNotAtRest", "RunningKernel", "available"]

#: The first address that is handed out; below mmap_base and above a heap on every 64-bit layout.
FIRST_ADDRESS = 1 << 36

#: After so many looks at the counters, /proc/meminfo is read too and must agree.
CROSS_CHECK = 256

_PRESENT = 1 << 63
_PFN = (1 << 55) - 1


class PoolNotAtRest(ImplementationFailure):
    """Every process and file is gone, and still not all pages are free and unpromised.

    Either the kernel has lost count, or somebody else uses the pool. `counters` is what was seen.
    """

    def __init__(self, counters: PoolCounters, others: Sequence[int]) -> None:
        self.counters = counters
        suspects = f"processes {', '.join(map(str, others))} have huge pages" if others else "no process has huge pages"
        super().__init__(f"the huge-page pool is not at rest: {counters}; {suspects}")


@attrs.define(slots=True)
class _Task:
    """A process of the run: who does the work, and the next address that nothing was ever mapped at."""

    process: Process
    next_address: int


@attrs.define(slots=True)
class _File:
    """A file of the run: our descriptor (-1 when closed), device and inode number."""

    fd: int
    identity: tuple[int, int]


class RunningKernel(MemoryManager):
    """Real processes, system calls, faults and counters of the kernel that this runs on.

    Needs root and an idle pool, see :func:`available`. Settings are restored by :meth:`stop`, by :meth:`close`, at the
    end of the interpreter, and by a guardian when the program is killed. Pids, file numbers and addresses are the same
    in each run of the same operations. Anonymous mappings lie outside every quota: they belong to no mounted file
    system.
    """

    def __init__(self, huge_page_bytes: int = 2 << 20, *, max_pool: int = 64, native: bool = True) -> None:
        """Nothing is touched before :meth:`start`.

        :param max_pool: the most huge pages that the machine is asked for, surplus included.
        :param native: access memory by the processes' own instructions (x86_64 only; elsewhere the kernel copies).
        """
        self._huge_page = huge_page_bytes
        self.max_pool = max_pool
        self.native = native and platform.machine() == "x86_64"
        self.capabilities = capabilities(huge_page_bytes)
        self._guard = SettingsGuard([huge_page_bytes])
        self._pool: PoolFiles | None = None
        self._server: ForkServer | None = None
        self._tasks: dict[int, _Task] = {}
        self._files: list[_File] = []
        self._directory = -1
        self._quota: int | None = None
        self._next_pid = 1
        self._looks = 0

    @property
    def huge_page_bytes(self) -> int:
        return self._huge_page

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, setup: Setup) -> None:
        """See :meth:`MemoryManager.start`.

        :raises UsageError: the kernel cannot be the subject, or `setup` asks for more than `max_pool`.
        :raises PoolNotAtRest: the last run, or somebody else, has left pages or promises behind.
        """
        if setup.pool + setup.overcommit > self.max_pool:
            raise UsageError(f"a pool of {setup.pool} + {setup.overcommit} huge pages: max_pool is {self.max_pool}")
        if setup.quota is not None and "quota" not in self.capabilities:
            raise UsageError("a quota needs a hugetlbfs of our own: Linux 5.2 and the right to mount")
        pool = self._open()
        self._clear()
        seen = pool.counters()
        if seen.free_huge_pages != seen.nr_huge_pages or seen.resv_huge_pages or seen.surplus_huge_pages:
            raise PoolNotAtRest(seen, holders())
        if seen.nr_huge_pages != setup.pool:
            pool.set_nr(setup.pool)
            reached = pool.counters().nr_huge_pages
            if reached != setup.pool:
                raise UsageError(f"no memory for a pool of {setup.pool} huge pages: only {reached} were found")
        if pool.overcommit() != setup.overcommit:
            pool.set_overcommit(setup.overcommit)
        self._quota = setup.quota
        self._next_pid = 1

    def stop(self) -> None:
        """See :meth:`MemoryManager.stop`. The processes stay for the next `start`; :meth:`close` ends them too."""
        if self._guard.held:
            self._clear()
            self._guard.restore()

    def close(self) -> None:
        """End all processes, restore the settings and let others have the pool. `start` works again afterwards."""
        atexit.unregister(self.close)
        if not self._guard.held:
            return
        try:
            self._clear()
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        for task in self._tasks.values():
            task.process.hang_up()
        self._tasks.clear()
        self._drop_files()
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._guard.release()

    def __enter__(self) -> RunningKernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> PoolFiles:
        if self._pool is not None and self._guard.held:
            return self._pool
        reason = available(self._huge_page, self.max_pool)
        if reason is not None:
            raise UsageError(reason)
        self._guard.acquire()
        atexit.register(self.close)
        self._pool = PoolFiles(self._huge_page)
        return self._pool

    def _clear(self) -> None:
        """No mapping, no file."""
        for task in self._tasks.values():
            try:
                # Asked in any case: a dead process answers with the end of its channel, which comes after its memory's.
                task.process.ask(MUNMAP, FIRST_ADDRESS, max(task.next_address - FIRST_ADDRESS, self._huge_page))
                self._forks.give_back(task.process)
            except ProcessDied:
                if self._forks.alive:
                    self._forks.wait(task.process)
                else:
                    task.process.hang_up()
        self._tasks.clear()
        self._drop_files()
        if self._server is not None and not self._server.alive:
            self._server.close()
            self._server = None

    def _drop_files(self) -> None:
        for file in self._files:
            if file.fd >= 0:
                os.close(file.fd)
        self._files.clear()
        # A new file system for each run: whatever one has lost of its quota does not count against the next.
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    @property
    def _forks(self) -> ForkServer:
        if self._pool is None:
            raise UsageError("the running kernel has not been started: call start first")
        if self._server is None:
            self._server = ForkServer(self._huge_page, native=self.native)
            self._guard.kill_with_us(self._server.os_pid)
        return self._server

    # -- observation -----------------------------------------------------------------------------------------------

    def counters(self) -> PoolCounters:
        if self._pool is None:
            raise UsageError("the running kernel has not been started: call start first")
        seen = self._pool.counters()
        self._looks += 1
        if self._looks % CROSS_CHECK == 0:
            size, told = meminfo_counters()
            if size == self._huge_page and told != seen:
                raise ImplementationFailure(f"sysfs tells {seen} and /proc/meminfo {told}")
        return seen

    def quota_free(self) -> int | None:
        return None if self._quota is None else os.fstatvfs(self._mount()).f_bfree

    def mappings(self, pid: int) -> Sequence[Mapping]:
        numbers = {file.identity: number for number, file in enumerate(self._files)}
        task = self._tasks[pid]
        found = []
        with open(f"/proc/{task.process.os_pid}/maps") as maps:
            for line in maps:
                span, rights, offset, device, inode = line.split(maxsplit=5)[:5]
                start, end = (int(word, 16) for word in span.split("-"))
                if not FIRST_ADDRESS <= start < task.next_address:
                    continue
                major, minor = (int(word, 16) for word in device.split(":"))
                file = numbers.get((os.makedev(major, minor), int(inode)))
                length, place = (end - start) // self._huge_page, int(offset, 16) // self._huge_page
                found.append(Mapping(start, length, place, rights[3] == "s", file))
        return found

    def page_at(self, pid: int, address: int) -> Hashable | None:
        """The page's frame number. It may change between two looks, when the kernel migrates the page."""
        entry = self._tasks[pid].process.pagemap_entry(address)
        return entry & _PFN if entry & _PRESENT else None

    # -- processes -------------------------------------------------------------------------------------------------

    def spawn(self) -> int:
        return self._enter(_Task(self._forks.take(), FIRST_ADDRESS))

    def _enter(self, task: _Task) -> int:
        pid = self._next_pid
        self._next_pid += 1
        self._tasks[pid] = task
        return pid

    def os_pid(self, pid: int) -> int:
        """The pid under which the rest of the system knows the process."""
        return self._tasks[pid].process.os_pid

    def fork(self, pid: int) -> int:
        parent = self._tasks[pid]
        child = parent.process.fork()
        return child if isinstance(child, int) else self._enter(_Task(child, parent.next_address))

    def exit(self, pid: int) -> int:
        self._forks.wait(self._tasks.pop(pid).process)
        return 0

    # -- mappings --------------------------------------------------------------------------------------------------

    def mmap(
        self,
        pid: int,
        length: int,
        *,
        file: int | None = None,
        offset: int = 0,
        shared: bool = False,
        noreserve: bool = False,
        writable: bool = True,
    ) -> int:
        task = self._tasks[pid]
        fd = -1 if file is None else self._files[file].fd
        if file is not None and fd < 0:
            return -errno.EBADF
        size, flags = length * self._huge_page, SHARED * shared | NORESERVE * noreserve | WRITABLE * writable
        address = task.process.ask(MMAP, task.next_address, size, flags, fd, offset * self._huge_page)
        if address >= 0:
            # A page between neighbours: an access one too far is a fault and not somebody else's page.
            task.next_address += size + self._huge_page
        return address

    def munmap(self, pid: int, address: int, length: int) -> int:
        return self._tasks[pid].process.ask(MUNMAP, address, length * self._huge_page)

    def dontneed(self, pid: int, address: int, length: int) -> int:
        return self._tasks[pid].process.ask(DONTNEED, address, length * self._huge_page)

    def mprotect(self, pid: int, address: int, length: int, writable: bool) -> int:
        return self._tasks[pid].process.ask(MPROTECT, address, length * self._huge_page, writable)

    # -- accesses --------------------------------------------------------------------------------------------------

    def read(self, pid: int, address: int) -> int:
        result = self._tasks[pid].process.ask(LOAD, address)
        return result if result >= 0 else Signal(result)

    def write(self, pid: int, address: int, value: int) -> int:
        result = self._tasks[pid].process.ask(STORE, address, value)
        return result if result >= 0 else Signal(result)

    def fatal_access(self, pid: int, address: int, value: int | None = None) -> int:
        """Read (or write `value`) with nothing in between: where that fails, the process dies and is gone.

        The value read, 0 for a write, or the negated number of the signal that killed the process. For a second look
        at what :meth:`read` and :meth:`write` have reported.
        """
        process = self._tasks[pid].process
        try:
            return process.ask(FATAL_LOAD, address) if value is None else process.ask(FATAL_STORE, address, value)
        except ProcessDied:
            del self._tasks[pid]
            return Signal(-os.WTERMSIG(self._forks.wait(process)))

    # -- files -----------------------------------------------------------------------------------------------------

    def _mount(self) -> int:
        if self._directory < 0:
            size = None if self._quota is None else self._quota * self._huge_page
            self._directory = syscalls.detached_hugetlbfs(self._huge_page, size)
            if self._directory < 0:
                raise ImplementationFailure(f"mounting hugetlbfs failed: {os.strerror(-self._directory)}")
        return self._directory

    def create_file(self, size: int) -> int:
        if "quota" in self.capabilities:
            # No name: O_TMPFILE would do, but a name that is removed at once works on every release.
            directory = self._mount()
            fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            os.unlink("file", dir_fd=directory)
        else:
            fd = syscalls.huge_memfd(self._huge_page)
            if fd < 0:
                raise ImplementationFailure(f"memfd_create failed: {os.strerror(-fd)}")
        os.ftruncate(fd, size * self._huge_page)
        status = os.fstat(fd)
        self._files.append(_File(fd, (status.st_dev, status.st_ino)))
        return len(self._files) - 1

    def truncate(self, file: int, size: int) -> int:
        return syscalls.ftruncate(self._files[file].fd, size * self._huge_page)

    def fallocate(self, file: int, offset: int, length: int) -> int:
        """See :meth:`MemoryManager.fallocate`; extends the file where the range goes beyond its end."""
        return syscalls.fallocate(self._files[file].fd, offset * self._huge_page, length * self._huge_page)

    def punch_hole(self, file: int, offset: int, length: int) -> int:
        fd = self._files[file].fd
        return syscalls.fallocate(fd, offset * self._huge_page, length * self._huge_page, punch_hole=True)

    def close_file(self, file: int) -> int:
        os.close(self._files[file].fd)
        self._files[file].fd = -1
        return 0

    # -- settings --------------------------------------------------------------------------------------------------

    def set_nr_hugepages(self, count: int) -> int:
        if self._pool is None or count > self.max_pool:
            raise UsageError(f"a pool of {count} huge pages: max_pool is {self.max_pool}, and start comes first")
        self._pool.set_nr(count)
        return self._pool.counters().nr_huge_pages

    def set_overcommit(self, count: int) -> int:
        if self._pool is None or count > self.max_pool:
            raise UsageError(f"{count} surplus huge pages: max_pool is {self.max_pool}, and start comes first")
        self._pool.set_overcommit(count)
        return 0

    def set_quota(self, blocks: int | None) -> int:
        """Choose the file system for the files to come; the size of a mounted one is fixed.

        :raises UsageError: there are files already.
        """
        if self._files:
            raise UsageError("hugetlbfs cannot change its size while mounted: set the quota before creating files")
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
        self._quota = blocks
        return 0
