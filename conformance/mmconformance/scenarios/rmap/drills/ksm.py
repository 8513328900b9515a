"""Pages with equal content that are merged."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.ksm import ksm_do_scan
from mmreference.mm.page import PAGE_MAPPING_FLAGS, Page, Tagged, put_page
from mmreference.mm.rmap.address import page_address_in_vma
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import try_to_munlock
from mmspec.errors import SWAP_FAIL

KSM = conditions(features=("KSM",))


def _merge(stage: Stage, *places: tuple[int, int, int]) -> None:
    """Let the scanner look at areas (pid, address, pages) until it has merged what it can."""
    for pid, address, pages in places:
        stage.do("madvise", pid, address, pages, "mergeable")
    for _ in range(2):
        stage.run(ksm_do_scan(stage.system))
    stage.quiet()


def _pair(stage: Stage) -> tuple[int, int, int, int]:
    """Two processes whose second and third pages are merged; the offsets differ: pid and address of each."""
    one, address = stage.written(2, value=5)
    two, there = stage.written(3, value=4)
    _merge(stage, (one, address, 2), (two, there, 3))
    return one, address, two, there


@KSM
def merged_across_processes(stage: Stage) -> None:
    """Pages of two processes are merged, asked for, moved, written, and unmerged; the scanner cleans up behind them."""
    one, address, two, there = _pair(stage)
    size = stage.page_size
    page = stage.page(one, address)
    stage.demand("KSM-007", page is stage.page(two, there + size), one=page, two=stage.page(two, there + size))
    page_address_in_vma(page, stage.area(one, address))
    for _ in range(2):
        stage.run(page_referenced(page, False))
    stage.with_page(page, page_referenced, False)
    child = stage.do("fork", one)
    stage.do("migrate", one, address)
    stage.do("write", one, address, 9)
    stage.expect(two, there + size, 5)
    stage.expect(child, address, 5)
    stage.do("madvise", two, there, 3, "unmergeable")
    stage.expect(two, there + 2 * size, 6)
    stage.do("exit", one)
    stage.run(ksm_do_scan(stage.system))


@conditions(features=("KSM", "SWAP"))
def merged_and_swapped(stage: Stage) -> None:
    """A merged page goes to swap; each process that reads it back gets its own, and so does swapoff."""
    one, address, two, there = _pair(stage)
    size = stage.page_size
    for _ in range(2):
        stage.reclaim(one, address)
        if stage.kind(one, address) == "present":
            stage.do("evict", stage.page(one, address))
        stage.quiet()
        stage.do("madvise", two, there, 3, "unmergeable")
        stage.expect(one, address, 5)
        stage.expect(two, there + size, 5)
    _merge(stage, (two, there, 3))
    for _ in range(3):
        stage.do("shrink")
    stage.do("write", two, there + size, 8)
    stage.do("swapoff")
    stage.expect(one, address, 5)
    stage.expect(two, there + size, 8)
    stage.expect(two, there + 2 * size, 6)


@KSM
def merged_and_locked(stage: Stage) -> None:
    """Two processes have locked what is merged; one unlocks its area, then the other."""
    one, address = stage.written(value=5)
    two, there = stage.written(value=5)
    for pid, where in ((one, address), (two, there)):
        stage.do("mlock", pid, where, 1)
    _merge(stage, (one, address, 1), (two, there, 1))
    page = stage.page(one, address)
    stage.demand("KSM-009", page.PG_mlocked and page is stage.page(two, there), page=page)
    stage.do("munlock", one, address, 1)
    stage.demand("MLOCK-013", page.PG_mlocked, page=page)
    stage.do("munlock", two, there, 1)
    stage.demand("MLOCK-008", not page.PG_mlocked, page=page)


@KSM
def munlock_of_a_page_on_its_way_into_the_tree(stage: Stage) -> None:
    """Who has locked a page is asked for a merged one that is not in the tree yet."""

    async def ask() -> object:
        page = await stage.system.alloc_page()
        assert isinstance(page, Page)
        await page.lock.lock()
        page.mapping = Tagged(None, PAGE_MAPPING_FLAGS)
        result = await try_to_munlock(page)
        page.mapping = None
        page.lock.unlock()
        await put_page(page)
        return result

    result = stage.run(ask())
    stage.demand("KSM-002", result is SWAP_FAIL, result=result)
