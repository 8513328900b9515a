"""LRU lists: adding through per-CPU batches, isolation, and the unevictable list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mmreference.kernel.bug import bug_on
from mmreference.kernel.scheduler import touched
from mmreference.mm.page import get_page, put_page
from mmreference.mm.tlb import Tlbs
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Vma
    from mmreference.mm.page import Page
    from mmreference.mm.system import System

#: Pages that a CPU collects before it takes the lock of the lists.
PAGEVEC_SIZE: Final = 14

UNEVICTABLE: Final = "unevictable"


def page_lru(page: Page) -> str:
    """The list that the page's flags select."""
    if page.PG_unevictable:
        return UNEVICTABLE
    return f"{'active' if page.PG_active else 'inactive'}_{'anon' if page.PG_swapbacked else 'file'}"


def page_evictable(page: Page, vma: Vma | None) -> bool:
    """Whether reclaim may take the page; `vma` is the area of a fault that brings it, if that is so."""
    from mmreference.mm.mlock import mlocked_vma_newpage

    return not page.PG_mlocked and not (vma is not None and mlocked_vma_newpage(vma, page))


async def lru_cache_add_lru(page: Page, lru: str) -> None:
    """Put the page on this CPU's way to the list; it gets there with a whole batch."""
    bug_on(page.PG_lru, f"{page.name} is added to the LRU twice")
    emit("lru_add", page=page, lru=lru)
    get_page(page)
    batch = page.system.pagevecs.setdefault(Tlbs.this_cpu(), [])
    batch.append((page, lru))
    if len(batch) >= PAGEVEC_SIZE:
        await lru_add_drain(page.system)


async def add_page_to_unevictable_list(page: Page) -> None:
    """Straight to the unevictable list: who munlocks later must find it there."""
    zone = page.system.zone
    emit("lru_add", page=page, lru=UNEVICTABLE)
    async with zone.lru_lock:
        page.PG_unevictable = True
        page.PG_active = False
        _add(page)


async def lru_add_drain(system: System, cpus: list[int] | None = None) -> None:
    """Move the pages of this CPU's batch (or of these CPUs') to their lists."""
    for cpu in cpus if cpus is not None else [Tlbs.this_cpu()]:
        batch, system.pagevecs[cpu] = system.pagevecs.get(cpu, []), []
        if not batch:
            continue
        async with system.zone.lru_lock:
            for page, lru in batch:
                if not page.PG_lru:
                    # It may have been marked on its way, when nobody could take it off a list (3.2 leaves that to reclaim).
                    touched((page.name, "PG_mlocked"), write=False)
                    page.PG_unevictable = lru == UNEVICTABLE or page.PG_mlocked
                    page.PG_active = lru.startswith("active") and not page.PG_unevictable
                    _add(page)
        for page, _ in batch:
            await put_page(page)


async def lru_add_drain_all(system: System) -> None:
    """Have all CPUs move their batches."""
    await lru_add_drain(system, list(system.pagevecs))


def _add(page: Page) -> None:
    lru = page_lru(page)
    page.PG_lru = True
    page.system.zone.lists[lru].append(page)
    page.lists.append(lru)


def _del(page: Page) -> None:
    lru = page.lists.pop()
    page.system.zone.lists[lru].remove(page)
    page.PG_lru = False


def lru_add_page_tail(head: Page, tail: Page) -> None:
    """A tail becomes a page of its own, beside its head; with `lru_lock` held."""
    tail.PG_unevictable = tail.PG_mlocked
    tail.PG_active = head.PG_active and not tail.PG_unevictable
    _add(tail)
    emit("lru_add_tail", page=tail, head=head)


async def isolate_lru_page(page: Page) -> bool:
    """Take the page off its list, with a reference for the caller; whether it was on one."""
    async with page.system.zone.lru_lock:
        if not page.PG_lru:
            return False
        get_page(page)
        _del(page)
        page.PG_active = False
        page.PG_unevictable = False
        page.isolated = True
        emit("isolate", page=page)
    return True


async def isolate_lru_page_by_frame(system: System, page: Page) -> bool:
    """As :func:`isolate_lru_page` for somebody who has no reference: nothing but the list keeps the page, as long as
    the lock is held."""
    zone = system.zone
    async with zone.lru_lock:
        if not any(page in pages for pages in zone.lists.values()):
            return False
        touched((page.name, "_count"))
        # Its last reference may have gone, and who dropped it waits for our lock.
        if page._count == 0:
            return False
        get_page(page)
        _del(page)
        page.PG_active = False
        page.PG_unevictable = False
        page.isolated = True
        emit("isolate", page=page)
    return True


async def putback_lru_page(page: Page) -> None:
    """Put an isolated page back to the list that it belongs to now, and drop the caller's reference."""
    page.isolated = False
    async with page.system.zone.lru_lock:
        page.PG_unevictable = not page_evictable(page, None)
        if page.PG_unevictable:
            page.PG_active = False
        _add(page)
        emit("putback", page=page, lru=page_lru(page))
    await put_page(page)


async def lru_del_free(page: Page) -> None:
    """A page that is being freed leaves its list."""
    if page.PG_lru:
        async with page.system.zone.lru_lock:
            _del(page)
            page.PG_unevictable = page.PG_active = False


async def activate_page(page: Page) -> None:
    """Move the page to the active list."""
    async with page.system.zone.lru_lock:
        if page.PG_lru and not page.PG_active and not page.PG_unevictable:
            _del(page)
            page.PG_active = True
            _add(page)


async def mark_page_accessed(page: Page) -> None:
    """The page was used through a mapping that is going away: one step up, from idle to referenced to active."""
    if not page.PG_active and not page.PG_unevictable and page.PG_referenced and page.PG_lru:
        await activate_page(page)
        page.PG_referenced = False
    elif not page.PG_referenced:
        page.PG_referenced = True
