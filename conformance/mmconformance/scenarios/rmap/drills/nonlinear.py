"""Areas that map the pages of a file in another order."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.pagetable import Present
from mmreference.mm.vmscan import reclaim_page


def _nonlinear(stage: Stage, pages: int, *, skip: int = 0) -> tuple[int, int]:
    """A process with an area of a file whose pages 3 and 4 are the file's pages 20 and 21, all of them used: pid and address."""
    file, pid = stage.machine.create_file(32), stage.spawn()
    beside = stage.do("mmap", pid, 1)
    address = stage.do("mmap", pid, pages, file=file, shared=True, address=beside + (8 + skip) * stage.page_size)
    stage.do("remap_file_pages", pid, address + 3 * stage.page_size, 2, 20)
    for number in range(pages):
        stage.do("write", pid, address + number * stage.page_size, 40 + number)
    stage.drain()
    return pid, address


def _scan(stage: Stage, pid: int, rounds: int = 12) -> None:
    """Reclaim comes to whatever page the process still maps, again and again."""
    for _ in range(rounds):
        tables = stage.mm(pid).tables.values()
        page = next((e.page for t in tables for e in t.entries.values() if isinstance(e, Present) and e.page.PG_lru), None)
        if page is None:
            return
        stage.run(reclaim_page(page))


def pages_out_of_line(stage: Stage) -> None:
    """Reclaim scans a nonlinear area until nothing is left; each page comes back where it was."""
    pid, address = _nonlinear(stage, 12)
    _scan(stage, pid)
    stage.quiet()
    for number in range(12):
        stage.expect(pid, address + number * stage.page_size, 40 + number)
    child = stage.do("fork", pid)
    stage.do("exit", pid)
    stage.expect(child, address + 4 * stage.page_size, 44)


def clusters_out_of_line(stage: Stage) -> None:
    """A nonlinear area begins inside of a cluster; its end is scanned as well."""
    pid, address = _nonlinear(stage, 12, skip=3)
    _scan(stage, pid)
    stage.expect(pid, address + 11 * stage.page_size, 51)


def holes_out_of_line(stage: Stage) -> None:
    """Reclaim scans a nonlinear area that has no page tables in its middle."""
    pid, pages = stage.spawn(), 3 * stage.system.ptrs_per_pte
    address = stage.do("mmap", pid, pages, file=stage.machine.create_file(32), shared=True)
    last = address + (pages - 1) * stage.page_size
    stage.do("remap_file_pages", pid, last, 1, 2)
    stage.do("write", pid, last, 5)
    stage.drain()
    for _ in range(3):
        stage.reclaim(pid, last)
    stage.expect(pid, last, 5)


def two_areas_out_of_line(stage: Stage) -> None:
    """Reclaim comes to a page that one process maps in line, and another one, which has locked its area, out of line."""
    file, ((one, address), (two, there)) = stage.mapped_file(6, size=32, count=2)
    for number in range(6):
        stage.do("write", one, address + number * stage.page_size, 30 + number)
    stage.do("remap_file_pages", two, there, 2, 2)
    for number in range(6):
        stage.do("read", two, there + number * stage.page_size)
    stage.do("mlock", two, there, 6)
    page = stage.page(one, address + 2 * stage.page_size)
    if page.PG_mlocked:
        # As a race may leave it.
        page.PG_mlocked = False
        stage.system.zone.NR_MLOCK -= 1
    stage.drain()
    for _ in range(4):
        stage.run(reclaim_page(page))
    stage.demand("NLIN-MLOCK-001", page.PG_mlocked, page=page)
    stage.expect(two, there, 32)
    stage.expect(one, address + 3 * stage.page_size, 33)
    stage.do("munlock", two, there, 6)
    stage.quiet()


def locked_out_of_line(stage: Stage) -> None:
    """Reclaim comes to an area that is locked and nonlinear, while `mmap_sem` can and cannot be had; then it is unlocked."""
    pid, address = _nonlinear(stage, 6)
    stage.do("mlock", pid, address, 6)
    page = stage.page(pid, address)

    async def with_mmap_sem() -> None:
        async with stage.mm(pid).mmap_sem.write():
            await reclaim_page(page)

    for attempt in (with_mmap_sem(), reclaim_page(page), reclaim_page(page)):
        if page.PG_mlocked:
            page.PG_mlocked = False
            stage.system.zone.NR_MLOCK -= 1
        stage.idle(pid, address)
        stage.run(attempt)
    stage.expect(pid, address, 40)
    stage.do("munlock", pid, address, 6)
    stage.quiet()


@conditions(features=("MIGRATION",))
def migration_out_of_line(stage: Stage) -> None:
    """Pages of a nonlinear area are moved to other frames, also while the area is just becoming nonlinear."""
    pid, address = _nonlinear(stage, 6)
    for number in (0, 3):
        stage.do("migrate", pid, address + number * stage.page_size)
        stage.expect(pid, address + number * stage.page_size, 40 + number)
    _, ((one, address), (two, there)) = stage.mapped_file(4, size=32, count=2)
    stage.do("write", one, address, 5)
    stage.do("read", two, there)
    stage.drain()
    remap = stage.machine.remap_file_pages(one, address + stage.page_size, 1, 9)
    stage.meanwhile("migrate_copy", stage.machine.migrate(one, address), remap)
    stage.expect(one, address, 5)
    for pid, where in ((two, there), (one, address)):
        stage.do("mlock", pid, where, 1)
    stage.do("munlock", two, there, 1)
    stage.quiet()


def truncation_out_of_line(stage: Stage) -> None:
    """A file is truncated whose last pages are mapped out of line, some of them reclaimed."""
    pid, address = _nonlinear(stage, 6)
    _scan(stage, pid, 3)
    stage.do("truncate", 0, 20)
    stage.quiet()
    stage.expect_signal(pid, address + 3 * stage.page_size)
    stage.expect(pid, address, 40)
