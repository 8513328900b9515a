"""A machine of reverse mapping for tests of its invariants: programs that run alone, or one after the other at a chosen step."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import mmspec.invariants.rmap  # noqa: F401 - contracts look invariants up when the reference is imported
from mmreference.kernel.scheduler import First, Scheduler, Task
from mmreference.mm.fork import dup_mm, mmput
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


class Interrupt:
    """The first task runs; at the first step at which `when` is true, the others run to their ends, as far as they can."""

    def __init__(self, when: Callable[[], bool]) -> None:
        self.when = when
        self.reached = False

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        self.reached = self.reached or self.when()
        return enabled[-1] if self.reached else enabled[0]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return 0


class Failing(First):
    """Allocations of a kind fail."""

    def __init__(self, what: str) -> None:
        self.what = what

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return int(label == f"{self.what} fails")


class World:
    """One booted kernel, its recorder and its judge."""

    def __init__(self, arch: str = "x86_64", variant: str = "allyesconfig", thp: str = "never") -> None:
        self.system = System(architecture(arch), variant)
        if self.system.has("TRANSPARENT_HUGEPAGE"):
            self.system.thp_enabled = thp
        self.recorder = Recorder()
        self.judge = Judge.of(arch, variant)
        self.size = self.system.page_size

    def run(self, body: Body, strategy: Any = None) -> Any:
        """Run a coroutine alone, then judge the world at rest."""
        return self.race(body, strategy=strategy)[0]

    def race(self, *bodies: Body, strategy: Any = None) -> list[Any]:
        """Run coroutines together."""
        with judging(self.judge), recording(self.recorder):
            scheduler = Scheduler(strategy, self.recorder)
            tasks = [scheduler.spawn(f"task{n}", body) for n, body in enumerate(bodies)]
            scheduler.run()
            self.recorder.quiet(self.system)
        return [task.result for task in tasks]

    def seen(self, kind: str) -> Callable[[], bool]:
        """Whether a step of that kind has happened after now."""
        before = self.recorder.seq
        return lambda: any(e.kind == kind and e.seq > before for c in self.recorder.contexts for e in c.events)

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

    def read(self, mm: Mm, address: int) -> int:
        """Load a word."""
        return int(self.run(access(mm, address, None)))

    def fork(self, mm: Mm) -> Mm:
        """Copy the address space."""
        child = self.run(dup_mm(mm))
        assert isinstance(child, Mm)
        return child

    def exit(self, mm: Mm) -> None:
        """Take the address space down."""
        self.run(mmput(mm))

    def drain(self) -> None:
        """All new pages are on their lists."""
        self.run(lru_add_drain_all(self.system))

    def page(self, mm: Mm, address: int) -> Page:
        """What is mapped there."""
        entry = hardware_entry(mm, address // self.size)[1]
        assert isinstance(entry, Present)
        return entry.page

    def kind(self, mm: Mm, address: int) -> str | None:
        """What sort of entry is there."""
        entry = hardware_entry(mm, address // self.size)[1]
        return None if entry is None else entry.kind
