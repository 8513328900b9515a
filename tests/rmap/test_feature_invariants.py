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

from mmreference.mm import migrate, swapfile, vmscan
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
from mmreference.mm.rmap import nonlinear, unmap
from mmreference.mm.rmap.address import page_address_in_vma, page_check_address
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import try_to_munlock
from mmreference.mm.rmap.walk import rmap_walk
from mmreference.mm.swapfile import swapoff, swapon_type
from mmreference.mm.vmscan import reclaim_page, shrink_lists
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_SUCCESS, Violation
from mmspec.invariant import REGISTRY, Over, judging
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
