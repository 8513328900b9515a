"""Nonlinear areas: a page may be anywhere in them, so they are scanned cluster by cluster, round and round.

The scan goes by clusters that are aligned in the address space, and the cursor counts them from the cluster in which
the area begins. (3.2 counts from `vm_start`, and never visits the end of an area that begins inside of a cluster.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.bug import bug_on
from mmreference.kernel.scheduler import touched
from mmreference.mm.mlock import mlock_vma_page
from mmreference.mm.mm_struct import Vma, add_mm_counter, linear_page_index, update_hiwater_rss
from mmreference.mm.page import Page, PageAnon, page_mapcount, page_mapped, put_page
from mmreference.mm.pagetable import (
    FileEntry,
    Present,
    entry_under_lock,
    flush_cache_page,
    pmd_index,
    pte_lockptr,
    ptep_clear_flush_notify,
    ptep_clear_flush_young_notify,
    set_pte_at,
)
from mmreference.mm.rmap.mapcount import page_remove_rmap
from mmreference.mm.writeback import set_page_dirty
from mmspec.contracts import operation
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_MLOCK, SwapResult
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace


@attrs.define
class Budget:
    """How many mappings the scan still wants to find, by the count when it began."""

    mapcount: int


def scan_size(vma: Vma) -> int:
    """Bytes of the clusters that the area reaches into."""
    size = vma.mm.system.cluster_size
    return -(-vma.vm_end // size) * size - vma.vm_start // size * size


@operation()
async def try_to_unmap_cluster(cursor: int, budget: Budget, vma: Vma, check_page: Page) -> SwapResult:
    """Unmap what is idle in one cluster (`cursor` in bytes, a multiple of the cluster size) of a nonlinear area.

    In an area that is locked in memory pages are marked instead; SWAP_MLOCK if `check_page` was among them. Where
    `mmap_sem` cannot be had at once, a locked area is left alone (3.2 unmaps it then).
    """
    mm, system = vma.mm, vma.mm.system
    size = system.cluster_size
    start = max(vma.vm_start // size * size + cursor, vma.vm_start)
    end = min((start // size + 1) * size, vma.vm_end)
    note(window=(start, end), wanted=budget.mapcount)
    vpns = range(start // system.page_size, end // system.page_size)
    if pmd_index(mm, vpns[0]) not in mm.tables:
        note(level_absent=True)
        return SWAP_AGAIN
    result: SwapResult = SWAP_AGAIN
    may_mark = mm.mmap_sem.trylock(shared=True)
    emit("mmap_sem_trylock", mm=mm, got=may_mark)
    locked_vma = vma.locked
    note(locked_vma=locked_vma, may_mark=may_mark)
    if not may_mark and locked_vma:
        return SWAP_AGAIN
    async with pte_lockptr(mm, vpns[0]):
        update_hiwater_rss(mm)
        for vpn in vpns:
            entry = entry_under_lock(mm, vpn)
            if not isinstance(entry, Present):
                continue
            page = entry.page
            bug_on(PageAnon(page), f"{page.name} in a nonlinear area is anonymous", "NLIN-CLUSTER-003")
            if locked_vma:
                if page is check_page:
                    await mlock_vma_page(page, vma)
                    result = SWAP_MLOCK
                elif page.lock.trylock():
                    # Marking needs the page lock; one that is not to be had is somebody else's to deal with.
                    await mlock_vma_page(page, vma)
                    page.lock.unlock()
                continue
            if await ptep_clear_flush_young_notify(vma, vpn):
                continue
            await _remove(vma, vpn, page)
            budget.mapcount -= 1
    if may_mark:
        mm.mmap_sem.up_read()
    return result


async def _remove(vma: Vma, vpn: int, page: Page) -> None:
    mm = vma.mm
    flush_cache_page(vma, vpn)
    cleared = await ptep_clear_flush_notify(vma, vpn)
    assert isinstance(cleared, Present)
    # Elsewhere than linear, the entry has to remember which page belongs here.
    if page.index != linear_page_index(vma, vpn * mm.system.page_size):
        await set_pte_at(mm, vma, vpn, FileEntry(page.index))
    if cleared.dirty:
        await set_page_dirty(page)
    await page_remove_rmap(page)
    await put_page(page)
    emit("dec_rss", mm=mm, field="rss_file")
    touched((mm.name, "rss_file"))
    add_mm_counter(mm, "rss_file", -1)


@operation()
async def try_to_unmap_nonlinear(page: Page, mapping: AddressSpace, flags: int) -> SwapResult:
    """The second half of try_to_unmap_file: scan the nonlinear areas of the file, with `i_mmap_mutex` held.

    The effort is that of the page's map count, whichever pages are unmapped; the areas' cursors remember where to go on.
    """
    size = page.system.cluster_size
    areas = list(mapping.i_mmap_nonlinear)
    max_size = max(scan_size(v) for v in areas)
    first = max(v.vm_private_data for v in areas)
    note(max_nl_size=max_size, areas=areas, cursors=[v.vm_private_data for v in areas])
    if max_size == 0:
        return SWAP_FAIL
    budget = Budget(page_mapcount(page))
    note(sampled=budget.mapcount)
    if budget.mapcount == 0:
        return SWAP_AGAIN
    rounds = 0
    cursor = first or size
    while cursor <= max_size:
        rounds += 1
        note(rounds=rounds)
        for vma in areas:
            while vma.vm_private_data < min(cursor, scan_size(vma)):
                emit("cluster", vma=vma, cursor=vma.vm_private_data)
                if await try_to_unmap_cluster(vma.vm_private_data, budget, vma, page) is SWAP_MLOCK:
                    return SWAP_MLOCK
                vma.vm_private_data += size
                if budget.mapcount <= 0:
                    return SWAP_AGAIN
                if not page_mapped(page):
                    return SWAP_AGAIN
        cursor += size
    # All have been round once; the next call begins anew.
    for vma in areas:
        vma.vm_private_data = 0
    return SWAP_AGAIN
