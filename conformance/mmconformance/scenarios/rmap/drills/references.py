"""Whether a page was used, and by whom."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.mm_struct import VM_LOCKED
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import TTU_UNMAP, try_to_unmap
from mmspec.errors import SWAP_FAIL


def use_of_pages(stage: Stage) -> None:
    """Reclaim asks three processes whether they have used a page; one has a copy of its own and locks that."""
    pid, address = stage.written()
    two, three = stage.do("fork", pid), stage.do("fork", pid)
    page = stage.hold(pid, address)
    stage.do("write", two, address, 9)
    stage.do("mlock", two, address, 1)
    stage.drain()
    stage.do("read", three, address)
    stage.run(page_referenced(stage.page(two, address), False))
    _, vm_flags = stage.run(page_referenced(page, False))
    stage.demand("RMAP-REF-009", not vm_flags & VM_LOCKED, page=page, vm_flags=vm_flags)
    stage.run(page_referenced(page, False))
    stage.do("read", three, address)
    stage.system.swap_token = stage.mm(three)
    stage.run(page_referenced(page, False))
    stage.do("madvise", three, address, 1, "sequential")
    stage.do("read", three, address)
    stage.run(page_referenced(page, False))
    stage.do("mlock", pid, address, 1)
    stage.do("read", pid, address)
    stage.run(page_referenced(page, False))


def use_of_files(stage: Stage) -> None:
    """Reclaim asks who has used a page of a file: of a locked one, of a locked area, of one that somebody reads in order."""
    _, ((one, address), (two, there)) = stage.mapped_file(1, count=2)
    stage.do("write", one, address, 5)
    stage.do("read", two, there)
    page = stage.page(one, address)
    asked = [stage.run(page_referenced(page, False)), stage.run(page_referenced(page, False))]
    stage.demand("RMAP-REF-006", asked[0][0] >= 2 and asked[1][0] == 0, asked=asked)
    busy = stage.with_page(page, page_referenced, False)
    stage.demand("RMAP-REF-003", busy == (1, 0), answer=busy)
    stage.with_page(page, page_referenced, True)
    stage.do("madvise", two, there, 1, "sequential")
    stage.do("read", two, there)
    stage.run(page_referenced(page, False))
    stage.do("mlock", two, there, 1)
    stage.do("read", two, there)
    _, vm_flags = stage.run(page_referenced(page, False))
    stage.demand("RMAP-REF-008", bool(vm_flags & VM_LOCKED), vm_flags=vm_flags)


@conditions(features=("CGROUP_MEM_RES_CTLR",))
def use_by_another_group(stage: Stage) -> None:
    """Reclaim for one control group asks for the use of a page that a process of another group has used as well."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    group = stage.mm(child).memcg = stage.system.new_memcg()
    page = stage.page(pid, address)
    stage.do("read", child, address)
    count, _ = stage.run(page_referenced(page, False, group))
    stage.demand("RMAP-REF-013", count == 1, count=count)
    stage.drain()
    if stage.system.swap is not None:
        stage.do("evict", page)
        stage.do("read", child, address)
        stage.expect(pid, address, 7)


def use_by_the_owner_of_the_swap_token(stage: Stage) -> None:
    """A process with the swap token is in the middle of a fault while reclaim asks for its page."""
    pid, address = stage.written()
    mm, page = stage.mm(pid), stage.page(pid, address)
    stage.run(page_referenced(page, False))

    async def ask() -> int:
        stage.system.swap_token = mm
        stage.system.current = {}
        async with mm.mmap_sem.write():
            count, _ = await page_referenced(page, False)
        stage.system.swap_token = None
        return int(count)

    count = stage.run(ask())
    stage.demand("RMAP-REF-010", count >= 1, count=count)


def use_of_what_goes(stage: Stage) -> None:
    """The only mapping of a page goes while reclaim asks whether it was used."""
    pid, address = stage.written()
    stage.drain()
    page = stage.hold(pid, address)
    stage.meanwhile("load_root", page_referenced(page, False), stage.machine.munmap(pid, address, 1))
    stage.expect_signal(pid, address)


def used_since_reclaim_asked(stage: Stage) -> None:
    """A page is used between reclaim's question and the attempt to unmap it."""
    _, ((pid, address),) = stage.mapped_file(1)
    stage.do("write", pid, address, 5)
    result = stage.with_page(stage.page(pid, address), try_to_unmap, TTU_UNMAP)
    stage.demand("RMAP-UNMAP-007", result is SWAP_FAIL, result=result)
    stage.expect(pid, address, 5)
