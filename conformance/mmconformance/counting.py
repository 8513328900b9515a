"""Counted work: what the history of mm/rmap.c says of costs, as numbers that the model reproduces.

Times depend on a machine, counts do not. Each function here lets something be done and returns how often something else
happened meanwhile: areas that a walk visited, locks, flushes, faults, accesses to page tables. Lengths are in base
pages unless bytes are named.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import attrs
import msgspec

from mmreference.kernel.scheduler import Pause, Scheduler, Task, run_alone
from mmreference.machine import Machine
from mmreference.mm.anon_vma import (
    GFP_KERNEL,
    AnonVma,
    anon_vma_chain_alloc,
    anon_vma_chain_link,
    anon_vma_clone,
    anon_vma_fork,
    anon_vma_prepare,
    page_lock_anon_vma,
    page_unlock_anon_vma,
    unlink_anon_vmas,
)
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.mm_struct import Vma
from mmreference.mm.mmap import vm_flags_of, vma_copy
from mmreference.mm.page import Page
from mmreference.mm.rmap.address import page_check_address, vma_address
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_UNMAP, try_to_unmap
from mmreference.mm.rmap.walk import rmap_walk
from mmreference.mm.swapfile import add_to_swap
from mmreference.mm.system import System
from mmspec.arch import Architecture, architecture
from mmspec.config import ALLNOCONFIG, ALLYESCONFIG, features
from mmspec.errors import SWAP_AGAIN, SwapResult
from mmspec.trace import Event, Recorder, recording

#: The linking before March 2010: fork puts the child's area on the list of its parent's anon_vma.
SHARED: Final = "one anon_vma for all"
#: The linking since: each process has an anon_vma of its own, and its area is on the lists of its ancestors too.
CHAINED: Final = "an anon_vma for each process"

#: Where the walks of all pages would visit more areas than this, a sample of them is walked.
WALK_AT_MOST: Final = 4_000_000
#: Pages in such a sample.
SAMPLE: Final = 1_000


# -- areas that a walk visits -------------------------------------------------------------------------------------------


@attrs.frozen
class Visits:
    """How many areas walks from page to mappings visited, one walk for each page."""

    linking: str
    children: int
    pages: int
    """All pages together, the parent's included."""
    full: int
    """Visits, if each walk looks at all areas that may map its page."""
    early: int
    """Visits, if each walk ends when it has found as many mappings as the page has."""
    walked: int
    """For how many pages that was really done; what the rest would visit follows from their lists."""

    @property
    def mean_full(self) -> float:
        """Visits per page of full walks."""
        return self.full / self.pages

    @property
    def mean_early(self) -> float:
        """Visits per page of walks that end early."""
        return self.early / self.pages


class _PrivatePage:
    """As much of a page as a walk looks at: what `mapping` and `index` say."""

    __slots__ = ("anon_vma", "index")

    def __init__(self, vma: Vma, index: int) -> None:
        assert vma.anon_vma is not None
        self.anon_vma: AnonVma = vma.anon_vma
        self.index = index


async def _link_as_before(child: Vma, parent: Vma) -> int:
    """What fork did with the child's area before March 2010."""
    avc = await anon_vma_chain_alloc(child.mm.system, GFP_KERNEL)
    assert avc is not None and parent.anon_vma is not None
    async with parent.anon_vma.root.mutex:
        anon_vma_chain_link(child, avc, parent.anon_vma)
    return 0


def family(children: int, pages: int, linking: str) -> list[Vma]:
    """The areas, each of `pages` base pages, of a process that has written there and of the children that it forked."""
    system = System(architecture("x86_64"), ALLNOCONFIG)
    first = system.first_vpn
    start, end = first * system.page_size, (first + pages) * system.page_size
    mm = system.new_mm()
    parent = Vma("vma0", mm, start, end, vm_flags_of(), first)
    mm.link(parent)
    _now(anon_vma_prepare(parent))
    areas = [parent]
    for _ in range(children):
        child = _now(vma_copy(parent, system.new_mm()))
        _now(anon_vma_fork(child, parent) if linking == CHAINED else _link_as_before(child, parent))
        areas.append(child)
    return areas


def _now(body: Coroutine[Any, Any, Any]) -> Any:
    return run_alone(body, Recorder.active)


def visits(children: int, pages: int, linking: str) -> Visits:
    """A process with `pages` pages forks, and each child writes to all of them: walks from each page that there is then.

    What a child wrote to is its copy; the originals are left to the parent. So each page is mapped once, and belongs to
    the anon_vma that its owner's area named when the page was made.
    """
    areas = family(children, pages, linking)
    first = areas[0].vm_pgoff
    lists = {vma.anon_vma: vma.anon_vma.list for vma in areas if vma.anon_vma is not None}
    # The pages of one process are all on the same list, and their only mapping is at the same place of it.
    by_list = [(len(lists[vma.anon_vma]), lists[vma.anon_vma].index(vma) + 1) for vma in areas if vma.anon_vma]
    full, early = (sum(places) * pages for places in zip(*by_list, strict=True))
    count = len(areas) * pages
    walked = range(0, count, 1 if full <= WALK_AT_MOST else -(-count // SAMPLE))
    for number in walked:
        owner, offset = divmod(number, pages)
        page = _PrivatePage(areas[owner], first + offset)
        if _walk(page, lists[page.anon_vma], areas[owner]) != by_list[owner]:
            raise AssertionError(f"a walk from page {offset} of process {owner} does not visit what its list says")
    return Visits(linking, children, count, full, early, len(walked))


def _walk(page: Any, members: Iterable[Vma], owner: Vma) -> tuple[int, int]:
    """Go through the areas: how many were visited, and how many until the only mapping was found, that of `owner`."""
    visited = found = 0
    for vma in members:
        if vma_address(page, vma) == -errno.EFAULT:
            continue
        visited += 1
        if vma is owner:
            found = visited
    return visited, found


# -- the reference at work ----------------------------------------------------------------------------------------------


class _Tally:
    """What the reference does inside a `with` block."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self._recording = recording(self.recorder)

    def __enter__(self) -> _Tally:
        self._recording.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._recording.__exit__(*exception)

    def events(self, *kinds: str) -> list[Event]:
        """The events of these kinds."""
        return [e for c in self.recorder.contexts for e in c.events if e.kind in kinds]

    def count(self, *kinds: str) -> int:
        """How many of them there are."""
        return len(self.events(*kinds))

    def locks(self, *classes: str) -> int:
        """How often a lock of these classes was taken; of any class, if none is named."""
        return sum(not classes or e.lock.cls in classes for e in self.events("acquire"))

    def calls(self, name: str) -> int:
        """How often the function was called."""
        return sum(operation.name == name for operation in self.recorder.history)


def _sharing(processes: int, variant: str = ALLYESCONFIG) -> tuple[Machine, list[int], int]:
    """So many processes that share one anonymous page: machine, pids (the parent first), address."""
    machine = Machine(variant=variant)
    parent = machine.spawn()
    address = machine.do("mmap", parent, 1)
    machine.do("write", parent, address, 7)
    pids = [parent, *(machine.do("fork", parent) for _ in range(processes - 1))]
    machine.run(lru_add_drain_all(machine.system))
    return machine, pids, address


def _page(machine: Machine, pid: int, address: int) -> Page:
    page = machine.page_at(pid, address)
    assert page is not None
    return page


async def _locked(page: Page, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    await page.lock.lock()
    result = await body()
    page.lock.unlock()
    return result


async def _go_on(page: Page, vma: Vma, address: int) -> SwapResult:
    return SWAP_AGAIN


def _full_walk(machine: Machine, page: Page) -> int:
    with _Tally() as tally:
        machine.run(_locked(page, lambda: rmap_walk(page, _go_on)))
    return tally.count("walk_call")


def _early_walk(machine: Machine, page: Page) -> int:
    with _Tally() as tally:
        machine.run(page_referenced(page, False))
    return tally.count("visit")


def reference_visits(children: int, pages: int) -> Visits:
    """As :func:`visits`, with real pages and faults and the walks of the reference; for small numbers."""
    machine = Machine(variant=ALLNOCONFIG)
    parent = machine.spawn()
    address = machine.do("mmap", parent, pages)
    places = [address + number * machine.page_size for number in range(pages)]
    for place in places:
        machine.do("write", parent, place, 7)
    pids = [parent, *(machine.do("fork", parent) for _ in range(children))]
    for child in pids[1:]:
        for place in places:
            machine.do("write", child, place, 8)
    made = [_page(machine, pid, place) for pid in pids for place in places]
    full = sum(_full_walk(machine, page) for page in made)
    early = sum(_early_walk(machine, page) for page in made)
    return Visits(CHAINED, children, len(made), full, early, len(made))


def shared_visits(children: int) -> int:
    """Areas that a full walk visits from a page which a parent and its children share."""
    machine, pids, address = _sharing(children + 1)
    return _full_walk(machine, _page(machine, pids[0], address))


def visits_after_reuse(children: int) -> tuple[int, int]:
    """A page has come to be that of one child alone: areas that a full walk visits before it writes, and after.

    The write finds that nobody else uses the page, and the page moves to the anon_vma of the writer.
    """
    machine, pids, address = _sharing(children + 1)
    page = _page(machine, pids[0], address)
    for pid in pids[:-1]:
        machine.do("write", pid, address, 8)
    before = _full_walk(machine, page)
    machine.do("write", pids[-1], address, 9)
    if machine.page_at(pids[-1], address) is not page:
        raise AssertionError("the last user of the page got a copy")
    return before, _full_walk(machine, page)


@attrs.frozen
class Unmapping:
    """What it took to unmap one page everywhere."""

    processes: int
    flushes: int
    """Flushes of a page from the TLBs."""
    notifications: int
    """Calls of secondary MMUs."""
    ptl: int
    """Acquisitions of page-table locks."""


def unmapping(processes: int) -> Unmapping:
    """A page that so many processes map, each with a secondary MMU, is taken away to swap."""
    machine, pids, address = _sharing(processes)
    for pid in pids:
        machine.do("attach_mmu", pid)
    page = _page(machine, pids[0], address)
    machine.run(_locked(page, lambda: add_to_swap(page)))
    with _Tally() as tally:
        machine.run(_locked(page, lambda: try_to_unmap(page, TTU_UNMAP | TTU_IGNORE_ACCESS)))
    if page.slots:
        raise AssertionError("the page is still mapped")
    notified = sum(event.notifiers for event in tally.events("notifier_invalidate"))
    return Unmapping(processes, tally.count("tlb_flush"), notified, tally.count("slot_locked"))


def ptl_acquisitions(areas: int, mapped: int, *, sync: bool) -> int:
    """Page-table locks that a full walk takes if so many of the areas map the page and the slots of the rest are empty.

    With `sync` each slot is looked at under its lock.
    """
    machine, pids, address = _sharing(areas)
    page = _page(machine, pids[0], address)
    for pid in pids[mapped:]:
        machine.do("madvise", pid, address, 1, "dontneed")

    async def look(page: Page, vma: Vma, address: int) -> SwapResult:
        found = await page_check_address(page, vma.mm, address, sync=sync)
        if found is not None:
            found.ptl.unlock()
        return SWAP_AGAIN

    with _Tally() as tally:
        machine.run(_locked(page, lambda: rmap_walk(page, look)))
    return tally.count("slot_locked")


#: How the labels of steps begin that are one atomic read-modify-write.
_ATOMIC: Final = ("atomic_inc", "atomic_add", "atomic_cmpxchg", "mutex_trylock", "mutex_lock")


class _HolderFirst:
    """A strategy: the first task up to where it pauses, the second one as far as it gets, then whoever can."""

    def __init__(self) -> None:
        self.paused = False

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        self.paused = self.paused or isinstance(enabled[0].pending, Pause)
        return enabled[-1] if self.paused else enabled[0]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return 0


def lookup_atomics(*, contended: bool) -> int:
    """Atomic read-modify-writes of a lookup of a page's anon_vma that succeeds; the unlock is not counted.

    `contended`: somebody else has the mutex when the lookup tries it.
    """
    machine, pids, address = _sharing(1)
    page = _page(machine, pids[0], address)
    area = machine.vma_at(pids[0], address)

    async def hold() -> None:
        async with area.anon_vma.root.mutex:
            await Pause("at work")

    async def lookup() -> bool:
        anon_vma = await page_lock_anon_vma(page)
        if anon_vma is not None:
            page_unlock_anon_vma(anon_vma)
        return anon_vma is not None

    scheduler = Scheduler(_HolderFirst())
    if contended:
        scheduler.spawn("holder", hold())
    task = scheduler.spawn("lookup", lookup())
    scheduler.run()
    if not task.result:
        raise AssertionError("the lookup found nothing")
    return sum(step.task is task and step.label.startswith(_ATOMIC) for step in scheduler.executed)


def lineage(generations: int) -> Vma:
    """The area of a process so many forks away from the one that made the first anon_vma."""
    area = family(0, 1, CHAINED)[0]
    for _ in range(generations):
        child = _now(vma_copy(area, area.mm.system.new_mm()))
        _now(anon_vma_fork(child, area))
        area = child
    return area


@attrs.frozen
class Chaining:
    """What it takes to give an area a copy of a chain, and to take the copy away."""

    length: int
    """Anon_vmas on the chain."""
    links: int
    """Links that were made."""
    clone_locks: int
    """How often a root's mutex was taken to make them."""
    unlink_locks: int
    """How often to unlink them."""


def chaining(length: int) -> Chaining:
    """Clone a chain of that length, as a split does, and unlink the copy."""
    area = lineage(length - 1)
    copy = _now(vma_copy(area, area.mm))
    with _Tally() as made:
        _now(anon_vma_clone(copy, area))
    with _Tally() as gone:
        _now(unlink_anon_vmas(copy))
    return Chaining(length, made.count("link"), made.locks("anon_vma_mutex"), gone.locks("anon_vma_mutex"))


def fork_allocations(generation: int) -> int:
    """Objects that fork allocates for one area, in a process so many forks away from the first."""
    area = lineage(generation)
    copy = _now(vma_copy(area, area.mm.system.new_mm()))
    with _Tally() as tally:
        _now(anon_vma_fork(copy, area))
    return tally.count("alloc")


def prepare_locks() -> int:
    """Locks that `anon_vma_prepare` takes for an area that has its anon_vma already."""
    area = lineage(0)
    with _Tally() as tally:
        _now(anon_vma_prepare(area))
    return tally.locks()


# -- faults -------------------------------------------------------------------------------------------------------------


def first_touches(length: int, base: int, unit: int) -> int:
    """Faults of a program that touches each base page of `length` bytes, if a fault maps `unit` bytes; `base` in bytes."""
    mapped: set[int] = set()
    for address in range(0, length, base):
        mapped.add(address // unit)
    return len(mapped)


def reference_faults(tables: int, *, huge: bool) -> int:
    """Faults of the reference when a process writes to each page of as many whole page tables.

    A page table of the model has few entries, see :data:`mmreference.mm.system.PTRS_PER_PTE`.
    """
    config = features(architecture("x86_64"), ALLYESCONFIG) - (frozenset() if huge else {"TRANSPARENT_HUGEPAGE"})
    machine = Machine(config=config)
    pid = machine.spawn()
    pages = tables * machine.system.ptrs_per_pte
    address = machine.do("mmap", pid, pages)
    with _Tally() as tally:
        for number in range(pages):
            machine.do("write", pid, address + number * machine.page_size, 7)
    return tally.calls("handle_mm_fault")


# -- page-table accesses of a TLB miss ----------------------------------------------------------------------------------


class _Tables:
    """Page tables in frames that `allocate` gives out, whose entries `load` and `store` reach."""

    def __init__(self, bits: tuple[int, ...], leaf_bits: int, machine: NestedMachine, *, guest: bool) -> None:
        self.bits = bits
        """Index bits of the levels that are walked, topmost first."""
        self.leaf_bits = leaf_bits
        """Bits of a base page number that the last entry leaves alone: 0 for base pages."""
        self.machine = machine
        self.guest = guest
        self.root = machine.allocate(guest=guest)

    def indices(self, number: int) -> list[int]:
        """The index at each level for a base page number."""
        found = []
        number >>= self.leaf_bits
        for bits in reversed(self.bits):
            found.append(number & ((1 << bits) - 1))
            number >>= bits
        return found[::-1]

    def map(self, number: int, frame: int) -> None:
        """Make a base page number lead to a frame, both multiples of what a leaf maps."""
        table = self.root
        *path, last = self.indices(number)
        for index in path:
            if (table, index) not in self.machine.memory[self.guest]:
                self.machine.memory[self.guest][table, index] = self.machine.allocate(guest=self.guest)
            table = self.machine.memory[self.guest][table, index]
        self.machine.memory[self.guest][table, last] = frame

    def walk(self, number: int) -> int:
        """The frame of a base page number, as the hardware finds it: one load per level."""
        entry = self.root
        for index in self.indices(number):
            entry = self.machine.load(entry, index, guest=self.guest)
        return entry + (number & ((1 << self.leaf_bits) - 1))


class NestedMachine:
    """A processor that translates guest virtual to guest physical to host physical addresses, without any cache.

    Each load from a guest table is an access to guest physical memory, so the host's tables are walked for it first.
    """

    def __init__(self, arch: Architecture, guest_leaf: str, host_leaf: str) -> None:
        """`guest_leaf` and `host_leaf` name the levels whose entries map pages there."""
        self.loads = 0
        self.memory: dict[bool, dict[tuple[int, int], int]] = {True: {}, False: {}}
        """Guest or host: frame and index of an entry to what it contains. Guest frames are numbered by the guest."""
        self._next = {True: 1 << 20, False: 1 << 21}
        self.host = _Tables(*_walked(arch, host_leaf), self, guest=False)
        self.guest = _Tables(*_walked(arch, guest_leaf), self, guest=True)

    def allocate(self, *, guest: bool) -> int:
        """A frame that is used for nothing else; the host has one behind each of the guest's."""
        block = 1 << 18
        self._next[guest] += block
        frame = self._next[guest]
        if guest:
            self.host.map(frame, self.allocate(guest=False))
        return frame

    def load(self, frame: int, index: int, *, guest: bool) -> int:
        """Read an entry."""
        if guest:
            self.host.walk(frame)
        self.loads += 1
        return self.memory[guest][frame, index]

    def miss(self, number: int) -> int:
        """Translate a base page number of the guest's: how many entries were loaded."""
        self.guest.map(number, self.allocate(guest=True))
        self.loads = 0
        self.host.walk(self.guest.walk(number))
        return self.loads


def _walked(arch: Architecture, leaf: str) -> tuple[tuple[int, ...], int]:
    """Index bits of the levels that a walk to that leaf passes, and bits that are left."""
    levels = [level for level in arch.levels if not level.folded]
    last = [level.name for level in levels].index(leaf)
    return tuple(level.bits for level in levels[: last + 1]), sum(level.bits for level in levels[last + 1 :])


def nested_loads(*, guest_huge: bool, host_huge: bool, arch: str = "x86_64") -> int:
    """Page-table entries that are loaded for one TLB miss in a guest, if nothing of the walk is cached."""
    profile = architecture(arch)
    leaf = {False: profile.levels[-1].name, True: profile.huge_level}
    return NestedMachine(profile, leaf[guest_huge], leaf[host_huge]).miss(0)


# -- everything ---------------------------------------------------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True):
    """A statement about work, what it amounts to, and what was counted."""

    name: str
    expected: float
    counted: float
    how: str
    """Which part was really done."""
    holds: bool
    """Whether both are the same, but for the rounding of a mean."""


def _claim(name: str, expected: float, counted: float, how: str = "all of it") -> Claim:
    return Claim(name, expected, counted, how, abs(expected - counted) < 1e-9)


def linking_claims(children: int, pages: int, linking: str) -> list[Claim]:
    """What a linking makes of a process with so many pages and children that have copies of all of them."""
    # With chains the pages of the children, all but one in `children + 1`, are on lists of their own.
    full, early = (children + 1, (children + 2) / 2) if linking == SHARED else (2 - 1 / (children + 1), 1)
    done = visits(children, pages, linking)
    how = f"{done.walked} of {done.pages} pages walked"
    return [
        _claim(f"areas per full walk, {linking}", full, done.mean_full, how),
        _claim(f"areas per walk that ends at the last mapping, {linking}", early, done.mean_early, how),
    ]


def other_claims(size: int = 5) -> list[Claim]:
    """All the rest; `size` is how many processes, areas or generations take part."""
    before, after = visits_after_reuse(size)
    unmapped, chained = unmapping(size), chaining(size)
    gib, base, huge = 1 << 30, architecture("x86_64").page_size, architecture("x86_64").huge_page_size
    per_table = reference_faults(1, huge=False)
    return [
        _claim(f"areas per full walk, page shared by {size + 1} processes", size + 1, shared_visits(size)),
        _claim(f"areas per full walk, page left to one of {size + 1}, before it writes", size + 1, before),
        _claim(f"areas per full walk, page left to one of {size + 1}, after it wrote", 1, after),
        _claim(f"TLB flushes to unmap a page of {size} processes", size, unmapped.flushes),
        _claim(f"notifier calls to unmap a page of {size} processes", size, unmapped.notifications),
        _claim(f"page-table locks to unmap a page of {size} processes", size, unmapped.ptl),
        _claim(f"page-table locks of a walk over {2 * size} areas, {size} of which map", size,
               ptl_acquisitions(2 * size, size, sync=False)),
        _claim(f"page-table locks of a walk over {2 * size} areas, each slot looked at under its lock", 2 * size,
               ptl_acquisitions(2 * size, size, sync=True)),
        _claim("atomic operations of page_lock_anon_vma, mutex free", 1, lookup_atomics(contended=False)),
        _claim("atomic operations of page_lock_anon_vma, mutex taken", 4, lookup_atomics(contended=True)),
        _claim("locks of anon_vma_prepare, anon_vma there", 0, prepare_locks()),
        _claim(f"links of a clone of a chain of {size}", size, chained.links),
        _claim(f"root locks of a clone of a chain of {size}", 1, chained.clone_locks),
        _claim(f"root locks of unlinking a chain of {size}", 1, chained.unlink_locks),
        _claim("objects that fork allocates for an area of the first process", 3, fork_allocations(0)),
        _claim(f"objects that fork allocates for an area {size} forks later", size + 3, fork_allocations(size)),
        _claim("faults to fill 3 GiB, 4 KiB each", 786_432, first_touches(3 * gib, base, base)),
        _claim("faults to fill 3 GiB, 2 MiB each", 1_536, first_touches(3 * gib, base, huge)),
        _claim(f"faults to fill {size} page tables of the model, base pages", size * per_table,
               reference_faults(size, huge=False)),
        _claim(f"faults to fill {size} page tables of the model, trans-huge pages", size, reference_faults(size, huge=True)),
        _claim("page-table entries per TLB miss, guest 4 KiB on host 4 KiB", 24,
               nested_loads(guest_huge=False, host_huge=False)),
        _claim("page-table entries per TLB miss, guest 4 KiB on host 2 MiB", 19,
               nested_loads(guest_huge=False, host_huge=True)),
        _claim("page-table entries per TLB miss, guest 2 MiB on host 2 MiB", 15,
               nested_loads(guest_huge=True, host_huge=True)),
    ]  # fmt: skip


def all_claims(children: int, pages: int, progress: Callable[[str], None] = lambda what: None) -> list[Claim]:
    """Every claim, the linkings with so many children and pages; `progress` hears what is about to be counted."""
    claims = []
    for linking in (SHARED, CHAINED):
        progress(f"{children} children with {pages} pages each, {linking}")
        claims += linking_claims(children, pages, linking)
    progress("the reference at work")
    return [*claims, *other_claims()]
