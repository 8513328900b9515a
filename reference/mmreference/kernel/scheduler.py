"""Tasks and the deterministic scheduler.

A task is a coroutine that suspends by yielding a :class:`Step`, the thing it is about to do. The scheduler asks its
:class:`Strategy` which enabled task goes on; that task then performs its step and runs up to the next one. The
decisions taken, in order, replay the run exactly.

Each executed step records its *footprint*: the memory locations it has read or written. Two steps of different tasks
are dependent if their footprints conflict; engines that look for inequivalent interleavings need nothing else.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context as Variables
from typing import Any, ClassVar, Protocol

from mmspec.trace import Context, Recorder

Location = Any
"""What footprints speak of: any hashable with the same value in each re-execution, usually `(object name, field)`."""


class Strategy(Protocol):
    """Who decides."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """The task that goes on; `last` is the one that moved before, perhaps finished or disabled by now."""

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """The outcome of something that may go several ways, 0 being the usual one."""


class Step:
    """What a task is about to do. The base class can always be done and touches nothing."""

    __slots__ = ()
    label: str = "step"

    def enabled(self, task: Task) -> bool:
        """Whether the step can be performed now; a task whose step is not enabled is blocked."""
        return True

    def perform(self, task: Task) -> Any:
        """Do it; the value is the result of the `await`."""

    def __await__(self) -> Generator[Step, Any, Any]:
        return (yield self)


class Task:
    """One thread of kernel execution, on a CPU of its own."""

    def __init__(
        self, name: str, body: Coroutine[Step, Any, Any], index: int, context: Context | None, alike: str = ""
    ) -> None:
        self.name = name
        self.alike = alike
        """Tasks with the same word here do the same to things that are alike, so they can be exchanged; "" is like no
        other."""
        self.index = index
        self.body = body
        self.context = context
        self.pending: Step | None = None
        self.done = False
        self.result: Any = None
        self.steps = 0
        self.names = 0
        self.read_versions: dict[Location, int] = {}
        """What this task has read since its last :class:`Retry`, and how often others had written that when it first
        did."""
        self.variables = Variables()
        """Each task has context variables of its own: contracts tell by one of them which functions they are being checked
        in, and would skip a function that another task is in."""

    @property
    def cpu(self) -> int:
        """The CPU it runs on."""
        return self.index

    def __repr__(self) -> str:
        return self.name


class Executed:
    """One step as it happened."""

    __slots__ = ("task", "label", "footprint")

    def __init__(self, task: Task, label: str) -> None:
        self.task = task
        self.label = label
        self.footprint: dict[Location, bool] = {}
        """Location to whether it was written; locks are locations too."""


def conflict(one: dict[Location, bool], other: dict[Location, bool]) -> bool:
    """Whether two footprints share a location that at least one of them writes."""
    if len(other) < len(one):
        one, other = other, one
    return any(location in other and (write or other[location]) for location, write in one.items())


class Stuck(Exception):  # noqa: N818
    """No task can go on. `why` is "deadlock" or "endless retry"."""

    def __init__(self, why: str, tasks: list[Task]) -> None:
        self.why = why
        self.tasks = tasks
        waiting = "; ".join(f"{t.name} waits: {t.pending.label if t.pending else '?'}" for t in tasks)
        super().__init__(f"{why}: {waiting}")


class StepLimit(Exception):  # noqa: N818
    """The run took more steps than the engine allows."""


class First:
    """The plain strategy: stay with the running task as long as it can go on; nothing unusual happens."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        return last if last is not None and last in enabled else enabled[0]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return 0


class Scheduler:
    """Runs tasks to their ends, one step at a time."""

    current: ClassVar[Scheduler | None] = None

    def __init__(self, strategy: Strategy | None = None, recorder: Recorder | None = None, limit: int = 100_000) -> None:
        self.strategy: Strategy = strategy or First()
        self.recorder = recorder
        self.limit = limit
        self.tasks: list[Task] = []
        self.executed: list[Executed] = []
        self.running: Task | None = None
        self.step: Executed | None = None
        self.versions: dict[Location, int] = {}
        self.failures = 0
        """How often something unusual was chosen."""

    def spawn(self, name: str, body: Coroutine[Step, Any, Any], alike: str = "") -> Task:
        """Add a task; it does not run before :meth:`run`."""
        context = self.recorder.context(name) if self.recorder is not None else None
        task = Task(name, body, len(self.tasks), context, alike)
        self.tasks.append(task)
        return task

    def run(self) -> None:
        """Run all tasks to their ends.

        :raises Stuck: if tasks are left and none can go on.
        :raises StepLimit: if that takes more than `limit` steps.
        """
        outer, Scheduler.current = Scheduler.current, self
        try:
            for task in self.tasks:
                if task.pending is None and not task.done:
                    self._advance(task, None)
            last: Task | None = None
            strategy = self.strategy
            while True:
                enabled = [t for t in self.tasks if not t.done and t.pending.enabled(t)]  # type: ignore[union-attr]
                if not enabled:
                    break
                last = strategy.pick(enabled, last)
                self.perform(last)
                if len(self.executed) > self.limit:
                    raise StepLimit(f"more than {self.limit} steps")
            waiting = [t for t in self.tasks if not t.done]
            if waiting:
                retrying = all(isinstance(t.pending, Retry) for t in waiting)
                raise Stuck("endless retry" if retrying else "deadlock", waiting)
        finally:
            Scheduler.current = outer
            for task in self.tasks:
                task.body.close()

    def perform(self, task: Task) -> None:
        """Let `task` do its pending step and run on to the next."""
        pending = task.pending
        assert pending is not None
        step = self.step = Executed(task, pending.label)
        self.executed.append(step)
        task.steps += 1
        self._advance(task, pending)
        if self.recorder is not None:
            self.recorder.step_done()

    def _advance(self, task: Task, pending: Step | None) -> None:
        self.running = task
        if self.recorder is not None and task.context is not None:
            self.recorder.switch(task.context)
        try:
            value = pending.perform(task) if pending is not None else None
            send = task.body.send
            request = task.variables.run(send, value)
            while type(request) is Choice:
                taken = self.strategy.choose(task, request.alternatives, request.label)
                self.failures += taken != 0
                request = task.variables.run(send, taken)
            task.pending = request
        except StopIteration as stop:
            task.done = True
            task.pending = None
            task.result = stop.value

    def access(self, location: Location, write: bool) -> None:
        """The running step reads or writes the data at `location`."""
        self.synchronise(location, write)
        task = self.running
        assert task is not None
        seen = task.read_versions.setdefault(location, self.versions.get(location, 0))
        if write:
            self.versions[location] = self.versions.get(location, 0) + 1
            task.read_versions[location] = seen + 1

    def synchronise(self, location: Location, write: bool) -> None:
        """The running step depends on `location`, which is no news for :class:`Retry`."""
        if self.step is not None:
            footprint = self.step.footprint
            footprint[location] = write or footprint.get(location, False)


class Choice(Step):
    """Something that may go several ways; decided at once, within the running step."""

    __slots__ = ("alternatives", "label")

    def __init__(self, alternatives: int, label: str) -> None:
        self.alternatives = alternatives
        self.label = label


class Retry(Step):
    """Repeat an attempt that came to nothing, as soon as some data that it has read has been changed by others.

    A real thread repeats at once and in vain; leaving these stutters out makes an endless retry visible as a run
    in which nobody can go on. A lock that others took and dropped is no news, only data is.
    """

    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        self.label = label

    def enabled(self, task: Task) -> bool:
        assert Scheduler.current is not None
        versions = Scheduler.current.versions
        return any(versions.get(location, 0) != seen for location, seen in task.read_versions.items())

    def perform(self, task: Task) -> None:
        scheduler = Scheduler.current
        assert scheduler is not None
        seen, task.read_versions = task.read_versions, {}
        for location in seen:
            scheduler.synchronise(location, False)


class Pause(Step):
    """A point at which others may run; touches nothing."""

    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        self.label = label


class Access(Step):
    """The next access, without a lock, to memory that others can race on."""

    __slots__ = ("location", "write", "label")

    def __init__(self, location: Location, label: str, *, write: bool = False) -> None:
        self.location = location
        self.label = label
        self.write = write

    def perform(self, task: Task) -> None:
        assert Scheduler.current is not None
        Scheduler.current.access(self.location, self.write)


def current_task() -> Task:
    """The task that runs now."""
    assert Scheduler.current is not None and Scheduler.current.running is not None
    return Scheduler.current.running


def touched(location: Location, write: bool = True) -> None:
    """The running step has accessed the data at `location` in passing."""
    if Scheduler.current is not None:
        Scheduler.current.access(location, write)


def synchronised(location: Location, write: bool) -> None:
    """The running step depends on `location`, a lock or data that no retry waits for."""
    if Scheduler.current is not None:
        Scheduler.current.synchronise(location, write)


def only_read(location: Location) -> None:
    """The running step has entered and left a section of the lock at `location` and changed nothing meanwhile.

    For the order of steps that is a read: two such sections may change places.
    """
    if Scheduler.current is not None and Scheduler.current.step is not None:
        Scheduler.current.step.footprint[location] = False


def unheard(location: Location) -> None:
    """What the running step did at `location`, it has undone; nobody else can tell."""
    if Scheduler.current is not None and Scheduler.current.step is not None:
        Scheduler.current.step.footprint.pop(location, None)


def current_step() -> Executed | None:
    """The step that is being made, or None outside of any."""
    return Scheduler.current.step if Scheduler.current is not None else None


async def may_fail(what: str) -> bool:
    """Whether the engine lets the allocation `what` fail here."""
    return bool(await Choice(2, f"{what} fails"))


def run_alone(body: Coroutine[Step, Any, Any], recorder: Recorder | None = None, name: str = "task") -> Any:
    """Run one coroutine to its end, with nobody to interfere, and return its result."""
    scheduler = Scheduler(recorder=recorder)
    task = scheduler.spawn(name, body)
    scheduler.run()
    return task.result
