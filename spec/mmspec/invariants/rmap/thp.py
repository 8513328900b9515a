"""THP: trans-huge pages, which one entry maps, and which are split without asking anybody."""

from __future__ import annotations

from typing import Any

from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM
from mmspec.invariant import QUIESCENT, Over, liveness, lock_rule, postcondition, precondition, state_invariant, transition
from mmspec.invariants.rmap.terms import census, is_anon, is_trans_huge, mapped
from mmspec.logic import Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

HERE: dict[str, Any] = {"features": ("TRANSPARENT_HUGEPAGE",)}
VM_HUGEPAGE = 0x1000000
SPLIT = ("split_huge_page",)
PMD = ("pmd",)


def _frozen(op: Operation) -> list[Event]:
    """The steps that have marked an entry as one that is being split."""
    return [
        e
        for e in op.all("set_pte")
        if e.level == "pmd" and e.new is not None and e.new.splitting and not (e.old is not None and e.old.splitting)
    ]


def _remapped(op: Operation) -> list[Event]:
    """The steps that have taken an entry that was being split away, in favour of a table of small ones."""
    return [e for e in op.all("set_pte") if e.level == "pmd" and e.new is None and e.old is not None and e.old.splitting]


def _huge_entries_made(op: Operation) -> bool:
    return any(e.level == "pmd" and e.new is not None for e in op.all("set_pte"))


def _first_access(event: Event) -> bool:
    """Whether the step is part of the first access to what an entry spans."""
    return event.op is not None and event.op.name == "do_huge_pmd_anonymous_page"


# -- splitting ----------------------------------------------------------------------------------------------------------


@postcondition("THP-SPLIT-001", on=SPLIT, source=rmap("thp"), fields=("page.PG_compound",), until="4.5", **HERE)
def splitting_never_fails(op: Operation, result: Any) -> Truth:
    """Splitting a trans-huge page that is mapped MUST succeed; afterwards it consists of base pages.

    Code that knows nothing of huge entries splits them first and goes on; it has no way to back out.
    """
    return not is_trans_huge(op.page) if result == 0 else not mapped(op.page)


@transition(
    "THP-SPLIT-002",
    over=Over.OPERATION,
    on=("split_huge_page", "split_huge_page_pmd"),
    source=rmap("thp"),
    fields=PMD,
    functions=("split_huge_page", "split_huge_page_pmd"),
    **HERE,
)
def splitting_allocates_nothing(op: Operation) -> Truth:
    """Splitting MUST NOT allocate memory: the page table that it needs was put aside when the huge page was mapped.

    Reclaim splits when there is no memory.
    """
    return implies(_remapped(op), lambda: not op.did("alloc"))


@postcondition(
    "THP-SPLIT-003",
    on=SPLIT,
    source=rmap("do_page_add_anon_rmap", "page_remove_rmap") + field_2011("base"),
    fields=("page._mapcount", "zone.NR_ANON_PAGES", "zone.NR_ANON_TRANSPARENT_HUGEPAGES"),
    **HERE,
)
def split_conserves_mappings(op: Operation) -> Truth:
    """After a split, each of the base pages MUST be mapped as often as the huge one was, and the statistics count them
    instead of it.

    One that has lost its last mapping when it is split is in no statistics any more.
    """
    split = op.one("split_refcount")
    if split is None:
        return implies(False, lambda: True)
    times, zone = len(_frozen(op)), op.page.system.zone
    counts = {e.obj.name: e.new for e in op.all("write") if e.field == "_mapcount"}
    size = op.page.system.hpage_pmd_nr
    return (
        len(split.subpages) == size
        and all(counts.get(p.name) == times - 1 for p in split.subpages[1:])
        and op.delta("NR_ANON_TRANSPARENT_HUGEPAGES", zone) == (-1 if times else 0)
        and op.delta("NR_ANON_PAGES", zone) == (size if times else 0)
    )


@transition(
    "THP-SPLIT-004",
    over=Over.OPERATION,
    on=SPLIT,
    source=rmap("anon_vma_chain_link", "thp"),
    fields=("anon_vma.head", *PMD),
    functions=(*SPLIT, "anon_vma_chain_link", "copy_huge_pmd"),
    would_catch="fork copies a huge entry into a child that stands before its parent on the list: one walk sees it, one not",
    enforced_by="BUG_ON(mapcount != page_mapcount(page)), twice",
    **HERE,
)
def both_walks_of_a_split_see_the_same(op: Operation) -> Truth:
    """The walk that freezes the entries of a huge page and the one that replaces them MUST find the same number of entries,
    which is the page's map count.
    """
    split = op.one("thp_split")
    return implies(split is not None, lambda: len(_frozen(op)) == split.mapcount == len(_remapped(op)))  # type: ignore[union-attr]


@lock_rule(
    "THP-PUT-001",
    on=("put_tail", "split_refcount"),
    source=rmap("thp"),
    fields=("page._count", "page.first_page"),
    locks=("compound_lock",),
    functions=("put_compound_page", "__split_huge_page_refcount"),
    would_catch="direct I/O ends while its page is split: one reference is dropped twice, or never",
    **HERE,
)
def tail_references_and_splits_exclude_each_other(event: Event) -> Truth:
    """A reference to a tail MUST be dropped, and references be distributed over the parts of a page that is split, under the
    compound lock of the head; what the tails had beside the mappings, the head loses, and nothing else.
    """
    if event.kind == "put_tail":
        return event.holds("compound_lock", event.head) and event.page.first_page is event.head
    before: dict[str, int] = {}
    tails = {p.name for p in event.subpages[1:]}
    op = event.op
    for write in op.all("write") if op is not None else []:
        if write.field == "_count" and write.obj.name in tails:
            before.setdefault(write.obj.name, write.old)
    return (
        event.holds("compound_lock", event.page)
        and op is not None
        and before.keys() == tails
        and op.delta("_count", event.page) == -sum(before.values())
    )


# -- where they come from -----------------------------------------------------------------------------------------------


@postcondition(
    "THP-FALLBACK-001",
    on=("handle_mm_fault",),
    source=rmap("thp"),
    fields=("pte", *PMD),
    functions=("do_huge_pmd_anonymous_page", "handle_mm_fault"),
    **HERE,
)
def no_huge_page_means_base_pages(op: Operation, result: Any) -> Truth:
    """If a huge page cannot be had for a fault, the fault MUST go on with base pages; only if those are not to be had either
    may the process notice.
    """
    failed = [n for n, e in enumerate(op.events) if e.kind == "huge_fallback" and _first_access(e)]

    def goes_on() -> Truth:
        tried_again = any(e.kind == "alloc" for e in op.events[failed[-1] :])
        return not _huge_entries_made(op) and (
            result is VM_FAULT_MINOR or (result is VM_FAULT_OOM and tried_again) or bool(op.calls("handle_pte_fault"))
        )

    return implies(failed, goes_on)


@transition(
    "THP-CTL-001",
    over=Over.EVENT,
    on=("huge_alloc",),
    source=rmap("thp"),
    fields=("transparent_hugepage_flags", "vma.vm_flags"),
    functions=("do_huge_pmd_anonymous_page",),
    **HERE,
)
def policy_decides_where_huge_pages_are(event: Event) -> Truth:
    """A fault MUST allocate a huge page only if the policy is `always`, or is `madvise` and the area was advised."""
    policy = event.vma.mm.system.thp_enabled
    faults = event.op is not None and event.op.within("handle_mm_fault") is not None
    return implies(
        faults, lambda: policy == "always" or (policy == "madvise" and bool(event.vma.vm_flags & VM_HUGEPAGE))
    )


@precondition(
    "THP-COLLAPSE-001",
    over=Over.EVENT,
    on=("collapse_isolate",),
    source=rmap("thp"),
    fields=("page._count", "page._mapcount"),
    locks=("mmap_sem", "page_lock"),
    **HERE,
)
def collapse_takes_only_pages_that_nobody_else_uses(event: Event) -> Truth:
    """Base pages MUST be replaced by a huge one only with `mmap_sem` held for write, each page locked, and with no
    references beyond those of its mappings.
    """
    page = event.page
    return bool(
        event.holds("mmap_sem", event.mm) and event.holds("page_lock", page) and page._count == page._mapcount + 1 >= 1
    )


# -- what others do with them -------------------------------------------------------------------------------------------


@precondition(
    "THP-RMAP-001",
    over=Over.OPERATION,
    on=("page_check_address",),
    source=rmap("__page_check_address", "try_to_unmap"),
    fields=PMD,
    **HERE,
)
def huge_entries_are_not_found_as_small_ones(op: Operation, result: Any) -> Truth:
    """Looking for a mapping of a trans-huge page among small entries MUST find nothing; who wants to unmap it splits it first.

    The slot that would be returned belongs to a table of another level.
    """
    huge = is_trans_huge(op.page) or (result is not None and result.level == "pmd")
    return implies(huge, lambda: result is None)


@postcondition(
    "THP-REF-001",
    on=("page_referenced_one",),
    source=rmap("page_referenced_one", "thp"),
    fields=("pmd.young",),
    **HERE,
)
def huge_mappings_count_once(op: Operation, result: Any) -> Truth:
    """A trans-huge mapping MUST count as at most one reference, however many of its base pages were used, and be asked with
    flush and with secondary MMUs, so that it is not young afterwards.
    """
    found = [e for e in op.all("visit_found") if e.level == "pmd"]
    asked = [e for e in op.all("clear_young") if e.level == "pmd"]
    last = next((e.new for e in reversed(op.all("set_pte")) if e.level == "pmd"), None)

    def once() -> Truth:
        return (
            result <= 1 + len(op.all("swap_token"))
            and len(asked) == 1
            and (last is None or not last.young)
            and (last is None or op.did("tlb_flush"))
        )

    return implies(found and not op.get("stopped"), once)


@liveness(
    "THP-SWAP-001",
    over=Over.OPERATION,
    on=("shrink_page",),
    source=rmap("thp", "try_to_unmap"),
    fields=("pte", *PMD),
    functions=("shrink_page", "split_huge_page", "try_to_unmap"),
    features=("TRANSPARENT_HUGEPAGE", "SWAP"),
)
def huge_pages_can_be_swapped_out(op: Operation) -> Truth:
    """Reclaim MUST be able to swap a trans-huge page out: it splits the page, and leaves swap entries where it was mapped.

    Huge pages that could not be swapped would be memory that is locked for those who never asked for it.
    """
    split = [o for o in op.calls("split_huge_page") if o.result == 0]
    ends = {(e.mm.name, e.vpn): e.new for o in op.calls("try_to_unmap") for e in o.all("set_pte")}
    gone = {(e.mm.name, e.vpn) for o in op.calls("try_to_unmap_one") if o.get("removed") for e in o.all("ptep_clear")}
    return implies(
        split and gone,
        lambda: all(ends[place] is not None and ends[place].kind == "swap" for place in gone),
    )


@state_invariant(
    "THP-SCOPE-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("thp"),
    fields=("page.PG_compound", "page.mapping", *PMD),
    functions=("do_huge_pmd_anonymous_page", "collapse_huge_page"),
    **HERE,
)
def huge_entries_map_huge_anonymous_pages(world: Any) -> Truth:
    """An entry of a middle level MUST map an anonymous page of exactly its size, at an address that is aligned to that, inside
    of one area.
    """
    size = world.hpage_pmd_nr
    bytes_ = size * world.page_size
    return every(
        is_anon(p.entry.page)
        and not p.entry.page.huge
        and 1 << p.entry.page.order == size
        and p.vpn % size == 0
        and p.vma is not None
        and p.vpn * world.page_size + bytes_ <= p.vma.vm_end
        for p in census(world).places
        if p.level == "pmd"
    )
