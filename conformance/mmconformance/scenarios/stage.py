"""A stage on which a scenario is set up, run and cleared, with everything that happens recorded."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Coroutine
from typing import Any

from mmconformance.engines.execution import TaskProgram
from mmconformance.hazards import violation_for
from mmreference.kernel.locks import Lock
from mmreference.kernel.memory import KernelObject, is_freed
from mmreference.kernel.scheduler import Scheduler
from mmreference.manager import ReferenceMemoryManager
from mmreference.mm.hugetlb.page import Page
from mmreference.mm.hugetlb.process import get_user_pages, unpin
from mmspec.invariant import REGISTRY, Judge, Over, judging
from mmspec.state import PoolCounters, Setup
from mmspec.trace import Recorder, Run


class Stage:
    """The reference, with a recorder; `race` collects what runs at once.

    `facts` are what the scenario knows beforehand and invariants over runs ask for: `excess` is by how many pages the
    distinct demands exceed the supply, `serial_outcomes` lists the outcomes that the serial orders have.
    """

    def __init__(self, arch: str, variant: str, recorder: Recorder) -> None:
        self.manager = ReferenceMemoryManager(arch, variant)
        self.variant = variant
        self.recorder = recorder
        self.threads: list[tuple[str, Callable[[], Coroutine[Any, Any, Any]], str]] = []
        self.facts: dict[str, Any] = {}
        self.pins: list[Page] = []

    def start(self, pool: int, *, overcommit: int = 0, quota: int | None = None, nodes: int = 1) -> None:
        """A fresh machine, see :class:`mmspec.state.Setup`."""
        self.manager.nodes = nodes
        self.manager.start(Setup(pool, overcommit, quota))

    def race(self, thread: str, call: str, *args: Any, alike: str = "", **kwargs: Any) -> None:
        """`thread` makes the system call at the same time as the others.

        Threads with the same word for `alike` can be exchanged: it makes no difference which of them is which.
        """
        self.race_body(thread, lambda: self.manager.call(call, *args, **kwargs), alike)

    def race_body(self, thread: str, body: Callable[[], Coroutine[Any, Any, Any]], alike: str = "") -> None:
        """`thread` runs the coroutine at the same time as the others."""
        self.threads.append((thread, body, alike))

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


def performance(name: str, script: Callable[[Stage], None], arch: str, variant: str) -> TaskProgram:
    """The scenario as a program for the engines: set up, race, judge, clear, judge again."""

    cleared: dict[bytes, PoolCounters] = {}

    def build(scheduler: Scheduler, recorder: Recorder) -> Callable[[Run], str]:
        stage = Stage(arch, variant, recorder)
        # A set-up that is repeated was judged when it was made for the first time.
        with judging(Judge.active if Judge.at_work() else None):
            script(stage)
        for thread, body, alike in stage.threads:
            scheduler.spawn(thread, body(), alike)
        return lambda run: _finish(stage, scheduler, run, cleared)

    return TaskProgram(name, build, translate=violation_for)


class _Digest(pickle.Pickler):
    """All that can be reached from an object; of locks, who holds them; of freed objects, that they are."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Lock):
            return obj.name, repr(obj.writer), repr(obj.readers)
        if isinstance(obj, KernelObject) and is_freed(obj):
            return repr(obj)
        return None


def digest(*objects: Any) -> bytes:
    """The same for equal states; equal states may differ in it, which costs time only."""
    buffer = io.BytesIO()
    _Digest(buffer, pickle.HIGHEST_PROTOCOL).dump(objects)
    return buffer.getvalue()


def _finish(stage: Stage, scheduler: Scheduler, run: Run, cleared: dict[bytes, PoolCounters]) -> str:
    """Judge the end of a run; `cleared` tells from which end states everybody has left before, and what that left."""
    recorder, system = run.recorder, stage.manager.system
    run.facts.update(stage.facts)
    if scheduler.failures:
        # What a scenario knows of its outcome, it knows of runs in which nothing is made to fail.
        for fact in ("excess", "serial_outcomes"):
            run.facts.pop(fact, None)
    counters = stage.manager.counters()
    ends = [f"{t.name} stuck" if t.name in run.stuck else f"{t.name}={t.result!r}" for t in scheduler.tasks]
    outcome = " ".join([*ends, f"free={counters.free_huge_pages}", f"resv={counters.resv_huge_pages}"])
    run.facts["outcome"] = outcome
    if not run.stuck:
        recorder.quiet(system)
        state = digest((system, stage.pins))
        if state not in cleared:
            stage.clear()
            recorder.quiet(system)
            if Judge.at_work():
                cleared[state] = stage.manager.counters()
        run.facts["baseline"] = cleared.get(state) or stage.manager.counters()
    for invariant in REGISTRY.about(Over.RUN):
        invariant.demand(run)
    return outcome
