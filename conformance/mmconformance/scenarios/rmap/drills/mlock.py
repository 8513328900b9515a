"""Pages that are locked in memory."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.filemap import vmtruncate
from mmreference.mm.lru import isolate_lru_page, putback_lru_page
from mmreference.mm.page import Page
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_MIGRATION, try_to_unmap
from mmreference.mm.vmscan import reclaim_page


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
    _forget(page)
    stage.run(_unmap(page))
    stage.demand("MLOCK-003", page._mapcount >= 0, page=page)


async def _unmap(page: Page) -> None:
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
    stage.run(vmtruncate(stage.machine.files[file], 1))
    stage.quiet()
    stage.demand("MLOCK-011", not page.PG_mlocked, page=page)


def _forget(page: Page) -> None:
    """The mark gets lost, as it may in a race."""
    if page.PG_mlocked:
        page.PG_mlocked = False
        page.system.zone.NR_MLOCK -= 1


def locked_by_one_of_two(stage: Stage) -> None:
    """Of two processes that have locked a page, one gives it up: the page is not reclaimed before the other does."""
    _, places = stage.mapped_file(2, count=2)
    (one, address), (two, there) = places
    stage.do("write", one, address, 3)
    stage.do("read", two, there)
    for pid, where in places:
        stage.do("mlock", pid, where, 2)
    page = stage.page(one, address)
    stage.drain()
    for _ in range(2):
        stage.do("shrink")
    stage.do("munlock", one, address, 2)
    stage.demand("MLOCK-013", page.PG_mlocked, page=page)
    stage.do("reclaim", one, address)
    stage.expect(two, there, 3)
    stage.do("munlock", two, there, 2)
    stage.demand("MLOCK-008", not page.PG_mlocked and page.lists == ["inactive_file"], page=page, lists=page.lists)


def lost_mark_is_found_again(stage: Stage) -> None:
    """A locked page of a file has lost its mark; reclaim marks it again, but not while somebody holds `mmap_sem` for write."""
    _, ((pid, address),) = stage.mapped_file(1)
    stage.do("write", pid, address, 7)
    stage.drain()
    stage.do("mlock", pid, address, 1)
    page = stage.hold(pid, address)
    _forget(page)
    stage.with_page(page, try_to_unmap, TTU_IGNORE_ACCESS)
    stage.demand("MLOCK-005", page.PG_mlocked, page=page)
    _forget(page)

    async def with_mmap_sem() -> None:
        async with stage.mm(pid).mmap_sem.write():
            await page.lock.lock()
            await try_to_unmap(page, TTU_IGNORE_ACCESS)
            page.lock.unlock()

    stage.run(with_mmap_sem())
    stage.demand("MLOCK-012", not page.PG_mlocked, page=page)
    stage.expect(pid, address, 7)


@conditions(features=("SWAP",))
def lost_mark_is_found_by_reclaim(stage: Stage) -> None:
    """A locked page has lost its mark; reclaim comes to it, without and with `mmap_sem` to be had."""
    pid, address = stage.written()
    stage.drain()
    stage.do("mlock", pid, address, 1)
    page = stage.page(pid, address)
    _forget(page)
    stage.reclaim(pid, address)
    stage.demand("MLOCK-005", page.PG_mlocked, page=page)
    _forget(page)

    async def with_mmap_sem() -> None:
        async with stage.mm(pid).mmap_sem.write():
            await reclaim_page(page)

    stage.run(with_mmap_sem())
    stage.demand("MLOCK-012", not page.PG_mlocked, page=page)
    stage.expect(pid, address, 7)
