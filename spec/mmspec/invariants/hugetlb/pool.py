"""HTLB-POOL: the pool's counters and free lists, and its size."""

from __future__ import annotations

from typing import Any

from mmspec.config import TENTATIVE
from mmspec.invariant import QUIESCENT, Over, postcondition, precondition, state_invariant, transition
from mmspec.invariants.hugetlb.terms import allocating, own_counters
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Event, Operation, Section


@state_invariant(
    "HTLB-POOL-001",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("H-decl", "H-free", "H-alloc"),
    fields=("hstate.free_huge_pages", "hstate.hugepage_freelists"),
    locks=("hugetlb_lock",),
    functions=("enqueue_huge_page", "dequeue_huge_page"),
)
def free_counter_equals_free_lists(pool: Any) -> Truth:
    """`free_huge_pages` MUST equal the number of pages on all free lists whenever `hugetlb_lock` is not held.

    Every decision to grant a page or a promise is taken on the counter and carried out on the lists.
    """
    return bool(pool.free_huge_pages == sum(len(pages) for pages in pool.hugepage_freelists.values()))


@state_invariant(
    "HTLB-POOL-002",
    implied_by=("HTLB-POOL-001",),
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("H-decl"),
    fields=("hstate.free_huge_pages_node",),
    locks=("hugetlb_lock",),
    functions=("enqueue_huge_page", "dequeue_huge_page"),
)
def node_counters_sum_up(pool: Any) -> Truth:
    """Each node's free counter MUST equal the length of that node's list, and all of them MUST sum up to
    `free_huge_pages`.

    A page that comes back to the wrong node shows here and nowhere else.
    """
    lists = pool.hugepage_freelists
    return all(pool.free_huge_pages_node[n] == len(lists[n]) for n in lists) and (
        sum(pool.free_huge_pages_node.values()) == pool.free_huge_pages
    )


@state_invariant(
    "HTLB-POOL-003",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=gibson("H-decl", "D3"),
    fields=("hstate.nr_huge_pages",),
    functions=("alloc_huge_page", "free_huge_page", "set_max_huge_pages"),
    interfaces=("MemoryManager",),
)
def every_page_is_somewhere(world: Any) -> Truth:
    """With nothing in flight, `nr_huge_pages` MUST equal the number of pages that are on a free list, in a page cache,
    in a page table, or pinned.

    A page that an error path forgot is in none of these places, and gone until the next boot.
    """
    found = {p for pages in world.pool.hugepage_freelists.values() for p in pages}
    found |= {p for inode in world.inodes for p in inode.pages.values()}
    found |= {entry.page for mm in world.mms for entry in mm.ptes.values()}
    found |= {p for p in world.pages if p.pins}
    return bool(world.pool.nr_huge_pages == len(found))


@state_invariant(
    "HTLB-POOL-004",
    over=Over.PAGE,
    guard="hugetlb_lock",
    source=gibson("H-free", "D3"),
    fields=("page._count", "page.mapping", "page.lru"),
    functions=("free_huge_page", "dequeue_huge_page"),
    enforced_by="BUG_ON(page_count(page)) in free_huge_page",
)
def free_page_is_unused(page: Any) -> Truth:
    """A page on a free list MUST be there once, with no reference, unlocked, in no page cache and in no page table.

    Otherwise two users will own it.
    """
    listed = sum(pages.count(page) for pages in page.pool.hugepage_freelists.values())
    return implies(
        listed,
        lambda: (
            listed == 1
            and page._count == 0
            and not page.locked
            and page.mapping is None
            and not page.ptes
            and page not in page.pool.inflight
        ),
    )


@state_invariant(
    "HTLB-POOL-005",
    over=Over.PAGE,
    guard="hugetlb_lock",
    source=gibson("H-free", "H-tag"),
    variants=(TENTATIVE,),
    fields=("page[1]._count",),
    functions=("free_huge_page",),
    would_catch="the free path of 2006 as posted evaluates the tag and leaves it in place",
)
def free_page_has_no_tag(page: Any) -> Truth:
    """A page on a free list MUST carry the tag 0.

    The tag lives in the count word of a tail page. A stale one makes the next free of the page restore a reservation
    that nobody drew, or leaves the pool with a page that the buddy allocator calls corrupt.
    """
    listed = any(page in pages for pages in page.pool.hugepage_freelists.values())
    return implies(listed, lambda: page.tag == 0)


@transition(
    "HTLB-POOL-006",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-decl", "H-free", "H-alloc"),
    fields=("hstate.free_huge_pages", "hstate.hugepage_freelists"),
    locks=("hugetlb_lock",),
    functions=("enqueue_huge_page", "dequeue_huge_page"),
)
def list_and_counter_move_together(section: Section) -> Truth:
    """Within one section of `hugetlb_lock`, `free_huge_pages` MUST change by the pages enqueued minus those dequeued.

    A counter that follows later lets somebody else count a page that is gone.
    """
    enqueued, dequeued = len(section.did("enqueue")), len(section.did("dequeue"))
    return implies(
        enqueued or dequeued or section.delta("free_huge_pages"),
        lambda: section.delta("free_huge_pages") == enqueued - dequeued,
    )


@state_invariant(
    "HTLB-POOL-007",
    over=Over.POOL,
    guard="hugetlb_lock",
    source=gibson("R3") + whitcroft("M1", "M2"),
    fields=("hstate.free_huge_pages", "hstate.nr_huge_pages", "hstate.surplus_huge_pages"),
    functions=("set_max_huge_pages", "free_huge_page", "alloc_huge_page"),
    interfaces=("MemoryManager",),
)
def counters_in_range(pool: Any) -> Truth:
    """0 <= `free_huge_pages` <= `nr_huge_pages` and 0 <= `surplus_huge_pages` <= `nr_huge_pages` MUST hold.

    These are unsigned in the kernel: a negative one is a huge one, and all later decisions go wrong.
    """
    return bool(0 <= pool.free_huge_pages <= pool.nr_huge_pages and 0 <= pool.surplus_huge_pages <= pool.nr_huge_pages)


@transition(
    "HTLB-POOL-008",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc", "H-free"),
    fields=("hstate.nr_huge_pages",),
    functions=("set_max_huge_pages", "gather_surplus_pages"),
    interfaces=("MemoryManager",),
)
def only_resizing_changes_the_size(section: Section) -> Truth:
    """`nr_huge_pages` MUST change only while the pool is resized, or together with `surplus_huge_pages`.

    Reserving, faulting, settling, freeing to the pool, splitting and forking move pages and promises, never the size.
    """
    resized = section.delta("nr_huge_pages")
    return implies(
        resized,
        lambda: (
            (section.op is not None and section.op.within("set_max_huge_pages") is not None)
            or section.delta("surplus_huge_pages") == resized
        ),
    )


@transition(
    "HTLB-POOL-009",
    over=Over.EVENT,
    on=("free_huge_pages",),
    source=field("base"),
    fields=("hstate.nr_huge_pages", "hstate.free_huge_pages"),
    functions=("set_max_huge_pages",),
)
def counted_before_free(event: Event) -> Truth:
    """Growing the pool MUST count a page in `nr_huge_pages` no later than it is enqueued, so that free <= nr holds in
    every intermediate state.

    Readers of `/proc/meminfo` take no lock.
    """
    return bool(event.obj.free_huge_pages <= event.obj.nr_huge_pages)


@transition(
    "HTLB-POOL-010",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc") + field("base"),
    fields=("hstate.nr_huge_pages", "hstate.resv_huge_pages"),
    functions=("set_max_huge_pages",),
    would_catch="pool shrink that kept max(count, resv) pages in all and counted the ones in use among them",
    interfaces=("MemoryManager",),
)
def shrinking_spares_the_reserve(section: Section) -> Truth:
    """Shrinking the pool MUST leave at least as many free pages as are reserved, however small the requested size.

    The promise was given to a mapping that cannot be asked to give it back.
    """
    op, old, new = section.op, section.old, section.new
    return implies(
        op is not None and op.name == "set_max_huge_pages" and section.delta("nr_huge_pages") < 0,
        lambda: (
            new.free_huge_pages >= new.resv_huge_pages
            and new.nr_huge_pages
            >= max(
                min(op.count, old.nr_huge_pages),  # type: ignore[union-attr]
                old.resv_huge_pages + old.nr_huge_pages - old.free_huge_pages,
            )
        ),
    )


@transition(
    "HTLB-POOL-011",
    over=Over.EVENT,
    on=("buddy_free",),
    source=gibson("D3"),
    variants=(TENTATIVE,),
    fields=("hstate.tentative_huge_pages",),
    functions=("set_max_huge_pages",),
)
def resizing_leaves_pages_in_flight_alone(event: Event) -> Truth:
    """A page in flight MUST NOT be handed to the buddy allocator.

    Whoever allocated it is about to map it.
    """
    return event.page not in event.page.pool.inflight


@postcondition(
    "HTLB-POOL-012",
    over=Over.EVENT,
    on=("buddy_free",),
    source=gibson("H-tag", "H-free"),
    variants=(TENTATIVE,),
    fields=("page[1]._count",),
    functions=("update_and_free_page",),
    would_catch="the stale tag that the free path of 2006 as posted leaves behind",
)
def page_leaves_clean(event: Event) -> Truth:
    """A page handed back to the buddy allocator MUST carry no residue: tag 0, no destructor, not compound, no
    reference.
    """
    page = event.page
    return page.tag == 0 and page.dtor is None and not page.compound and page._count == 0


@postcondition(
    "HTLB-POOL-013",
    on=("dequeue_huge_page",),
    source=gibson("H-alloc"),
    fields=("hstate.hugepage_freelists",),
    would_catch="an assertion that a page exists because the counters say so, with all pages on a forbidden node",
)
def dequeue_honours_policy(op: Operation, result: Any) -> Truth:
    """Dequeuing MUST return a page of a permitted node, or none with every counter unchanged, although there may be
    free pages elsewhere.
    """
    if result is None:
        return not own_counters(op)
    return result.node in op.allowed_nodes


@precondition(
    "HTLB-POOL-014",
    on=("free_huge_page",),
    source=gibson("H-free"),
    locks=("hugetlb_lock",),
    fields=("page._count",),
    enforced_by="BUG_ON(page_count(page)); lockdep for the lock",
)
def freed_without_reference(op: Operation) -> Truth:
    """`free_huge_page` MUST be entered with reference count 0 and without `hugetlb_lock`.

    The destructor takes the lock itself.
    """
    return op.page._count == 0 and not any(h.cls == "hugetlb_lock" for h in op.context.held)


@postcondition(
    "HTLB-POOL-015",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-free"),
    functions=("free_huge_page",),
    fields=("hstate.free_huge_pages", "hstate.resv_huge_pages"),
)
def ordinary_free_adds_one_free_page(section: Section) -> Truth:
    """Freeing a settled page, with no surplus to reduce, MUST add exactly one to `free_huge_pages` and change no
    other counter.
    """
    op = section.op
    return implies(
        op is not None
        and op.name == "free_huge_page"
        and op.get("tag") == 0
        and section.did("enqueue", "buddy_free")
        and section.old.surplus_huge_pages == 0,
        lambda: section.deltas() == {"free_huge_pages": 1},
    )


@postcondition(
    "HTLB-POOL-016",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-free") + field("analysis"),
    functions=("free_huge_page",),
    fields=("hstate.surplus_huge_pages", "hstate.resv_huge_pages"),
)
def surplus_release_keeps_reserve_backed(section: Section) -> Truth:
    """If a freed page is given to the buddy allocator as surplus, or could be, no promise MUST be restored without a
    free page behind it: resv <= free afterwards.
    """
    op = section.op
    return implies(
        op is not None and op.name == "free_huge_page" and section.old.surplus_huge_pages > 0,
        lambda: section.new.resv_huge_pages <= section.new.free_huge_pages,
    )


@transition(
    "HTLB-POOL-017",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc") + whitcroft("M2"),
    functions=("alloc_huge_page",),
    fields=("hstate.free_huge_pages", "hstate.resv_huge_pages"),
)
def availability_is_a_comparison(section: Section) -> Truth:
    """An allocation without reservation MUST find a shortage exactly if free <= resv, compared, not subtracted.

    The unsigned difference of a reserve that has already run away looks like plenty.
    """
    op = section.op
    return implies(
        allocating(section)
        and op is not None
        and not op.get("backed")
        and not op.get("slot_taken")
        and not op.get("policy_refused"),
        lambda: (not section.did("dequeue")) == (section.old.free_huge_pages <= section.old.resv_huge_pages),
    )


@postcondition(
    "HTLB-POOL-018",
    on=("set_max_huge_pages",),
    source=field("base"),
    fields=("hstate.nr_huge_pages",),
    interfaces=("MemoryManager",),
    would_catch="a pool that says it has grown where there was no memory",
)
def resizing_answers_with_the_size_reached(op: Operation, result: int) -> Truth:
    """Resizing MUST answer with the `nr_huge_pages` that was reached, which MUST NOT be further from the old size than the
    size asked for.
    """
    if not op.alone or not op.sections:
        return VACUOUS
    old, new = op.sections[0].old.nr_huge_pages, op.sections[-1].new.nr_huge_pages
    return result == new and min(old, op.count) <= new <= max(old, op.count)
