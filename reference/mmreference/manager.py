"""The reference behind the public interfaces: what `mmspec check` runs when no other implementation is named."""

from __future__ import annotations

import errno
from collections.abc import Coroutine, Hashable, Sequence
from typing import Any

from mmreference.kernel.scheduler import Scheduler, Strategy
from mmreference.mm.hugetlb import region
from mmreference.mm.hugetlb.file import Inode
from mmreference.mm.hugetlb.mmap import do_mmap, do_mprotect, do_munmap, madvise_dontneed
from mmreference.mm.hugetlb.pool import set_max_huge_pages
from mmreference.mm.hugetlb.process import access, dup_mm, mmput
from mmreference.mm.hugetlb.quota import NO_LIMIT
from mmreference.mm.hugetlb.system import System
from mmreference.mm.hugetlb.truncate import hugetlb_setattr, iput
from mmreference.mm.hugetlb.vma import VM_MAYSHARE, VM_MAYWRITE, VM_NORESERVE, VM_READ, VM_SHARED, VM_WRITE, Mm
from mmspec.arch import architecture
from mmspec.config import TENTATIVE
from mmspec.contracts import contracted
from mmspec.errors import Signal
from mmspec.interfaces import MemoryManager, ReservationMap
from mmspec.state import Mapping, PoolCounters, Setup
from mmspec.trace import Recorder


def mmap_flags(*, shared: bool, noreserve: bool, writable: bool) -> int:
    """The `vm_flags` of a mapping."""
    flags = VM_READ | VM_MAYWRITE
    flags |= VM_WRITE if writable else 0
    flags |= VM_SHARED | VM_MAYSHARE if shared else 0
    flags |= VM_NORESERVE if noreserve else 0
    return flags


class ReferenceMemoryManager(MemoryManager):
    """The reference implementation at system-call level.

    `arch` and `variant` name the profile. Each call runs alone, with a strategy that may let allocations fail;
    several calls at once go through :meth:`call` and a scheduler of the caller's.
    """

    capabilities = frozenset({"dontneed", "mprotect", "mappings", "page_at", "set_overcommit", "quota_free"})

    def __init__(self, arch: str = "x86_64", variant: str = TENTATIVE) -> None:
        self.arch = architecture(arch)
        self.variant = variant
        self.strategy: Strategy | None = None
        self.nodes = 1
        self.start(Setup())

    @property
    def huge_page_bytes(self) -> int:
        return self.arch.huge_page_size

    def start(self, setup: Setup) -> None:
        self.system = System(self.arch, self.variant, setup, self.nodes)
        self._processes: dict[int, Mm] = {}
        self._files: list[Inode] = []
        self._numbers: dict[Inode, int] = {}
        self._next_pid = 1

    def stop(self) -> None:
        """Nothing outlives the object."""

    def _run(self, body: Coroutine[Any, Any, Any]) -> Any:
        scheduler = Scheduler(self.strategy, Recorder.active)
        task = scheduler.spawn("syscall", body)
        scheduler.run()
        return task.result

    @contracted()
    def counters(self) -> PoolCounters:
        return self.system.pool.counters()

    def spawn(self) -> int:
        return self._enter_process(self.system.new_mm())

    def _enter_process(self, mm: Mm) -> int:
        pid = self._next_pid
        self._next_pid += 1
        self._processes[pid] = mm
        return pid

    @property
    def pids(self) -> list[int]:
        """The processes that have not exited."""
        return list(self._processes)

    @property
    def open_files(self) -> list[int]:
        """The files that have not been closed."""
        return [number for number, inode in enumerate(self._files) if inode in self.system.inodes and inode.open_files]

    def process(self, pid: int) -> Mm:
        """The address space of a process."""
        return self._processes[pid]

    def inode(self, file: int) -> Inode:
        """The file of that number."""
        return self._files[file]

    def create_file(self, size: int) -> int:
        inode = self.system.new_inode(size)
        self._files.append(inode)
        self._numbers[inode] = len(self._files) - 1
        return self._numbers[inode]

    # -- system calls, as coroutines for a scheduler and as plain calls --------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """The coroutine of a system call, to be spawned together with others."""
        body: Coroutine[Any, Any, Any] = getattr(self, f"_{name}")(*args, **kwargs)
        return body

    async def _mmap(
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
        flags = mmap_flags(shared=shared, noreserve=noreserve, writable=writable)
        inode = self._files[file] if file is not None else self.system.new_inode(length, open_files=0)
        result: int = await do_mmap(self._processes[pid], length, inode, offset, flags)
        if result < 0:
            await iput(inode)
        return result

    async def map_read_only_file(self, pid: int, length: int, file: int) -> int:
        """A shared mapping of a file that was opened read-only."""
        flags = VM_READ | VM_MAYSHARE
        return int(await do_mmap(self._processes[pid], length, self._files[file], 0, flags))

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
        body = self._mmap(pid, length, file=file, offset=offset, shared=shared, noreserve=noreserve, writable=writable)
        return int(self._run(body))

    async def _munmap(self, pid: int, address: int, length: int) -> int:
        return int(await do_munmap(self._processes[pid], address, length * self.huge_page_bytes))

    def munmap(self, pid: int, address: int, length: int) -> int:
        return int(self._run(self._munmap(pid, address, length)))

    async def _fork(self, pid: int) -> int:
        child = await dup_mm(self._processes[pid])
        return child if isinstance(child, int) else self._enter_process(child)

    def fork(self, pid: int) -> int:
        return int(self._run(self._fork(pid)))

    async def _exit(self, pid: int) -> int:
        await mmput(self._processes.pop(pid))
        return 0

    def exit(self, pid: int) -> int:
        return int(self._run(self._exit(pid)))

    async def _read(self, pid: int, address: int) -> int:
        return await access(self._processes[pid], address, None)

    def read(self, pid: int, address: int) -> int:
        return self._run(self._read(pid, address))  # type: ignore[no-any-return]

    async def _write(self, pid: int, address: int, value: int) -> int:
        return await access(self._processes[pid], address, value)

    def write(self, pid: int, address: int, value: int) -> int:
        return self._run(self._write(pid, address, value))  # type: ignore[no-any-return]

    async def _truncate(self, file: int, size: int) -> int:
        return int(await hugetlb_setattr(self._files[file], size))

    def truncate(self, file: int, size: int) -> int:
        return int(self._run(self._truncate(file, size)))

    async def _close_file(self, file: int) -> int:
        inode = self._files[file]
        inode.open_files = 0
        await iput(inode)
        return 0

    def close_file(self, file: int) -> int:
        return int(self._run(self._close_file(file)))

    async def _set_nr_hugepages(self, count: int) -> int:
        return int(await set_max_huge_pages(self.system.pool, count))

    def set_nr_hugepages(self, count: int) -> int:
        return int(self._run(self._set_nr_hugepages(count)))

    async def _mprotect(self, pid: int, address: int, length: int, writable: bool) -> int:
        return int(await do_mprotect(self._processes[pid], address, length * self.huge_page_bytes, writable))

    def mprotect(self, pid: int, address: int, length: int, writable: bool) -> int:
        return int(self._run(self._mprotect(pid, address, length, writable)))

    async def _dontneed(self, pid: int, address: int, length: int) -> int:
        return int(await madvise_dontneed(self._processes[pid], address, length * self.huge_page_bytes))

    def dontneed(self, pid: int, address: int, length: int) -> int:
        return int(self._run(self._dontneed(pid, address, length)))

    def set_quota(self, blocks: int | None) -> int:
        sb = self.system.super
        used = sb.max_blocks - sb.free_blocks
        limit = NO_LIMIT if blocks is None else blocks
        if used > limit:
            return -errno.EBUSY
        sb.max_blocks = limit
        sb.free_blocks = limit - used
        return 0

    def set_overcommit(self, count: int) -> int:
        self.system.pool.nr_overcommit_huge_pages = count
        return 0

    # -- observation -----------------------------------------------------------------------------------------------------

    def quota_free(self) -> int | None:
        sb = self.system.super
        return sb.free_blocks if sb.limited else None

    def mappings(self, pid: int) -> Sequence[Mapping]:
        return [Mapping(v.vm_start, v.npages, v.lo, v.is_shared, self._numbers.get(v.vm_file)) for v in self._processes[pid].vmas]

    def page_at(self, pid: int, address: int) -> Hashable | None:
        entry = self._processes[pid].ptes.get(address // self.huge_page_bytes)
        return None if entry is None else entry.page.name


class ReferenceReservationMap(ReservationMap):
    """The region list by itself."""

    def __init__(self) -> None:
        self._regions: region.Regions = []

    @property
    def regions(self) -> Sequence[tuple[int, int]]:
        return [(rg.frm, rg.to) for rg in self._regions]

    def region_chg(self, f: int, t: int) -> int:
        return region.region_chg(self._regions, f, t)

    def region_add(self, f: int, t: int) -> int:
        return region.region_add(self._regions, f, t)

    def region_truncate(self, end: int) -> int:
        return region.region_truncate(self._regions, end)

    def region_count(self, f: int, t: int) -> int:
        return region.region_count(self._regions, f, t)


__all__ = ["ReferenceMemoryManager", "ReferenceReservationMap", "Signal", "mmap_flags"]
