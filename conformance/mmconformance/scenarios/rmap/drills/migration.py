"""Pages that are moved to other frames."""

from __future__ import annotations

from typing import Any

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.exec import copy_strings, do_execve
from mmreference.mm.migrate import compact_page, migrate_page, migrate_range
from mmreference.mm.page import Page, put_page
from mmreference.mm.rmap.walk import rmap_walk
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL

MIGRATION = conditions(features=("MIGRATION",))


@MIGRATION
def migrated_under_everybody(stage: Stage) -> None:
    """A page that parent and child share is moved while somebody reads it, takes rights from it, and locks it."""
    pid, address = stage.written(2)
    child = stage.do("fork", pid)
    stage.drain()
    migrate = lambda: stage.machine.migrate(pid, address)  # noqa: E731
    stage.run(migrate())
    stage.expect(child, address, 7)
    stage.meanwhile("ptep_clear_flush_notify", migrate(), stage.machine.read(pid, address))
    stage.do("write", pid, address, 9)
    stage.drain()
    stage.meanwhile("migrate_copy", migrate(), stage.machine.mprotect(pid, address, 1, write=False))
    stage.do("mlock", pid, address, 1)
    stage.run(migrate())
    stage.demand("MIGR-MLOCK-001", stage.page(pid, address).PG_mlocked, page=stage.page(pid, address))
    stage.expect(pid, address, 9)
    stage.expect(child, address, 7)


@MIGRATION
def forked_while_a_page_moves(stage: Stage) -> None:
    """A process forks while its page is on the way to another frame; then parent and child write to it."""
    pid, address = stage.written()
    stage.drain()
    child = stage.meanwhile("migrate_copy", stage.machine.migrate(pid, address), stage.machine.fork(pid))[1]
    stage.do("write", pid, address, 8)
    stage.expect(child, address, 7)
    stage.do("write", child, address, 9)
    stage.expect(pid, address, 8)


@MIGRATION
def moved_while_a_process_forks(stage: Stage) -> None:
    """A page is moved while its process is at its next page in fork."""
    pid, address = stage.written(2)
    stage.drain()
    child = stage.meanwhile("pte_copied", stage.machine.fork(pid), stage.machine.migrate(pid, address))[0]
    stage.do("write", pid, address, 8)
    stage.expect(child, address, 7)


@MIGRATION
def moved_while_it_is_unmapped(stage: Stage) -> None:
    """A neighbour of a page is unmapped while it moves; then the page itself, before and after it was isolated."""
    pid, address = stage.written(2)
    stage.drain()
    munmap = stage.machine.munmap(pid, address + stage.page_size, 1)
    stage.meanwhile("acquire", munmap, stage.machine.migrate(pid, address))
    stage.expect(pid, address, 7)
    for step in ("isolate", "migrate_copy"):
        pid, address = stage.written()
        stage.drain()
        page = stage.hold(pid, address)
        stage.meanwhile(step, compact_page(stage.system, page), stage.machine.munmap(pid, address, 1))
        stage.quiet()


@MIGRATION
def range_of_several_areas(stage: Stage) -> None:
    """A range with pages of a file, of nobody yet, and of a process is moved."""
    file, ((pid, address),) = stage.mapped_file(2)
    stage.do("write", pid, address, 3)
    private = stage.do("mmap", pid, 2)
    stage.do("write", pid, private, 4)
    stage.run(migrate_range(stage.mm(pid), min(address, private), max(address, private) + 2 * stage.page_size))
    stage.expect(pid, address, 3)
    stage.expect(pid, private, 4)
    stage.do("writeback", file)
    stage.expect(pid, address, 3)


@MIGRATION
def walk_for_nobody(stage: Stage) -> None:
    """A walk is asked for the places of a page that belongs to nobody."""

    async def visit(*_: Any) -> Any:
        return SWAP_FAIL

    async def walk() -> Any:
        page = await stage.system.alloc_page()
        return await _walk_and_free(page, visit)

    result = stage.run(walk())
    stage.demand("MIGR-WALK-004", result is SWAP_AGAIN, result=result)


async def _walk_and_free(page: Page, visit: Any) -> Any:
    await page.lock.lock()
    result = await rmap_walk(page, visit)
    page.lock.unlock()
    await put_page(page)
    return result


@MIGRATION
def exec_moves_its_stack(stage: Stage) -> None:
    """exec fills a stack and moves it, while all pages of the system are moved to other frames."""
    stage.written()
    stage.drain()

    async def move_all() -> None:
        for page in list(stage.system.pages):
            await migrate_page(page)

    run = do_execve(stage.system, [1, 2, 3], 4 * stage.page_size)
    mm, _ = stage.meanwhile("stack_adjusted", run, move_all())
    pid = stage.machine._enter(mm)
    for number in range(3):
        stage.expect(pid, mm.vmas[0].vm_start + number * stage.page_size, 1 + number)


@MIGRATION
def migration_finds_a_temporary_stack(stage: Stage) -> None:
    """Pages are moved while exec is still filling its stack: they stay."""
    pid = stage.spawn()
    address = stage.do("stack", pid, 2)
    stage.run(copy_strings(stage.mm(pid), address, [1]))
    page = stage.page(pid, address)
    stage.do("migrate", pid, address)
    stage.demand("MIGR-STACK-002", stage.page(pid, address) is page, page=page)
    stage.do("exec_stack", pid, 1)
    stage.do("migrate", pid, address - stage.page_size)
    stage.expect(pid, address - stage.page_size, 1)
