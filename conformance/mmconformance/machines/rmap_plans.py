"""Random concurrent programs for reverse mapping: mappings, forks and a prelude, then threads that race.

Hypothesis draws all of it, and shrinks all of it: towards fewer calls, no preemption, nothing that fails. What a load
returns must be the initial content, or have been stored by somebody at that page or at what lies behind it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import attrs
from hypothesis import strategies as st

from mmconformance.scenarios import staging
from mmconformance.scenarios.rmap.stage import Stage

small = st.integers(0, 3)
#: Base pages between places to which mappings are moved.
FAR = 64

#: Kinds of mappings: whether they have a file, and whether they are shared.
KINDS = {"anonymous": (False, False), "file": (True, False), "shared file": (True, True)}


@attrs.frozen
class Call:
    """One call of a thread; numbers are taken modulo what there is."""

    name: str
    process: int
    mapping: int
    page: int
    value: int

    def __str__(self) -> str:
        return f"{self.name}(process {self.process}, mapping {self.mapping}, page {self.page}, {self.value})"


@attrs.frozen
class Mapped:
    """A mapping that is there from the start."""

    length: int
    kind: str
    filled: int
    """How many of its pages are written before anything else happens."""
    mergeable: bool = False


@attrs.frozen
class Plan:
    """A whole program, with its schedule."""

    stage: ClassVar[type[staging.Stage]] = Stage
    mappings: list[Mapped]
    forks: int
    """Processes that are forked, each from the one before; the last of three can end while others run."""
    observed: bool
    """Whether the first process has a secondary MMU."""
    prelude: list[Call]
    """Calls that are made one after the other, before the race."""
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
        prelude = [Call(**c) for c in fields["prelude"]]
        threads = [[Call(**c) for c in calls] for calls in fields["threads"]]
        return cls(**{**fields, "mappings": mappings, "prelude": prelude, "threads": threads})

    def script(self, stage: Stage) -> None:
        """Set the stage and enter the threads."""
        program = _Program(stage, self)
        for call in self.prelude:
            stage.machine.run(program.perform([call]))
        for number, calls in enumerate(self.threads):
            stage.race_body(f"T{number}", lambda calls=calls: program.perform(calls))  # type: ignore[misc]


class _Program:
    """The plan on its stage: where things are, and who has stored what."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.file = stage.machine.create_file(3)
        self.places: list[tuple[int, Mapped]] = []
        """Address and kind of each mapping."""
        self.moves = 0
        self.stored: dict[tuple[str, int], set[int]] = {}
        """A page of the file, or of a mapping, to all that was ever stored there."""
        pid = stage.spawn()
        for mapped in plan.mappings:
            of_file, shared = KINDS[mapped.kind]
            address = stage.do("mmap", pid, mapped.length, file=self.file if of_file else None, shared=shared)
            number = len(self.places)
            self.places.append((address, mapped))
            if mapped.mergeable:
                stage.do("madvise", pid, address, mapped.length, "mergeable")
            for page in range(min(mapped.filled, mapped.length)):
                # The same everywhere, so that pages can be merged.
                stage.machine.run(self._one(Call("write", 0, number, page, 0), pid))
        self.pids = [pid]
        for _ in range(plan.forks):
            self.pids.append(stage.do("fork", self.pids[-1]))
        self.victim = self.pids.pop() if plan.forks > 1 else None
        if plan.observed:
            stage.do("attach_mmu", pid)

    async def perform(self, calls: list[Call]) -> list[Any]:
        """What a thread does."""
        return [await self._one(call, self.pids[call.process % len(self.pids)]) for call in calls]

    async def _one(self, call: Call, pid: int) -> Any:
        machine, size = self.stage.machine, self.stage.page_size
        number = call.mapping % len(self.places)
        start, mapped = self.places[number]
        page = call.page % mapped.length
        address = start + page * size
        # The rest of the mapping, or some of it.
        length = mapped.length - page if call.value % 2 else 1
        match call.name:
            case "write" | "read":
                return await self._access(call, pid, number, page)
            case "exit":
                # Nobody else works for this process.
                victim, self.victim = self.victim, None
                return None if victim is None else await machine.call("exit", victim)
            case "fork":
                return await machine.call("fork", pid) > 0
            case "truncate":
                return await machine.call("truncate", self.file, call.value)
            case "writeback":
                return await machine.call("writeback", self.file)
            case "shrink" | "swapoff":
                return await machine.call(call.name)
            case "munmap" | "mlock" | "munlock":
                return await machine.call(call.name, pid, address, length)
            case "mprotect":
                return await machine.call("mprotect", pid, address, length, write=call.value > 1)
            case "dontneed":
                return await machine.call("madvise", pid, address, length, "dontneed")
            case "mremap":
                # To where nothing else is put, so that who reads at the old place reads nothing else.
                self.moves += 1
                new = (machine.system.first_vpn + FAR * self.moves) * size
                return await machine.call("mremap", pid, address, length, new) > 0
            case "merge":
                other, _ = self.places[call.value % len(self.places)]
                return await machine.call("merge", pid, address, self.pids[0], other)
            case "secondary_access":
                return await machine.call("secondary_access", self.pids[0], address, write=call.value > 1)
            case _:
                return await machine.call(call.name, pid, address)

    async def _access(self, call: Call, pid: int, number: int, page: int) -> Any:
        machine = self.stage.machine
        start, mapped = self.places[number]
        address = start + page * self.stage.page_size
        of_file, shared = KINDS[mapped.kind]
        own, behind = (f"mapping {number}", page), ("file", page)
        if call.name == "write":
            value = call.value + 1
            self.stored.setdefault(behind if shared else own, set()).add(value)
            return await machine.call("write", pid, address, value)
        got = await machine.call("read", pid, address)
        allowed = {0} | (set() if shared else self.stored.get(own, set())) | (self.stored.get(behind, set()) if of_file else set())
        self.stage.demand(
            "RMAP-UNMAP-027", got < 0 or got in allowed, process=pid, address=hex(address), expected=sorted(allowed), got=got
        )
        return got


#: Faults come first, so that shrinking ends with them.
CALLS = (
    "write", "read", "fork", "munmap", "reclaim", "migrate", "mremap", "exit", "mprotect", "truncate", "writeback", "mlock",
    "munlock", "dontneed", "shrink", "swapoff", "split", "collapse", "merge", "secondary_access",
)  # fmt: skip
#: What brings pages into a state from which more can go wrong.
PRELUDES = (
    "write", "shrink", "reclaim", "mlock", "merge", "collapse", "split", "mprotect", "writeback", "secondary_access", "migrate",
)  # fmt: skip

calls = st.builds(Call, st.sampled_from(CALLS), st.integers(0, 1), small, st.integers(0, 7), small)
preludes = st.builds(Call, st.sampled_from(PRELUDES), st.integers(0, 1), small, st.integers(0, 7), small)
mappings = st.builds(
    Mapped, st.sampled_from([1, 2, 3, 8]), st.sampled_from(list(KINDS)), st.sampled_from([1, 2, 8, 0]), st.booleans()
)


def _picks(drawn: bytes) -> list[int]:
    """Threads go on for a while, and give way anywhere: four decisions of each byte, two of four values of which are 0."""
    found = [max(0, (byte >> shift & 3) - 1) for byte in drawn for shift in (0, 2, 4, 6)]
    while found and not found[-1]:
        found.pop()
    return found


plans = st.builds(
    Plan,
    mappings=st.lists(mappings, min_size=1, max_size=2),
    forks=st.integers(0, 2),
    observed=st.sampled_from([False, False, True]),
    prelude=st.lists(preludes, max_size=3),
    threads=st.lists(st.lists(calls, min_size=1, max_size=3), min_size=2, max_size=3),
    picks=st.binary(min_size=16, max_size=48).map(_picks),
    failures=st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, 1]), max_size=16),
)
