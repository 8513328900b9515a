"""Trans-huge pages."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.huge_memory import split_huge_page
from mmreference.mm.page import Page, get_page, put_page
from mmreference.mm.rmap.address import page_check_address
from mmreference.mm.rmap.referenced import page_referenced

THP = conditions(features=("TRANSPARENT_HUGEPAGE",))


def _huge(stage: Stage) -> tuple[int, int, int]:
    """A process with one trans-huge page that it has written: pid, address, and base pages."""
    number = stage.system.hpage_pmd_nr
    pid, address = stage.written(number)
    return pid, address, number


@THP
def huge_page_is_split_and_collapsed(stage: Stage) -> None:
    """A trans-huge page is asked for, shared by fork, split, left by one, and collapsed again."""
    pid, address, number = _huge(stage)
    child = stage.do("fork", pid)
    stage.drain()
    page = stage.page(pid, address)
    for _ in range(2):
        stage.run(page_referenced(page, False))
    stage.run(page_check_address(page, stage.mm(pid), address))
    stage.do("split", pid, address)
    stage.quiet()
    for each in (pid, child):
        stage.expect(each, address + stage.page_size, 8)
    stage.do("exit", child)
    for each in range(number):
        stage.do("write", pid, address + each * stage.page_size, 20 + each)
    stage.do("collapse", pid, address)
    stage.quiet()
    for each in range(number):
        stage.expect(pid, address + each * stage.page_size, 20 + each)


@THP
def huge_page_is_written_after_fork(stage: Stage) -> None:
    """The child writes to a trans-huge page, with memory for another one and without; the parent unmaps a part."""
    pid, address, number = _huge(stage)
    child, other = stage.do("fork", pid), stage.do("fork", pid)
    stage.do("write", child, address + stage.page_size, 30)
    with stage.without("trans-huge page"):
        stage.do("write", other, address + stage.page_size, 40)
        fallback = stage.do("mmap", other, number)
        stage.do("write", other, fallback, 50)
    stage.do("munmap", pid, address, 1)
    stage.quiet()
    stage.expect(pid, address + stage.page_size, 8)
    stage.expect(child, address + 2 * stage.page_size, 9)
    stage.expect(other, address, 7)
    stage.expect(other, fallback, 50)


@conditions(features=("TRANSPARENT_HUGEPAGE", "SWAP"))
def huge_page_goes_to_swap(stage: Stage) -> None:
    """Reclaim splits a trans-huge page, and takes its parts away."""
    pid, address, number = _huge(stage)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.reclaim(pid, address)
    stage.quiet()
    for each in range(number):
        stage.expect(pid, address + each * stage.page_size, 7 + each)


@THP
def split_while_a_process_forks(stage: Stage) -> None:
    """A trans-huge page is split when fork has copied its entry and is at the next area."""
    pid, address, number = _huge(stage)
    stage.do("write", pid, stage.do("mmap", pid, 1, address=address + 16 * number * stage.page_size), 3)
    page = stage.hold(pid, address)
    child, _ = stage.meanwhile("pmd_copied", stage.machine.fork(pid), split_huge_page(page))
    stage.do("write", pid, address, 9)
    stage.expect(child, address, 7)


@THP
def split_while_a_thread_copies(stage: Stage) -> None:
    """madvise splits a trans-huge page that parent and child share; a thread of the parent gets a copy in its place meanwhile."""
    pid, address, _ = _huge(stage)
    child = stage.do("fork", pid)
    thrown = stage.machine.madvise(pid, address, 1, "dontneed")
    stage.meanwhile("trylock_root", thrown, stage.machine.write(pid, address + stage.page_size, 30))
    stage.expect(pid, address, 0)
    stage.expect(pid, address + stage.page_size, 30)
    stage.expect(child, address, 7)


@THP
def pinned_tail(stage: Stage) -> None:
    """A tail is pinned, and the pin dropped; then pinned again and dropped while its huge page is split."""
    pid, address, _ = _huge(stage)
    head = stage.hold(pid, address)
    tail = head.subpages[2]

    async def pin(page: Page) -> None:
        async with stage.mm(pid).page_table_lock:
            get_page(page)

    stage.run(pin(tail))
    stage.run(put_page(tail))
    stage.run(pin(tail))
    stage.meanwhile("acquire", put_page(tail), split_huge_page(head))
    stage.demand("THP-PUT-001", tail.first_page is None and tail._count >= 1, tail=tail, count=tail._count)
    stage.expect(pid, address + 2 * stage.page_size, 9)


@THP
def small_pages_beside_huge_ones(stage: Stage) -> None:
    """Pages are looked for under a huge entry, and where there is none at all; huge pages are not for everybody."""
    pid, address, number = _huge(stage)
    small = stage.do("mmap", pid, 1, address=address + 64 * number * stage.page_size)
    stage.do("write", pid, small, 3)
    for where in (small + stage.page_size, address, address + 32 * number * stage.page_size):
        stage.run(page_check_address(stage.page(pid, small), stage.mm(pid), where))
    stage.system.thp_enabled = "never"
    another = stage.do("mmap", pid, number)
    stage.do("write", pid, another, 4)
    page = stage.page(pid, another)
    stage.demand("THP-CTL-001", not page.order and page.first_page is None, page=page)


def faults_in_two_tables(stage: Stage) -> None:
    """Two threads have faults in different page tables at once."""
    stage.system.thp_enabled = "never"
    number = stage.system.ptrs_per_pte
    pid, address = stage.written(2 * number)
    stage.do("munmap", pid, address + stage.page_size, 1)
    stage.do("mmap", pid, 1, address=address + stage.page_size)
    beside = address + (2 * number - 1) * stage.page_size
    stage.do("munmap", pid, beside, 1)
    stage.do("mmap", pid, 1, address=beside)
    write = stage.machine.write
    stage.meanwhile("page_allocated", write(pid, address + stage.page_size, 1), write(pid, beside, 2))
    stage.expect(pid, address + stage.page_size, 1)
    stage.expect(pid, beside, 2)
