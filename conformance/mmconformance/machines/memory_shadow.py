"""What processes must find in their memory: a model of the contents that knows nothing of pages, entries and counts.

It follows the calls by what they promise to processes, page by page. Reclaim, swap, migration, merging, splitting and
collapsing do not occur here: they promise that nobody notices them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from mmspec.errors import Signal

#: What a store that succeeds returns.
DONE = 0


@attrs.define(eq=False)
class Cell:
    """Memory of a process's own."""

    value: int = 0
    lost: bool = False
    """Whether its frame has failed once, so that an access may end with SIGBUS."""


@attrs.define(eq=False)
class ShadowFile:
    """What a file holds, or what processes share without a file; sizes and indices in base pages."""

    number: int | None
    """None if no call can name it."""
    size: int
    content: dict[int, int] = attrs.field(factory=dict)
    past: dict[int, set[int]] = attrs.field(factory=dict)
    """What was written at an index before; the disk may still hold any of it."""
    lost: set[int] = attrs.field(factory=set)
    """The indices whose frame has failed once."""

    def at(self, index: int) -> int:
        """What belongs there."""
        return self.content.get(index, 0)

    def write(self, index: int, value: int) -> None:
        """A store through a shared mapping."""
        self.past.setdefault(index, {0}).add(value)
        self.content[index] = value

    def truncate(self, size: int) -> None:
        """What is beyond the size is gone."""
        self.size = size
        for index in [i for i in self.past if i >= size]:
            self.content.pop(index, None)
            del self.past[index]
        self.lost = {i for i in self.lost if i < size}


@attrs.define(eq=False)
class Spot:
    """One base page of an address space that is mapped."""

    file: ShadowFile | None
    index: int
    shared: bool
    write: bool
    read: bool = True
    locked: bool = False
    huge: bool = False
    """Part of a hugetlb page, whose base pages are one cell."""
    cell: Cell | None = None
    """The private copy, or the private memory; None before there is any."""
    maybe: Cell | None = None
    """A private copy of a file's page, which a call that failed has perhaps made."""

    @property
    def beyond(self) -> bool:
        """Whether there is nothing behind it any more."""
        return self.cell is None and self.file is not None and self.index >= self.file.size

    def renounce(self) -> None:
        """Private memory is given up; what is behind it comes to light again."""
        self.cell = self.maybe = None

    def copy_perhaps(self, *, surely: bool) -> None:
        """The kernel has faulted for a write without writing: there is a private copy of the file's page."""
        if self.file is None or self.shared or self.cell is not None or self.beyond or not self.write:
            return
        copy = Cell(self.file.at(self.index), self.index in self.file.lost)
        if surely:
            self.cell, self.maybe = copy, None
        elif self.maybe is None:
            self.maybe = copy


Pages = dict[int, Spot]
"""Base page number to what is there."""


@attrs.define(eq=False)
class Memory:
    """All processes and files."""

    processes: dict[int, Pages] = attrs.field(factory=dict)
    files: list[ShadowFile] = attrs.field(factory=list)

    def spot(self, pid: int, vpn: int) -> Spot | None:
        """What is mapped at a base page number."""
        return self.processes[pid].get(vpn)

    def inside(self, pid: int, vpn: int, length: int) -> Iterable[Spot]:
        """What is mapped in a range, in order of address."""
        pages = self.processes[pid]
        return [pages[v] for v in range(vpn, vpn + length) if v in pages]

    # -- what accesses may answer ------------------------------------------------------------------------------------------

    def readable(self, pid: int, vpn: int) -> set[int]:
        """What a load may return, if there is memory: values, or the signal that it must end with."""
        spot = self.spot(pid, vpn)
        if spot is None or not spot.read:
            return {Signal.SIGSEGV}
        if spot.cell is not None:
            return {spot.cell.value} | ({Signal.SIGBUS} if spot.cell.lost else set())
        if spot.file is None:
            return {0}
        if spot.beyond:
            return {Signal.SIGBUS}
        allowed: set[int] = {spot.file.at(spot.index)}
        if spot.maybe is not None:
            allowed.add(spot.maybe.value)
        if spot.index in spot.file.lost:
            # What was not on disk is lost with the frame.
            allowed |= {Signal.SIGBUS, 0} | spot.file.past.get(spot.index, set())
        return allowed

    def has_read(self, pid: int, vpn: int, value: int) -> None:
        """A load has returned what it may: this tells whether a copy was made."""
        spot = self.spot(pid, vpn)
        if spot is None or spot.maybe is None or spot.file is None or value < 0:
            return
        if value != spot.maybe.value:
            spot.maybe = None
        elif value != spot.file.at(spot.index):
            spot.cell, spot.maybe = spot.maybe, None

    def writable(self, pid: int, vpn: int) -> set[int]:
        """What a store may return, if there is memory."""
        spot = self.spot(pid, vpn)
        if spot is None or not spot.write:
            return {Signal.SIGSEGV}
        if spot.beyond:
            return {Signal.SIGBUS}
        copies = [c for c in (spot.cell, spot.maybe) if c is not None]
        lost = any(c.lost for c in copies) or (spot.cell is None and spot.file is not None and spot.index in spot.file.lost)
        return {DONE, Signal.SIGBUS} if lost else {DONE}

    def has_written(self, pid: int, vpn: int, value: int) -> None:
        """A store has succeeded."""
        spot = self.processes[pid][vpn]
        if spot.shared and spot.file is not None:
            spot.file.write(spot.index, value)
        elif spot.cell is not None:
            spot.cell.value = value
        else:
            spot.cell, spot.maybe = Cell(value), None

    # -- calls that succeeded ----------------------------------------------------------------------------------------------

    def mapped(self, pid: int, vpn: int, make: list[Spot]) -> None:
        """New mappings, instead of what was there."""
        for number, spot in enumerate(make):
            self.processes[pid][vpn + number] = spot

    def unmapped(self, pid: int, vpn: int, length: int) -> None:
        """Nothing is mapped there any more."""
        for v in range(vpn, vpn + length):
            self.processes[pid].pop(v, None)

    def moved(self, pid: int, vpn: int, length: int, to: int) -> None:
        """Everything is somewhere else, and what was there is gone."""
        pages = self.processes[pid]
        moving = {v: pages.pop(v) for v in range(vpn, vpn + length) if v in pages}
        self.unmapped(pid, to, length)
        for v, spot in moving.items():
            pages[v - vpn + to] = spot

    def forked(self, parent: int, child: int) -> None:
        """The child finds what the parent has, and each has its own from there on."""
        copies: dict[Cell, Cell] = {}

        def copy(cell: Cell | None) -> Cell | None:
            if cell is not None and cell not in copies:
                copies[cell] = attrs.evolve(cell)
            return None if cell is None else copies[cell]

        self.processes[child] = {
            vpn: attrs.evolve(s, cell=copy(s.cell), maybe=copy(s.maybe), locked=False)
            for vpn, s in self.processes[parent].items()
        }

    def truncated(self, file: ShadowFile, size: int) -> None:
        """The file has that size; private copies of what is beyond are gone as well."""
        file.truncate(size)
        self.each(lambda s: s.renounce() if s.file is file and s.index >= size else None)

    def each(self, act: Callable[[Spot], None]) -> None:
        """Do something with everything that is mapped."""
        for pages in self.processes.values():
            for spot in pages.values():
                act(spot)

    def failed(self, pid: int, vpn: int) -> None:
        """The frame behind a page has failed."""
        spot = self.spot(pid, vpn)
        if spot is None:
            return
        if spot.cell is None and spot.file is None:
            spot.cell = Cell()
        if spot.cell is not None:
            spot.cell.lost = True
        elif spot.file is not None:
            spot.file.lost.add(spot.index)
            if spot.maybe is not None:
                spot.maybe.lost = True
