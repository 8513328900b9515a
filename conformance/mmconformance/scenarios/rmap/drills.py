"""Short sequences that lead to states which random programs rarely reach. Each runs alone, once per profile."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.kernel.scheduler import First, Task
from mmreference.mm.filemap import vmtruncate
from mmreference.mm.mm_struct import Mm, get_mm_hiwater_rss, get_mm_hiwater_vm, linear_page_index
from mmreference.mm.page import Page
from mmreference.mm.rmap.address import page_address_in_vma, page_mapped_in_vma, vma_address
from mmreference.mm.rmap.mkclean import page_mkclean
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_MIGRATION, try_to_unmap
from mmreference.mm.swapfile import SWAP_MAP_MAX, max_swapfiles, swapon_type


class FailNth(First):
    """Lets the n-th allocation fail, and nothing else."""

    def __init__(self, number: int) -> None:
        self.left = number

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        self.left -= 1
        return int(self.left == -1)


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


# -- map count and statistics -------------------------------------------------------------------------------------------


def file_page_mapped_twice(stage: Stage) -> None:
    """Two processes map one page of a file, and unmap it one after the other."""
    file = stage.machine.create_file(2)
    pids = [stage.spawn() for _ in range(2)]
    places = [stage.do("mmap", pid, 2, file=file, shared=True) for pid in pids]
    for pid, address in zip(pids, places, strict=True):
        stage.do("read", pid, address)
        stage.quiet()
    for pid, address in zip(pids, places, strict=True):
        stage.do("munmap", pid, address, 2)
        stage.quiet()


def anonymous_page_shared_by_fork(stage: Stage) -> None:
    """Parent and child have one page; the parent is gone first, then the child writes."""
    pid, address = stage.written(2)
    child = stage.do("fork", pid)
    stage.quiet()
    stage.expect(child, address, 7)
    stage.do("exit", pid)
    stage.quiet()
    stage.do("write", child, address, 8)
    stage.expect(child, address, 8)
    stage.expect(child, address + stage.page_size, 8)


def copy_on_write(stage: Stage) -> None:
    """After fork parent and child write what they share; nobody sees the other's."""
    pid, address = stage.written(2)
    child = stage.do("fork", pid)
    stage.do("write", child, address, 8)
    stage.do("write", pid, address, 9)
    stage.expect(child, address, 8)
    stage.expect(pid, address, 9)
    grandchild = stage.do("fork", child)
    stage.do("write", grandchild, address, 10)
    stage.expect(child, address, 8)
    stage.do("exit", child)
    stage.expect(grandchild, address, 10)


def private_copy_of_a_file(stage: Stage) -> None:
    """A private mapping of a file is read, then written; the file stays what it was, and truncation takes the copy."""
    file = stage.machine.create_file(3)
    one, two = stage.spawn(), stage.spawn()
    shared = stage.do("mmap", one, 3, file=file, shared=True)
    private = stage.do("mmap", two, 3, file=file)
    stage.do("write", one, shared, 5)
    stage.expect(two, private, 5)
    stage.do("write", two, private, 6)
    stage.expect(one, shared, 5)
    stage.expect(two, private, 6)
    stage.do("write", two, private + stage.page_size, 7)
    stage.do("truncate", file, 1)
    stage.quiet()
    stage.expect_signal(two, private + stage.page_size)
    stage.expect(two, private, 6)


@conditions(features=("SWAP",))
def peak_of_the_resident_set(stage: Stage) -> None:
    """Reclaim and unmapping lower the resident set: the peak is what it was before."""
    pid, address = stage.written(3)
    stage.drain()
    stage.do("evict", stage.page(pid, address))
    mm = stage.mm(pid)
    _peak_is_true(stage, mm)
    stage.do("munmap", pid, address, 3)
    _peak_is_true(stage, mm)


def _peak_is_true(stage: Stage, mm: Mm) -> None:
    reported = get_mm_hiwater_rss(mm)
    stage.demand("RSS-HIWATER-003", reported == mm.true_peak_rss, reported=reported, true=mm.true_peak_rss)


def peak_of_the_mapped_size(stage: Stage) -> None:
    """A mapping that is moved counts once."""
    pid, address = stage.written(4)
    stage.do("mremap", pid, address, 4, address + 64 * stage.page_size)
    mm = stage.mm(pid)
    reported = get_mm_hiwater_vm(mm)
    stage.demand("RSS-HIWATER-006", reported <= mm.true_peak_vm, reported=reported, true=mm.true_peak_vm)


# -- addresses ----------------------------------------------------------------------------------------------------------


def addresses_of_pages(stage: Stage) -> None:
    """Where areas would map pages: inside, outside, of another file, of another tree, far away in a large file."""
    machine = stage.machine
    pid, address = stage.written(2)
    other, elsewhere = stage.written(1)
    file = machine.create_file((1 << 20) + 4)
    small = machine.create_file(2)
    mapped = stage.do("mmap", pid, 2, file=file, offset=1, shared=True)
    stage.do("read", pid, mapped)
    far = stage.do("mmap", other, 1, file=file, offset=(1 << 20) + 1, shared=True)
    stage.do("read", other, far)
    strange = stage.do("mmap", other, 1, file=small, shared=True)
    stage.do("read", other, strange)
    empty = stage.do("mmap", pid, 1)
    pages = [stage.page(*where) for where in ((pid, address), (other, elsewhere), (pid, mapped), (other, far), (other, strange))]
    for vma in stage.system.vmas:
        for page in pages:
            vma_address(page, vma)
            page_address_in_vma(page, vma)
            machine.run(page_mapped_in_vma(page, vma))
    assert machine.vma_at(pid, empty) is not None


def borders_of_areas(stage: Stage) -> None:
    """Areas are split, merged and moved; every page keeps the index that its area says."""
    pid, address = stage.written(6)
    size = stage.page_size
    stage.do("mprotect", pid, address + 2 * size, 2, write=False)
    stage.quiet()
    for number in range(6):
        stage.expect(pid, address + number * size, 7 + number)
    stage.do("mprotect", pid, address + 2 * size, 2, write=True)
    stage.quiet()
    stage.do("mremap", pid, address + size, 2, address + 64 * size)
    stage.quiet()
    stage.expect(pid, address + 64 * size, 8)
    stage.do("mremap", pid, address + 64 * size, 2, address + size)
    stage.quiet()
    stage.do("munmap", pid, address + 3 * size, 1)
    for number in (0, 1, 2, 4, 5):
        stage.expect(pid, address + number * size, 7 + number)
        page = stage.page(pid, address + number * size)
        stage.demand(
            "RMAP-ANON-006",
            page.index == linear_page_index(stage.machine.vma_at(pid, address + number * size), address + number * size),
            page=page, index=page.index,
        )  # fmt: skip


# -- anon_vma -----------------------------------------------------------------------------------------------------------


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


# -- reclaim and swap ---------------------------------------------------------------------------------------------------


@conditions(features=("SWAP",))
def swapped_and_read_back(stage: Stage) -> None:
    """Pages go to swap and come back, with and without their page in the swap cache."""
    pid, address = stage.written(3)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
        stage.quiet()
    for number in range(3):
        stage.expect(pid, address + number * stage.page_size, 7 + number)
    stage.do("evict", stage.page(pid, address))
    stage.expect(pid, address, 7)
    stage.do("write", pid, address, 11)
    stage.expect(pid, address, 11)


@conditions(features=("SWAP",))
def child_swaps_in_first(stage: Stage) -> None:
    """A page that parent and child have in swap is read by the child first, then by the parent; the child is gone then."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    page = stage.page(pid, address)
    stage.do("evict", page)
    stage.quiet()
    stage.expect(child, address, 7)
    stage.expect(pid, address, 7)
    stage.quiet()
    stage.do("exit", child)
    stage.quiet()
    stage.machine.run(page_referenced(page, False))
    stage.do("evict", page)
    stage.expect(pid, address, 7)


@conditions(features=("SWAP",))
def child_writes_what_is_in_swap(stage: Stage) -> None:
    """A page that parent and child have in swap is written by the child, which must not keep it for itself."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.do("write", child, address, 9)
    stage.quiet()
    stage.expect(pid, address, 7)
    stage.do("exit", child)
    stage.quiet()
    stage.expect(pid, address, 7)


@conditions(features=("SWAP",))
def more_references_than_a_byte_holds(stage: Stage) -> None:
    """More processes have one page in swap than the byte of the map can count; with and without memory to go on."""
    pid, address = stage.written()
    children = [stage.do("fork", pid) for _ in range(SWAP_MAP_MAX + 3)]
    stage.drain()
    page = stage.page(pid, address)
    stage.machine.strategy = _NoContinuation()
    stage.do("evict", page)
    stage.machine.strategy = None
    stage.quiet()
    stage.do("evict", page)
    stage.quiet()
    for child in children[:2]:
        stage.expect(child, address, 7)
    for child in children:
        stage.do("exit", child)
    stage.quiet()
    stage.expect(pid, address, 7)


class _NoContinuation(First):
    """Lets the allocation of swap count continuations fail."""

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return int("continuation" in label)


@conditions(features=("SWAP",))
def swap_is_switched_off(stage: Stage) -> None:
    """All pages come back when swap is switched off, those of forked processes too."""
    pid, address = stage.written(3)
    child = stage.do("fork", pid)
    stage.do("write", child, address, 9)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.quiet()
    stage.do("swapoff")
    stage.quiet()
    stage.demand("SWAP-OFF-001", all(mm.swapents == 0 for mm in stage.system.mms), mms=list(stage.system.mms))
    stage.expect(pid, address, 7)
    stage.expect(child, address, 9)
    stage.expect(child, address + stage.page_size, 8)
    limit = max_swapfiles(stage.system)
    for taken in range(limit + 2):
        type_ = swapon_type(stage.system, taken)
        stage.demand("MIGR-ENTRY-004", type_ < limit, type=type_, limit=limit)


def use_of_pages(stage: Stage) -> None:
    """Reclaim asks three processes whether they have used a page; one has a copy of its own and locks that."""
    pid, address = stage.written()
    two, three = stage.do("fork", pid), stage.do("fork", pid)
    page = stage.hold(pid, address)
    stage.do("write", two, address, 9)
    stage.do("mlock", two, address, 1)
    stage.drain()
    stage.do("read", three, address)
    _, vm_flags = stage.machine.run(page_referenced(page, False))
    stage.demand("RMAP-REF-009", not vm_flags & 0x2000, page=page, vm_flags=vm_flags)
    stage.machine.run(page_referenced(page, False))
    stage.do("read", three, address)
    stage.system.swap_token = stage.mm(three)
    stage.machine.run(page_referenced(page, False))
    stage.do("madvise", three, address, 1, "sequential")
    stage.do("read", three, address)
    stage.machine.run(page_referenced(page, False))
    stage.do("mlock", pid, address, 1)
    stage.do("read", pid, address)
    stage.machine.run(page_referenced(page, False))


# -- mlock --------------------------------------------------------------------------------------------------------------


def locked_by_two(stage: Stage) -> None:
    """Two processes lock the page of a file in memory; one gives it up, then the other."""
    file = stage.machine.create_file(1)
    pids = [stage.spawn() for _ in range(2)]
    places = [stage.do("mmap", pid, 1, file=file, shared=True) for pid in pids]
    for pid, address in zip(pids, places, strict=True):
        stage.do("mlock", pid, address, 1)
        stage.quiet()
    page = stage.hold(pids[0], places[0])
    for pid, address in zip(pids, places, strict=True):
        stage.do("munlock", pid, address, 1)
        stage.quiet()
    stage.demand("MLOCK-008", not page.PG_mlocked, page=page)


def locked_without_rights(stage: Stage) -> None:
    """A page is locked in memory, loses all rights, and is unlocked."""
    pid, address = stage.written()
    stage.do("mlock", pid, address, 1)
    page = stage.hold(pid, address)
    stage.do("mprotect", pid, address, 1, write=False, read=False)
    stage.do("munlock", pid, address, 1)
    stage.quiet()
    stage.demand("MLOCK-010", not page.PG_mlocked, page=page)


@conditions(features=("MIGRATION",))
def locked_and_reclaimed(stage: Stage) -> None:
    """Reclaim comes to pages that are locked in memory, marked and not marked."""
    pid, address = stage.written(2)
    stage.drain()
    stage.do("mlock", pid, address, 2)
    page = stage.hold(pid, address)
    stage.do("shrink")
    stage.do("reclaim", pid, address)
    stage.quiet()
    # As a race may leave it: the area is locked, the page is not marked.
    page.PG_mlocked = False
    stage.system.zone.NR_MLOCK -= 1
    stage.machine.run(_unmap(page))
    stage.demand("MLOCK-003", page._mapcount >= 0, page=page)


async def _unmap(page: Page) -> None:
    from mmreference.mm.lru import isolate_lru_page, putback_lru_page

    isolated = await isolate_lru_page(page)
    await page.lock.lock()
    await try_to_unmap(page, TTU_IGNORE_ACCESS | TTU_MIGRATION)
    page.lock.unlock()
    if isolated:
        await putback_lru_page(page)


def locked_and_truncated(stage: Stage) -> None:
    """A page of a file that is locked in memory is truncated."""
    file = stage.machine.create_file(2)
    pid = stage.spawn()
    address = stage.do("mmap", pid, 2, file=file, shared=True)
    stage.do("mlock", pid, address, 2)
    page = stage.hold(pid, address + stage.page_size)
    stage.machine.run(vmtruncate(stage.machine.files[file], 1))
    stage.quiet()
    stage.demand("MLOCK-011", not page.PG_mlocked, page=page)


# -- writeback ----------------------------------------------------------------------------------------------------------


def written_back_and_written_again(stage: Stage) -> None:
    """A shared page is written, written back, written again, and read from disk after it was reclaimed."""
    file = stage.machine.create_file(2)
    one, two = stage.spawn(), stage.spawn()
    places = [stage.do("mmap", pid, 2, file=file, shared=True) for pid in (one, two)]
    stage.do("write", one, places[0], 5)
    stage.do("read", two, places[1])
    stage.do("writeback", file)
    stage.quiet()
    stage.do("write", two, places[1], 6)
    stage.do("writeback", file)
    stage.do("write", one, places[0], 8)
    for pid, address in zip((one, two), places, strict=True):
        stage.do("munmap", pid, address, 2)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.quiet()
    again = stage.do("mmap", one, 2, file=file, shared=True)
    stage.expect(one, again, 8)


def cleaned_for_nobody(stage: Stage) -> None:
    """A page that nobody maps is cleaned; one that is mapped privately; one that is mapped read-only."""
    file = stage.machine.create_file(2)
    pid = stage.spawn()
    address = stage.do("mmap", pid, 2, file=file, shared=True)
    private = stage.do("mmap", pid, 2, file=file)
    stage.do("read", pid, private)
    stage.do("write", pid, private + stage.page_size, 4)
    stage.do("write", pid, address, 5)
    page = stage.hold(pid, address)
    stage.machine.run(_mkclean(page))
    stage.machine.run(_mkclean(page))
    stage.do("munmap", pid, address, 2)
    stage.do("munmap", pid, private, 2)
    page.key_dirty = stage.system.storage_keys
    cleaned = stage.machine.run(_mkclean(page))
    stage.demand("RMAP-MKCLEAN-008", cleaned == 0, page=page, cleaned=cleaned)


async def _mkclean(page: Page) -> int:
    await page.lock.lock()
    cleaned = await page_mkclean(page)
    page.lock.unlock()
    return int(cleaned)

