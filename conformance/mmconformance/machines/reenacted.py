"""System calls that were seen from outside, in the words in which the invariants speak of the inside."""

from __future__ import annotations

from typing import Any

import attrs

from mmconformance.machines.shadow import ShadowVma, ShadowWorld
from mmspec.interfaces import MemoryManager
from mmspec.invariant import REGISTRY
from mmspec.state import PoolCounters
from mmspec.trace import Event, Operation, Recorder


class Reenacted:
    """One system call in the vocabulary of the specification."""

    def __init__(self, name: str, old: PoolCounters, new: PoolCounters, **arguments: Any) -> None:
        self.recorder = Recorder()
        self.operation: Operation = self.recorder.enter(name, arguments)
        for field, change in new.minus(old).items():
            self.write("pool", field, getattr(old, field), getattr(old, field) + change)

    def write(self, obj: Any, field: str, old: Any, new: Any) -> None:
        """A change that the call has made."""
        context = self.recorder.current
        self.recorder.seq += 1
        data = {"obj": obj, "field": field, "old": old, "new": new}
        context.events.append(Event("write", self.operation, (), self.recorder.seq, data))

    def did(self, kind: str, **data: Any) -> None:
        """A step that the call must have made."""
        self.recorder.seq += 1
        self.recorder.current.events.append(Event(kind, self.operation, (), self.recorder.seq, data))

    def called(self, name: str, result: Any = None, **facts: Any) -> None:
        """A function that the call must have called, with what is known of that."""
        operation = self.recorder.enter(name, facts)
        operation.result = result
        self.recorder.leave(operation)

    def decided(self, old: PoolCounters, new: PoolCounters) -> None:
        """The call has changed the pool in one section of its lock."""
        self.operation.sections.append(Whole(old, new, self.operation))  # type: ignore[arg-type]

    def judge(self, *ids: str, result: Any = None, **views: Any) -> None:
        """Evaluate these invariants over the call.

        :raises Violation: for the first that does not hold.
        """
        operation = self.operation
        operation.result = result
        values = {"op": operation, "result": result, **views}
        for id_ in ids:
            invariant = REGISTRY[id_]
            invariant.demand(**{p: values[p] for p in invariant.parameters})


@attrs.frozen
class Child:
    """What fork has made, as far as the predicates ask."""

    vmas: list[ShadowVma]


@attrs.frozen
class Content:
    """A page of which only the content is known."""

    content: int
    tag: int = 0


@attrs.frozen
class Settled:
    """The pool's counters, with nothing in flight."""

    nr_huge_pages: int
    free_huge_pages: int
    resv_huge_pages: int
    tentative_huge_pages: int = 0


@attrs.frozen
class Blocks:
    """Quota as it shows."""

    free_blocks: int
    max_blocks: int


@attrs.frozen
class Emptied:
    """The world when everybody has left."""

    pool: Settled
    super: Blocks
    vmas: list[Any]
    inodes: list[Any]
    maps: tuple[Any, ...] = ()
    pages: tuple[Any, ...] = ()

    @classmethod
    def of(cls, world: ShadowWorld, mm: MemoryManager, quota: int | None) -> Emptied:
        """As it is now; `quota` is the limit in blocks, None if there is none."""
        counters = world.pool
        pool = Settled(counters.nr_huge_pages, counters.free_huge_pages, counters.resv_huge_pages)
        free = mm.quota_free() if quota is not None else None
        blocks = Blocks(0, 0) if free is None or quota is None else Blocks(free, quota)
        return cls(pool, blocks, world.vmas, world.inodes)


@attrs.frozen
class Enough:
    """A run of one fault, with pages enough for it."""

    operation: Operation
    facts: dict[str, int] = attrs.field(factory=lambda: {"excess": 0})

    def operations(self, *names: str) -> list[Operation]:
        """The one."""
        return [self.operation]


@attrs.frozen
class Decided:
    """The section in which a fault has taken its page, with the counters around it; `drew` if from the reserve."""

    old: PoolCounters
    new: PoolCounters
    drew: bool

    def did(self, kind: str) -> bool:
        """What is known of the section."""
        return kind == "availability_test" or (kind == "draw" and self.drew)


@attrs.frozen
class Whole:
    """A call as one section; `op` is None if it was none that resizes the pool."""

    old: PoolCounters
    new: PoolCounters
    op: Operation | None

    def delta(self, field: str) -> int:
        """How the counter differs."""
        return int(getattr(self.new, field) - getattr(self.old, field))


@attrs.frozen
class Lists:
    """The free pages, as many as are counted."""

    nr_huge_pages: int
    hugepage_freelists: dict[int, list[int]]


@attrs.frozen
class Entry:
    """A page-table entry."""

    page: Any


@attrs.frozen
class Tables:
    """What a process has mapped."""

    ptes: dict[tuple[Any, int], Entry]


@attrs.frozen
class Places:
    """Where pages are: free, in a page cache, or mapped."""

    pool: Lists
    inodes: list[Any]
    mms: list[Tables]
    pages: tuple[Any, ...] = ()

    @classmethod
    def of(cls, world: ShadowWorld) -> Places:
        """As the shadow knows it, with the free pages that are counted."""
        counters = world.pool
        mapped = {(vma, idx): Entry(page) for vma in world.vmas for idx, page in vma.pages.items()}
        free = list(range(counters.free_huge_pages))
        return cls(Lists(counters.nr_huge_pages, {0: free}), world.inodes, [Tables(mapped)])


@attrs.frozen
class Ended:
    """A run of which the counters at its end are known."""

    baseline: PoolCounters

    @property
    def facts(self) -> dict[str, PoolCounters]:
        """What invariants over runs ask for."""
        return {"baseline": self.baseline}
