"""Secondary MMUs that follow the page tables."""

from __future__ import annotations

import errno

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.memory import zap_page_range

MMU = conditions(features=("MMU_NOTIFIER",))


def _attached(stage: Stage, pages: int = 2) -> tuple[int, int]:
    """A process with a secondary MMU, which has translations for its written pages: pid and address."""
    pid, address = stage.written(pages)
    stage.do("attach_mmu", pid)
    for number in range(pages):
        stage.do("secondary_access", pid, address + number * stage.page_size, write=True)
    return pid, address


@MMU
def secondary_mmu_comes_and_goes(stage: Stage) -> None:
    """A secondary MMU is attached, with a signal pending and without memory first, uses pages of all kinds, and is gone."""
    pid, address = stage.written(2)
    file = stage.machine.create_file(2)
    shared = stage.do("mmap", pid, 2, file=file, shared=True)
    stage.do("mmap", pid, 2, file=file, shared=True)
    for what, error in (("signal pending", -errno.EINTR), ("mmu_notifier_mm", -errno.ENOMEM)):
        with stage.without(what):
            refused = stage.do("attach_mmu", pid)
        stage.demand("MMUN-008", refused == error, result=refused)
    stage.do("attach_mmu", pid)
    for where in (address, shared):
        stage.do("secondary_access", pid, where, write=True)
    stage.do("secondary_access", pid, address + stage.page_size, write=False)
    stage.do("writeback", file)
    stage.do("secondary_access", pid, shared, write=False)
    stage.do("detach_mmu", pid)
    stage.quiet()


@conditions(features=("MMU_NOTIFIER", "SWAP"))
def pages_in_secondary_use(stage: Stage) -> None:
    """Pages that a secondary MMU uses are asked for, reclaimed, copied for a child, and come back."""
    pid, address = _attached(stage)
    stage.drain()
    stage.idle(pid, address)
    stage.reclaim(pid, address)
    stage.quiet()
    stage.do("secondary_access", pid, address, write=False)
    stage.expect(pid, address, 7)
    stage.do("fork", pid)
    stage.do("secondary_access", pid, address, write=False)
    stage.do("write", pid, address, 9)
    stage.quiet()
    stage.do("secondary_access", pid, address, write=True)
    stage.do("munmap", pid, address, 1)


@MMU
def secondary_fault_in_a_vanishing_range(stage: Stage) -> None:
    """A secondary MMU wants a page while it is unmapped, and while madvise throws it away, which lets faults go on."""
    pid, address = _attached(stage, 3)
    machine = stage.machine
    wants = lambda: machine.secondary_access(pid, address, write=False)  # noqa: E731
    stage.meanwhile("notifier_range_start", machine.munmap(pid, address, 1), wants())
    stage.quiet()
    vma = stage.area(pid, address + stage.page_size)

    async def throw_away() -> None:
        async with vma.mm.mmap_sem.read():
            await zap_page_range(vma, address + stage.page_size, address + 2 * stage.page_size)

    again = machine.secondary_access(pid, address + stage.page_size, write=False)
    _, got = stage.meanwhile("notifier_range_start", throw_away(), again)
    stage.demand("MMUN-004", not got, got=got)


@MMU
def attached_while_pages_go(stage: Stage) -> None:
    """A secondary MMU is attached while madvise is throwing pages of the process away."""
    pid, address = stage.written(2)
    other, _ = stage.written()
    stage.do("attach_mmu", other)
    thrown = stage.machine.madvise(pid, address, 2, "dontneed")
    stage.meanwhile("ptep_clear", thrown, stage.machine.attach_mmu(pid))
    stage.do("secondary_access", pid, address, write=True)
    stage.quiet()


@conditions(features=("MMU_NOTIFIER", "TRANSPARENT_HUGEPAGE"))
def secondary_use_of_huge_pages(stage: Stage) -> None:
    """A secondary MMU uses parts of a trans-huge page, which is asked for, split, and collapsed again."""
    pid, address = _attached(stage, stage.system.hpage_pmd_nr)
    stage.idle(pid, address)
    stage.do("split", pid, address)
    stage.quiet()
    stage.do("secondary_access", pid, address, write=True)
    stage.do("collapse", pid, address)
    stage.quiet()
    stage.do("secondary_access", pid, address, write=True)
    stage.do("fork", pid)
    stage.quiet()
    stage.do("write", pid, address, 9)
    stage.quiet()
