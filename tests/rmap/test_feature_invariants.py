"""Nonlinear areas, mlock, migration, merging, huge pages, secondary MMUs, swap, poison: their invariants hold in programs that
need them, and refuse what breaks them.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from feature_world import Failing, Interrupt, World

from mmreference.mm import anon_vma as anon_vmas
from mmreference.mm import gup, huge_memory, ksm, migrate, mmu_notifier, mprotect, pagetable, swapfile
from mmreference.mm.exec import do_execve
from mmreference.mm.fork import dup_mm
from mmreference.mm.fremap import remap_file_pages
from mmreference.mm.huge_memory import collapse_huge_page, split_huge_page
from mmreference.mm.ksm import ksm_do_scan, madvise_mergeable
from mmreference.mm.memory import access, zap_page_range
from mmreference.mm.memory_failure import memory_failure
from mmreference.mm.migrate import compact_page, migrate_range, unmap_and_move
from mmreference.mm.mlock import do_mlock
from mmreference.mm.mm_struct import VM_HUGETLB
from mmreference.mm.mmap import do_munmap
from mmreference.mm.mmu_notifier import mmu_notifier_register, mmu_notifier_unregister, secondary_fault
from mmreference.mm.mprotect import do_mprotect
from mmreference.mm.page import PAGE_MAPPING_FLAGS, Tagged, get_page, put_page
from mmreference.mm.pagetable import HwPoisonEntry, MigrationEntry, Present
from mmreference.mm.rmap import mapcount, nonlinear, unmap
from mmreference.mm.rmap.address import page_address_in_vma, page_check_address
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import try_to_munlock
from mmreference.mm.rmap.walk import rmap_walk
from mmreference.mm.swapfile import swapoff, swapon_type
from mmreference.mm.vmscan import reclaim_page, shrink_lists
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_SUCCESS, VM_FAULT_MINOR, Violation
from mmspec.invariant import REGISTRY, judging
from mmspec.logic import VACUOUS
from mmspec.trace import Event, Held, recording

MODULES = ("nonlinear", "mlock", "migration", "ksm", "thp", "hugetlb_anon", "notifiers", "swap", "hwpoison", "cost", "history")

#: What no single program reaches: a boundary that moves between the walk of a restoration and its mapping.
UNREACHED = {"HIST-024"}

evaluated: Counter[str] = Counter()

Program = Callable[[World], None]


def unused(w: World, mm: Any, address: int) -> Any:
    """The page there, which nobody has used since."""
    page = w.page(mm, address)
    w.run(page_referenced(page, False))
    return page


def swapped(w: World, pages: int = 1) -> tuple[Any, int]:
    """An address space whose pages are all in swap."""
    mm = w.mm()
    address = w.mmap(mm, pages)
    for number in range(pages):
        w.write(mm, address + number * w.size, 5 + number)
    w.drain()
    for number in range(pages):
        assert w.run(reclaim_page(unused(w, mm, address + number * w.size)))
    return mm, address


# -- programs -----------------------------------------------------------------------------------------------------------


def swap_out_and_in(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 2)
    w.write(mm, a, 5)
    w.write(mm, a + w.size, 6)
    child = w.fork(mm)
    w.drain()
    assert w.run(reclaim_page(unused(w, mm, a)))
    assert w.kind(mm, a) == w.kind(child, a) == "swap"
    other = w.fork(mm)
    assert w.read(child, a) == 5
    w.write(other, a, 9)
    assert w.read(mm, a) == 5
    assert w.run(reclaim_page(unused(w, mm, a + w.size)))
    assert w.run(swapoff(w.system)) == 0
    assert w.read(mm, a + w.size) == 6
    for each in (mm, child, other):
        w.exit(each)


def count_beyond_a_byte(w: World) -> None:
    mm, _ = swapped(w)
    children = [w.fork(mm) for _ in range(61)]
    assert w.run(dup_mm(mm), strategy=Failing("swap count continuation")) == -errno.ENOMEM
    children += [w.fork(mm) for _ in range(4)]
    for each in [*children, mm]:
        w.exit(each)
    assert w.system.swap is not None and not w.system.swap.swap_map
    with judging(w.judge), recording(w.recorder):
        assert swapon_type(w.system, 0) == 0
        assert swapon_type(w.system, 29) < 0


def lock_in_memory(w: World) -> None:
    file, one, two = w.system.new_file(4), w.mm(), w.mm()
    a, b = w.mmap(one, 2, file=file, shared=True), w.mmap(two, 2, file=file, shared=True)
    w.write(one, a, 3)
    w.read(two, b)
    for mm, at in ((one, a), (two, b)):
        assert w.run(do_mlock(mm, at, at + 2 * w.size, on=True)) == 0
    page = w.page(one, a)
    w.drain()
    assert page.PG_mlocked and page.lists == ["unevictable"]
    w.run(shrink_lists(w.system))
    assert w.run(do_mlock(one, a, a + 2 * w.size, on=False)) == 0
    assert page.PG_mlocked
    assert not w.run(reclaim_page(page))
    assert w.run(do_mlock(two, b, b + 2 * w.size, on=False)) == 0
    assert not page.PG_mlocked and page.lists == ["inactive_file"]


def lock_and_lose_all_rights(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 2)
    w.write(mm, a)
    w.run(do_mlock(mm, a, a + 2 * w.size, on=True))
    w.run(do_mprotect(mm, a, 2 * w.size, write=False, read=False))
    w.run(do_mlock(mm, a, a + 2 * w.size, on=False))
    assert not w.page(mm, a).PG_mlocked


def forget(w: World, page: Any) -> None:
    """The mark gets lost, as it may in a race."""
    page.PG_mlocked = False
    w.system.zone.NR_MLOCK -= 1


def lose_the_mark(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 1)
    w.write(mm, a)
    w.drain()
    w.run(do_mlock(mm, a, a + w.size, on=True))
    page = w.page(mm, a)
    forget(w, page)
    unused(w, mm, a)
    assert not w.run(reclaim_page(page))
    assert page.PG_mlocked
    forget(w, page)

    async def with_mmap_sem() -> None:
        async with mm.mmap_sem.write():
            await reclaim_page(page)

    w.run(with_mmap_sem())
    assert not page.PG_mlocked and w.page(mm, a) is page


def migrate_under_everybody(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 2)
    w.write(mm, a, 5)
    w.write(mm, a + w.size, 6)
    child = w.fork(mm)
    w.drain()
    assert w.run(compact_page(w.system, w.page(mm, a))) == 0
    assert w.read(child, a) == 5
    move = lambda at: compact_page(w.system, w.page(mm, at))  # noqa: E731
    found = w.race(move(a), access(mm, a, None), strategy=Interrupt(w.seen("ptep_clear_flush_notify")))
    assert found == [0, 5]
    w.write(mm, a, 6)
    _, copy = w.race(move(a), dup_mm(mm), strategy=Interrupt(w.seen("migrate_copy")))
    w.write(mm, a, 8)
    assert w.read(copy, a) == 6
    # The walk restores while fork is at work on the next page.
    w.drain()
    w.race(dup_mm(mm), move(a), strategy=Interrupt(w.seen("pte_copied")))
    w.drain()
    w.race(do_munmap(mm, a + w.size, w.size), move(a), strategy=Interrupt(w.seen("acquire")))
    w.write(mm, a, 9)
    w.drain()
    w.race(move(a), do_mprotect(mm, a, w.size, write=False), strategy=Interrupt(w.seen("migrate_copy")))
    w.run(do_mlock(mm, a, a + w.size, on=True))
    assert w.run(move(a)) == 0
    assert w.page(mm, a).PG_mlocked


def migrate_a_range(w: World) -> None:
    file, mm = w.system.new_file(4), w.mm()
    a = w.mmap(mm, 2, file=file, shared=True)
    b = w.mmap(mm, 2)
    w.write(mm, a, 3)
    w.write(mm, b, 4)
    assert b == a + 2 * w.size
    assert w.run(migrate_range(mm, a, b + 2 * w.size)) == 0
    assert w.read(mm, a) == 3 and w.read(mm, b) == 4


def migrate_what_nobody_maps(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 1)
    w.write(mm, a, 5)
    w.drain()
    page = w.page(mm, a)
    get_page(page)
    w.race(compact_page(w.system, page), do_munmap(mm, a, w.size), strategy=Interrupt(w.seen("isolate")))

    async def walk() -> Any:
        nobodys = await w.system.alloc_page()
        assert nobodys is not None
        await nobodys.lock.lock()

        async def visitor(*_: Any) -> Any:
            return SWAP_FAIL

        result = await rmap_walk(nobodys, visitor)
        nobodys.lock.unlock()
        return result

    assert w.run(walk()) is SWAP_AGAIN


def scan_a_nonlinear_area(w: World) -> None:
    file, mm, other = w.system.new_file(32), w.mm(), w.mm()
    a = w.mmap(mm, 20, file=file, shared=True)
    w.write(mm, a, 3)
    assert w.run(remap_file_pages(mm, a + 3 * w.size, 2 * w.size, 9)) == 0
    for number in range(20):
        w.read(mm, a + number * w.size)
    w.drain()
    for _ in range(12):
        page = next((e.page for t in mm.tables.values() for e in t.entries.values() if isinstance(e, Present)), None)
        if page is None:
            break
        w.run(reclaim_page(page))
    assert w.read(mm, a + 3 * w.size) == 0
    w.run(do_mlock(mm, a, a + 20 * w.size, on=True))
    w.drain()
    page = w.page(mm, a)
    forget(w, page)
    for _ in range(4):
        w.run(reclaim_page(page))
    assert page.PG_mlocked
    forget(w, page)

    async def with_mmap_sem() -> None:
        async with mm.mmap_sem.write():
            await reclaim_page(page)

    w.run(with_mmap_sem())
    w.run(do_mlock(mm, a, a + 20 * w.size, on=False))
    b = w.mmap(other, 24, file=file, shared=True)
    assert w.run(remap_file_pages(other, b + 3 * w.size, w.size, 9)) == 0
    w.drain()
    w.run(reclaim_page(w.page(mm, a)))
    w.run(migrate.compact_page(w.system, w.page(mm, a + w.size)))
    w.exit(mm)


def make_nonlinear_while_a_page_moves(w: World) -> None:
    file, mm, linear = w.system.new_file(32), w.mm(), w.mm()
    a, b = w.mmap(mm, 4, file=file, shared=True), w.mmap(linear, 4, file=file, shared=True)
    w.write(mm, a)
    w.read(linear, b)
    w.drain()
    remap = remap_file_pages(mm, a + w.size, w.size, 9)
    w.race(compact_page(w.system, w.page(mm, a)), remap, strategy=Interrupt(w.seen("migrate_copy")))
    w.run(do_mlock(linear, b, b + w.size, on=True))
    w.run(do_mlock(mm, a, a + 4 * w.size, on=True))
    w.run(do_mlock(linear, b, b + w.size, on=False))


def merge(w: World) -> None:
    one, two = w.mm(), w.mm()
    a, b = w.mmap(one, 2), w.mmap(two, 3)
    for mm, at, pages in ((one, a, 2), (two, b, 3)):
        w.run(madvise_mergeable(mm, at, at + pages * w.size, on=True))
    w.write(one, a, 5)
    w.write(two, b + w.size, 5)
    w.write(one, a + w.size, 8)
    for _ in range(2):
        w.run(ksm_do_scan(w.system))
    assert w.page(one, a) is w.page(two, b + w.size)
    assert w.run(compact_page(w.system, w.page(one, a))) == 0
    page = unused(w, one, a)
    unused(w, one, a)
    assert w.run(reclaim_page(page))
    w.run(madvise_mergeable(two, b, b + 3 * w.size, on=False))
    assert w.read(one, a) == 5 and w.read(two, b + w.size) == 5
    for _ in range(2):
        w.run(ksm_do_scan(w.system))
    w.exit(one)
    w.run(ksm_do_scan(w.system))


def merge_what_is_locked(w: World) -> None:
    one, two = w.mm(), w.mm()
    a, b = w.mmap(one, 1), w.mmap(two, 1)
    for mm, at in ((one, a), (two, b)):
        w.write(mm, at, 5)
        w.run(do_mlock(mm, at, at + w.size, on=True))
        w.run(madvise_mergeable(mm, at, at + w.size, on=True))
    w.run(ksm_do_scan(w.system))
    page = w.page(one, a)
    assert page is w.page(two, b) and page.PG_mlocked
    w.run(do_mlock(one, a, a + w.size, on=False))
    assert page.PG_mlocked
    w.run(do_mlock(two, b, b + w.size, on=False))
    assert not page.PG_mlocked

    async def munlock_without_node() -> Any:
        fresh = await w.system.alloc_page()
        assert fresh is not None
        await fresh.lock.lock()
        fresh.mapping = Tagged(None, PAGE_MAPPING_FLAGS)
        result = await try_to_munlock(fresh)
        fresh.lock.unlock()
        return result

    assert w.run(munlock_without_node()) is SWAP_FAIL


def huge_pages(w: World) -> None:
    w.system.thp_enabled = "always"
    mm, number = w.mm(), w.system.hpage_pmd_nr
    a = w.mmap(mm, number)
    w.write(mm, a, 5)
    w.write(mm, a + w.size, 6)
    child = w.fork(mm)
    w.drain()
    page = unused(w, mm, a)
    assert page.order and w.run(page_check_address(page, mm, a)) is None
    small = w.mmap(mm, 1, address=a + 128 * number * w.size)
    w.write(mm, small)
    assert w.run(page_check_address(w.page(mm, small), mm, small + w.size)) is None
    w.run(do_munmap(mm, small, w.size))
    w.run(split_huge_page(page))
    assert w.read(child, a + w.size) == 6
    w.exit(child)
    for each in range(number):
        w.write(mm, a + each * w.size, each)
    assert w.run(collapse_huge_page(mm, a))
    w.drain()
    assert w.run(reclaim_page(unused(w, mm, a)))
    assert w.kind(mm, a) == "swap"
    b = w.mmap(mm, number)
    assert w.run(access(mm, b, 4), strategy=Failing("trans-huge page")) == 0
    c = w.mmap(mm, number, address=a + 64 * number * w.size)
    w.write(mm, c)
    # Another area, so that fork goes on after the huge page.
    w.write(mm, w.mmap(mm, 1, address=a + 96 * number * w.size))
    w.race(dup_mm(mm), split_huge_page(w.page(mm, c)), strategy=Interrupt(w.seen("pmd_copied")))


def pinned_tail(w: World) -> None:
    w.system.thp_enabled = "always"
    mm, number = w.mm(), w.system.hpage_pmd_nr
    a = w.mmap(mm, number)
    w.write(mm, a)
    head = w.page(mm, a)
    tail = head.subpages[2]

    async def pin() -> None:
        async with mm.page_table_lock:
            get_page(tail)

    w.run(pin())
    w.run(put_page(tail))
    w.run(pin())
    w.race(put_page(tail), split_huge_page(head), strategy=Interrupt(w.seen("acquire")))
    assert tail.first_page is None and tail._count >= 1


def hugetlb_pages(w: World) -> None:
    mm, number = w.mm(), 1 << w.system.huge_page_order
    a = w.mmap(mm, 2 * number, flags=VM_HUGETLB)
    w.write(mm, a, 5)
    child = w.fork(mm)
    w.write(child, a, 6)
    assert w.read(mm, a) == 5
    w.write(mm, a, 7)
    other = w.fork(mm)

    async def move() -> int:
        new = await w.system.alloc_pages(w.system.huge_page_order, "hugetlb page", huge=True)
        page = w.page(mm, a)
        assert new is not None
        get_page(page)
        error = int(await unmap_and_move(page, new, force=True))
        await put_page(page)
        await put_page(new)
        return error

    assert w.run(move()) == 0
    assert w.read(other, a) == 7
    w.run(memory_failure(w.page(mm, a)))
    assert w.kind(mm, a) == w.kind(other, a) == "hwpoison"
    for each in (mm, child, other):
        w.exit(each)


def secondary_mmu(w: World) -> None:
    file, mm = w.system.new_file(4), w.mm()
    a = w.mmap(mm, 2)
    b = w.mmap(mm, 2, file=file, shared=True, address=a + 64 * w.size)
    w.mmap(mm, 2, file=file, shared=True, address=a + 80 * w.size)
    w.write(mm, a)
    w.write(mm, a + w.size)
    notifier = w.run(mmu_notifier_register(mm))
    assert w.run(mmu_notifier_register(mm), strategy=Failing("signal pending")) == -errno.EINTR
    assert w.run(mmu_notifier_register(mm), strategy=Failing("mmu_notifier_mm")) == -errno.ENOMEM
    want = lambda at, write: secondary_fault(notifier, at // w.size, write=write)  # noqa: E731
    assert w.run(want(a, True)) and w.run(want(b, True)) and w.run(want(a + w.size, False))
    w.drain()
    assert w.run(reclaim_page(unused(w, mm, a)))
    w.fork(mm)
    assert w.run(want(a, False))
    w.race(do_munmap(mm, a, w.size), want(a, False), strategy=Interrupt(w.seen("notifier_range_start")))

    async def dontneed() -> None:
        async with mm.mmap_sem.read():
            vma = mm.area_at(b)
            assert vma is not None
            await zap_page_range(vma, b, b + w.size)

    _, got = w.race(dontneed(), want(b, False), strategy=Interrupt(w.seen("notifier_range_start")))
    assert not got
    assert w.run(want(a + w.size, False))
    w.run(mmu_notifier_unregister(notifier))
    w.exit(mm)


def secondary_mmu_and_huge_page(w: World) -> None:
    w.system.thp_enabled = "always"
    mm = w.mm()
    a = w.mmap(mm, w.system.hpage_pmd_nr)
    w.write(mm, a)
    notifier = w.run(mmu_notifier_register(mm))
    for number in range(2):
        assert w.run(secondary_fault(notifier, a // w.size + number, write=True))
    w.run(split_huge_page(unused(w, mm, a)))


def failed_memory(w: World) -> None:
    file, mm = w.system.new_file(4), w.mm()
    a = w.mmap(mm, 2)
    b = w.mmap(mm, 2, file=file, shared=True, address=a + 64 * w.size)
    w.write(mm, a)
    w.read(mm, b)
    w.write(mm, b + w.size)
    w.drain()
    kinds = []
    for at in (a, b, b + w.size):
        assert w.run(memory_failure(w.page(mm, at))) == 0
        kinds.append(w.kind(mm, at))
    assert kinds == ["hwpoison", None, "hwpoison"]
    w.fork(mm)


def exec_moves_its_stack(w: World) -> None:
    assert not isinstance(w.run(do_execve(w.system, [1, 2, 3], 4 * w.size)), int)
    mm = w.mm()
    a = w.mmap(mm, 1)
    w.write(mm, a)
    w.drain()

    async def move_all() -> None:
        for page in list(w.system.pages):
            await compact_page(w.system, page)

    w.race(do_execve(w.system, [1, 2, 3], 4 * w.size), move_all(), strategy=Interrupt(w.seen("stack_adjusted")))


def family(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 3)
    places = [a + number * w.size for number in range(3)]
    for at in places:
        w.write(mm, at)
    children = [w.fork(mm) for _ in range(3)]
    for each in [*children, mm]:
        for at in places:
            w.write(each, at, 9)
    w.drain()
    unused(w, children[0], a)
    unused(w, mm, a)
    w.run(shrink_lists(w.system))
    grandchild = w.fork(children[0])
    assert w.run(do_munmap(grandchild, a + w.size, w.size), strategy=Failing("vm_area_struct")) == -errno.ENOMEM
    assert w.run(do_munmap(grandchild, a + w.size, w.size)) == 0
    assert w.run(dup_mm(children[0]), strategy=Failing("kmem_cache_alloc anon_vma")) == -errno.ENOMEM
    # A page of an area without anon_vma, and one of a file in an area without one.
    file = w.system.new_file(2)
    b = w.mmap(mm, 1, file=file, shared=True, address=a + 64 * w.size)
    c = w.mmap(mm, 1, address=a + 128 * w.size)
    w.read(mm, b)
    empty = mm.area_at(c)
    assert empty is not None
    w.write(mm, a)
    with judging(w.judge), recording(w.recorder):
        assert page_address_in_vma(w.page(mm, a), empty) == page_address_in_vma(w.page(mm, b), empty) == -errno.EFAULT


def lookup_of_a_page_that_goes(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 1)
    w.write(mm, a)
    w.drain()
    page = w.page(mm, a)
    get_page(page)
    w.race(page_referenced(page, False), do_munmap(mm, a, w.size), strategy=Interrupt(w.seen("load_root")))


def faults_in_two_tables(w: World) -> None:
    mm = w.mm()
    a = w.mmap(mm, 2 * w.system.ptrs_per_pte)
    b = a + w.system.ptrs_per_pte * w.size
    w.write(mm, a)
    w.write(mm, b)
    touch = [access(mm, a + w.size, 1), access(mm, b + w.size, 1)]
    w.race(*touch, strategy=Interrupt(w.seen("page_allocated")))


PROGRAMS: tuple[Program, ...] = (
    swap_out_and_in,
    count_beyond_a_byte,
    lock_in_memory,
    lock_and_lose_all_rights,
    lose_the_mark,
    migrate_under_everybody,
    migrate_a_range,
    migrate_what_nobody_maps,
    scan_a_nonlinear_area,
    make_nonlinear_while_a_page_moves,
    merge,
    merge_what_is_locked,
    huge_pages,
    pinned_tail,
    hugetlb_pages,
    secondary_mmu,
    secondary_mmu_and_huge_page,
    failed_memory,
    exec_moves_its_stack,
    family,
    lookup_of_a_page_that_goes,
    faults_in_two_tables,
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_programs_hold_all_invariants(program: Program) -> None:
    w = World()
    program(w)
    evaluated.update(w.judge.real)


def test_storage_keys_keep_what_was_written() -> None:
    w = World("s390x")
    swap_out_and_in(w)
    evaluated.update(w.judge.real)


@pytest.mark.parametrize("program", (family, lock_in_memory), ids=lambda p: p.__name__)
def test_the_smallest_kernel_holds_them_too(program: Program) -> None:
    program(World(variant="allnoconfig"))


def test_every_invariant_was_really_evaluated() -> None:
    """After the programs above; alone it runs them itself."""
    if not evaluated:
        for program in PROGRAMS:
            test_programs_hold_all_invariants(program)
        test_storage_keys_keep_what_was_written()
    ours = {i.id for i in REGISTRY if i.system == "rmap" and i.predicate.__module__.rpartition(".")[2] in MODULES}
    missing = " ".join(sorted(id_ for id_ in ours - UNREACHED if not evaluated[id_]))
    assert missing == ""


# -- what is refused ----------------------------------------------------------------------------------------------------


def scan_an_area_that_begins_inside_of_a_cluster(w: World) -> None:
    file, mm = w.system.new_file(32), w.mm()
    a = w.mmap(mm, 1)
    a = w.mmap(mm, 14, file=file, shared=True, address=a + 3 * w.size)
    for number in range(14):
        w.read(mm, a + number * w.size)
    assert w.run(remap_file_pages(mm, a + 3 * w.size, w.size, 20)) == 0
    w.drain()
    for _ in range(12):
        page = next((e.page for t in mm.tables.values() for e in t.entries.values() if isinstance(e, Present)), None)
        if page is not None:
            w.run(reclaim_page(page))


def _linear_nowhere(vma: Any, address: int) -> int:
    return -1


async def _nobody(*_: Any) -> Any:
    return SWAP_AGAIN


async def _nothing(*_: Any, **__: Any) -> bool:
    return False


async def _saturated(*_: Any) -> int:
    return 0


async def _refused(*_: Any) -> int:
    return -errno.EPERM


_follow_page = gup.follow_page


async def _readable_page(vma: Any, address: int, *, write: bool = False) -> Any:
    return await _follow_page(vma, address, write=write) if vma.vm_flags & 1 else None


async def _unpinned(page: Any) -> Any:
    return page.mapping.pointer


async def _always_root(page: Any, vma: Any, address: int, *, exclusive: bool) -> None:
    page.mapping = Tagged(vma.anon_vma.root, 1)
    page.index = mapcount.linear_page_index(vma, address)


async def _relock(root: Any, anon_vma: Any) -> Any:
    if root is not None:
        root.mutex.unlock()
    await anon_vma.root.mutex.lock()
    return anon_vma.root


class _NoEntry:
    """No entry is one of these."""


#: Invariant, module and name of what is replaced, by what, and the program that shows it.
MISTAKES: tuple[tuple[str, Any, str, Any, Program], ...] = (
    ("NLIN-CLUSTER-005", nonlinear, "linear_page_index", _linear_nowhere, scan_a_nonlinear_area),
    ("NLIN-CLUSTER-007", nonlinear, "update_hiwater_rss", lambda mm: None, scan_a_nonlinear_area),
    ("NLIN-CLUSTER-006", nonlinear, "set_page_dirty", _nothing, scan_a_nonlinear_area),
    ("NLIN-CLUSTER-004", nonlinear, "ptep_clear_flush_young_notify", _nothing, scan_a_nonlinear_area),
    ("NLIN-FILE-004", nonlinear, "scan_size", lambda v: v.vm_end - v.vm_start, scan_an_area_that_begins_inside_of_a_cluster),
    ("MLOCK-010", gup, "follow_page", _readable_page, lock_and_lose_all_rights),
    ("HIST-015", gup, "follow_page", _readable_page, lock_and_lose_all_rights),
    ("MLOCK-013", unmap, "try_to_munlock", _nobody, lock_in_memory),
    ("MIGR-ORPHAN-001", migrate, "remove_migration_pte", _nobody, migrate_under_everybody),
    ("MIGR-ENTRY-001", migrate, "remove_migration_pte", _nobody, migrate_under_everybody),
    ("MIGR-WALK-002", migrate, "page_get_anon_vma", _unpinned, migrate_under_everybody),
    ("MIGR-ISOL-002", migrate, "page_get_anon_vma", _unpinned, migrate_under_everybody),
    ("MIGR-MLOCK-001", migrate, "_mlock_migrate_page", lambda *_: None, migrate_under_everybody),
    ("MIGR-MPROTECT-001", mprotect, "MigrationEntry", _NoEntry, migrate_under_everybody),
    ("SWAP-COUNT-002", swapfile, "_carry", _saturated, count_beyond_a_byte),
    ("SWAP-COUNT-003", swapfile, "_carry", _refused, count_beyond_a_byte),
    ("MIGR-ENTRY-004", swapfile, "max_swapfiles", lambda system: 32, count_beyond_a_byte),
    ("KSM-003", ksm, "ksm_does_need_to_copy", lambda *_: False, merge),
    ("KSM-004", ksm, "ksm_does_need_to_copy", lambda *_: False, merge),
    ("THP-SPLIT-003", huge_memory, "mod_zone_page_state", lambda *_: None, huge_pages),
    ("THP-CTL-001", huge_memory, "transparent_hugepage_enabled", lambda vma: True, faults_in_two_tables),
    ("HTLB-002", mapcount, "__page_set_anon_rmap", _always_root, hugetlb_pages),
    ("MMUN-001", mmu_notifier, "mmu_notifier_invalidate_page", _nothing, secondary_mmu),
    ("MMUN-002", mmu_notifier, "mmu_notifier_invalidate_page", _nothing, secondary_mmu),
    ("MMUN-006", mmu_notifier, "mmu_notifier_clear_flush_young", _nothing, secondary_mmu),
    ("HWP-002", unmap, "TTU_IGNORE_HWPOISON", 0, failed_memory),
    ("PERF-012", anon_vmas, "lock_anon_vma_root", _relock, family),
    ("HIST-038", anon_vmas, "lock_anon_vma_root", _relock, family),
)


def only(w: World, id_: str) -> World:
    """Judge by one invariant, the one whose refusal is to be seen."""
    w.judge.ignore(i.id for i in REGISTRY if i.id != id_)
    return w


@pytest.mark.parametrize(("id_", "module", "name", "mistake", "program"), MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch, id_: str, module: Any, name: str, mistake: Any, program: Program
) -> None:
    monkeypatch.setattr(module, name, mistake)
    with pytest.raises(Violation) as refused:
        program(only(World(), id_))
    assert refused.value.invariant.id == id_


def event(kind: str, *held: Held, **data: Any) -> Event:
    return Event(kind, None, held, 1, data)


def lock(cls: str, owner: object = None, *, shared: bool = False) -> Held:
    return Held(cls, shared, False, owner, cls)


def verdict(id_: str, subject: Any, **arguments: Any) -> Any:
    return REGISTRY[id_].predicate(subject, **arguments)


def test_events_are_refused() -> None:
    mm = SimpleNamespace(name="mm", on_mmlist=False, notifiers=[], system=SimpleNamespace(ptrs_per_pte=8), tables={})
    page = SimpleNamespace(name="page", locked=False, PG_hwpoison=False, mapping=Tagged(None, PAGE_MAPPING_FLAGS))
    plain, nonlinear_ = SimpleNamespace(vm_flags=0, mm=mm), SimpleNamespace(vm_flags=0x800000, mm=mm)
    stack = SimpleNamespace(vm_flags=0x100 | 0x8000 | 0x10000, mm=mm)
    moving, mapped = MigrationEntry(page, write=True), Present(page)  # type: ignore[arg-type]

    def stored(entry: Any, vma: Any = plain) -> Event:
        return event("set_pte", mm=mm, vma=vma, vpn=1, level="pte", old=None, new=entry)

    assert not verdict("MIGR-ENTRY-001", stored(moving))
    assert not verdict("MIGR-WALK-006", stored(moving, nonlinear_))
    assert not verdict("MIGR-STACK-002", stored(moving, stack))
    assert verdict("MIGR-STACK-002", stored(moving)) is True
    assert verdict("MIGR-STACK-002", stored(mapped, stack)) is VACUOUS
    assert not verdict("KSM-005", stored(mapped, nonlinear_))
    mm.system.pages = [page]
    assert not verdict("HWP-001", stored(HwPoisonEntry(page)))  # type: ignore[arg-type]
    assert not verdict("SWAP-MMLIST-002", stored(pagetable.SwapEntry(3)))
    assert not verdict("SWAP-MMLIST-002", event("mmlist_add", mm=mm))
    assert verdict("SWAP-MMLIST-002", event("mmlist_add", lock("mmlist_lock"), mm=mm))
    mm.tables = {0: SimpleNamespace(entries={1: moving})}
    assert not verdict("MIGR-FORK-001", event("pte_copied", src=mm, dst=mm, vpn=1, entry=moving, cow=True))
    assert not verdict("NLIN-MLOCK-003", event("mlock_vma_page", page=page, vma=plain))
    assert not verdict("MLOCK-009", event("set_mlocked", lock("page_lock", page), lock("mmap_sem", mm), page=page, vma=plain))
    locked = SimpleNamespace(vm_flags=0x2000, mm=mm)
    held = lock("page_lock", page), lock("mmap_sem", mm, shared=True)
    assert verdict("MLOCK-009", event("set_mlocked", *held, page=page, vma=locked))
    assert not verdict("MLOCK-009", event("set_mlocked", held[0], page=page, vma=locked))
    tail = SimpleNamespace(first_page=page)
    assert not verdict("THP-PUT-001", event("put_tail", page=tail, head=page))
    assert verdict("THP-PUT-001", event("put_tail", lock("compound_lock", page), page=tail, head=page))
    tasks = Held("tasklist_lock", True, True, None, "tasklist_lock")
    assert not verdict("HWP-003", event("acquire", tasks, lock=lock("i_mmap_mutex"), how=""))
    assert not verdict("HWP-003", event("acquire", lock("ptl"), lock=tasks, how=""))
    mm.notifiers = [SimpleNamespace(invalidating=[range(4)])]
    assert not verdict("MMUN-004", event("spte_establish", mm=mm, vpn=2))


def test_states_are_refused() -> None:
    w = World()
    mm, address = swapped(w)
    world, swap = w.system, w.system.swap
    assert swap is not None
    slot = next(iter(swap.swap_map))
    assert verdict("SWAP-COUNT-001", world) is True and verdict("SWAP-MMLIST-001", world) is True
    swap.swap_map[slot] += 1
    assert not verdict("SWAP-COUNT-001", world)
    mm.on_mmlist = False
    assert not verdict("SWAP-MMLIST-001", world)
    assert verdict("MLOCK-001", world) is VACUOUS

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1)
    w.write(mm, address)
    w.drain()
    page = w.page(mm, address)
    page.PG_mlocked = True
    assert not verdict("MLOCK-001", w.system)
    assert verdict("MLOCK-011", w.system) is True
    page.mapping = None
    assert not verdict("MLOCK-011", w.system)

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1)
    w.write(mm, address)
    page = w.page(mm, address)
    notifier = w.run(mmu_notifier_register(mm))
    assert verdict("MMUN-005", w.system) is VACUOUS
    notifier.sptes[address // w.size] = mmu_notifier.Spte(page, write=True)
    assert verdict("MMUN-005", w.system) is True
    notifier.sptes[address // w.size + 1] = mmu_notifier.Spte(page, write=True)
    assert not verdict("MMUN-005", w.system)

    w = World(thp="always")
    mm = w.mm()
    address = w.mmap(mm, w.system.hpage_pmd_nr)
    w.write(mm, address)
    assert verdict("THP-SCOPE-001", w.system) is True
    w.page(mm, address).order = 1
    assert not verdict("THP-SCOPE-001", w.system)

    w = World()
    one, two = w.mm(), w.mm()
    for each in (one, two):
        at = w.mmap(each, 1)
        w.write(each, at)
        w.run(madvise_mergeable(each, at, at + w.size, on=True))
    w.run(ksm_do_scan(w.system))
    assert verdict("KSM-007", w.system) is True
    next(iter(w.system.rmap_items.values())).anon_vma.pins.clear()  # type: ignore[union-attr]
    assert not verdict("KSM-007", w.system)

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1 << w.system.huge_page_order, flags=VM_HUGETLB)
    w.write(mm, address)
    assert verdict("HTLB-004", w.system) is True
    w.page(mm, address).memcg = w.system.root_memcg
    assert not verdict("HTLB-004", w.system)

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1)
    w.write(mm, address)
    child = w.fork(mm)
    assert verdict("PERF-001", w.system) is True
    child.vmas[0].anon_vma = mm.vmas[0].anon_vma
    assert not verdict("PERF-001", w.system)


def operation(name: str, **facts: Any) -> Any:
    """A call that has returned, without any steps but those that are given."""
    defaults = {"held_at_entry": (), "context": SimpleNamespace(held=(), name="task"), "alone": True, "noted": facts, "steps": []}
    known = {"name": name, **defaults, **facts}
    op = SimpleNamespace(**known)
    op.get = lambda key, default=None: facts.get(key, default)
    op.all = lambda *kinds: [e for e in op.steps if e.kind in kinds]
    op.did = lambda *kinds: any(e.kind in kinds for e in op.steps)
    op.calls = lambda called: []
    op.within = lambda outer: facts.get("caller") if facts.get("caller") is not None and facts["caller"].name == outer else None
    op.net = lambda *fields: {}
    return op


def test_operations_are_refused() -> None:
    page = SimpleNamespace(name="page", locked=True, PG_lru=True, PG_mlocked=True, mapping=None, slots={}, _mapcount=0, order=0)
    page.lists, page.huge = ["unevictable"], False
    assert not verdict("MLOCK-004", operation("try_to_munlock", page=page))
    assert not verdict("MLOCK-006", operation("try_to_munlock", page=page), result=SWAP_SUCCESS)
    assert not verdict("MLOCK-008", operation("munlock_vma_page", page=page, was_mlocked=True))
    assert not verdict("MIGR-INSERT-001", operation("move_to_new_page", page=page))
    assert not verdict("MIGR-WALK-001", operation("rmap_walk", page=page))
    assert not verdict("KSM-002", operation("rmap_walk_ksm", page=page))
    assert not verdict("THP-SPLIT-001", operation("split_huge_page", page=page), result=1)
    assert not verdict("MIGR-STACK-001", operation("is_vma_temporary_stack", vma=SimpleNamespace(vm_flags=0x18000)), result=True)
    waiting = operation("do_swap_page", orig=MigrationEntry(page, write=False), steps=[event("set_pte")])  # type: ignore[arg-type]
    assert not verdict("MIGR-FAULT-001", waiting, result=VM_FAULT_MINOR)
    failed = [event("mmap_sem_trylock", got=False), event("set_pte")]
    assert not verdict("MLOCK-012", operation("try_to_unmap_one", steps=failed), result=SWAP_AGAIN)
    marked = operation("try_to_unmap_cluster", may_mark=False, steps=[event("set_mlocked")])
    assert not verdict("NLIN-MLOCK-002", marked, result=SWAP_AGAIN)
    vma = SimpleNamespace(vm_flags=0x2000, mm=object())
    caller = SimpleNamespace(name="munlock_vma_pages_range", vma=vma)
    assert not verdict("MLOCK-007", operation("try_to_munlock", page=page, caller=caller))
    empty = SimpleNamespace(vm_start=0, vm_end=8)
    assert not verdict("NLIN-FILE-002", operation("try_to_unmap_nonlinear", areas=[empty]), result=SWAP_FAIL)
    left = SimpleNamespace(held=(lock("i_mmap_mutex"),))
    assert not verdict("MMUN-008", operation("mm_take_all_locks", context=left), result=None)
