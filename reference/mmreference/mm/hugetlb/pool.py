"""The pool of huge pages (`struct hstate`), and how pages leave it and come back.

All counters are protected by `hugetlb_lock`. `gen` counts whatever makes an earlier look at the pool stale: each page
that was settled or returned. A fault that finds the pool empty tells a true shortage from a lost race by it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from mmreference.kernel.lockdep import LockOrder
from mmreference.kernel.locks import SpinLock
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import Access, current_task, may_fail, touched
from mmreference.mm.hugetlb.ledger import Ledger
from mmreference.mm.hugetlb.page import Page, own_page, page_tentative, set_page_tentative
from mmreference.mm.hugetlb.quota import hugetlb_put_quota, quota_settled
from mmreference.mm.hugetlb.resv_map import reservations_of, reserved_at, vma_commit_reservation
from mmspec.config import TENTATIVE
from mmspec.contracts import operation
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VmFault
from mmspec.invariant import Over
from mmspec.invariants.hugetlb.views import free_view, tag_view
from mmspec.state import PoolCounters
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.system import System
    from mmreference.mm.hugetlb.vma import Vma

COUNTERS = ("nr_huge_pages", "free_huge_pages", "resv_huge_pages", "surplus_huge_pages", "tentative_huge_pages")


@watched(*COUNTERS, "gen")
class HugePagePool(KernelObject):
    """`struct hstate`; all counters are in huge pages."""

    over = Over.POOL

    def __init__(self, system: System, nodes: int, overcommit: int, order: LockOrder) -> None:
        super().__init__("hstate")
        self.system = system
        self.order = order
        self.nr_huge_pages = 0
        self.free_huge_pages = 0
        self.resv_huge_pages = 0
        self.surplus_huge_pages = 0
        self.tentative_huge_pages = 0
        self.gen = 0
        self.nr_overcommit_huge_pages = overcommit
        self.hugetlb_lock = SpinLock("hugetlb_lock", self, order, "hugetlb_lock")
        self.hugepage_freelists: dict[int, list[Page]] = {n: [] for n in range(nodes)}
        self.free_huge_pages_node = dict.fromkeys(range(nodes), 0)
        self.surplus_huge_pages_node = dict.fromkeys(range(nodes), 0)
        """Surplus pages that are there; the total also counts those that are being allocated."""
        # Ghosts.
        self.books = Ledger()
        self.inflight: dict[Page, str] = {}
        """Pages whose fate is open, and which thread decides it."""
        self.all_pages: dict[Page, None] = {}
        self.be_born()

    def counters(self) -> PoolCounters:
        """All counters as they are now."""
        return PoolCounters(
            self.nr_huge_pages,
            self.free_huge_pages,
            self.resv_huge_pages,
            self.surplus_huge_pages,
            self.tentative_huge_pages,
        )

    def reserve_tagged_in_flight(self) -> int:
        """Pages in flight that were drawn from the reserve and are in no page cache yet."""
        return sum(1 for page in self.inflight if page.drawn_from is not None and page.mapping is None)

    def ledger(self) -> str:
        """The books, line by line."""
        lines = [f"  {name}: {amount}" for name, amount in self.books.held().items() if amount]
        lines.append(f"  in transit: {self.books.in_transit}")
        lines.append(f"  promised in all: {self.books.total()}")
        lines.append(f"  resv_huge_pages: {self.resv_huge_pages}")
        lines.append(f"  drawn and in flight: {self.reserve_tagged_in_flight()}")
        return "\n".join(lines)

    @property
    def counts_in_flight(self) -> bool:
        """Whether this pool keeps `tentative_huge_pages`."""
        return self.system.variant == TENTATIVE


# -- free lists, under hugetlb_lock ------------------------------------------------------------------------------------


def enqueue_huge_page(h: HugePagePool, page: Page) -> None:
    """Put a page with no reference on the free list of its node."""
    h.hugepage_freelists[page.node].append(page)
    h.free_huge_pages += 1
    h.free_huge_pages_node[page.node] += 1
    page.where = "pool"
    emit("enqueue", page=page, pool=h)


@operation()
def dequeue_huge_page(h: HugePagePool, vma: Vma | None = None) -> Page | None:
    """Take a page from the first free list that memory policy and cpuset of the VMA's process permit."""
    allowed = vma.mm.allowed_nodes if vma is not None else tuple(h.hugepage_freelists)
    note(allowed_nodes=allowed)
    node = next((n for n in allowed if h.hugepage_freelists[n]), None)
    if node is None:
        return None
    return _take_free_page(h, node)


def _take_free_page(h: HugePagePool, node: int) -> Page:
    page = h.hugepage_freelists[node].pop()
    h.free_huge_pages -= 1
    h.free_huge_pages_node[node] -= 1
    emit("dequeue", page=page, pool=h)
    return page


def update_and_free_page(h: HugePagePool, page: Page) -> None:
    """A page that is on no list goes back to the buddy allocator."""
    h.nr_huge_pages -= 1
    page.compound = False
    page.dtor = None
    page.where = "buddy"
    h.all_pages.pop(page, None)
    emit("buddy_free", page=page)


async def alloc_fresh_huge_page(h: HugePagePool, node: int) -> Page | None:
    """A page from the buddy allocator; the caller adds it to `nr_huge_pages`."""
    if await may_fail("buddy huge page"):
        return None
    page = Page(h.system.new_name("page"), h, node)
    page.prep_compound_page()
    return page


# -- the reserve -------------------------------------------------------------------------------------------------------


@operation()
async def hugetlb_acct_memory(h: HugePagePool, delta: int) -> int:
    """Promise `delta` more huge pages (0, or -ENOMEM and nothing changed), or take back `-delta` promises (0)."""
    await h.hugetlb_lock.lock()
    error = 0
    if delta > 0:
        error = await gather_surplus_pages(h, delta)
    if error == 0:
        h.resv_huge_pages += delta
        h.books.in_transit += delta
        emit("acct", pool=h, delta=delta)
        if delta < 0:
            return_unused_surplus_pages(h, -delta)
    h.hugetlb_lock.unlock()
    return error


async def gather_surplus_pages(h: HugePagePool, delta: int) -> int:
    """Make sure that `delta` more pages can be promised, if need be with surplus pages; 0 or -ENOMEM.

    Entered and left with `hugetlb_lock` held, which is dropped while pages are allocated; the free pages are counted
    anew afterwards, because others were at them meanwhile. The caller promises in the same section.
    """
    gathered: list[Page] = []
    failed = False
    while True:
        needed = h.resv_huge_pages + delta - h.free_huge_pages - len(gathered)
        if needed <= 0 or failed:
            break
        h.hugetlb_lock.unlock()
        fresh: list[Page] = []
        while len(fresh) < needed:
            page = await alloc_buddy_huge_page(h, None)
            if page is None:
                failed = True
                break
            fresh.append(page)
        gathered += fresh
        await h.hugetlb_lock.lock()
    # What was freed meanwhile counts, so a failure to allocate is not yet a shortage.
    short = needed > 0
    spare = len(gathered) if short else min(len(gathered), -needed)
    for page in gathered[: len(gathered) - spare]:
        enqueue_huge_page(h, page)
    for page in gathered[len(gathered) - spare :]:
        _free_or_enqueue(h, page)
    return -errno.ENOMEM if short else 0


def return_unused_surplus_pages(h: HugePagePool, unused: int) -> None:
    """`unused` promises are gone; give as many surplus pages back to the buddy allocator. Under `hugetlb_lock`."""
    for _ in range(unused):
        node = next((n for n, pages in h.hugepage_freelists.items() if pages and h.surplus_huge_pages_node[n]), None)
        if node is None:
            break
        _less_surplus(h, node)
        update_and_free_page(h, _take_free_page(h, node))


def _free_or_enqueue(h: HugePagePool, page: Page) -> None:
    """Any page that comes free is the surplus one, as long as there is one to give back. Under `hugetlb_lock`."""
    if h.surplus_huge_pages_node[page.node] > 0:
        _less_surplus(h, page.node)
        update_and_free_page(h, page)
    else:
        enqueue_huge_page(h, page)


def _less_surplus(h: HugePagePool, node: int) -> None:
    h.surplus_huge_pages -= 1
    h.surplus_huge_pages_node[node] -= 1


async def alloc_buddy_huge_page(h: HugePagePool, vma: Vma | None) -> Page | None:
    """A surplus page, if overcommit allows one more; it belongs to the pool, but is on no list."""
    async with h.hugetlb_lock:
        if h.surplus_huge_pages >= h.nr_overcommit_huge_pages:
            return None
        # Counted before it is there, so that racers together stay within the limit.
        h.nr_huge_pages += 1
        h.surplus_huge_pages += 1
    node = vma.mm.allowed_nodes[0] if vma is not None else 0
    page = await alloc_fresh_huge_page(h, node)
    if page is None:
        async with h.hugetlb_lock:
            h.nr_huge_pages -= 1
            h.surplus_huge_pages -= 1
        return None
    async with h.hugetlb_lock:
        h.surplus_huge_pages_node[node] += 1
    h.all_pages[page] = None
    page.where = "gathered"
    return page


# -- a page for a fault ------------------------------------------------------------------------------------------------


async def sample_generation(h: HugePagePool) -> int:
    """What `gen` is before the fault looks at its slot; read without a lock."""
    await Access((h.name, "gen"), "read pool generation")
    return h.gen


def shortage(h: HugePagePool, seen_gen: int) -> int:
    """Why there is no page, under `hugetlb_lock`: -EAGAIN if the fault's look at its slot may be stale, else -ENOMEM.

    It may be stale while some page is in flight, and when one was settled or returned since the fault looked.
    """
    emit("tentative_read", pool=h)
    if h.counts_in_flight and (h.tentative_huge_pages > 0 or h.gen != seen_gen):
        return -errno.EAGAIN
    return -errno.ENOMEM


@operation()
async def alloc_huge_page(vma: Vma, idx: int, charge: int, seen_gen: int) -> Page | int:
    """A page for the offset `idx` of the VMA, with one reference, in flight; or -EAGAIN, or -ENOMEM.

    `charge` is what the prepare step said: 0 promises that a reservation was outstanding then. `seen_gen` is the
    pool's generation before the fault looked at its slot.
    """
    h = vma.pool
    resv_map = reservations_of(vma)
    if resv_map is None:
        result = await _draw_page(h, vma, idx, charge, seen_gen)
    else:
        # Whether the offset is reserved must not change between the test and the draw.
        async with resv_map.lock.read():
            result = await _draw_page(h, vma, idx, charge, seen_gen)
    if isinstance(result, int):
        if result == -errno.EAGAIN or h.nr_overcommit_huge_pages == 0:
            return result
        surplus = await alloc_buddy_huge_page(h, vma)
        if surplus is None:
            return result
        async with h.hugetlb_lock:
            _in_flight(h, surplus, 1)
        result = surplus
    result._count = 1
    result.temp_refs = 1
    result.private = vma.vm_file.sb
    result.unsettled_block = result.drawn_from is None
    own_page(result)
    return result


async def _draw_page(h: HugePagePool, vma: Vma, idx: int, charge: int, seen_gen: int) -> Page | int:
    """The one critical section of an allocation: test, draw, dequeue, count, tag."""
    async with h.hugetlb_lock:
        backed = reserved_at(vma, idx)
        note(backed=backed, at_test=h.counters(), gen_at_test=h.gen, **_slot(vma, idx))
        emit("availability_test", pool=h, vma=vma, idx=idx, backed=backed)
        if not backed and charge == 0:
            # The reservation was there at the prepare step: somebody is filling the very slot, or has filled it.
            emit("tentative_read", pool=h)
            note(slot_taken=True)
            return -errno.EAGAIN
        if not backed and h.free_huge_pages <= h.resv_huge_pages:
            return shortage(h, seen_gen)
        page = dequeue_huge_page(h, vma)
        if page is None:
            # The counters promise a page, but policy forbids every node that has one.
            note(policy_refused=True)
            return shortage(h, seen_gen)
        if backed:
            draw_reservation(h, vma, idx, page)
        _in_flight(h, page, 2 if backed else 1)
        return page


def _slot(vma: Vma, idx: int) -> dict[str, Any]:
    """Ghost: whether the place for the page is taken at this instant, and by how many the page there is shared."""
    entry = vma.mm.ptes.get(vma.address(idx) // vma.huge_page_size)
    return {
        "slot_filled": idx in vma.vm_file.pages if vma.is_shared else entry is not None,
        "sharers": entry.page._count if entry is not None else 0,
    }


def draw_reservation(h: HugePagePool, vma: Vma, idx: int, page: Page) -> None:
    """The page is the one that was promised for `idx`; under `hugetlb_lock`, and the map's lock for read."""
    resv_map = reservations_of(vma)
    assert resv_map is not None
    emit("draw", pool=h, page=page, vma=vma, idx=idx, map=resv_map)
    h.resv_huge_pages -= 1
    resv_map.drawn[idx] = page
    page.drawn_from = (resv_map, idx)


def _in_flight(h: HugePagePool, page: Page, tag: int) -> None:
    page.where = "inflight"
    h.inflight[page] = current_task().name
    if h.counts_in_flight:
        h.tentative_huge_pages += 1
    set_page_tentative(page, tag)


def _landed(h: HugePagePool, page: Page) -> None:
    """The fate of the page is decided; under `hugetlb_lock`."""
    h.gen += 1
    touched((h.name, "gen"))
    if h.counts_in_flight:
        h.tentative_huge_pages -= 1
    set_page_tentative(page, 0)
    h.inflight.pop(page, None)


@operation(view=tag_view)
async def keep_huge_page(page: Page, vma: Vma, idx: int) -> None:
    """Settle: the page is where others can find it, so it is no longer in flight and its reservation is consumed.

    On a page that is settled already this changes nothing.
    """
    resv_map = reservations_of(vma)
    if resv_map is None or (vma.is_shared and page.drawn_from is not None):
        # A file's map covers what was reserved already.
        await _settle(page, vma, idx)
    else:
        async with resv_map.lock:
            await _settle(page, vma, idx)


async def _settle(page: Page, vma: Vma, idx: int) -> None:
    h = page.pool
    async with h.hugetlb_lock:
        tag = page_tentative(page)
        if not tag:
            return
        if page.drawn_from is not None:
            resv_map, offset = page.drawn_from
            del resv_map.drawn[offset]
        if (page.drawn_from is not None) != vma.is_shared:
            vma_commit_reservation(vma, idx)
        page.drawn_from = None
        _landed(h, page)
        page.where = "kept"
        emit("settle", page=page, tag=tag)
    if page.unsettled_block:
        page.unsettled_block = False
        await quota_settled(vma.vm_file.sb)


@operation(view=free_view)
async def free_huge_page(page: Page) -> None:
    """The destructor: a page with no reference goes back to where it came from.

    A page in flight that was drawn from the reserve goes back to the reserve, and its offset counts as reserved again.
    """
    h = page.pool
    async with h.hugetlb_lock:
        tag = page_tentative(page)
        note(tag=tag, was_charged=page.private is not None)
        drawn = page.drawn_from
        if drawn is not None:
            restore_reservation(h, page)
        if tag:
            _landed(h, page)
            emit("pool_return", page=page, tag=tag)
        page.mapping = None
        sb, page.private = page.private, None
        unsettled, page.unsettled_block = page.unsettled_block, False
        if drawn is None:
            _free_or_enqueue(h, page)
        else:
            enqueue_huge_page(h, page)
    # The block of a page that returns to its reservation stays with the reservation.
    if sb is not None and drawn is None:
        await hugetlb_put_quota(sb, 1, in_flight=unsettled)


def restore_reservation(h: HugePagePool, page: Page) -> None:
    """The page was drawn for an offset that did not get it; under `hugetlb_lock`."""
    assert page.drawn_from is not None
    resv_map, offset = page.drawn_from
    emit("restore", pool=h, page=page, map=resv_map, idx=offset)
    h.resv_huge_pages += 1
    del resv_map.drawn[offset]
    page.drawn_from = None


def fault_result(error: int) -> VmFault:
    """What a fault answers when the allocation fails: repeat on -EAGAIN, out of memory otherwise."""
    return VM_FAULT_MINOR if error == -errno.EAGAIN else VM_FAULT_OOM


# -- what can be read ---------------------------------------------------------------------------------------------------


@operation()
async def hugetlb_report_meminfo(h: HugePagePool) -> PoolCounters:
    """What `/proc/meminfo` shows: each counter is read without the lock, one after the other."""
    values = []
    for name in COUNTERS[:4]:
        await Access((h.name, "counters"), f"read {name}")
        values.append(getattr(h, name))
    return PoolCounters(*values)


# -- the size of the pool ----------------------------------------------------------------------------------------------


@operation()
async def set_max_huge_pages(h: HugePagePool, count: int) -> int:
    """Ask for `count` persistent pages; the number of pages that the pool owns afterwards."""
    await _grow(h, count)
    async with h.hugetlb_lock:
        # Reserved pages and those in use stay.
        floor = max(count, h.resv_huge_pages + h.nr_huge_pages - h.free_huge_pages)
        while persistent_huge_pages(h) > floor:
            node = next((n for n, pages in h.hugepage_freelists.items() if pages), None)
            if node is None:
                break
            update_and_free_page(h, _take_free_page(h, node))
        # What cannot go now goes as soon as a page is freed.
        excess = persistent_huge_pages(h) - count
        for page in list(h.all_pages)[: max(0, excess)]:
            h.surplus_huge_pages += 1
            h.surplus_huge_pages_node[page.node] += 1
        return h.nr_huge_pages


def persistent_huge_pages(h: HugePagePool) -> int:
    """Pages of the pool that are not surplus."""
    return h.nr_huge_pages - h.surplus_huge_pages


async def _grow(h: HugePagePool, count: int) -> None:
    await h.hugetlb_lock.lock()
    # Surplus pages become persistent before any new one is asked for.
    for node in h.surplus_huge_pages_node:
        while h.surplus_huge_pages_node[node] and persistent_huge_pages(h) < count:
            _less_surplus(h, node)
    while persistent_huge_pages(h) < count:
        node = h.nr_huge_pages % len(h.hugepage_freelists)
        h.hugetlb_lock.unlock()
        page = await alloc_fresh_huge_page(h, node)
        if page is not None:
            async with h.hugetlb_lock:
                h.nr_huge_pages += 1
                h.all_pages[page] = None
            await free_huge_page(page)
        await h.hugetlb_lock.lock()
        if page is None:
            break
    h.hugetlb_lock.unlock()
