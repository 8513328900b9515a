"""Hugetlb pages of private areas."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.anon_vma import page_get_anon_vma, unpin_anon_vma
from mmreference.mm.hugetlb_anon import huge_pte_alloc
from mmreference.mm.migrate import remove_migration_ptes, unmap_and_move
from mmreference.mm.page import Page, get_page, page_anon_vma, put_page
from mmreference.mm.pagetable import Present, set_pte_at
from mmreference.mm.rmap.address import page_check_address
from mmreference.mm.rmap.mapcount import hugepage_add_anon_rmap
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_MIGRATION, try_to_unmap

HUGETLB = conditions(features=("HUGETLB_PAGE",))


def _huge(stage: Stage) -> tuple[int, int]:
    """A process with two hugetlb pages, the first one written: pid and address."""
    pid = stage.spawn()
    address = stage.do("mmap", pid, 2 << stage.system.huge_page_order, huge=True)
    stage.do("write", pid, address, 5)
    return pid, address


@HUGETLB
def hugetlb_page_is_written_after_fork(stage: Stage) -> None:
    """After fork the parent writes to a hugetlb page through what its CPU remembers; the child sees what was there."""
    pid, address = _huge(stage)
    child = stage.do("fork", pid)
    stage.do("write", pid, address, 7)
    stage.expect(child, address, 5)
    stage.do("write", child, address, 6)
    stage.expect(pid, address, 7)
    grandchild = stage.do("fork", child)
    stage.do("exit", child)
    stage.expect(grandchild, address, 6)
    stage.do("munmap", pid, address, 2 << stage.system.huge_page_order)
    stage.quiet()


@HUGETLB
def hugetlb_page_in_an_area_without_tables(stage: Stage) -> None:
    """A hugetlb page is looked for in an area that has no tables yet."""
    pid, address = _huge(stage)
    other = stage.spawn()
    there = stage.do("mmap", other, 1 << stage.system.huge_page_order, huge=True)
    found = stage.run(page_check_address(stage.page(pid, address), stage.mm(other), there))
    stage.demand("LAT-006", found is None, found=found)


@HUGETLB
def hugetlb_page_that_others_may_share(stage: Stage) -> None:
    """A child is the first to map a hugetlb page that others may come to share."""
    pid, address = _huge(stage)
    child = stage.do("fork", pid)
    there = address + (stage.page_size << stage.system.huge_page_order)
    vma, mm, vpn = stage.area(child, there), stage.mm(child), there // stage.page_size

    async def map_shared() -> Page:
        page = await stage.system.alloc_pages(stage.system.huge_page_order, "hugetlb page", huge=True)
        assert isinstance(page, Page)
        page.PG_uptodate = True
        await huge_pte_alloc(mm, vpn)
        await page.lock.lock()
        async with mm.page_table_lock:
            await hugepage_add_anon_rmap(page, vma, there)
            await set_pte_at(mm, vma, vpn, Present(page, write=False, young=True, dirty=False), "huge")
        page.lock.unlock()
        return page

    page = stage.run(map_shared())
    stage.quiet()
    stage.demand("HTLB-001", page_anon_vma(page) is stage.area(pid, address).anon_vma, page=page, owner=page_anon_vma(page))
    stage.expect(child, there, 0)


@conditions(features=("HUGETLB_PAGE", "MIGRATION"))
def hugetlb_page_is_moved(stage: Stage) -> None:
    """A hugetlb page that a child was the last to map is unmapped and mapped again; then it is moved to another frame."""
    pid, address = _huge(stage)
    child = stage.do("fork", pid)
    stage.with_page(stage.page(child, address), _unmap_and_restore)
    stage.expect(child, address, 5)
    grandchild = stage.do("fork", child)
    stage.do("write", pid, address, 6)
    stage.do("write", child, address, 7)
    stage.with_page(stage.page(grandchild, address), _unmap_and_restore)

    async def move() -> None:
        page = stage.page(child, address)
        new = await stage.system.alloc_pages(page.order, "hugetlb page", huge=True)
        assert isinstance(new, Page)
        get_page(page)
        await unmap_and_move(page, new, force=True)
        await put_page(page)
        await put_page(new)

    stage.run(move())
    for each, value in ((pid, 6), (child, 7), (grandchild, 5)):
        stage.expect(each, address, value)


async def _unmap_and_restore(page: Page) -> None:
    """What a migration does that comes to nothing."""
    pinned = await page_get_anon_vma(page)
    assert pinned is not None
    page.migrating = True
    await try_to_unmap(page, TTU_MIGRATION | TTU_IGNORE_ACCESS)
    await remove_migration_ptes(page, page)
    page.migrating = False
    await unpin_anon_vma(pinned)


@conditions(features=("HUGETLB_PAGE", "MEMORY_FAILURE"))
def hugetlb_page_fails(stage: Stage) -> None:
    """The memory of a hugetlb page fails that parent and child map."""
    pid, address = _huge(stage)
    child = stage.do("fork", pid)
    stage.do("fail_memory", pid, address)
    stage.quiet()
    for each in (pid, child):
        stage.demand("HWP-001", stage.kind(each, address) == "hwpoison", kind=stage.kind(each, address))
        stage.expect_signal(each, address)
