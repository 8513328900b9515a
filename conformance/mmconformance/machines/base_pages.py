"""Drives any :class:`~mmspec.interfaces.VirtualMemory` by system calls, accesses and memory pressure.

Nothing of what memory management does by itself may be noticed: each load is compared with what the process must find
(:mod:`mmconformance.machines.memory_shadow`). What is told of pages and resident sets is judged by the predicates of the
specification.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mmconformance.demands import demand
from mmconformance.machines.memory_shadow import DONE, Memory, ShadowFile, Spot
from mmconformance.machines.steps import Step, recorded
from mmspec.errors import ImplementationFailure, Signal
from mmspec.interfaces import VirtualMemory
from mmspec.invariant import REGISTRY, Judge
from mmspec.state import Resident
from mmspec.trace import Event

PROCESSES = 3
AREAS = 6

pick = st.integers(0, 15)
lengths = st.sampled_from([1, 1, 2, 3, 4])
values = st.integers(1, 9)

#: What this machine judges, with the members that it needs.
JUDGED = {
    "RMAP-UNMAP-027": frozenset[str](),
    "MLOCK-003": frozenset({"lock_pages", "reclaim"}),
    "RSS-001": frozenset({"resident", "page_state"}),
    "RSS-HIWATER-002": frozenset({"peak"}),
    "ZSTAT-ANON-001": frozenset({"statistics", "page_state"}),
    "ZSTAT-FILE-001": frozenset({"statistics", "page_state"}),
}


class BasePagesMachine(RuleBasedStateMachine):
    """The rules. `subject` is what is tested; set by the engine on a subclass."""

    subject: Callable[[], VirtualMemory]

    def __init__(self) -> None:
        super().__init__()
        self.mm = self.subject()
        self.log: list[str] = []
        self.operations = 0
        self.steps: list[Step] = []
        self.memory = Memory()
        self.peaks: dict[int, int] = {}
        self.started = False

    # -- set-up and end --------------------------------------------------------------------------------------------------------

    @initialize()
    @recorded
    def start(self) -> None:
        """One process, and a file if there can be."""
        self.mm.start()
        self.started = True
        if Judge.active is not None:
            Judge.active.unobservable.update(i for i, needs in JUDGED.items() if not needs <= self.mm.capabilities)
        if "create_page_file" in self.mm.capabilities:
            self.memory.files.append(ShadowFile(self.mm.create_page_file(4), 4))
        self._spawn()

    def teardown(self) -> None:
        """Everybody reads all they have."""
        if not self.started:
            return
        try:
            if sys.exc_info()[0] is None:
                for pid, pages in list(self.memory.processes.items()):
                    for vpn in sorted(pages):
                        self._read(pid, vpn)
        finally:
            self.mm.stop()

    def _spawn(self) -> None:
        self.memory.processes[self.mm.spawn()] = {}

    def _call(self, name: str, *args: Any, **options: Any) -> int:
        result = getattr(self.mm, name)(*args, **options)
        given = ", ".join([*map(_shown, args), *(f"{k}={v}" for k, v in options.items())])
        self.log.append(f"{_shown(result)} = {name}({given})")
        self.operations += 1
        self._look()
        return int(result)

    def _look(self) -> None:
        """Judge what is told of the processes."""
        has = self.mm.capabilities
        for pid in self.memory.processes:
            if "peak" in has:
                peak = self.mm.peak(pid)
                REGISTRY["RSS-HIWATER-002"].demand(Event("hiwater_rss", None, (), 0, {"old": self.peaks.get(pid, 0), "new": peak}))
                self.peaks[pid] = peak

    def _judge_statistics(self) -> None:
        """Each mapping of a page counts as its share of the page, so that they add up to the pages that are mapped."""
        if not JUDGED["ZSTAT-ANON-001"] <= self.mm.capabilities:
            return
        mapped = {"NR_ANON_PAGES": Fraction(0), "NR_FILE_MAPPED": Fraction(0)}
        for pid, pages in self.memory.processes.items():
            for vpn in pages:
                state = self.mm.page_state(pid, self._address(vpn))
                if state is not None and not state.swapped and state.kind != "thp":
                    mapped["NR_FILE_MAPPED" if state.kind == "file" else "NR_ANON_PAGES"] += Fraction(1, state.mapcount)
        told = self.mm.statistics()
        for id_, counter in (("ZSTAT-ANON-001", "NR_ANON_PAGES"), ("ZSTAT-FILE-001", "NR_FILE_MAPPED")):
            demand(id_, told[counter] == mapped[counter], counter=counter, told=told[counter], mapped=str(mapped[counter]))

    def _judge_resident(self) -> None:
        self._judge_statistics()
        if not JUDGED["RSS-001"] <= self.mm.capabilities:
            return
        for pid, pages in self.memory.processes.items():
            there = Resident(0, 0, 0)
            for vpn in pages:
                state = self.mm.page_state(pid, self._address(vpn))
                if state is not None:
                    kind = "swap" if state.swapped else "file" if state.kind == "file" else "anon"
                    there = attrs.evolve(there, **{kind: getattr(there, kind) + 1})
            told = self.mm.resident(pid)
            demand("RSS-001", told == there, process=pid, told=told, there=there)

    # -- where things are --------------------------------------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return list(self.memory.processes)

    @property
    def mapped(self) -> list[tuple[int, int]]:
        """All mapped pages: process and base page number."""
        return [(pid, vpn) for pid, pages in self.memory.processes.items() for vpn in sorted(pages)]

    def _at(self, which: int) -> tuple[int, int]:
        return self.mapped[which % len(self.mapped)]

    def _run(self, pid: int, vpn: int, length: int) -> int:
        """How many of so many pages are mapped in a row."""
        pages = self.memory.processes[pid]
        return next((n for n in range(length) if vpn + n not in pages), length)

    def _address(self, vpn: int) -> int:
        return vpn * self.mm.page_bytes

    # -- processes and areas -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.pids) < PROCESSES)
    @rule(who=pick)
    @recorded
    def fork(self, who: int) -> None:
        """A copy of a process."""
        parent = self.pids[who % len(self.pids)]
        child = self._call("fork", parent)
        if child > 0:
            self.memory.forked(parent, child)

    @precondition(lambda self: len(self.pids) > 1)
    @rule(who=pick)
    @recorded
    def exit(self, who: int) -> None:
        """The end of a process."""
        pid = self.pids[who % len(self.pids)]
        del self.memory.processes[pid]
        self.peaks.pop(pid, None)
        self._call("exit", pid)

    @precondition(lambda self: len(self.mapped) < 24)
    @rule(who=pick, length=lengths, file=st.booleans(), shared=st.booleans(), offset=st.integers(0, 2))
    @recorded
    def map_pages(self, who: int, length: int, file: bool, shared: bool, offset: int) -> None:
        """A mapping."""
        pid = self.pids[who % len(self.pids)]
        shadow = self.memory.files[0] if file and self.memory.files else None
        offset = offset if shadow is not None else 0
        number = None if shadow is None else shadow.number
        address = self._call("map_pages", pid, length, file=number, offset=offset, shared=shared)
        if address < 0:
            return
        if address % self.mm.page_bytes:
            raise ImplementationFailure(f"map_pages() returned {address}, not an address of a page")
        behind = shadow or (ShadowFile(None, length) if shared else None)
        spots = [Spot(behind, offset + i, shared, True) for i in range(length)]
        self.memory.mapped(pid, address // self.mm.page_bytes, spots)

    @precondition(lambda self: self.mapped)
    @rule(which=pick, length=lengths)
    @recorded
    def unmap_pages(self, which: int, length: int) -> None:
        """Pages go."""
        pid, vpn = self._at(which)
        length = self._run(pid, vpn, length)
        if self._call("unmap_pages", pid, self._address(vpn), length) == 0:
            self.memory.unmapped(pid, vpn, length)

    @precondition(lambda self: self.mapped and "protect_pages" in self.mm.capabilities)
    @rule(which=pick, length=lengths, writable=st.booleans())
    @recorded
    def protect_pages(self, which: int, length: int, writable: bool) -> None:
        """The right to write is given or taken."""
        pid, vpn = self._at(which)
        length = self._run(pid, vpn, length)
        if self._call("protect_pages", pid, self._address(vpn), length, writable) == 0:
            for spot in self.memory.inside(pid, vpn, length):
                spot.write = writable

    @precondition(lambda self: self.mapped and "move_pages" in self.mm.capabilities)
    @rule(which=pick)
    @recorded
    def move_pages(self, which: int) -> None:
        """A page moves to where there is room."""
        pid, vpn = self._at(which)
        result = self._call("move_pages", pid, self._address(vpn), 1)
        if result >= 0:
            self.memory.moved(pid, vpn, 1, result // self.mm.page_bytes)

    @precondition(lambda self: self.mapped and "lock_pages" in self.mm.capabilities)
    @rule(which=pick, unlock=st.booleans())
    @recorded
    def lock_pages(self, which: int, unlock: bool) -> None:
        """A page is locked in memory, or not any more."""
        pid, vpn = self._at(which)
        if self._call("unlock_pages" if unlock else "lock_pages", pid, self._address(vpn), 1) == 0:
            for spot in self.memory.inside(pid, vpn, 1):
                spot.locked = not unlock
                if not unlock:
                    # Locking may fault for write.
                    spot.copy_perhaps(surely=False)

    @precondition(lambda self: self.mapped and "advise_pages" in self.mm.capabilities)
    @rule(which=pick)
    @recorded
    def dontneed(self, which: int) -> None:
        """A page's content is given up."""
        pid, vpn = self._at(which)
        if self._call("advise_pages", pid, self._address(vpn), 1, "dontneed") == 0:
            for spot in self.memory.inside(pid, vpn, 1):
                spot.renounce()

    @precondition(lambda self: self.memory.files)
    @rule(size=st.integers(0, 5))
    @recorded
    def truncate(self, size: int) -> None:
        """The file gets shorter or longer."""
        if self._call("truncate_page_file", 0, size) == 0:
            self.memory.truncated(self.memory.files[0], size)

    # -- accesses and pressure ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.mapped)
    @rule(which=pick)
    @recorded
    def read(self, which: int) -> None:
        """A load."""
        self._read(*self._at(which))

    def _read(self, pid: int, vpn: int) -> None:
        got = self._call("read", pid, self._address(vpn))
        self._judge_access(self.memory.readable(pid, vpn), got, pid, vpn)
        self.memory.has_read(pid, vpn, got)

    @precondition(lambda self: self.mapped)
    @rule(which=pick, value=values)
    @recorded
    def write(self, which: int, value: int) -> None:
        """A store."""
        pid, vpn = self._at(which)
        got = self._call("write", pid, self._address(vpn), value)
        self._judge_access(self.memory.writable(pid, vpn), got, pid, vpn)
        if got == DONE:
            self.memory.has_written(pid, vpn, value)

    def _judge_access(self, expected: set[int], got: int, pid: int, vpn: int) -> None:
        # The memory of the machine may be used up.
        allowed = expected | {Signal.SIGKILL}
        demand("RMAP-UNMAP-027", got in allowed, process=pid, address=hex(self._address(vpn)), expected=sorted(expected), got=got)
        self._judge_resident()

    @precondition(lambda self: self.mapped and "reclaim" in self.mm.capabilities)
    @rule(which=pick)
    @recorded
    def reclaim(self, which: int) -> None:
        """A page is taken away, if it can be."""
        pid, vpn = self._at(which)
        spot = self.memory.spot(pid, vpn)
        freed = self._call("reclaim", pid, self._address(vpn))
        demand("MLOCK-003", spot is None or not (spot.locked and freed), process=pid, address=hex(self._address(vpn)))

    @precondition(lambda self: self.mapped and "reclaim" in self.mm.capabilities)
    @rule(which=pick, write=st.booleans(), lock=st.booleans())
    @recorded
    def pressure(self, which: int, write: bool, lock: bool) -> None:
        """A page is used, perhaps locked, reclaimed as often as it takes, and read."""
        pid, vpn = self._at(which)
        spot = self.memory.spot(pid, vpn)
        assert spot is not None
        if write:
            got = self._call("write", pid, self._address(vpn), 7)
            self._judge_access(self.memory.writable(pid, vpn), got, pid, vpn)
            if got == DONE:
                self.memory.has_written(pid, vpn, 7)
        if lock and "lock_pages" in self.mm.capabilities and self._call("lock_pages", pid, self._address(vpn), 1) == 0:
            spot.locked = True
            spot.copy_perhaps(surely=False)
        for _ in range(2):
            freed = self._call("reclaim", pid, self._address(vpn))
            if spot.locked:
                demand("MLOCK-003", not freed, process=pid, address=hex(self._address(vpn)))
        self._read(pid, vpn)

    # Runs of calls that chance alone seldom makes; the history has them one by one.

    @precondition(lambda self: self.mapped)
    @rule(which=pick, value=values, then=st.sampled_from(["fork", "swap and fork", "move", "dontneed", "protect", "truncate"]))
    def write_and(self, which: int, value: int, then: str) -> None:
        """A page is written, something happens to it, it is written again by one process, and read by all."""
        pid, vpn = self._at(which)
        self.write(which=which, value=value)
        if then == "swap and fork" and "reclaim" in self.mm.capabilities:
            for _ in range(2):
                self.reclaim(which=which)
        if "fork" in then and len(self.pids) < PROCESSES:
            self.fork(who=self.pids.index(pid))
            self.write(which=self.mapped.index((pid, vpn)), value=value % 9 + 1)
        elif then == "move" and "move_pages" in self.mm.capabilities:
            self.move_pages(which=which)
        elif then == "dontneed" and "advise_pages" in self.mm.capabilities:
            self.dontneed(which=which)
        elif then == "protect" and "protect_pages" in self.mm.capabilities:
            self.protect_pages(which=which, length=1, writable=False)
            self.write(which=which, value=value % 9 + 1)
        elif then == "truncate" and self.memory.files:
            self.truncate(size=0)
        for number in range(len(self.mapped)):
            self.read(which=number)

    @precondition(lambda self: "swap_off" in self.mm.capabilities)
    @rule()
    @recorded
    def swap_off(self) -> None:
        """Everything comes back from swap."""
        self._call("swap_off")


def _shown(value: Any) -> str:
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) and value > 1 << 10 else repr(value)
