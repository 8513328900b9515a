"""A machine of reverse mapping for tests of its invariants: what is run on it runs alone, and is judged."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import mmspec.invariants.rmap  # noqa: F401 - contracts look invariants up when the reference is imported
from mmreference.kernel.scheduler import Scheduler
from mmreference.mm.fork import dup_mm
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.memory import access, hardware_entry
from mmreference.mm.mm_struct import Mm
from mmreference.mm.mmap import do_mmap, vm_flags_of
from mmreference.mm.page import Page
from mmreference.mm.pagetable import Present
from mmreference.mm.system import System
from mmspec.arch import architecture
from mmspec.invariant import Judge, judging
from mmspec.trace import Recorder, recording

Body = Coroutine[Any, Any, Any]


class World:
    """One booted kernel, its recorder and its judge."""

    def __init__(self, arch: str = "x86_64", variant: str = "allyesconfig", thp: str = "never") -> None:
        self.system = System(architecture(arch), variant)
        if self.system.has("TRANSPARENT_HUGEPAGE"):
            self.system.thp_enabled = thp
        self.recorder = Recorder()
        self.judge = Judge.of(arch, variant)
        self.size = self.system.page_size

    def run(self, body: Body) -> Any:
        """Run a coroutine alone, then judge the world at rest."""
        with judging(self.judge), recording(self.recorder):
            scheduler = Scheduler(None, self.recorder)
            task = scheduler.spawn("task", body)
            scheduler.run()
            self.recorder.quiet(self.system)
        return task.result

    def mm(self) -> Mm:
        """An empty address space."""
        return self.system.new_mm()

    def mmap(self, mm: Mm, pages: int, **kwargs: Any) -> int:
        """Map so many pages: the address."""
        file, offset, flags = kwargs.pop("file", None), kwargs.pop("offset", 0), kwargs.pop("flags", 0)
        address = kwargs.pop("address", None)
        result = self.run(do_mmap(mm, pages * self.size, vm_flags_of(**kwargs) | flags, file, offset, address))
        assert result > 0
        return int(result)

    def write(self, mm: Mm, address: int, value: int = 7) -> None:
        """Store a word."""
        assert self.run(access(mm, address, value)) == 0

    def fork(self, mm: Mm) -> Mm:
        """Copy the address space."""
        child = self.run(dup_mm(mm))
        assert isinstance(child, Mm)
        return child

    def drain(self) -> None:
        """All new pages are on their lists."""
        self.run(lru_add_drain_all(self.system))

    def page(self, mm: Mm, address: int) -> Page:
        """What is mapped there."""
        entry = hardware_entry(mm, address // self.size)[1]
        assert isinstance(entry, Present)
        return entry.page
