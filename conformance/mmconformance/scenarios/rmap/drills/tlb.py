"""What CPUs remember of page tables while these change."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.rmap.unmap import TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import add_to_swap
from mmreference.mm.writeback import write_page
from mmspec.errors import Signal


def copied_page_is_read_by_a_thread(stage: Stage) -> None:
    """A thread reads a page which another one is about to copy for a write, while the other process writes to it."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.elsewhere(stage.machine.read(pid, address))

    async def write_and_read() -> int:
        await stage.machine.write(child, address, 9)
        return int(await stage.machine.read(pid, address))

    _, read = stage.meanwhile("_mapcount", stage.machine.write(pid, address, 8), write_and_read())
    stage.demand("RMAP-UNMAP-027", read in (7, 8), read=read)
    stage.expect(pid, address, 8)
    stage.expect(child, address, 9)


def moved_page_is_truncated(stage: Stage) -> None:
    """A page of a file is moved by mremap, and truncated, while another CPU remembers the old place."""
    file, ((pid, address),) = stage.mapped_file(1)
    there = address + 32 * stage.page_size
    stage.do("write", pid, address, 5)
    stage.elsewhere(stage.machine.read(pid, address))
    stage.hold(pid, address)

    async def truncate_and_read() -> object:
        await stage.machine.truncate(file, 0)
        return await stage.machine.read(pid, address)

    _, read = stage.meanwhile("move_pte", stage.machine.mremap(pid, address, 1, there), truncate_and_read())
    stage.demand("RMAP-UNMAP-027", isinstance(read, Signal), read=read)
    stage.quiet()
    stage.expect_signal(pid, there)


@conditions(features=("SWAP", "MMU_NOTIFIER"))
def reclaimed_page_is_written(stage: Stage) -> None:
    """Reclaim takes away a page that was only read, and asks the secondary MMU first; another CPU writes to it meanwhile."""
    pid = stage.spawn()
    address = stage.do("mmap", pid, 1)
    stage.do("read", pid, address)
    stage.do("attach_mmu", pid)
    stage.drain()
    page = stage.idle(pid, address)
    stage.with_page(page, add_to_swap)

    async def unmap() -> None:
        await page.lock.lock()
        await try_to_unmap(page, TTU_UNMAP)
        page.lock.unlock()

    stage.meanwhile("visit_found", unmap(), stage.machine.write(pid, address, 8))
    stage.expect(pid, address, 8)


def cleaned_page_loses_a_right(stage: Stage) -> None:
    """A page that two processes have written is cleaned, and found in the middle of what mprotect does to one of its entries."""
    file, ((one, address), (two, there)) = stage.mapped_file(1, count=2)
    stage.do("write", one, address, 5)
    stage.do("write", two, there, 6)
    stage.elsewhere(stage.machine.read(one, address))
    page = stage.hold(one, address)

    async def clean() -> None:
        await page.lock.lock()
        await write_page(page)
        page.lock.unlock()

    # It has the lock of the file, the entry is gone, it looks, the entry is back, it has looked everywhere.
    phases = [(1, "acquire"), (1, "acquire"), (0, "ptep_clear"), (1, "pte_probe"), (0, "")]
    stage.in_phases(phases, stage.machine.mprotect(one, address, 1, write=False), clean())
    for pid, where in ((one, address), (two, there)):
        stage.do("munmap", pid, where, 1)
    stage.do("writeback", file)
    disk = stage.machine.files[file].disk
    stage.demand("RMAP-UNMAP-027", disk == {0: 6}, disk=disk)


def cleaned_page_is_written_again(stage: Stage) -> None:
    """A file system takes the mark off a page without a look at who may write to it, and writes it when it is written again."""
    file, ((pid, address),) = stage.mapped_file(1)
    stage.do("write", pid, address, 5)
    page, mapping = stage.page(pid, address), stage.machine.files[file]
    page.PG_dirty = False
    mapping.disk[0] = page.content
    stage.do("write", pid, address, 6)
    stage.with_page(page, write_page)
    stage.demand("RMAP-UNMAP-027", mapping.disk == {0: 6}, disk=mapping.disk)
