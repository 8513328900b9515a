"""CFG: what must not be there in a kernel that was built without it."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, state_invariant, transition
from mmspec.invariants.rmap.terms import PAGE_MAPPING_KSM, is_anon
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event


@transition(
    "CFG-MIGRATION-001",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("try_to_unmap_one", "rmap_walk"),
    fields=("pte",),
    functions=("try_to_unmap_one", "rmap_walk"),
    since="2.6.18",
)
def no_migration_no_migration_entries(event: Event) -> Truth:
    """A kernel without migration MUST NOT write migration entries, and its walks unmap an anonymous page only if it is in the
    swap cache or broken.

    There is no code that would turn such an entry into a mapping again.
    """
    if event.mm.system.has("MIGRATION"):
        return VACUOUS
    if event.new is not None:
        return bool(event.new.kind != "migration")
    walk = event.op.within("try_to_unmap_one") if event.op is not None else None
    if walk is None or event.old is None or event.old.kind != "present" or not is_anon(walk.page):
        return VACUOUS
    return bool(walk.page.PG_swapcache or walk.page.PG_hwpoison)


@transition(
    "CFG-HUGETLB-001",
    over=Over.EVENT,
    on=("page_allocated",),
    source=rmap("hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap"),
    fields=("PageHuge",),
    functions=("hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap"),
)
def no_hugetlb_no_hugetlb_pages(event: Event) -> Truth:
    """A kernel without hugetlb MUST have no hugetlb pages.

    The tests for it are compiled away; such a page would be taken for a trans-huge one.
    """
    return implies(not event.page.system.has("HUGETLB_PAGE"), lambda: not event.page.huge)


@transition(
    "CFG-KSM-001",
    over=Over.EVENT,
    on=("mapping",),
    source=rmap("ksm-swappable", "page_get_anon_vma"),
    fields=("page.mapping",),
    functions=("page_add_anon_rmap", "rmap_walk"),
    since="2.6.32",
)
def no_merging_no_merged_pages(event: Event) -> Truth:
    """A kernel without merging MUST NOT give any page the tag of a merged one.

    There is no tree to which such a tag could lead.
    """
    page, new = event.obj, event.new
    if page.over is not Over.PAGE or new is None or page.system.has("KSM"):
        return VACUOUS
    return not new.bits & PAGE_MAPPING_KSM


@transition(
    "CFG-THP-001",
    over=Over.EVENT,
    on=("page_allocated", "zstat_mod"),
    source=rmap("thp", "page_add_new_anon_rmap"),
    fields=("PageTransHuge", "zone.NR_ANON_TRANSPARENT_HUGEPAGES"),
    functions=("page_add_new_anon_rmap", "do_page_add_anon_rmap", "page_remove_rmap"),
    since="2.6.38",
)
def no_trans_huge_pages_no_counter(event: Event) -> Truth:
    """A kernel without trans-huge pages MUST have none, and leave their counter at zero.

    Nothing in such a kernel would split one.
    """
    page = event.page
    if page.system.has("TRANSPARENT_HUGEPAGE"):
        return VACUOUS
    if event.kind == "zstat_mod":
        return bool(event.counter != "NR_ANON_TRANSPARENT_HUGEPAGES")
    return bool(page.order == 0 or page.huge)


@transition(
    "CFG-MMUN-001",
    over=Over.EVENT,
    on=("notifier_invalidate", "notifier_register", "notifier_range_start", "notifier_clear_young"),
    source=rmap("notifiers"),
    fields=("mm.mmu_notifier_mm",),
    functions=("mmu_notifier_invalidate_page", "mmu_notifier_register"),
    since="2.6.27",
)
def no_notifiers_no_calls(event: Event) -> Truth:
    """A kernel without secondary MMUs MUST NOT tell anybody of entries that go.

    Walks are the same then as if the calls were not there, in what they do and in what they cost.
    """
    if event.mm.system.has("MMU_NOTIFIER"):
        return VACUOUS
    return event.kind == "notifier_invalidate" and event.notifiers == 0


@state_invariant(
    "CFG-MEMCG-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=field_2011("base") + rmap("page_referenced"),
    fields=("page.memcg", "mm.memcg"),
    functions=("mm_match_cgroup", "page_referenced", "page_remove_rmap"),
)
def no_groups_no_charges(world: Any) -> Truth:
    """A kernel without memory control groups MUST charge no page and have no address space in a group, so that walks leave
    nobody out.

    The test whether an address space belongs to a group answers yes to everybody then.
    """
    if world.has("CGROUP_MEM_RES_CTLR"):
        return VACUOUS
    return every([not world.memcgs, *(m.memcg is None for m in world.mms), *(p.memcg is None for p in world.pages)])


@transition(
    "CFG-SWAP-001",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("try_to_unmap_one"),
    fields=("pte",),
    functions=("try_to_unmap_one", "swap_duplicate"),
)
def no_swap_no_swap_entries(event: Event) -> Truth:
    """A kernel without swap MUST NOT write swap entries.

    Anonymous pages stay where they are until somebody moves them or their memory fails.
    """
    return implies(
        not event.mm.system.has("SWAP") and event.new is not None, lambda: bool(event.new.kind != "swap")
    )
