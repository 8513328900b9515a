"""What the system calls so far imply, in sets: who was promised what, who has used what, which page holds what.

The shadow knows no locks, lists or page tables. Its objects carry the names that the predicates of the specification
use, so the same predicates judge it together with the counters that the implementation shows.
"""

from __future__ import annotations

import itertools
from typing import Any

import attrs

from mmspec.invariant import Over
from mmspec.invariants.hugetlb.terms import OWNER, UNMAPPED, VM_MAYSHARE, VM_WRITE
from mmspec.state import PoolCounters

VM_NORESERVE = 1 << 21


@attrs.define(eq=False)
class ShadowPage:
    """A huge page in use: what it holds, and by how many mappings and caches it is held."""

    content: int = 0
    holders: int = 0
    charged: bool = True


@attrs.define(eq=False)
class ShadowMap:
    """A reservation map as a set: a file's reserved offsets, or a private mapping's consumed ones."""

    name: str
    private: bool
    covered: set[int] = attrs.field(factory=set)
    refs: int = 1
    drawn: dict[int, Any] = attrs.field(factory=dict)
    over = Over.MAP

    def coverage(self) -> frozenset[int]:
        """The covered offsets."""
        return frozenset(self.covered)


@attrs.define(eq=False)
class ShadowFile:
    """A file: its size, its reserved offsets and its cached pages."""

    number: int | None
    size: int
    resv_map: ShadowMap
    pages: dict[int, ShadowPage] = attrs.field(factory=dict)
    open: bool = True


@attrs.define(eq=False)
class ShadowVma:
    """A mapping, or what is left of one. `start` in bytes, `lo` and `npages` in huge pages."""

    pid: int
    start: int
    lo: int
    npages: int
    vm_flags: int
    vm_file: ShadowFile
    map: ShadowMap | None
    vm_private_data: int
    huge_page_size: int
    pages: dict[int, ShadowPage] = attrs.field(factory=dict)
    """Offset to the page that the process has mapped there."""

    @property
    def hi(self) -> int:
        """The offset behind the last page."""
        return self.lo + self.npages

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.start + self.npages * self.huge_page_size

    def index(self, address: int) -> int:
        """The offset that the address maps."""
        return (address - self.start) // self.huge_page_size + self.lo

    @property
    def shared(self) -> bool:
        """Whether it was mapped with MAP_SHARED."""
        return bool(self.vm_flags & VM_MAYSHARE)

    @property
    def writable(self) -> bool:
        """Whether the process may write."""
        return bool(self.vm_flags & VM_WRITE)

    @writable.setter
    def writable(self, allowed: bool) -> None:
        self.vm_flags = self.vm_flags | VM_WRITE if allowed else self.vm_flags & ~VM_WRITE


@attrs.define(eq=False)
class ShadowWorld:
    """All of it; `pool` is what the implementation shows."""

    huge_page_size: int
    pool: PoolCounters
    surplus: int = 0
    """Surplus pages, in huge pages, as the call that is being followed has met them."""
    inodes: list[ShadowFile] = attrs.field(factory=list)
    vmas: list[ShadowVma] = attrs.field(factory=list)
    names: int = 0
    adaptations: frozenset[str] = frozenset()
    """Names of rules in which the subject's release differs from those of 2006 and 2008."""

    def new_map(self, *, private: bool) -> ShadowMap:
        """An empty map."""
        self.names += 1
        return ShadowMap(f"map{self.names}", private)

    def vma_at(self, pid: int, address: int) -> ShadowVma | None:
        """The mapping of the process that contains the address."""
        return next((v for v in self.vmas if v.pid == pid and v.start <= address < v.end), None)

    def part(self, which: int, first: int, length: int) -> tuple[ShadowVma, int, int]:
        """One of the mappings, and in it an address and a number of huge pages from there."""
        vma = self.vmas[which % len(self.vmas)]
        first %= vma.npages
        return vma, vma.start + first * self.huge_page_size, min(length, vma.npages - first)

    def charge(self, file: ShadowFile, offset: int, length: int, flags: int) -> int:
        """How many pages an mmap has to promise."""
        if flags & VM_NORESERVE:
            return 0
        asked = set(range(offset, offset + length))
        return len(asked - file.resv_map.covered if flags & VM_MAYSHARE else asked)

    def of(self, pid: int) -> list[ShadowVma]:
        """The mappings of the process."""
        return [v for v in self.vmas if v.pid == pid]

    # -- what system calls imply ---------------------------------------------------------------------------------------

    def mapped(self, pid: int, start: int, length: int, file: ShadowFile, offset: int, flags: int) -> ShadowVma:
        """mmap has succeeded."""
        reserved = not flags & VM_NORESERVE
        private = not flags & VM_MAYSHARE
        vma = ShadowVma(pid, start, offset, length, flags, file, None, 0, self.huge_page_size)
        if reserved and private:
            vma.map = self.new_map(private=True)
            vma.vm_private_data = OWNER
        elif reserved:
            file.resv_map.covered |= set(range(offset, offset + length))
        if flags & VM_WRITE:
            file.size = max(file.size, offset + length)
        self.vmas.append(vma)
        return vma

    def cut(self, pid: int, start: int, length: int) -> list[ShadowVma]:
        """Split the process's mappings so that the range begins and ends between them; those inside."""
        end = start + length * self.huge_page_size
        inside = []
        for vma in self.of(pid):
            if vma.end <= start or end <= vma.start:
                continue
            for at in (start, end):
                if vma.start < at < vma.end:
                    vma = self._split(vma, at, keep_upper=at == start)
            inside.append(vma)
        return inside

    def _split(self, vma: ShadowVma, at: int, *, keep_upper: bool) -> ShadowVma:
        below = (at - vma.start) // self.huge_page_size
        lower = attrs.evolve(vma, npages=below, pages={i: p for i, p in vma.pages.items() if i < vma.lo + below})
        upper = attrs.evolve(
            vma,
            start=at,
            lo=vma.lo + below,
            npages=vma.npages - below,
            pages={i: p for i, p in vma.pages.items() if i >= vma.lo + below},
        )
        where = self.vmas.index(vma)
        self.vmas[where : where + 1] = [lower, upper]
        if vma.map is not None:
            vma.map.refs += 1
        return upper if keep_upper else lower

    def closed(self, vma: ShadowVma) -> None:
        """The mapping is gone, with its pages."""
        for idx in list(vma.pages):
            self.unmap_page(vma, idx)
        if vma.map is not None:
            vma.map.refs -= 1
        self.vmas.remove(vma)
        self.maybe_evict(vma.vm_file)

    def maybe_evict(self, file: ShadowFile) -> None:
        """A file without a name and a mapping goes, with pages and reservations."""
        if not file.open and not any(v.vm_file is file for v in self.vmas) and file in self.inodes:
            self.truncated(file, 0)
            self.inodes.remove(file)

    def unmap_page(self, vma: ShadowVma, idx: int) -> None:
        """One entry is gone."""
        self._zapped([(vma, idx)])

    def truncated(self, file: ShadowFile, size: int) -> int:
        """The file ends at `size` now; how many consumed reservations that has given back to private mappings."""
        file.size = size
        restored = self._zapped([(v, i) for v in self.vmas if v.vm_file is file for i in v.pages if i >= size])
        for idx in [i for i in file.pages if i >= size]:
            file.pages.pop(idx).holders -= 1
        file.resv_map.covered = {i for i in file.resv_map.covered if i < size}
        return restored

    def forgotten(self, vma: ShadowVma, first: int, length: int) -> None:
        """MADV_DONTNEED has succeeded on so many offsets."""
        self._zapped([(vma, i) for i in range(first, first + length) if i in vma.pages])

    def punched(self, file: ShadowFile, first: int, end: int) -> None:
        """The offsets [first, end) of the file have been emptied."""
        self._zapped([(v, i) for v in self.vmas if v.vm_file is file for i in v.pages if first <= i < end])
        gone = {i for i in file.pages if first <= i < end}
        for idx in gone:
            file.pages.pop(idx).holders -= 1
        keeps = "PUNCH_KEEPS_EMPTY_PROMISES" in self.adaptations
        file.resv_map.covered -= gone if keeps else set(range(first, end))

    def instantiated(self, file: ShadowFile, offsets: list[int]) -> None:
        """fallocate has given pages to these offsets of the file."""
        for idx in offsets:
            file.pages[idx] = ShadowPage(holders=1)
            file.resv_map.covered.add(idx)

    def charged(self, file: ShadowFile) -> int:
        """The pages of the file and of its private mappings."""
        mapped = {id(p) for v in self.vmas if v.vm_file is file for p in v.pages.values()}
        return len(mapped | {id(p) for p in file.pages.values()})

    def sole_user(self, vma: ShadowVma, idx: int) -> bool:
        """Whether a private mapping has the page of the offset for itself."""
        page = vma.pages.get(idx)
        return page is not None and page.holders == 1 and not vma.shared

    def _zapped(self, entries: list[tuple[ShadowVma, int]]) -> int:
        """These entries are gone; how many owners have their reservations back, where the release does that."""
        gone = [(vma, idx, vma.pages.pop(idx)) for vma, idx in entries]
        last = {}
        for vma, _, page in gone:
            page.holders -= 1
            last[page] = vma
        restores = "UNMAP_RESTORES_RESERVATION" in self.adaptations
        restored = 0
        for vma, own in itertools.groupby(gone, key=lambda entry: entry[0]):
            unused = {idx: page for _, idx, page in own if page.holders == 0}
            if vma.map is not None and restores and not self.surplus:
                vma.map.covered -= unused.keys()
                restored += len(unused)
            # The mapping's pages are freed together, after it has been zapped.
            self.surplus = max(0, self.surplus - sum(last[page] is vma for page in unused.values()))
        return restored

    def forked(self, parent: int, child: int) -> None:
        """fork has succeeded."""
        for vma in self.of(parent):
            copy = attrs.evolve(vma, pid=child, map=None, vm_private_data=0, pages=dict(vma.pages))
            for page in copy.pages.values():
                page.holders += 1
            self.vmas.append(copy)

    def needs_page(self, vma: ShadowVma, idx: int, write: bool) -> bool:
        """Whether an access that succeeds must take a page from the pool."""
        page = vma.pages.get(idx)
        if vma.shared:
            return idx not in vma.vm_file.pages
        if page is None:
            page = vma.vm_file.pages.get(idx)
            return page is None or write
        return write and page.holders > 1

    def touched(self, vma: ShadowVma, idx: int, write: bool, *, took_page: bool) -> ShadowPage:
        """An access has succeeded; the page that it went to."""
        if vma.shared:
            if idx not in vma.vm_file.pages:
                vma.vm_file.pages[idx] = ShadowPage(holders=1)
                vma.vm_file.resv_map.covered.add(idx)
            return self._map(vma, idx, vma.vm_file.pages[idx])
        page = vma.pages.get(idx) or vma.vm_file.pages.get(idx)
        if page is None:
            self._consume(vma, idx)
            return self._map(vma, idx, ShadowPage())
        self._map(vma, idx, page)
        if not write or page.holders == 1:
            return page
        if not took_page:
            self._rob(vma, idx, page)
            return page
        self._consume(vma, idx)
        return self._map(vma, idx, ShadowPage(page.content))

    def _map(self, vma: ShadowVma, idx: int, page: ShadowPage) -> ShadowPage:
        before = vma.pages.get(idx)
        if before is not page:
            if before is not None:
                before.holders -= 1
            vma.pages[idx] = page
            page.holders += 1
        return page

    @staticmethod
    def _consume(vma: ShadowVma, idx: int) -> None:
        if vma.map is not None:
            vma.map.covered.add(idx)

    def _rob(self, owner: ShadowVma, idx: int, page: ShadowPage) -> None:
        """The owner of the reservation has taken the page from those that inherited it."""
        for vma in self.vmas:
            if vma is not owner and vma.pages.get(idx) is page:
                self.unmap_page(vma, idx)
                vma.vm_private_data |= UNMAPPED
