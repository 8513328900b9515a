"""Memory that fails."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions


@conditions(features=("MEMORY_FAILURE",))
def memory_of_all_kinds_fails(stage: Stage) -> None:
    """The memory of an anonymous page fails, of a clean page of a file, and of a dirty one; then the process forks."""
    pid, address = stage.written(2)
    file = stage.machine.create_file(4)
    shared = stage.do("mmap", pid, 2, file=file, shared=True)
    stage.do("write", pid, shared, 3)
    stage.do("writeback", file)
    stage.do("write", pid, shared + stage.page_size, 4)
    for where, kind in ((address, "hwpoison"), (shared, None), (shared + stage.page_size, "hwpoison")):
        stage.do("fail_memory", pid, where)
        found = stage.kind(pid, where)
        stage.demand("RMAP-UNMAP-014", found == kind, found=found, right=kind)
        stage.quiet()
    child = stage.do("fork", pid)
    for each in (pid, child):
        stage.expect_signal(each, address)
        stage.expect(each, address + stage.page_size, 8)
        stage.expect(each, shared, 3)
    # The child has no entry yet that says so.
    stage.expect_signal(pid, shared + stage.page_size)


@conditions(features=("MEMORY_FAILURE", "SWAP"))
def memory_of_a_swapped_page_fails(stage: Stage) -> None:
    """The memory of a page fails that parent and child map and that has its place in swap already."""
    pid, address = stage.written()
    stage.do("fork", pid)
    stage.drain()
    stage.do("evict", stage.page(pid, address))
    stage.expect(pid, address, 7)
    stage.do("fail_memory", pid, address)
    stage.quiet()
