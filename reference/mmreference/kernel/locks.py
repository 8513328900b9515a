"""Spinlocks, mutexes, reader-writer semaphores and bit locks.

All are used as `async with lock:`; taking one is a step that others can come before. A lock knows its *class* (all
instances that play the same part, for the lock order) and its *owner* (the object that it protects).
"""

from __future__ import annotations

from typing import Any

from mmreference.kernel.lockdep import LockOrder
from mmreference.kernel.scheduler import (
    Scheduler,
    Step,
    Task,
    current_step,
    current_task,
    only_read,
    synchronised,
    unheard,
)
from mmspec.contracts import ENABLED
from mmspec.trace import Held, Recorder


class SleepInAtomic(Exception):  # noqa: N818
    """Something that may sleep was done while a spinlock was held."""


class LockMisuse(Exception):  # noqa: N818
    """A lock was released by somebody who does not hold it."""


class _Acquire(Step):
    """Take a lock, as soon as that is possible."""

    __slots__ = ("lock", "shared", "nested")

    def __init__(self, lock: Lock, shared: bool, nested: bool = False) -> None:
        self.lock = lock
        self.shared = shared
        self.nested = nested

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"{self.lock.verb} {self.lock.name}{' for read' if self.shared else ''}"

    def enabled(self, task: Task) -> bool:
        return self.lock.available(self.shared)

    def perform(self, task: Task) -> None:
        self.lock.check_context(task, self.nested)
        self.lock.take(task, self.shared, "nested" if self.nested else "")


class Lock:
    """What all locks have in common; `spinning` ones must not be held while sleeping."""

    spinning = False
    sharable = False
    verb = "lock"

    def __init__(self, cls: str, owner: Any = None, order: LockOrder | None = None, name: str | None = None) -> None:
        self.cls = cls
        self.owner = owner
        self.order = order
        self.name = name or (f"{owner}.{cls}" if owner is not None else cls)
        self.writer: Task | None = None
        self.readers: list[Task] = []
        self._held: dict[tuple[Task, bool], list[Held]] = {}
        """How often a thread has it, which is more than once only for read, by trying."""
        self._entered: dict[tuple[Task, bool], tuple[object, object]] = {}

    def __repr__(self) -> str:
        return self.name

    def available(self, shared: bool) -> bool:
        """Whether it could be taken now."""
        return self.writer is None and (shared or not self.readers)

    def held_by(self, task: Task) -> bool:
        """Whether `task` has it, exclusively or shared."""
        return self.writer is task or task in self.readers

    def take(self, task: Task, shared: bool, how: str = "") -> None:
        """Become a holder; the lock is available."""
        synchronised(self.name, not shared)
        if shared:
            synchronised(self._hold(task), True)
        self._entered.setdefault((task, shared), (current_step(), self._changes()))
        held = Held(self.cls, shared, self.spinning, self.owner, self.name)
        if shared:
            self.readers.append(task)
        else:
            self.writer = task
        self._held.setdefault((task, shared), []).append(held)
        if Recorder.active is not None:
            Recorder.active.acquired(held, how)

    def _changes(self) -> object:
        """Differs from what it was if the owner has changed meanwhile, as far as that matters to others."""
        return getattr(self.owner, "changes", object())

    def _hold(self, task: Task) -> tuple[str, str, str]:
        """The location that stands for `task` holding it for read from one step to another."""
        return (self.name, "held by", task.name)

    def _wait_for_readers(self) -> None:
        """A section that changes nothing may change places with others of its kind, not with what makes it wait."""
        if self.sharable and Scheduler.current is not None:
            for task in Scheduler.current.tasks:
                synchronised(self._hold(task), False)

    def check_context(self, task: Task, nested: bool) -> None:
        """Whether it may be waited for here: nothing spinning is held if that sleeps, and the lock order is kept."""
        recorder = Recorder.active
        if recorder is None or task.context is None:
            return
        outer = task.context.held
        if not self.spinning:
            might_sleep(f"taking {self.name}")
        if self.order is not None:
            # A second lock of a class in a fixed order of its own is a class of its own.
            cls = f"{self.cls}/nested" if nested else self.cls
            self.order.acquire(tuple(h.cls for h in outer), cls, task.name)

    def drop(self, task: Task, shared: bool) -> None:
        """Stop being a holder."""
        holds = self._held.get((task, shared))
        if not holds:
            raise LockMisuse(f"{task.name} releases {self.name}, which it does not hold")
        held = holds.pop()
        if holds:
            self.readers.remove(task)
            if Recorder.active is not None:
                Recorder.active.released(held)
            return
        step, changes = self._entered.pop((task, shared))
        at_once = step is current_step()
        if shared and at_once:
            unheard(self._hold(task))
        elif shared:
            synchronised(self.name, False)
            synchronised(self._hold(task), True)
        elif ENABLED and at_once and changes == self._changes():
            only_read(self.name)
            self._wait_for_readers()
        else:
            synchronised(self.name, True)
        if shared:
            self.readers.remove(task)
        else:
            self.writer = None
        if Recorder.active is not None:
            Recorder.active.released(held)

    def lock(self, *, nested: bool = False) -> Step:
        """`await lock.lock()`: take it exclusively; `nested` while another one of its class is held."""
        return _Acquire(self, False, nested)

    def unlock(self) -> None:
        """Give it back."""
        self.drop(current_task(), False)

    def trylock(self, *, shared: bool = False) -> bool:
        """Take it if that is possible at once; who does not wait cannot deadlock, so no order is checked."""
        synchronised(self.name, True)
        if not self.available(shared):
            return False
        self.take(current_task(), shared, "trylock")
        return True

    def is_locked(self) -> bool:
        """Whether anybody has it at this moment."""
        synchronised(self.name, False)
        return self.writer is not None or bool(self.readers)

    async def __aenter__(self) -> None:
        await _Acquire(self, False)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self.writer is not None:
            self._exit(kind, False)

    def _exit(self, kind: type[BaseException] | None, shared: bool) -> None:
        # A run that is being torn down closes its coroutines from outside; there is nobody to give the lock back to.
        if kind is None and Scheduler.current is not None:
            self.drop(current_task(), shared)


class SpinLock(Lock):
    """Protects short sections; its holder must not sleep."""

    spinning = True
    verb = "spin_lock"


class Mutex(Lock):
    """Exclusion between tasks that may sleep meanwhile."""

    verb = "mutex_lock"


class RwSem(Lock):
    """Many readers or one writer; `async with sem.read():`, `async with sem.write():`."""

    sharable = True
    verb = "down"

    def read(self) -> _Shared:
        """Hold it for read."""
        return _Shared(self)

    def write(self) -> Lock:
        """Hold it for write."""
        return self

    def down_read(self) -> Step:
        """`await sem.down_read()`: take it for read, until :meth:`up_read`."""
        return _Acquire(self, True)

    def up_read(self) -> None:
        """Give back what was taken for read."""
        self.drop(current_task(), True)


class RwLock(SpinLock):
    """A spinlock with many readers or one writer; `async with lock.read():`, `async with lock:`."""

    sharable = True

    def read(self) -> _Shared:
        """Hold it for read."""
        return _Shared(self)


class _Shared:
    """The shared side of a lock as a context manager."""

    __slots__ = ("sem",)

    def __init__(self, sem: Lock) -> None:
        self.sem = sem

    async def __aenter__(self) -> None:
        await _Acquire(self.sem, True)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.sem._exit(kind, True)


class BitLock(Lock):
    """A lock that is a bit of the object that it protects, such as PG_locked; its holder may sleep."""

    verb = "lock"


def might_sleep(what: str) -> None:
    """Whoever calls this may sleep.

    :raises SleepInAtomic: if the running task holds a spinlock or is in an RCU read-side section.
    """
    recorder = Recorder.active
    if recorder is None:
        return
    spinning = [h.name for h in recorder.current.held if h.spinning]
    if recorder.current.rcu_depth:
        spinning.append("rcu_read_lock")
    if spinning:
        raise SleepInAtomic(f"{what} may sleep, but {', '.join(spinning)} is held")
