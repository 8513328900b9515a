"""Map counts, counters of zones and address spaces, and their peaks."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.mm_struct import Mm, get_mm_hiwater_rss, get_mm_hiwater_vm


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
