"""RMAP-REMOVE: page_remove_rmap, which takes a mapping away from a page, and what the last one takes along."""

from __future__ import annotations

from mmspec.invariant import Over, liveness, lock_rule, postcondition, transition
from mmspec.invariants.rmap.terms import (
    MAP_COUNTERS,
    PTL_CLASSES,
    in_cache,
    is_anon,
    is_ksm,
    last_mapping,
    pav,
    zone_change,
    zone_counter,
)
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Operation

REMOVE = ("page_remove_rmap",)
COUNT = ("page._mapcount",)
KEY = ("page.key_dirty", "page.PG_dirty")

#: How many steps before the call are searched for the slot that was emptied.
NEAR = 200


@lock_rule(
    "RMAP-REMOVE-001",
    over=Over.OPERATION,
    on=REMOVE,
    source=rmap("page_remove_rmap", "split-ptlock"),
    fields=COUNT,
    locks=PTL_CLASSES,
    functions=REMOVE,
    enforced_by="comment at page_remove_rmap()",
    since="2.6.15",
)
def mappings_are_removed_under_the_slot_lock(op: Operation) -> Truth:
    """A mapping MUST be removed with the lock of the slot held that is being emptied.

    Otherwise the page is counted and not mapped, or mapped and not counted, for as long as somebody cares to look.
    """
    held = {h.name for h in op.held_at_entry if h.cls in PTL_CLASSES}
    for step in reversed(op.context.events[max(0, op.first - NEAR) : op.first]):
        if step.kind == "set_pte" and step.old is not None and step.old.kind == "present" and step.old.page is op.page:
            return step.lock.name in held
    return bool(held)


@postcondition("RMAP-REMOVE-002", on=REMOVE, source=rmap("page_remove_rmap"), fields=COUNT, interfaces=("ReverseMap",))
def one_mapping_less(op: Operation) -> Truth:
    """The map count MUST drop by one; if other mappings remain, nothing else MUST change."""
    others = [e for e in op.all("write") if e.field != "_mapcount"]
    return op.delta("_mapcount", op.page) == -1 and (last_mapping(op) or not others)


@postcondition(
    "RMAP-REMOVE-003",
    on=REMOVE,
    source=rmap("page_remove_rmap"),
    fields=KEY,
    architectures=("s390x",),
    would_catch="data that a process wrote and that never reached the file or swap, on s390 only",
)
def last_mapping_moves_the_key_to_the_flag(op: Operation) -> Truth:
    """When the last mapping of a page of a file or of the swap cache goes, dirtiness that only the storage key knows MUST
    be moved into PG_dirty, and the key be cleared.

    Nobody looks at the key of a page that is not mapped.
    """
    page = op.page
    return implies(
        last_mapping(op) and (not op.was_anon or op.swapcache) and op.key_dirty,
        lambda: page.PG_dirty and not page.key_dirty,
    )


@postcondition("RMAP-REMOVE-004", on=REMOVE, source=rmap("page_remove_rmap"), fields=KEY, architectures=("s390x",))
def key_of_a_dying_page_need_not_be_moved(op: Operation) -> Truth:
    """The last mapping of an anonymous page that is not in the swap cache MUST be removable with the key still dirty, and
    the page be counted off like a clean one: it is about to be freed.

    Clearing a key is slow, and each exit would do it for each page.
    """
    return implies(
        last_mapping(op) and op.was_anon and not op.swapcache and op.key_dirty,
        lambda: op.page.huge or zone_change(op) == {zone_counter(op.page): -1},
    )


@postcondition(
    "RMAP-REMOVE-005",
    on=REMOVE,
    source=rmap("page_remove_rmap"),
    fields=(*COUNT, "zone.NR_ANON_PAGES", "zone.NR_FILE_MAPPED", "memcg.usage"),
    features=("HUGETLB_PAGE",),
    would_catch="NR_FILE_MAPPED going negative by the pages of hugetlb files",
    since="2.6.35",
)
def hugetlb_pages_leave_statistics_alone(op: Operation) -> Truth:
    """When the last mapping of a hugetlb page goes, no statistic and no charge MUST change: none was made."""
    return implies(
        last_mapping(op) and op.page.huge,
        lambda: not op.net(*MAP_COUNTERS, "usage", "memcg") and not op.did("uncharge_called", "uncharge"),
    )


@postcondition(
    "RMAP-REMOVE-006",
    on=REMOVE,
    source=rmap("page_remove_rmap", "memcg"),
    fields=("zone.NR_ANON_PAGES", "zone.NR_ANON_TRANSPARENT_HUGEPAGES", "page.memcg"),
    since="2.6.27",
)
def last_anonymous_mapping_counts_off(op: Operation) -> Truth:
    """When the last mapping of an anonymous page goes, the zone's counter for its kind, and no other, MUST drop by one,
    and the control group be asked to end the charge.
    """
    page = op.page
    return implies(
        last_mapping(op) and op.was_anon and not page.huge,
        lambda: (
            zone_change(op) == {zone_counter(page): -1} and [e.page for e in op.all("uncharge_called")] == [page]
        ),
    )


@postcondition(
    "RMAP-REMOVE-007",
    on=REMOVE,
    source=rmap("page_remove_rmap"),
    fields=("zone.NR_FILE_MAPPED", "memcg.NR_FILE_MAPPED"),
    since="2.6.31",
)
def last_file_mapping_counts_off(op: Operation) -> Truth:
    """When the last mapping of a page of a file goes, the number of mapped file pages of the zone and of the page's
    control group MUST drop by one each, and the charge stay.
    """
    page = op.page
    if not last_mapping(op) or op.was_anon or page.huge:
        return VACUOUS
    counted = page.memcg is None or op.delta("NR_FILE_MAPPED", page.memcg) == -1
    return zone_change(op) == {"NR_FILE_MAPPED": -1} and counted and not op.did("uncharge_called", "uncharge")


@transition(
    "RMAP-REMOVE-008",
    over=Over.OPERATION,
    on=REMOVE,
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster") + field_2011("analysis"),
    fields=("page._count",),
    functions=REMOVE,
    would_catch="a page freed, and made a page of a file, before its last mapping was counted off as anonymous",
)
def reference_goes_after_the_mapping(op: Operation) -> Truth:
    """When a mapping is removed, the page MUST still have the reference of that mapping, beside one for each mapping that
    is left and one for its cache.

    The kind of page that is counted off is read from the page.
    """
    page = op.page
    return bool(page._count >= page._mapcount + 1 + 1 + in_cache(page))


@liveness(
    "RMAP-REMOVE-009",
    over=Over.OPERATION,
    on=("page_address_in_vma",),
    source=rmap("page_remove_rmap"),
    fields=("page.mapping", "page.index"),
    functions=("page_remove_rmap", "swapoff"),
    features=("SWAP",),
    implied_by=("RMAP-ANON-007",),
    would_catch="swapoff reading every page table of every process for each page that it brings back",
)
def swapoff_finds_the_address_of_unmapped_pages(op: Operation, result: int) -> Truth:
    """For a page of the swap cache that is not mapped any more, each area that has an entry for its slot at the page's
    linear address MUST give that address.

    Keeping `mapping` and `index` after the last mapping saves swapoff the search of whole areas.
    """
    page, vma = op.page, op.vma
    if not is_anon(page) or is_ksm(page) or not page.PG_swapcache or page._mapcount >= 0:
        return VACUOUS
    size = vma.mm.system.page_size
    vpn = vma.vm_start // size + page.index - vma.vm_pgoff
    table = vma.mm.tables.get(vpn // vma.mm.system.ptrs_per_pte)
    entry = table.entries.get(vpn) if table is not None and vma.vm_start <= vpn * size < vma.vm_end else None
    waits = entry is not None and entry.kind == "swap" and entry.slot == page.private
    return implies(waits and pav(page).root is vma.anon_vma.root, lambda: result == vpn * size)
