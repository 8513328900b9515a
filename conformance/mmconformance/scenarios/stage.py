"""A stage on which a scenario is set up, run and cleared, with everything that happens recorded."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from mmspec.errors import Violation
from mmspec.invariant import REGISTRY, Over
from mmspec.state import Setup
from mmspec.trace import Recorder, Run, recording
from mmconformance.hazards import violation_for
from mmreference.kernel.scheduler import Scheduler, StepLimit, Strategy, Stuck
from mmreference.manager import ReferenceMemoryManager
from mmreference.mm.page import Page
from mmreference.mm.process import get_user_pages, unpin


class Stage:
    """The reference, with a recorder; `race` collects what runs at once.

    `facts` are what the scenario knows beforehand and invariants over runs ask for: `excess` is by how many pages the
    distinct demands exceed the supply, `serial_outcomes` lists the outcomes that the serial orders have.
    """

    def __init__(self, arch: str, variant: str, recorder: Recorder) -> None:
        self.manager = ReferenceMemoryManager(arch, variant)
        self.variant = variant
        self.recorder = recorder
        self.threads: list[tuple[str, Callable[[], Coroutine[Any, Any, Any]]]] = []
        self.facts: dict[str, Any] = {}
        self.pins: list[Page] = []

    def start(self, pool: int, *, overcommit: int = 0, quota: int | None = None, nodes: int = 1) -> None:
        """A fresh machine, see :class:`mmspec.state.Setup`."""
        self.manager.nodes = nodes
        self.manager.start(Setup(pool, overcommit, quota))

    def race(self, thread: str, call: str, *args: Any, **kwargs: Any) -> None:
        """`thread` makes the system call at the same time as the others."""
        self.threads.append((thread, lambda: self.manager.call(call, *args, **kwargs)))

    def race_body(self, thread: str, body: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """`thread` runs the coroutine at the same time as the others."""
        self.threads.append((thread, body))

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


class Cut(Exception):  # noqa: N818
    """A strategy gives a run up, because what would come has been seen."""


class Performance:
    """One complete run of a scenario under a strategy: what the engines execute again and again."""

    def __init__(self, name: str, script: Callable[[Stage], None], arch: str, variant: str) -> None:
        self.name = name
        self.script = script
        self.arch = arch
        self.variant = variant

    def __call__(self, strategy: Strategy | None, limit: int = 20_000) -> Performed:
        recorder = Recorder()
        run = Run(self.name, recorder)
        performed = Performed(run)
        with recording(recorder):
            try:
                self._perform(strategy, recorder, run, performed, limit)
            except Violation as violation:
                performed.violation = violation
            except Cut:
                performed.cut = True
            except Exception as error:
                performed.violation = violation_for(error)
                if performed.violation is None:
                    raise
        return performed

    def _perform(
        self, strategy: Strategy | None, recorder: Recorder, run: Run, performed: Performed, limit: int
    ) -> None:
        stage = Stage(self.arch, self.variant, recorder)
        performed.stage = stage
        self.script(stage)
        run.facts.update(stage.facts)
        system = stage.manager.system
        scheduler = performed.scheduler = Scheduler(strategy, recorder, limit)
        for thread, body in stage.threads:
            scheduler.spawn(thread, body())
        try:
            scheduler.run()
        except (Stuck, StepLimit) as stuck:
            run.stuck = [t.name for t in scheduler.tasks if not t.done]
            run.stuck_because = getattr(stuck, "why", "no end")
        if scheduler.failures:
            # What a scenario knows of its outcome, it knows of runs in which nothing is made to fail.
            for fact in ("excess", "serial_outcomes"):
                run.facts.pop(fact, None)
        run.results = {t.name: t.result for t in scheduler.tasks}
        counters = stage.manager.counters()
        performed.outcome = " ".join(
            [*(f"{name}={result!r}" for name, result in run.results.items() if name not in run.stuck),
             *(f"{name} stuck" for name in run.stuck),
             f"free={counters.free_huge_pages} resv={counters.resv_huge_pages}"]
        )
        run.facts["outcome"] = performed.outcome
        if not run.stuck:
            recorder.quiet(system)
            stage.clear()
            recorder.quiet(system)
            run.facts["baseline"] = stage.manager.counters()
        for invariant in REGISTRY.about(Over.RUN):
            invariant.demand(run)


class Performed:
    """What came of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.outcome = ""
        self.violation: Violation | None = None
        self.cut = False
        """The strategy has given the run up."""
        self.scheduler: Scheduler | None = None
        self.stage: Stage | None = None
