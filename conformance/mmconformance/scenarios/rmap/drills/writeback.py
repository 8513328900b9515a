"""What was written through mappings is written back."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmreference.mm.rmap.mkclean import page_mkclean


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
    stage.quiet()
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.quiet()
    again = stage.do("mmap", one, 2, file=file, shared=True)
    stage.expect(one, again, 8)


def file_page_is_reclaimed(stage: Stage) -> None:
    """Reclaim takes a page of a file away from two processes, written back before and not, and each reads it again."""
    file, ((one, address), (two, there)) = stage.mapped_file(1, count=2)
    for value in (5, 6):
        stage.do("write", one, address, value)
        stage.do("read", two, there)
        if value == 5:
            stage.do("writeback", file)
        stage.drain()
        stage.reclaim(one, address)
        stage.quiet()
        stage.expect(two, there, value)
        stage.expect(one, address, value)


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
    stage.with_page(page, page_mkclean)
    stage.with_page(page, page_mkclean)
    stage.do("munmap", pid, address, 2)
    stage.do("munmap", pid, private, 2)
    page.key_dirty = stage.system.storage_keys
    cleaned = stage.with_page(page, page_mkclean)
    stage.demand("RMAP-MKCLEAN-008", cleaned == 0, page=page, cleaned=cleaned)
