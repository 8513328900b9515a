"""The stage of huge-page reservations."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from mmconformance.scenarios import staging
from mmreference.kernel.scheduler import First, Task
from mmreference.manager import ReferenceMemoryManager
from mmreference.mm.hugetlb.page import Page
from mmreference.mm.hugetlb.process import get_user_pages, unpin
from mmreference.mm.hugetlb.system import System
from mmspec.state import PoolCounters, Setup
from mmspec.trace import Recorder, Run


class ClearLast(First):
    """Whoever clears a page waits until nobody else can go on."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """The first one that is not about to finish clearing."""
        return next((t for t in enabled if t.pending is None or not t.pending.label.startswith("clear")), enabled[0])


class Stage(staging.Stage):
    """The reference; `race` collects the system calls that are made at once.

    Of its facts, `excess` is by how many pages the distinct demands exceed the supply, `serial_outcomes` lists the
    outcomes that the serial orders have.
    """

    expectations = ("excess", "serial_outcomes")
    rehearsal = ClearLast

    def __init__(self, arch: str, variant: str, recorder: Recorder) -> None:
        super().__init__(arch, variant, recorder)
        self.manager = ReferenceMemoryManager(arch, variant)
        self.pins: list[Page] = []

    def start(self, pool: int, *, overcommit: int = 0, quota: int | None = None, nodes: int = 1) -> None:
        """A fresh machine, see :class:`mmspec.state.Setup`."""
        self.manager.nodes = nodes
        self.manager.start(Setup(pool, overcommit, quota))

    def race(self, thread: str, call: str, *args: Any, alike: str = "", **kwargs: Any) -> None:
        """`thread` makes the system call at the same time as the others, see :meth:`race_body`."""
        self.race_body(thread, lambda: self.manager.call(call, *args, **kwargs), alike)

    def alone(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine by itself, now."""
        return self.manager._run(body)

    def pin(self, pid: int, address: int, *, write: bool = True) -> Any:
        """Pin a page, until the end of the run unless :meth:`unpin` comes first."""
        page = self.alone(get_user_pages(self.manager.process(pid), address, write=write))
        if isinstance(page, Page):
            self.pins.append(page)
        return page

    def unpin(self, page: Page) -> None:
        """Release a pinned page."""
        self.pins.remove(page)
        self.alone(unpin(page))

    def clear(self) -> None:
        """Everybody leaves: pins, processes, files."""
        manager = self.manager
        for page in list(self.pins):
            self.unpin(page)
        for pid in list(manager.pids):
            manager.exit(pid)
        for file in list(manager.open_files):
            manager.close_file(file)

    @property
    def system(self) -> System:
        """The machine."""
        return self.manager.system

    def outcome(self, run: Run) -> str:
        """How many pages are free and how many reserved."""
        counters = self.manager.counters()
        return f"free={counters.free_huge_pages} resv={counters.resv_huge_pages}"

    def baseline(self) -> PoolCounters:
        """The counters of the pool."""
        return self.manager.counters()

    def state(self) -> Any:
        """The machine, and who has pinned what."""
        return self.system, self.pins
