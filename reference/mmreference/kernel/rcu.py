"""Read-copy-update: readers that take no lock, and writers that wait until all readers from before are gone."""

from __future__ import annotations

from collections.abc import Callable

from mmreference.kernel.scheduler import Scheduler, Step, Task, current_task, touched


class _GracePeriod(Step):
    """Wait until every reader that had begun has ended."""

    __slots__ = ("rcu", "waiting_for", "label")

    def __init__(self, rcu: Rcu, label: str) -> None:
        self.rcu = rcu
        self.waiting_for = dict(rcu.readers)
        self.label = label

    def enabled(self, task: Task) -> bool:
        return not any(self.rcu.readers.get(reader) == begun for reader, begun in self.waiting_for.items())

    def perform(self, task: Task) -> None:
        touched((self.rcu.name, "readers"), write=False)


class _Enter(Step):
    """rcu_read_lock"""

    __slots__ = ("rcu",)
    label = "rcu_read_lock"

    def __init__(self, rcu: Rcu) -> None:
        self.rcu = rcu

    def perform(self, task: Task) -> None:
        self.rcu.enter(task)


class Rcu:
    """One flavour of RCU. `async with rcu.read():` is a read-side section; sections nest."""

    def __init__(self, name: str = "rcu") -> None:
        self.name = name
        self.readers: dict[Task, int] = {}
        """Who reads, and in which section of its own since the start."""
        self._depth: dict[Task, int] = {}
        self._sections = 0
        self.callbacks: list[tuple[_GracePeriod, Callable[[], None]]] = []

    def enter(self, task: Task) -> None:
        """A read-side section begins."""
        touched((self.name, "readers"))
        self._depth[task] = self._depth.get(task, 0) + 1
        if task.context is not None:
            task.context.rcu_depth += 1
        if self._depth[task] == 1:
            self._sections += 1
            self.readers[task] = self._sections

    def leave(self, task: Task) -> None:
        """A read-side section ends."""
        touched((self.name, "readers"))
        self._depth[task] -= 1
        if task.context is not None:
            task.context.rcu_depth -= 1
        if self._depth[task] == 0:
            del self.readers[task], self._depth[task]

    def read(self) -> _Section:
        """A read-side section."""
        return _Section(self)

    def read_lock(self) -> Step:
        """`await rcu.read_lock()`: begin a read-side section that does not end where a block ends."""
        return _Enter(self)

    def read_unlock(self) -> None:
        """End the read-side section that :meth:`read_lock` began."""
        self.leave(current_task())

    async def synchronize(self) -> None:
        """synchronize_rcu: return when all readers that had begun are gone. Not from within a read-side section."""
        if current_task() in self.readers:
            raise RuntimeError(f"{current_task().name} waits for its own read-side section")
        await _GracePeriod(self, "synchronize_rcu")

    def call(self, callback: Callable[[], None]) -> None:
        """call_rcu: `callback` may run once all readers that had begun are gone; see :meth:`run_callbacks`."""
        self.callbacks.append((_GracePeriod(self, "call_rcu"), callback))

    async def run_callbacks(self) -> None:
        """What the callback thread does: wait for each grace period and run what waits for it."""
        while self.callbacks:
            period, callback = self.callbacks.pop(0)
            await period
            callback()


class _Section:
    """`async with` for a read-side section."""

    __slots__ = ("rcu",)

    def __init__(self, rcu: Rcu) -> None:
        self.rcu = rcu

    async def __aenter__(self) -> None:
        await _Enter(self.rcu)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and Scheduler.current is not None:
            self.rcu.leave(current_task())
