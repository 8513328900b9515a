"""What CPUs remember of page tables while these change."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.page import Page
from mmreference.mm.rmap.mkclean import page_mkclean


def copied_page_is_read_by_a_thread(stage: Stage) -> None:
    """A thread reads a page which another one is about to copy for a write, while the other process writes to it."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.elsewhere(stage.machine.read(pid, address))

    async def write_and_read() -> int:
        await stage.machine.write(child, address, 9)
        return int(await stage.machine.read(pid, address))

    stage.meanwhile("write", stage.machine.write(pid, address, 8), write_and_read())
    stage.expect(pid, address, 8)
    stage.expect(child, address, 9)


def moved_page_is_truncated(stage: Stage) -> None:
    """A page of a file is moved by mremap, and truncated, while another CPU remembers the old place."""
    file, ((pid, address),) = stage.mapped_file(1)
    there = address + 32 * stage.page_size
    stage.do("write", pid, address, 5)
    stage.elsewhere(stage.machine.read(pid, address))

    async def truncate_and_read() -> object:
        await stage.machine.truncate(file, 0)
        return await stage.machine.read(pid, address)

    stage.meanwhile("move_pte", stage.machine.mremap(pid, address, 1, there), truncate_and_read())
    stage.quiet()
    stage.expect_signal(pid, there)


@conditions(features=("SWAP",))
def reclaimed_page_is_written(stage: Stage) -> None:
    """Reclaim takes a page away while another CPU, which has read it, writes to it."""
    file, ((pid, address),) = stage.mapped_file(1)
    stage.do("write", pid, address, 5)
    stage.do("writeback", file)
    stage.drain()
    stage.do("write", pid, address, 6)
    stage.meanwhile("visit_found", stage.machine.reclaim(pid, address), stage.machine.write(pid, address, 8))
    stage.expect(pid, address, 8)


def cleaned_page_loses_a_right(stage: Stage) -> None:
    """A page of a file is cleaned while mprotect takes the right to write to it away."""
    file, ((pid, address),) = stage.mapped_file(2)
    for number in range(2):
        stage.do("write", pid, address + number * stage.page_size, 5 + number)
    page = stage.page(pid, address)

    async def clean(page: Page) -> None:
        await page_mkclean(page)

    stage.meanwhile("ptep_clear", stage.machine.mprotect(pid, address, 2, write=False), stage.machine.writeback(file))
    stage.with_page(page, clean)
    stage.do("munmap", pid, address, 2)
    stage.do("writeback", file)
    stage.demand("RMAP-UNMAP-027", stage.machine.files[file].disk == {0: 5, 1: 6}, disk=stage.machine.files[file].disk)
