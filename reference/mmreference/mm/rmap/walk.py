"""rmap_walk: call a function for every place where a page may be mapped, whether it is mapped or not."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable

from mmreference.kernel.bug import bug_on
from mmreference.mm.mm_struct import Vma
from mmreference.mm.page import Page, PageAnon, PageKsm, page_anon_vma
from mmreference.mm.rmap.address import vma_address
from mmspec.contracts import operation
from mmspec.errors import SWAP_AGAIN, SwapResult
from mmspec.trace import emit, note

Visitor = Callable[[Page, Vma, int], Awaitable[SwapResult]]
"""Gets the page, the area and the address in bytes; anything but SWAP_AGAIN ends the walk."""


async def _visit_all(page: Page, vmas: Iterable[Vma], visitor: Visitor) -> SwapResult:
    result: SwapResult = SWAP_AGAIN
    for vma in vmas:
        address = vma_address(page, vma)
        if address == -errno.EFAULT:
            continue
        emit("walk_call", page=page, vma=vma, address=address)
        result = await visitor(page, vma, address)
        emit("walk_result", result=result)
        if result is not SWAP_AGAIN:
            break
    return result


@operation()
async def rmap_walk_anon(page: Page, visitor: Visitor) -> SwapResult:
    """Walk the areas of the anon_vma that `mapping` names; the caller keeps it alive, for the page is not mapped now."""
    anon_vma = page_anon_vma(page)
    note(owner=anon_vma, stable=anon_vma is not None and anon_vma.allocated)
    if anon_vma is None:
        return SWAP_AGAIN
    emit("lock_root", root=anon_vma.root)
    async with anon_vma.root.mutex:
        return await _visit_all(page, anon_vma.list, visitor)


@operation()
async def rmap_walk_file(page: Page, visitor: Visitor) -> SwapResult:
    """Walk the linear areas of the page's file. There are no migration entries in nonlinear ones."""
    note(owner=page.mapping)
    if page.mapping is None:
        return SWAP_AGAIN
    mapping = page.mapping.pointer
    async with mapping.i_mmap_mutex:
        return await _visit_all(page, mapping.prio_tree(page.index), visitor)


@operation()
async def rmap_walk(page: Page, visitor: Visitor) -> SwapResult:
    """Call `visitor` for each place where the locked page may be mapped; what the last call said, or SWAP_AGAIN."""
    from mmreference.mm.ksm import rmap_walk_ksm

    bug_on(not page.locked, f"{page.name} is not locked", "MIGR-WALK-001")
    note(walker="ksm" if PageKsm(page) else "anon" if PageAnon(page) else "file")
    if PageKsm(page):
        return await rmap_walk_ksm(page, visitor)
    if PageAnon(page):
        return await rmap_walk_anon(page, visitor)
    return await rmap_walk_file(page, visitor)
