"""Trees of anon_vmas: how they grow, are looked up, and go."""

from __future__ import annotations

import errno

from mmconformance.scenarios.rmap.orders import FailNth, InTurn, Last
from mmconformance.scenarios.rmap.stage import Stage
from mmreference.kernel.scheduler import First
from mmreference.mm.anon_vma import (
    anon_vma_fork,
    anon_vma_prepare,
    page_get_anon_vma,
    page_lock_anon_vma,
    page_unlock_anon_vma,
    unlink_anon_vmas,
    unpin_anon_vma,
)
from mmreference.mm.mm_struct import VM_MAYWRITE, VM_WRITE, Mm, Vma
from mmreference.mm.mmap import vma_alloc, vma_copy, vma_link
from mmreference.mm.page import Page
from mmreference.mm.rmap.referenced import page_referenced


def _each_failure(stage: Stage, call: str, *args: object, limit: int = 40) -> None:
    """Make a call again and again, with its first, second, ... allocation failing, until none is left to fail."""
    for number in range(limit):
        strategy = FailNth(number)
        stage.machine.strategy = strategy
        result = stage.do(call, *args)
        stage.machine.strategy = None
        stage.quiet()
        if strategy.left >= 0:
            return
        if call == "fork" and result > 0:
            stage.do("exit", result)


def three_generations(stage: Stage) -> None:
    """Grandchildren, with areas that are split in each generation; the oldest leave first, then the youngest."""
    pid, address = stage.written(4)
    child = stage.do("fork", pid)
    stage.do("write", child, address, 20)
    grandchild = stage.do("fork", child)
    stage.do("write", grandchild, address, 30)
    size = stage.page_size
    for each in (pid, child, grandchild):
        stage.do("mprotect", each, address + size, 1, write=False)
        stage.quiet()
    for each, value in ((pid, 7), (child, 20), (grandchild, 30)):
        stage.expect(each, address, value)
    stage.do("exit", pid)
    stage.quiet()
    stage.do("exit", grandchild)
    stage.quiet()
    stage.expect(child, address, 20)


def parent_leaves_between_forks(stage: Stage) -> None:
    """Each generation forks the next one and is gone."""
    pid, address = stage.written(1)
    for generation in range(4):
        child = stage.do("fork", pid)
        stage.do("exit", pid)
        stage.quiet()
        stage.do("write", child, address, generation + 20)
        stage.expect(child, address, generation + 20)
        pid = child


def failing_fork(stage: Stage) -> None:
    """Fork of a grandchild's areas, with each of its allocations failing in turn."""
    pid, address = stage.written(2)
    child = stage.do("fork", pid)
    stage.do("write", child, address, 9)
    stage.do("mmap", child, 1)
    _each_failure(stage, "fork", child)
    stage.expect(child, address, 9)


def failing_split(stage: Stage) -> None:
    """A grandchild's area is split, with each of the allocations failing in turn."""
    pid, address = stage.written(4)
    child = stage.do("fork", pid)
    grandchild = stage.do("fork", child)
    stage.do("write", grandchild, address, 9)
    for number in range(12):
        stage.machine.strategy = FailNth(number)
        stage.do("munmap", grandchild, address + stage.page_size, 1)
        stage.machine.strategy = None
        stage.quiet()
    stage.expect(grandchild, address, 9)
    stage.expect(pid, address + stage.page_size, 8)


def failing_first_fault(stage: Stage) -> None:
    """The first write to an area, with each of its allocations failing in turn."""
    for number in range(8):
        pid = stage.spawn()
        address = stage.do("mmap", pid, 2)
        stage.machine.strategy = FailNth(number)
        stage.do("write", pid, address, 7)
        stage.machine.strategy = None
        stage.quiet()
        stage.do("exit", pid)


def neighbours_share(stage: Stage) -> None:
    """An area beside one that has pages takes its anon_vma, and merges with it."""
    pid = stage.spawn()
    size = stage.page_size
    address = stage.do("mmap", pid, 2)
    stage.do("write", pid, address, 7)
    beside = stage.do("mmap", pid, 1, address=address + 2 * size, write=False)
    stage.do("read", pid, beside)
    stage.quiet()
    stage.do("mprotect", pid, beside, 1, write=True)
    stage.quiet()
    stage.do("write", pid, beside, 8)
    stage.expect(pid, address, 7)
    child = stage.do("fork", pid)
    stage.do("mmap", child, 1, address=address + 3 * size)
    stage.do("write", child, address + 3 * size, 9)
    stage.quiet()


def neighbours_move(stage: Stage) -> None:
    """One of two areas that share an anon_vma is moved, its entries one after the other, and half of them have to go back."""
    pid, address = stage.written(2)
    size = stage.page_size
    stage.do("mprotect", pid, address + size, 1, write=False)
    there = stage.do("mremap", pid, address, 1, address + 16 * size)
    stage.expect(pid, there, 7)
    stage.expect(pid, address + size, 8)
    stage.do("write", pid, there, 9)
    pages = stage.system.ptrs_per_pte + 1
    pid, address = stage.written(pages)
    stage.do("fork", pid)
    for failing in range(2, 5):
        stage.machine.strategy = FailNth(failing)
        stage.do("mremap", pid, address, pages, address + 32 * size)
        stage.machine.strategy = None
        stage.quiet()
        where = address if stage.kind(pid, address) else address + 32 * size
        for number in (0, pages - 1):
            stage.expect(pid, where + number * size, 7 + number)
        address = where if where == address else stage.do("mremap", pid, where, pages, address)


def families_end(stage: Stage) -> None:
    """Three children write what they share with their parent; one of them is split without memory, and forks without."""
    pid, address = stage.written(3)
    size = stage.page_size
    children = [stage.do("fork", pid) for _ in range(2)]
    for number, each in enumerate((*children, pid)):
        for page in range(3):
            stage.do("write", each, address + page * size, 20 + number)
    grandchild = stage.do("fork", children[0])
    for what in ("vm_area_struct", "kmem_cache_alloc anon_vma_chain"):
        with stage.without(what):
            refused = stage.do("munmap", grandchild, address + size, 1)
        stage.demand("HIST-002", refused == -errno.ENOMEM, munmap=refused)
        stage.quiet()
    stage.do("munmap", grandchild, address + size, 1)
    with stage.without("kmem_cache_alloc anon_vma"):
        refused = stage.do("fork", children[0])
    stage.demand("HIST-027", refused == -errno.ENOMEM, fork=refused)
    stage.quiet()
    stage.do("exit", pid)
    stage.expect(grandchild, address, 20)
    stage.expect(children[1], address, 21)


async def _area(stage: Stage, pid: int, first: int, pages: int = 2) -> Vma:
    """An area that nobody has touched."""
    size, mm = stage.page_size, stage.mm(pid)
    start = (stage.system.first_vpn + first) * size
    vma = await vma_alloc(mm, start, start + pages * size, VM_MAYWRITE | VM_WRITE, start // size, None)
    assert vma is not None
    await vma_link(vma)
    return vma


async def _prepare(vma: Vma) -> int:
    async with vma.mm.mmap_sem.read():
        return int(await anon_vma_prepare(vma))


async def _fork(parent: Vma, mm: Mm) -> int:
    """What fork does with one area."""
    copy = await vma_copy(parent, mm)
    assert copy is not None
    async with parent.mm.mmap_sem.write():
        result = int(await anon_vma_fork(copy, parent))
    if result:
        copy.free()
    else:
        await vma_link(copy)
    return result


async def _unlink(vma: Vma) -> None:
    async with vma.mm.mmap_sem.write():
        vma.mm.unlink(vma)
        await unlink_anon_vmas(vma)


def one_area_at_a_time(stage: Stage) -> None:
    """Areas without pages are prepared, by two threads at once as well, and forked, with each allocation failing in turn."""
    pid, other = stage.spawn(), stage.spawn()
    low, high = stage.run(_area(stage, pid, 0)), stage.run(_area(stage, pid, 2))
    for number in range(3):
        stage.together(_prepare(low), order=FailNth(number))
    stage.run(_prepare(high))
    stage.demand("AVMA-PREP-007", low.anon_vma is high.anon_vma, low=low, high=high)
    far, lone = stage.run(_area(stage, pid, 20)), stage.run(_area(stage, pid, 30))
    stage.together(_prepare(far), _prepare(far), order=InTurn())
    stage.run(_fork(lone, stage.mm(other)))
    stage.quiet()
    for number in range(1, 5):
        stage.together(_fork(low, stage.mm(other)), order=FailNth(number))
        stage.quiet()
    for vma in (low, far, high, lone, *list(stage.mm(other).vmas)):
        stage.run(_unlink(vma))
        stage.quiet()


async def _lookup(page: Page) -> None:
    found = await page_lock_anon_vma(page)
    if found is not None:
        page_unlock_anon_vma(found)


async def _pin(page: Page) -> None:
    found = await page_get_anon_vma(page)
    if found is not None:
        await unpin_anon_vma(found)


def lookups_of_what_goes(stage: Stage) -> None:
    """Lookups, by lock and by reference, meet each other and the exit of the last process that maps the page."""
    for order in (First, InTurn, Last):
        pid, address = stage.written()
        stage.drain()
        page = stage.hold(pid, address)
        stage.together(_lookup(page), _pin(page), _lookup(page), stage.machine.exit(pid), order=order())
        stage.quiet()


def lookup_has_to_wait(stage: Stage) -> None:
    """A lookup comes while fork has the mutex of the tree."""
    pid, address = stage.written()
    page = stage.hold(pid, address)
    for later in range(1, 3):
        stage.meanwhile("lock_root", stage.machine.fork(pid), _lookup(page), later=later)
    stage.expect(pid, address, 7)


def border_moves_under_a_lookup(stage: Stage) -> None:
    """Reclaim asks for the use of a page at each step of a split that leaves the page in the second half."""
    size = stage.page_size
    for later in range(4):
        pid, address = stage.written(2)
        page = stage.hold(pid, address + size)
        split = stage.machine.mprotect(pid, address, 1, write=False)
        _, (count, _) = stage.meanwhile("lock_root", split, page_referenced(page, False), later=later)
        stage.demand("RMAP-ANON-006", count >= 1, count=count, later=later)
        stage.do("exit", pid)


def lookups_of_what_is_taken_over(stage: Stage) -> None:
    """Lookups meet the write by which a child takes over the page that its parent has left."""
    for order in (First, InTurn, Last):
        pid, address = stage.written()
        child = stage.do("fork", pid)
        stage.drain()
        page = stage.hold(pid, address)
        stage.do("exit", pid)
        stage.together(_lookup(page), stage.machine.write(child, address, 9), _pin(page), order=order())
        stage.expect(child, address, 9)


def lookup_in_a_file(stage: Stage) -> None:
    """The anon_vma of a page of a file is looked for; there is none."""
    _, ((pid, address),) = stage.mapped_file(1)
    stage.do("write", pid, address, 5)
    found = stage.run(page_lock_anon_vma(stage.page(pid, address)))
    stage.demand("AVMA-RCU-002", found is None, found=found)
    stage.run(_pin(stage.page(pid, address)))
