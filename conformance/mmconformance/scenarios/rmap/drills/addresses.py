"""Where an area would map a page, and whether it does."""

from __future__ import annotations

import errno

from mmconformance.scenarios.rmap.stage import Stage
from mmreference.mm.mm_struct import linear_page_index
from mmreference.mm.page import Page, get_page, put_page
from mmreference.mm.pagetable import pte_lockptr
from mmreference.mm.rmap.address import page_address_in_vma, page_mapped_in_vma, vma_address
from mmreference.mm.rmap.mapcount import do_page_add_anon_rmap, page_remove_rmap
from mmreference.mm.rmap.unmap import is_vma_temporary_stack


def addresses_of_pages(stage: Stage) -> None:
    """Where areas would map pages: inside, outside, of another file, of another tree, far away in a large file."""
    machine = stage.machine
    pid, address = stage.written(2)
    other, elsewhere = stage.written(1)
    file = machine.create_file((1 << 20) + 4)
    small = machine.create_file(2)
    mapped = stage.do("mmap", pid, 2, file=file, offset=1, shared=True)
    stage.do("read", pid, mapped)
    far = stage.do("mmap", other, 1, file=file, offset=(1 << 20) + 1, shared=True)
    stage.do("read", other, far)
    strange = stage.do("mmap", other, 1, file=small, shared=True)
    stage.do("read", other, strange)
    empty = stage.do("mmap", pid, 1)
    pages = [stage.page(*where) for where in ((pid, address), (other, elsewhere), (pid, mapped), (other, far), (other, strange))]
    for vma in stage.system.vmas:
        for page in pages:
            vma_address(page, vma)
            page_address_in_vma(page, vma)
            stage.run(page_mapped_in_vma(page, vma))
    assert machine.vma_at(pid, empty) is not None


def borders_of_areas(stage: Stage) -> None:
    """Areas are split, merged and moved; every page keeps the index that its area says."""
    pid, address = stage.written(6)
    size = stage.page_size
    stage.do("mprotect", pid, address + 2 * size, 2, write=False)
    stage.quiet()
    for number in range(6):
        stage.expect(pid, address + number * size, 7 + number)
    stage.do("mprotect", pid, address + 2 * size, 2, write=True)
    stage.quiet()
    stage.do("mremap", pid, address + size, 2, address + 64 * size)
    stage.quiet()
    stage.expect(pid, address + 64 * size, 8)
    stage.do("mremap", pid, address + 64 * size, 2, address + size)
    stage.quiet()
    stage.do("munmap", pid, address + 3 * size, 1)
    for number in (0, 1, 2, 4, 5):
        stage.expect(pid, address + number * size, 7 + number)
        page = stage.page(pid, address + number * size)
        stage.demand(
            "RMAP-ANON-006",
            page.index == linear_page_index(stage.machine.vma_at(pid, address + number * size), address + number * size),
            page=page, index=page.index,
        )  # fmt: skip


def areas_that_map_nothing(stage: Stage) -> None:
    """A page of a file is looked for in an area without page tables, in an anonymous one, and in one beyond a border."""
    _, ((one, address), (two, there)) = stage.mapped_file(4, count=2)
    stage.do("write", one, address, 5)
    page = stage.page(one, address)
    empty, later = stage.do("mmap", two, 1), stage.do("mmap", one, 1)
    answers = {
        "mapped": stage.run(page_mapped_in_vma(page, stage.area(two, there))),
        "where": page_address_in_vma(page, stage.area(two, there)),
        "anonymous": page_address_in_vma(page, stage.area(two, empty)),
    }
    right = {"mapped": 0, "where": there, "anonymous": -errno.EFAULT}
    stage.demand("RMAP-ADDR-006", answers == right, answers=answers, right=right)
    stage.do("write", one, later, 6)
    # Nobody has touched this area: it has no anon_vma.
    answer = page_address_in_vma(stage.page(one, later), stage.area(two, empty))
    stage.demand("RMAP-ADDR-006", answer == -errno.EFAULT, answer=answer)


def border_that_has_moved(stage: Stage) -> None:
    """A page is mapped through an area that ends before it by now, as a walk may do that came before the border moved."""
    pid, address = stage.written(2)
    there = address + stage.page_size
    stage.do("mprotect", pid, there, 1, write=False)
    page = stage.page(pid, there)

    async def map_again(page: Page) -> None:
        async with pte_lockptr(stage.mm(pid), there // stage.page_size):
            get_page(page)
            await do_page_add_anon_rmap(page, stage.area(pid, address), there, exclusive=False)
            await page_remove_rmap(page)
            await put_page(page)

    stage.with_page(page, map_again)
    stage.expect(pid, there, 8)


def stack_of_a_new_program(stage: Stage) -> None:
    """exec fills a stack, and moves it to its place; it is asked before and after whether it is doing so."""
    pid = stage.spawn()
    address = stage.do("stack", pid, 2)
    stage.do("write", pid, address, 5)
    asked = [is_vma_temporary_stack(stage.area(pid, address))]
    stage.do("exec_stack", pid, 4)
    there = address - 4 * stage.page_size
    asked.append(is_vma_temporary_stack(stage.area(pid, there)))
    stage.demand("MIGR-STACK-001", asked == [True, False], asked=asked)
    stage.expect(pid, there, 5)
