"""Migration, merging, trans-huge pages, hugetlb, memory failure, nonlinear areas, exec: small programs against plain facts.

Contents survive whatever the kernel does with frames; counters are back to zero when all processes are gone; each
allocation that fails leaves nothing behind. A judge is at work, so all invariants are evaluated on the way.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import mmspec.invariants  # noqa: F401
from mmreference.kernel.scheduler import First, Pause, Scheduler, Task
from mmreference.machine import Machine
from mmreference.mm.exec import do_execve
from mmreference.mm.ksm import ksm_do_scan, madvise_mergeable
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.memory_failure import memory_failure
from mmreference.mm.migrate import migrate_page, migrate_range
from mmreference.mm.page import get_page, put_page
from mmreference.mm.pagetable import FileEntry, HwPoisonEntry, MigrationEntry, SwapEntry, read_entry
from mmspec.config import ALLNOCONFIG, ALLYESCONFIG
from mmspec.errors import Signal
from mmspec.invariant import Judge, judging
from mmspec.trace import Recorder, recording

ARCHITECTURES = ["x86_64", "i386", "powerpc64", "s390x", "arm64-64k"]


class World(Machine):
    """A machine whose programs are short to write."""

    recorder: Recorder

    def anon(self, *values: int, thp: str = "never", **kwargs: Any) -> tuple[int, int]:
        """A process with an anonymous mapping that holds these values, one per page: pid and address."""
        self.system.thp_enabled = thp
        pid = self.spawn()
        address = self.do("mmap", pid, len(values), **kwargs)
        self.fill(pid, address, *values)
        return pid, address

    def fill(self, pid: int, address: int, *values: int) -> None:
        for number, value in enumerate(values):
            assert self.do("write", pid, address + number * self.page_size, value) == 0

    def values(self, pid: int, address: int, length: int) -> list[int]:
        return [self.do("read", pid, address + number * self.page_size) for number in range(length)]

    def entry(self, pid: int, address: int, level: str = "pte") -> Any:
        return read_entry(self.processes[pid], address // self.page_size, level)

    def drain(self) -> None:
        self.run(lru_add_drain_all(self.system))

    def books(self) -> dict[str, Any]:
        """What must be as it was when all processes are gone."""
        system, zone = self.system, self.system.zone
        return {
            "pages": len(system.pages),
            "anon_vmas": len(system.live_anon_vmas),
            "chains": len(system.live_chains),
            "zone": (zone.NR_ANON_PAGES, zone.NR_FILE_MAPPED, zone.NR_ANON_TRANSPARENT_HUGEPAGES, zone.NR_MLOCK),
            "lists": sum(map(len, zone.lists.values())),
            "usage": [group.usage for group in system.memcgs],
            "swap": (len(system.swap.swap_map), len(system.swap.has_cache)) if system.swap is not None else None,
            "merged": (len(system.stable_tree), len(system.rmap_items)),
        }

    def clear(self) -> None:
        """End all processes and empty all files."""
        self.strategy = None
        self.recorder.quiet(self.system)
        for pid in list(self.processes):
            self.do("exit", pid)
        for number in range(len(self.files)):
            self.do("truncate", number, 0)
        # Pages that somebody had locked when their last entry went are left to reclaim.
        self.do("shrink")
        self.run(ksm_do_scan(self.system))
        self.drain()
        self.recorder.quiet(self.system)


@contextmanager
def world(arch: str = "x86_64", variant: str = ALLYESCONFIG) -> Iterator[World]:
    """A machine under a judge; at the end nothing may be left."""
    recorder = Recorder()
    with judging(Judge.of(arch, variant)), recording(recorder):
        machine = World(arch, variant)
        machine.recorder = recorder
        before = machine.books()
        yield machine
        machine.clear()
        assert machine.books() == before


needs = pytest.mark.parametrize("arch", ARCHITECTURES)


def lacks(machine: World, feature: str) -> bool:
    return not machine.system.has(feature)


# -- migration ----------------------------------------------------------------------------------------------------------


@needs
def test_migration_keeps_content_and_sharing(arch: str) -> None:
    with world(arch) as m:
        a, x = m.anon(5, 6)
        b = m.do("fork", a)
        old = m.page_at(a, x)
        assert m.do("migrate", a, x)
        assert m.page_at(a, x) is m.page_at(b, x) is not old
        assert m.values(a, x, 2) == m.values(b, x, 2) == [5, 6]
        assert m.do("write", b, x, 7) == 0
        assert (m.values(a, x, 1), m.values(b, x, 1)) == ([5], [7])


@needs
def test_migration_of_file_pages_keeps_dirtiness(arch: str) -> None:
    with world(arch) as m:
        file = m.create_file(2)
        a = m.spawn()
        x = m.do("mmap", a, 2, file=file, shared=True)
        m.fill(a, x, 8, 9)
        assert m.do("migrate", a, x)
        assert m.files[file].pages[0] is m.page_at(a, x)
        m.do("writeback", file)
        assert m.files[file].disk == {0: 8, 1: 9}


def test_migration_of_a_range_and_of_locked_pages() -> None:
    with world() as m:
        a, x = m.anon(1, 2, 3)
        y = m.do("mmap", a, 1)
        m.fill(a, y, 4)
        assert m.do("mlock", a, x, 2) == 0
        locked = m.system.zone.NR_MLOCK
        before = [m.page_at(a, x + n * m.page_size) for n in range(3)]
        assert m.run(migrate_range(m.processes[a], x, y + m.page_size)) == 0
        after = [m.page_at(a, x + n * m.page_size) for n in range(3)]
        assert all(o is not n for o, n in zip(before, after, strict=True))
        assert [p is not None and p.PG_mlocked for p in after] == [True, True, False]
        assert locked == m.system.zone.NR_MLOCK
        assert m.values(a, x, 3) == [1, 2, 3]
        assert m.values(a, y, 1) == [4]


def test_swap_cache_page_that_nothing_maps_is_moved_without_a_walk() -> None:
    with world() as m:
        a, x = m.anon(5)
        page = m.page_at(a, x)
        assert page is not None
        m.drain()
        assert m.do("evict", page)
        assert isinstance(m.entry(a, x), SwapEntry)
        assert m.run(migrate_page(page))
        assert not [o for o in m.recorder.history if o.name == "rmap_walk"]
        assert m.values(a, x, 1) == [5]


def test_pinned_page_stays() -> None:
    with world() as m:
        a, x = m.anon(5)
        page = m.page_at(a, x)
        assert page is not None
        get_page(page)
        assert not m.do("migrate", a, x)
        assert m.page_at(a, x) is page
        m.run(put_page(page))
        assert m.values(a, x, 1) == [5]


# -- merging ------------------------------------------------------------------------------------------------------------


@needs
def test_merged_pages_live_through_everything(arch: str) -> None:
    with world(arch) as m:
        if lacks(m, "KSM"):
            return
        a, x = m.anon(7, 7, 7)
        b, y = m.anon(7, 7, 8)
        for pid, at in ((a, x), (b, y)):
            assert m.do("madvise", pid, at, 3, "mergeable") == 0
        m.run(ksm_do_scan(m.system))
        page = m.page_at(a, x)
        assert page is not None
        assert page._mapcount + 1 == 5
        assert len(m.system.stable_tree) == 1
        c = m.do("fork", a)
        assert m.do("migrate", a, x)
        assert m.page_at(b, y) is m.page_at(c, x) is not page
        assert m.do("write", a, x, 1) == 0
        assert (m.values(a, x, 3), m.values(c, x, 3), m.values(b, y, 3)) == ([1, 7, 7], [7, 7, 7], [7, 7, 8])
        m.do("shrink")
        m.do("shrink")
        assert (m.values(a, x, 3), m.values(c, x, 3), m.values(b, y, 3)) == ([1, 7, 7], [7, 7, 7], [7, 7, 8])
        assert m.do("swapoff") == 0
        m.run(ksm_do_scan(m.system))
        assert m.run(madvise_mergeable(m.processes[b], y, y + 3 * m.page_size, on=False)) == 0
        moved = m.do("mremap", a, x, 3)
        assert (m.values(a, moved, 3), m.values(b, y, 3)) == ([1, 7, 7], [7, 7, 8])


def test_page_that_somebody_pins_is_not_merged() -> None:
    with world() as m:
        a, x = m.anon(7)
        b, y = m.anon(7)
        for pid, at in ((a, x), (b, y)):
            m.do("madvise", pid, at, 1, "mergeable")
        page = m.page_at(b, y)
        assert page is not None
        get_page(page)
        assert not m.do("merge", a, x, b, y)
        m.run(put_page(page))
        assert m.do("merge", a, x, b, y)


def test_swapped_out_merged_page_comes_back_as_copies() -> None:
    with world() as m:
        a, x = m.anon(7, 7)
        m.do("madvise", a, x, 2, "mergeable")
        assert m.do("merge", a, x, a, x + m.page_size)
        for _ in range(3):
            m.do("shrink")
        assert m.processes[a].swapents == 2
        assert m.values(a, x, 2) == [7, 7]
        assert m.page_at(a, x) is not m.page_at(a, x + m.page_size)


# -- trans-huge pages ---------------------------------------------------------------------------------------------------


@needs
def test_trans_huge_page_is_split_collapsed_and_swapped(arch: str) -> None:
    with world(arch) as m:
        if lacks(m, "TRANSPARENT_HUGEPAGE"):
            return
        a, x = m.anon(*range(8), thp="always")
        zone = m.system.zone
        assert (zone.NR_ANON_TRANSPARENT_HUGEPAGES, zone.NR_ANON_PAGES) == (1, 0)
        b = m.do("fork", a)
        assert m.do("split", a, x)
        assert (zone.NR_ANON_TRANSPARENT_HUGEPAGES, zone.NR_ANON_PAGES) == (0, 8)
        assert m.entry(a, x, "pmd") is m.entry(b, x, "pmd") is None
        assert m.values(a, x, 8) == m.values(b, x, 8) == list(range(8))
        m.do("exit", b)
        m.fill(a, x, *range(10, 18))
        assert m.do("collapse", a, x)
        assert m.entry(a, x, "pmd") is not None
        assert m.values(a, x, 8) == list(range(10, 18))
        assert m.processes[a].rss_anon == 8
        assert m.do("munmap", a, x, 1) == 0
        for _ in range(3):
            m.do("shrink")
        assert m.values(a, x + m.page_size, 7) == list(range(11, 18))


def test_write_after_fork_copies_the_huge_page() -> None:
    with world() as m:
        a, x = m.anon(*range(8), thp="always")
        b = m.do("fork", a)
        assert m.do("write", b, x + 3 * m.page_size, 33) == 0
        assert m.entry(b, x, "pmd") is not None
        assert m.values(a, x, 8) == list(range(8))
        assert m.values(b, x, 8) == [0, 1, 2, 33, 4, 5, 6, 7]


@pytest.mark.parametrize(("policy", "advised", "huge"), [
    ("always", False, 1), ("madvise", False, 0), ("madvise", True, 1), ("never", True, 0),
])  # fmt: skip
def test_policy_decides(policy: str, advised: bool, huge: int) -> None:
    with world() as m:
        m.system.thp_enabled = policy
        a = m.spawn()
        x = m.do("mmap", a, 8)
        if advised:
            m.do("madvise", a, x, 8, "hugepage")
        m.do("write", a, x, 1)
        assert huge == m.system.zone.NR_ANON_TRANSPARENT_HUGEPAGES


def test_page_that_is_pinned_by_a_tail_is_not_collapsed_and_splits_with_its_pin() -> None:
    with world() as m:
        a, x = m.anon(*range(8), thp="always")
        tail = m.page_at(a, x + m.page_size)
        assert tail is not None
        head = tail.first_page
        assert head is not None
        get_page(tail)
        assert (head._count, tail._count) == (2 + _in_batch(m, head), 1)
        assert m.do("split", a, x)
        assert (head._count, tail._count) == (1 + _in_batch(m, head), 2)
        m.drain()
        assert not m.do("collapse", a, x)
        m.run(put_page(tail))
        assert m.do("collapse", a, x)


def _in_batch(m: World, page: Any) -> int:
    return sum(p is page for batch in m.system.pagevecs.values() for p, _ in batch)


# -- hugetlb ------------------------------------------------------------------------------------------------------------


@needs
def test_hugetlb_pages_are_copied_on_write_and_in_no_books(arch: str) -> None:
    with world(arch) as m:
        if lacks(m, "HUGETLB_PAGE"):
            return
        a = m.spawn()
        x = m.do("mmap", a, 16, huge=True)
        m.do("write", a, x, 5)
        b = m.do("fork", a)
        assert m.do("write", b, x, 6) == 0
        assert (m.do("read", a, x), m.do("read", b, x)) == (5, 6)
        assert m.processes[a].rss_anon == m.processes[a].rss_file == 0
        assert m.system.zone.NR_ANON_PAGES == 0
        assert m.do("write", a, x, 7) == 0
        assert m.do("read", b, x) == 6


# -- memory failure -----------------------------------------------------------------------------------------------------


def test_lost_anonymous_page_kills_who_asks_for_it() -> None:
    with failing_memory() as m:
        a, x = m.anon(5)
        b = m.do("fork", a)
        assert m.do("fail_memory", a, x)
        assert isinstance(m.entry(a, x), HwPoisonEntry)
        assert m.values(a, x, 1) == m.values(b, x, 1) == [Signal.SIGBUS]


def test_clean_page_of_a_file_is_read_again() -> None:
    with failing_memory() as m:
        file = m.create_file(2)
        a = m.spawn()
        x = m.do("mmap", a, 2, file=file, shared=True)
        m.fill(a, x, 3, 4)
        m.do("writeback", file)
        assert m.do("fail_memory", a, x)
        assert m.values(a, x, 2) == [3, 4]
        m.do("write", a, x + m.page_size, 6)
        assert m.do("fail_memory", a, x + m.page_size)
        assert m.values(a, x + m.page_size, 1) == [Signal.SIGBUS]


def test_lost_hugetlb_page() -> None:
    with failing_memory() as m:
        a = m.spawn()
        x = m.do("mmap", a, 8, huge=True)
        m.do("write", a, x, 5)
        assert m.do("fail_memory", a, x)
        assert m.values(a, x, 1) == [Signal.SIGBUS]
        assert m.processes[a].rss_anon == 0


@contextmanager
def failing_memory() -> Iterator[World]:
    """A machine on which frames may be lost: they stay allocated, and nothing else does."""
    recorder = Recorder()
    with judging(Judge.of("x86_64", ALLYESCONFIG)), recording(recorder):
        machine = World()
        machine.recorder = recorder
        before = machine.books()
        yield machine
        machine.clear()
        lost = [p for p in machine.system.pages if p.PG_hwpoison]
        assert machine.books() == before | {"pages": len(lost)}
        assert lost


# -- nonlinear areas ----------------------------------------------------------------------------------------------------


@needs
def test_pages_of_a_file_in_another_order(arch: str) -> None:
    with world(arch) as m:
        file = m.create_file(6)
        a = m.spawn()
        x = m.do("mmap", a, 4, file=file, shared=True)
        m.fill(a, x, 30, 31, 32, 33)
        assert m.do("remap_file_pages", a, x, 2, 2) == 0
        assert m.values(a, x, 4) == [32, 33, 32, 33]
        m.do("write", a, x, 40)
        assert m.values(a, x + 2 * m.page_size, 1) == [40]
        for _ in range(3):
            m.do("shrink")
        assert isinstance(m.entry(a, x), FileEntry)
        b = m.do("fork", a)
        assert m.values(a, x, 4) == m.values(b, x, 4) == [40, 33, 40, 33]
        assert m.do("remap_file_pages", a, x, 5, 0) == -errno.EINVAL


# -- exec ---------------------------------------------------------------------------------------------------------------


@needs
@pytest.mark.parametrize("shift", [0, 1, 2, 3, 9])
def test_stack_moves_with_its_content(arch: str, shift: int) -> None:
    with world(arch) as m:
        mm = m.run(do_execve(m.system, [1, 2, 3], shift * m.page_size))
        pid = m._enter(mm)
        (stack,) = mm.vmas
        assert m.values(pid, stack.vm_start, 3) == [1, 2, 3]
        assert m.do("migrate", pid, stack.vm_start)
        child = m.do("fork", pid)
        assert m.values(child, stack.vm_start, 3) == [1, 2, 3]


# -- a kernel without all that --------------------------------------------------------------------------------------------


def test_kernel_without_features_does_without() -> None:
    with world(variant=ALLNOCONFIG) as m:
        a, x = m.anon(*range(8), thp="always")
        assert m.system.zone.NR_ANON_TRANSPARENT_HUGEPAGES == 0
        assert not m.do("migrate", a, x)
        assert not m.do("merge", a, x, a, x + m.page_size)
        assert not m.do("collapse", a, x)
        assert not m.do("fail_memory", a, x)
        assert m.run(madvise_mergeable(m.processes[a], x, x + m.page_size, on=True)) == -errno.EINVAL
        assert m.values(a, x, 8) == list(range(8))


# -- each allocation fails once -------------------------------------------------------------------------------------------


class FailNth(First):
    """The n-th of all things that may fail does."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.what = ""

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        self.left -= 1
        if self.left:
            return 0
        self.what = label
        return 1


def migrating(m: World) -> Iterator[None]:
    a, x = m.anon(5, 6)
    b = m.do("fork", a)
    y = m.do("mmap", a, 1, file=m.create_file(1), shared=True)
    m.fill(a, y, 9)
    yield
    m.do("migrate", a, x)
    m.do("migrate", a, y)
    m.run(migrate_range(m.processes[a], x, y + m.page_size))
    assert m.values(a, x, 2) == m.values(b, x, 2) == [5, 6]
    assert m.values(a, y, 1) == [9]


def merging(m: World) -> Iterator[None]:
    a, x = m.anon(7, 7, 7)
    b, y = m.anon(7, 7, 7)
    for pid, at in ((a, x), (b, y)):
        m.do("madvise", pid, at, 3, "mergeable")
    yield
    for _ in range(2):
        m.run(ksm_do_scan(m.system))
    m.do("write", a, x, 8)
    m.do("migrate", b, y)
    for _ in range(2):
        m.do("shrink")
    for at in range(3):
        assert m.do("read", b, y + at * m.page_size) in (7, Signal.SIGKILL)
    m.do("swapoff")
    m.run(madvise_mergeable(m.processes[b], y, y + 3 * m.page_size, on=False))
    m.do("mremap", a, x, 3)


def huge(m: World) -> Iterator[None]:
    m.system.thp_enabled = "always"
    a = m.spawn()
    x = m.do("mmap", a, 16)
    yield
    half = x + 8 * m.page_size
    m.do("write", a, x, 1)
    m.do("fork", a)
    m.do("write", a, x, 2)
    m.do("munmap", a, x, 1)
    m.do("read", a, half)
    b = m.do("fork", a)
    for number in range(8):
        m.do("write", a, half + number * m.page_size, number)
    m.do("split", a, half)
    if b > 0:
        m.do("exit", b)
    m.do("collapse", a, half)
    m.do("shrink")
    assert m.do("read", a, half + 7 * m.page_size) in (7, 0, Signal.SIGKILL)
    m.do("mlock", a, half, 2)


def large(m: World) -> Iterator[None]:
    a = m.spawn()
    x = m.do("mmap", a, 16, huge=True)
    yield
    m.do("write", a, x, 1)
    b = m.do("fork", a)
    m.do("write", a, x, 2)
    if b > 0:
        assert m.do("read", b, x) in (0, 1, Signal.SIGBUS, Signal.SIGKILL)


def executing(m: World) -> Iterator[None]:
    a = m.spawn()
    yield
    x = m.do("stack", a, 3)
    written = x > 0 and all(m.do("write", a, x + n * m.page_size, n) == 0 for n in range(3))
    if written:
        now = x if m.do("exec_stack", a, 2) else x - 2 * m.page_size
        assert m.values(a, now, 3) == [0, 1, 2]


def reordering(m: World) -> Iterator[None]:
    a = m.spawn()
    x = m.do("mmap", a, 4, file=m.create_file(6), shared=True)
    m.fill(a, x, 0, 1, 2, 3)
    yield
    m.do("remap_file_pages", a, x, 2, 2)
    m.do("migrate", a, x)
    m.do("fork", a)
    m.do("shrink")
    assert m.do("read", a, x + 3 * m.page_size) in (3, Signal.SIGKILL)


@pytest.mark.parametrize("program", [migrating, merging, huge, large, executing, reordering])
def test_no_failed_allocation_leaves_anything_behind(program: Callable[[World], Iterator[None]]) -> None:
    for number in range(1, 200):
        with world() as m:
            steps = program(m)
            next(steps)
            m.strategy = strategy = FailNth(number)
            next(steps, None)
        if not strategy.what:
            assert number > 3
            return
    raise AssertionError("the program never ends")


# -- threads ------------------------------------------------------------------------------------------------------------


class Shuffled:
    """Stays with a thread for a while, then takes another one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        if last is not None and last in enabled and self.random.random() < 0.6:
            return last
        return self.random.choice(enabled)

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return 0


Call = Callable[[], Awaitable[Any]]


async def _thread(call: Call) -> Any:
    await Pause("begin")
    return await call()


def race(m: World, seed: int, *calls: Call) -> list[Any]:
    scheduler = Scheduler(Shuffled(seed), m.recorder)
    for number, call in enumerate(calls):
        scheduler.spawn(f"t{number}", _thread(call))
    scheduler.run()
    return [task.result for task in scheduler.tasks]


SEEDS = pytest.mark.parametrize("seed", range(12))


@SEEDS
def test_migration_beside_fork_and_write(seed: int) -> None:
    with world() as m:
        a, x = m.anon(5)
        _, child, _ = race(m, seed, lambda: m.migrate(a, x), lambda: m.fork(a), lambda: m.write(a, x, 6))
        assert not isinstance(m.entry(a, x), MigrationEntry)
        assert m.values(a, x, 1) == [6]
        assert m.values(child, x, 1)[0] in (5, 6)


@SEEDS
def test_migration_beside_exit(seed: int) -> None:
    with world() as m:
        a, x = m.anon(5)
        b = m.do("fork", a)
        page = m.page_at(a, x)
        assert page is not None
        m.drain()
        race(m, seed, lambda: migrate_page(page), lambda: m.exit(a), lambda: m.munmap(b, x, 1))


@SEEDS
def test_split_beside_fork_unmapping_and_a_pin_of_a_tail(seed: int) -> None:
    with world() as m:
        a, x = m.anon(*range(8), thp="always")
        b = m.do("fork", a)
        tail = m.page_at(a, x + m.page_size)
        assert tail is not None
        get_page(tail)
        calls = (
            lambda: m.split(a, x),
            lambda: put_page(tail),
            lambda: m.fork(a),
            lambda: m.munmap(b, x, 8),
            lambda: m.write(a, x + m.page_size, 50),
        )
        results = race(m, seed, *calls)
        assert m.values(a, x, 8) == [0, 50, 2, 3, 4, 5, 6, 7]
        assert m.values(results[2], x, 8) in ([0, 50, 2, 3, 4, 5, 6, 7], list(range(8)))


@SEEDS
def test_collapse_beside_accesses(seed: int) -> None:
    with world() as m:
        a, x = m.anon(*range(8))
        m.system.thp_enabled = "always"
        m.drain()
        race(
            m,
            seed,
            lambda: m.collapse(a, x),
            lambda: m.write(a, x + m.page_size, 50),
            lambda: m.migrate(a, x + 2 * m.page_size),
        )
        assert m.values(a, x, 8) == [0, 50, 2, 3, 4, 5, 6, 7]


@SEEDS
def test_scanner_beside_everybody(seed: int) -> None:
    with world() as m:
        a, x = m.anon(7, 7)
        b, y = m.anon(7, 7)
        for pid, at in ((a, x), (b, y)):
            m.do("madvise", pid, at, 2, "mergeable")
        race(
            m,
            seed,
            lambda: ksm_do_scan(m.system),
            lambda: m.write(a, x, 9),
            lambda: m.migrate(b, y),
            lambda: m.fork(a),
        )
        assert (m.values(a, x, 2), m.values(b, y, 2)) == ([9, 7], [7, 7])


@SEEDS
def test_area_becomes_nonlinear_while_its_page_moves(seed: int) -> None:
    with world() as m:
        a = m.spawn()
        x = m.do("mmap", a, 4, file=m.create_file(6), shared=True)
        m.fill(a, x, 0, 1, 2, 3)
        m.drain()
        race(m, seed, lambda: m.remap_file_pages(a, x, 2, 2), lambda: m.migrate(a, x + 3 * m.page_size))
        assert m.values(a, x, 4) == [2, 3, 2, 3]


@SEEDS
def test_stack_moves_beside_migration_and_reclaim(seed: int) -> None:
    with world() as m:
        a = m.spawn()
        x = m.do("stack", a, 3)
        m.fill(a, x, 1, 2, 3)
        m.drain()
        page = m.page_at(a, x + m.page_size)
        assert page is not None
        results = race(m, seed, lambda: m.exec_stack(a, 2), lambda: migrate_page(page))
        assert results[0] == 0
        assert m.values(a, x - 2 * m.page_size, 3) == [1, 2, 3]


@SEEDS
def test_memory_fails_beside_fork(seed: int) -> None:
    with failing_memory() as m:
        a, x = m.anon(5)
        page = m.page_at(a, x)
        assert page is not None
        m.drain()
        _, child = race(m, seed, lambda: memory_failure(page), lambda: m.fork(a))
        assert m.values(a, x, 1)[0] in (5, Signal.SIGBUS)
        assert m.values(child, x, 1)[0] in (5, Signal.SIGBUS)
