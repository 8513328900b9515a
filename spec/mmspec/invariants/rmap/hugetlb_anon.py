"""HTLB: anonymous hugetlb pages, which take part in reverse mapping but in no statistics."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import entered_with, heads, linear_page_index, pav
from mmspec.logic import Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Operation

HERE: dict[str, Any] = {"features": ("HUGETLB_PAGE",)}
OWNER = ("page.mapping", "page.index")

ADD = ("hugepage_add_anon_rmap",)
ADD_NEW = ("hugepage_add_new_anon_rmap",)
BOOKS = ("zstat_mod", "lru_add", "charge", "uncharge", "memcg_file_mapped")


def _vpn(op: Operation) -> int:
    return int(op.address // op.vma.mm.system.page_size)


@postcondition(
    "HTLB-001",
    on=ADD,
    source=rmap("hugepage_add_anon_rmap", "__hugepage_set_anon_rmap"),
    fields=("page._mapcount", *OWNER),
    locks=("page_lock",),
    would_catch="a shared hugetlb page owned by the child's anon_vma, which goes with the child (2010)",
    enforced_by="BUG_ON(!PageLocked(page)), BUG_ON(!anon_vma)",
    **HERE,
)
def shared_huge_page_belongs_to_the_root(op: Operation) -> Truth:
    """Adding a mapping of a hugetlb page MUST be done with the page locked and for an area with an anon_vma; it adds one to
    the map count and nothing to any statistics, and a page that becomes anonymous by it belongs to the root of the tree.
    """
    page, vma = op.page, op.vma
    counted = (
        entered_with(op, "page_lock", page)
        and vma.anon_vma is not None
        and op.delta("_mapcount", page) == 1
        and not op.did(*BOOKS)
    )
    if not op.first or op.was_anon:
        return counted
    return counted and pav(page) is vma.anon_vma.root and page.index == linear_page_index(vma, _vpn(op))


@postcondition(
    "HTLB-002",
    on=ADD_NEW,
    source=rmap("hugepage_add_new_anon_rmap", "__hugepage_set_anon_rmap"),
    fields=("page._mapcount", *OWNER),
    enforced_by="BUG_ON(address < vma->vm_start || address >= vma->vm_end)",
    **HERE,
)
def new_huge_page_belongs_to_its_area(op: Operation) -> Truth:
    """The first mapping of a new hugetlb page MUST be at an address inside of the area, make the map count one, and make the
    page the area's own.
    """
    page, vma = op.page, op.vma
    return bool(
        vma.vm_start <= op.address < vma.vm_end
        and page._mapcount == 0
        and pav(page) is vma.anon_vma
        and page.index == linear_page_index(vma, _vpn(op))
        and not op.did(*BOOKS)
    )


@postcondition("HTLB-003", on=ADD, source=rmap("__hugepage_set_anon_rmap"), fields=OWNER, **HERE)
def anonymous_huge_page_keeps_its_owner(op: Operation) -> Truth:
    """A hugetlb page that is anonymous already MUST keep its owner and its index, however often it is mapped."""
    return implies(op.was_anon, lambda: not op.net("mapping", "index"))


@state_invariant(
    "HTLB-004",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("__hugepage_set_anon_rmap", "page_remove_rmap"),
    fields=("page.PG_lru", "page.memcg"),
    functions=(*ADD, *ADD_NEW, "page_remove_rmap"),
    **HERE,
)
def huge_pages_are_on_no_list_and_on_nobodys_bill(world: Any) -> Truth:
    """A hugetlb page MUST NOT be on an LRU list or on its way there, nor be charged to a control group."""
    batched = [page for batch in world.pagevecs.values() for page, _ in batch]
    return every(
        not p.lists and not p.PG_lru and p.memcg is None and not any(b is p for b in batched)
        for p in heads(world)
        if p.huge
    )


@transition(
    "HTLB-005",
    over=Over.OPERATION,
    on=("try_to_unmap_one", "hugetlb_fault", "unmap_hugepage_range", "copy_hugetlb_page_range"),
    source=rmap("try_to_unmap_one") + field_2011("later"),
    fields=("mm.rss_anon", "mm.rss_file"),
    functions=("try_to_unmap_one", "hugetlb_fault", "unmap_hugepage_range", "copy_hugetlb_page_range"),
    would_catch="a poisoned hugetlb page was subtracted from a resident set to which it had never been added (2012)",
    **HERE,
)
def huge_pages_are_not_resident(op: Operation) -> Truth:
    """Mapping, copying, poisoning or unmapping a hugetlb page MUST leave the resident set as it is."""
    changed = [e for e in op.all("set_pte") if e.level == "huge"]
    return implies(changed, lambda: op.delta("rss_anon") == op.delta("rss_file") == 0)
