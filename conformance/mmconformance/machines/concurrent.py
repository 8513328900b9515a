"""Random concurrent programs for the reference: set-up, operations of two or three threads, schedule, failures.

Hypothesis draws all of it, and shrinks all of it: towards fewer operations, no preemption, nothing that fails.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import attrs
from hypothesis import strategies as st

from mmconformance.scenarios import staging
from mmconformance.scenarios.hugetlb.stage import Stage

small = st.integers(0, 3)


@attrs.frozen
class Call:
    """One system call of a thread; numbers are taken modulo what there is."""

    name: str
    mapping: int
    page: int
    value: int

    def __str__(self) -> str:
        return f"{self.name}(mapping {self.mapping}, page {self.page}, {self.value})"


@attrs.frozen
class Mapped:
    """A mapping that is there from the start."""

    length: int
    shared: bool
    noreserve: bool
    of_file: bool
    writer: bool
    """Whether its first page is written before the race."""


@attrs.frozen
class Plan:
    """A whole program, with its schedule."""

    stage: ClassVar[type[staging.Stage]] = Stage
    pool: int
    overcommit: int
    quota: int | None
    forked: bool
    mappings: list[Mapped]
    threads: list[list[Call]]
    picks: list[int]
    failures: list[int]

    @property
    def operations(self) -> int:
        """How many calls the threads make."""
        return sum(len(calls) for calls in self.threads)

    @classmethod
    def drawn(cls) -> st.SearchStrategy[Plan]:
        """How it is drawn."""
        return plans

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """The one that was written as these fields."""
        mappings = [Mapped(**m) for m in fields["mappings"]]
        threads = [[Call(**c) for c in calls] for calls in fields["threads"]]
        return cls(**{**fields, "mappings": mappings, "threads": threads})

    def script(self, stage: Stage) -> None:
        """Set the stage and enter the threads."""
        stage.start(self.pool, overcommit=self.overcommit, quota=self.quota)
        manager = stage.manager
        file = manager.create_file(3)
        pid = manager.spawn()
        places: list[tuple[int, int, int]] = []
        for mapped in self.mappings:
            address = manager.mmap(
                pid, mapped.length, file=file if mapped.of_file else None, shared=mapped.shared,
                noreserve=mapped.noreserve,
            )
            if address > 0:
                places.append((pid, address, mapped.length))
                if mapped.writer:
                    manager.write(pid, address, 9)
        if self.forked:
            child = manager.fork(pid)
            places += [(child, address, length) for _, address, length in places]
        for number, calls in enumerate(self.threads):
            stage.race_body(f"T{number}", lambda calls=calls: _perform(stage, calls, places, pid, file))  # type: ignore[misc]


async def _perform(stage: Stage, calls: list[Call], places: list[tuple[int, int, int]], pid: int, file: int) -> list[Any]:
    results = []
    for call in calls:
        results.append(await _one(stage, call, places, pid, file))
    return results


async def _one(stage: Stage, call: Call, places: list[tuple[int, int, int]], pid: int, file: int) -> Any:
    manager = stage.manager
    if call.name == "truncate":
        return await manager.call("truncate", file, call.page)
    if call.name == "resize":
        return await manager.call("set_nr_hugepages", call.value)
    if call.name == "mmap":
        shared = bool(call.value % 2)
        return await manager.call("mmap", pid, call.page + 1, file=file if shared else None, shared=shared)
    if not places:
        return None
    who, address, length = places[call.mapping % len(places)]
    if call.name == "fork":
        return await manager.call("fork", who)
    address += call.page % length * manager.huge_page_bytes
    if call.name == "read":
        return await manager.call("read", who, address)
    if call.name == "write":
        return await manager.call("write", who, address, call.value + 1)
    if call.name == "mprotect":
        return await manager.call("mprotect", who, address, 1, bool(call.value % 2))
    return await manager.call("munmap", who, address, 1)


#: Faults come first, so that shrinking ends with them.
CALLS = ("write", "read", "munmap", "truncate", "fork", "mmap", "resize", "mprotect")

calls = st.builds(Call, st.sampled_from(CALLS), small, small, small)
mappings = st.builds(
    Mapped, st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(), st.booleans()
)
plans = st.builds(
    Plan,
    pool=st.integers(0, 4),
    overcommit=st.sampled_from([0, 0, 0, 1]),
    quota=st.sampled_from([None, None, None, 1, 2]),
    forked=st.booleans(),
    mappings=st.lists(mappings, min_size=1, max_size=3),
    threads=st.lists(st.lists(calls, min_size=1, max_size=2), min_size=1, max_size=3),
    picks=st.lists(st.integers(0, 2), max_size=60),
    failures=st.lists(st.sampled_from([0, 0, 0, 0, 0, 1]), max_size=12),
)
