"""The calls of a :class:`~mmspec.interfaces.MemoryManager` that it may lack: each is made only if it is announced."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mmconformance.machines.reenacted import Enough, Reenacted
from mmconformance.machines.shadow import ShadowFile, ShadowWorld
from mmconformance.machines.steps import recorded
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, ImplementationFailure, Signal
from mmspec.interfaces import MemoryManager
from mmspec.invariant import REGISTRY
from mmspec.state import PoolCounters

#: One of several things, whose number is known only when the rule is applied.
pick = st.integers(0, 7)
#: A huge page of a mapping or of a file.
pages = st.integers(0, 3)
SIGNALS = tuple(int(s) for s in Signal)
rarely = st.sampled_from([False, False, False, True])


class OptionalCalls:
    """Rules for :class:`~mmconformance.machines.memory_manager.MemoryManagerMachine`."""

    mm: MemoryManager
    world: ShadowWorld
    adaptations: frozenset[str]
    quota: int | None

    @property
    def open_files(self) -> list[ShadowFile]:
        """The files that can be mapped."""
        raise NotImplementedError

    def _after(self, line: str) -> tuple[PoolCounters, PoolCounters]:
        raise NotImplementedError

    def _settle(self) -> None:
        raise NotImplementedError

    def _call(self, name: str, *args: Any, **kwargs: Any) -> int:
        result = getattr(self.mm, name)(*args, **kwargs)
        if not isinstance(result, int):
            raise ImplementationFailure(f"{name}() returned {type(result).__name__}, not int")
        usual, what = {
            "mmap": (result > 0 and result % self.mm.huge_page_bytes == 0, "an address of a huge page or an errno"),
            "fork": (result > 0, "a pid or an errno"),
            "read": (0 <= result <= 255, "a value from 0 to 255 or a signal"),
            "write": (result == 0, "0 or a signal"),
            "set_nr_hugepages": (result >= 0, "a number of pages"),
        }.get(name, (result == 0, "0 or an errno"))
        failed = result in SIGNALS if name in ("read", "write") else result < 0 and name not in ("exit", "set_nr_hugepages")
        if not usual and not failed:
            raise ImplementationFailure(f"{name}() returned {result}, not {what}")
        return result

    @precondition(lambda self: self.world.vmas and "mprotect" in self.mm.capabilities)
    @rule(which=pick, first=pages, length=st.integers(1, 4), writable=st.booleans())
    @recorded
    def mprotect(self, which: int, first: int, length: int, writable: bool) -> None:
        """Writing to a mapping, or to a part of it, is allowed or forbidden."""
        vma, start, length = self.world.part(which, first, length)
        result = self._call("mprotect", vma.pid, start, length, writable)
        self._after(f"{result} = mprotect(p{vma.pid}, {start:#x}, {length}, {writable})")
        if result == 0:
            for part in self.world.cut(vma.pid, start, length):
                part.writable = writable
        self._settle()

    @precondition(lambda self: self.world.vmas and "dontneed" in self.mm.capabilities)
    @rule(which=pick, first=pages, length=st.integers(1, 4))
    @recorded
    def dontneed(self, which: int, first: int, length: int) -> None:
        """`madvise(MADV_DONTNEED)`: what is mapped is forgotten, the mapping stays."""
        vma, start, length = self.world.part(which, first, length)
        result = self._call("dontneed", vma.pid, start, length)
        self._after(f"{result} = dontneed(p{vma.pid}, {start:#x}, {length})")
        if result == 0:
            self.world.forgotten(vma, vma.index(start), length)
        self._settle()

    @precondition(lambda self: self.open_files and "punch_hole" in self.mm.capabilities)
    @rule(which=pick, offset=pages, length=st.integers(1, 3))
    @recorded
    def punch_hole(self, which: int, offset: int, length: int) -> None:
        """A part of a file is emptied."""
        file = self.open_files[which % len(self.open_files)]
        result = self._call("punch_hole", file.number, offset, length)
        self._after(f"{result} = punch_hole(f{file.number}, {offset}, {length})")
        if result == 0:
            self.world.punched(file, offset, offset + length)
        self._settle()

    @precondition(lambda self: self.open_files and "fallocate" in self.mm.capabilities)
    @rule(which=pick, offset=pages, length=st.integers(1, 3))
    @recorded
    def fallocate(self, which: int, offset: int, length: int) -> None:
        """A part of a file gets its pages."""
        file = self.open_files[which % len(self.open_files)]
        lacking = [i for i in range(offset, offset + length) if i not in file.pages]
        result = self._call("fallocate", file.number, offset, length)
        old, new = self._after(f"{result} = fallocate(f{file.number}, {offset}, {length})")
        # What comes before the first page that could not be had stays.
        instantiated = lacking if result == 0 else lacking[: old.free_huge_pages - new.free_huge_pages]
        unpromised = [i for i in lacking if i not in file.resv_map.covered]
        if len(unpromised) <= old.free_huge_pages - old.resv_huge_pages and self.quota is None:
            call = Reenacted("hugetlb_fault", old, new)
            call.operation.result = VM_FAULT_OOM if result in (-errno.ENOSPC, -errno.ENOMEM) else VM_FAULT_MINOR
            REGISTRY["HTLB-FLT-029"].demand(Enough(call.operation))
        self.world.instantiated(file, instantiated)
        if result == 0:
            file.size = max(file.size, offset + length)
        self._settle()
