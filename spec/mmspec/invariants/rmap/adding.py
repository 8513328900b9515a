"""RMAP-ADD, -ADDNEW, -ADDFILE, -MOVE: adding mappings to a page, and taking sole possession of it."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import Over, lock_rule, postcondition, precondition, transition
from mmspec.invariants.rmap.terms import (
    PTL_CLASSES,
    VM_LOCKED,
    areas,
    chain,
    entered_with,
    first_mapping,
    in_this_order,
    is_ksm,
    is_trans_huge,
    linear_page_index,
    lock_of,
    own_writes,
    pav,
    zone_change,
    zone_counter,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Operation

ADD = ("do_page_add_anon_rmap",)
NEW = ("page_add_new_anon_rmap",)
FILE = ("page_add_file_rmap",)
MOVE = ("page_move_anon_rmap",)
HUGETLB = ("hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap")
OWNER = ("page.mapping", "page.index")
COUNTS = ("page._mapcount", "zone.NR_ANON_PAGES", "zone.NR_ANON_TRANSPARENT_HUGEPAGES")


def _vpn(op: Operation) -> int:
    return int(op.address // op.vma.mm.system.page_size)


def _level(page: Any) -> str:
    return "huge" if page.huge else "pmd" if is_trans_huge(page) else "pte"


def _slot_lock_held(op: Operation) -> bool:
    """Whether the thread came with the lock of the slot that is being filled; of a page table's, where no area is named."""
    if "vma" not in op.arguments:
        return any(entered_with(op, cls) for cls in PTL_CLASSES)
    owner = lock_of(op.vma.mm, _vpn(op), _level(op.page))
    return any(entered_with(op, cls, owner) for cls in PTL_CLASSES)


def _index(op: Operation) -> int:
    return linear_page_index(op.vma, _vpn(op))


def _swap_references(page: Any) -> int:
    swap = page.system.swap
    return int(swap.count(page.private)) if page.PG_swapcache and swap is not None else 0


@lock_rule(
    "RMAP-ADD-001",
    over=Over.OPERATION,
    on=(*ADD, *NEW, *FILE, "page_dup_rmap", *HUGETLB),
    source=rmap("page_add_anon_rmap", "page_add_file_rmap", "split-ptlock"),
    fields=COUNTS,
    locks=PTL_CLASSES,
    functions=(*ADD, *NEW, *FILE),
    enforced_by="comments at the functions",
    since="2.6.15",
)
def mappings_are_added_under_the_slot_lock(op: Operation) -> Truth:
    """A mapping MUST be added with the lock of the slot held that is being filled.

    It ties the map count to the entry, and keeps preemption off for the statistics.
    """
    return _slot_lock_held(op)


@lock_rule(
    "RMAP-ADD-002",
    over=Over.OPERATION,
    on=ADD,
    source=rmap("page_add_anon_rmap", "do_page_add_anon_rmap", "ksm-swappable"),
    fields=OWNER,
    locks=("page_lock",),
    functions=ADD,
    enforced_by="VM_BUG_ON in do_page_add_anon_rmap()",
    would_catch="two processes that swap one page in at once, each setting its own owner",
    since="2.6.33",
)
def anonymous_mappings_are_added_under_the_page_lock(op: Operation) -> Truth:
    """A mapping of an anonymous page that is not merged MUST be added with the page locked by the thread, unless the
    page is new.

    It serialises setting and testing `mapping` and `index`, and keeps the page from being merged meanwhile.
    """
    return implies(not op.was_ksm, lambda: entered_with(op, "page_lock", op.page))


@postcondition(
    "RMAP-ADD-003", on=ADD, source=rmap("do_page_add_anon_rmap"), fields=COUNTS, since="2.6.38", interfaces=("ReverseMap",)
)
def one_mapping_more(op: Operation) -> Truth:
    """The map count MUST grow by one; at the first mapping, and only then, the zone's counter for the kind of page MUST
    grow by one, and no other.

    A trans-huge page counts once, and in a counter of its own.
    """
    expected = {}
    if first_mapping(op):
        expected = {"NR_ANON_TRANSPARENT_HUGEPAGES" if is_trans_huge(op.page) else "NR_ANON_PAGES": 1}
    return op.delta("_mapcount", op.page) == 1 and zone_change(op) == expected


@postcondition(
    "RMAP-ADD-004",
    on=ADD,
    source=rmap("do_page_add_anon_rmap", "ksm-swappable"),
    fields=OWNER,
    features=("KSM",),
    would_catch="a merged page given to the anon_vma of whoever mapped it last",
    since="2.6.33",
)
def merged_page_is_only_counted(op: Operation) -> Truth:
    """For a merged page nothing beside map count and statistics MUST be changed, and area and index need not fit.

    It is in many trees at many indices at once.
    """
    return implies(op.was_ksm, lambda: is_ksm(op.page) and not own_writes(op, "mapping", "index", of=op.page))


@postcondition(
    "RMAP-ADD-005",
    on=ADD,
    source=rmap("__page_check_anon_rmap"),
    fields=OWNER,
    enforced_by="BUG_ON in __page_check_anon_rmap() with CONFIG_DEBUG_VM",
    would_catch="a page mapped by an area from which its owner does not lead to it",
    since="2.6.22",
)
def further_mapping_fits_the_owner(op: Operation) -> Truth:
    """A mapping that is not the first MUST find a page that is not merged to be of the area's tree, and its index to be
    the linear index of the address.
    """
    if op.was_ksm or first_mapping(op):
        return VACUOUS
    owner = pav(op.page)
    return owner is not None and owner.root is op.vma.anon_vma.root and op.page.index == _index(op)


@postcondition(
    "RMAP-ADD-006",
    on=ADD,
    source=rmap("do_page_add_anon_rmap"),
    fields=("vma.vm_start", "vma.vm_end"),
    would_catch="a BUG_ON hit by migration while the border between two areas moved (2.6.39)",
    since="3.0",
)
def address_may_lie_with_the_neighbour(op: Operation) -> Truth:
    """A mapping MUST be accepted also at an address that is outside of the area's borders, and be counted as any other.

    Migration restores entries without `mmap_sem`: the border may have moved since it computed the address, and the
    neighbour that has the address now is of the same tree and continues the same indices.
    """
    outside = not op.vma.vm_start <= op.address < op.vma.vm_end
    return implies(
        outside, lambda: op.delta("_mapcount", op.page) == 1 and (op.was_ksm or op.page.index == _index(op))
    )


@precondition(
    "RMAP-ADD-007",
    on=(*ADD, *NEW, *HUGETLB),
    source=rmap("__page_set_anon_rmap"),
    fields=("vma.anon_vma",),
    enforced_by="BUG_ON in __page_set_anon_rmap()",
    since="2.6.34",
)
def area_has_an_anon_vma(op: Operation) -> Truth:
    """An area MUST have its anon_vma before an anonymous page is mapped in it.

    Preparing it may sleep, which is over by the time the slot is locked.
    """
    return op.vma.anon_vma is not None


@precondition(
    "RMAP-ADD-008",
    on=ADD,
    source=rmap("do_page_add_anon_rmap"),
    fields=("page._mapcount", "swap_map"),
    would_catch="a page given to the youngest anon_vma although another process still had a swap entry for it",
    since="2.6.36",
)
def exclusive_means_nobody_else(op: Operation) -> Truth:
    """A page MUST be claimed as exclusive only if no other entry maps it and no other refers to its swap slot.

    Whoever comes by such an entry would map a page whose owner does not lead to him.
    """
    if not op.exclusive:
        return VACUOUS
    own = (op.vma.mm, _vpn(op) // op.vma.mm.system.ptrs_per_pte if _level(op.page) == "pmd" else _vpn(op), _level(op.page))
    others = [slot for slot in op.page.slots if slot != own]
    # The entry that is being replaced still has its reference of the slot.
    return op.page._mapcount == -1 and not others and _swap_references(op.page) <= 1


# -- new pages ------------------------------------------------------------------------------------------------------------


@precondition(
    "RMAP-ADDNEW-001",
    on=NEW,
    source=rmap("page_add_new_anon_rmap"),
    fields=("page._mapcount",),
    locks=PTL_CLASSES,
    enforced_by="VM_BUG_ON on the address in page_add_new_anon_rmap()",
    since="2.6.16",
)
def new_page_is_known_to_nobody(op: Operation) -> Truth:
    """A page that is mapped as new MUST have a map count of -1 and be known to nobody else: in no cache, on no list, with
    no owner. The slot MUST be locked, and the address lie inside of the area; the page need not be locked.

    The first mapping is stored without atomic operations, which nobody may be able to see.
    """
    page = op.page
    unknown = page._mapcount == -1 and page.mapping is None and not page.PG_lru and not page.PG_swapcache
    unmapped = all(slot[:2] == (op.vma.mm, _vpn(op)) for slot in page.slots if slot[2] == "pte")
    return unknown and unmapped and _slot_lock_held(op) and op.vma.vm_start <= op.address < op.vma.vm_end


@postcondition(
    "RMAP-ADDNEW-002",
    on=NEW,
    source=rmap("page_add_new_anon_rmap"),
    fields=(*OWNER, *COUNTS, "page.PG_swapbacked"),
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def new_page_belongs_to_the_area(op: Operation) -> Truth:
    """Afterwards the page MUST be swap-backed, mapped once, counted once in the counter of its kind, belong to the area's
    own anon_vma, and have the linear index of the address.
    """
    page = op.page
    return (
        page.PG_swapbacked
        and page._mapcount == 0
        and pav(page) is op.vma.anon_vma
        and page.index == _index(op)
        and zone_change(op) == {zone_counter(page): 1}
    )


@postcondition(
    "RMAP-ADDNEW-003",
    on=NEW,
    source=rmap("page_add_new_anon_rmap", "mlock"),
    fields=("page.PG_lru", "page.PG_unevictable"),
    would_catch="pages of a locked area on the lists that reclaim scans",
    since="2.6.29",
)
def new_page_goes_to_the_right_list(op: Operation) -> Truth:
    """The new page MUST be queued for the list of active anonymous pages, or for the unevictable one if the area is locked
    in memory, and for one list only.
    """
    lists = [e.lru for e in op.all("lru_add") if e.page is op.page]
    return lists == ["unevictable" if op.vma.vm_flags & VM_LOCKED else "active_anon"]


@transition(
    "RMAP-ADDNEW-004",
    over=Over.OPERATION,
    on=NEW,
    source=rmap("page_add_new_anon_rmap") + field_2011("analysis"),
    fields=("page.PG_lru", *OWNER),
    functions=NEW,
    would_catch="reclaim finding a page on the list that has no owner yet",
)
def list_comes_last(op: Operation) -> Truth:
    """The page MUST be made visible on a list only after it was marked swap-backed, counted, and given its owner.

    From there on everybody can find it.
    """

    def stored(field: str) -> bool:
        return in_this_order(
            op,
            lambda e: e.kind == "write" and e.obj is op.page and e.field == field,
            lambda e: e.kind == "lru_add" and e.page is op.page,
        )

    return all(stored(field) for field in ("PG_swapbacked", "_mapcount", "mapping"))


# -- pages of files ---------------------------------------------------------------------------------------------------------


@postcondition(
    "RMAP-ADDFILE-001",
    on=FILE,
    source=rmap("page_add_file_rmap"),
    fields=("page._mapcount", "zone.NR_FILE_MAPPED", "memcg.NR_FILE_MAPPED"),
    would_catch="statistics that count mappings instead of pages, and never return to 0",
    interfaces=("ReverseMap",),
)
def file_mapping_counts_on_the_first_only(op: Operation) -> Truth:
    """The map count MUST grow by one and, at the first mapping only, the number of mapped file pages of the zone and of
    the page's control group by one each; nothing else MUST change.
    """
    page, first = op.page, int(first_mapping(op))
    group = page.memcg
    nothing_else = all(e.field in ("_mapcount", "NR_FILE_MAPPED") for e in op.all("write"))
    return (
        op.delta("_mapcount", page) == 1
        and zone_change(op) == ({"NR_FILE_MAPPED": 1} if first else {})
        and (group is None or op.delta("NR_FILE_MAPPED", group) == first)
        and nothing_else
        and not op.did("set_pte")
    )


@precondition(
    "RMAP-ADDFILE-002",
    on=FILE,
    source=rmap("page_remove_rmap") + field_2011("analysis"),
    fields=("zone.NR_FILE_MAPPED",),
    features=("HUGETLB_PAGE",),
    would_catch="a counter of mapped file pages that grows with each mapping of a hugetlb file",
    since="2.6.35",
)
def hugetlb_pages_are_not_added_as_file_pages(op: Operation) -> Truth:
    """A mapping of a hugetlb page MUST NOT be added as one of an ordinary file page: removing it counts nothing."""
    return not op.page.huge


# -- sole possession --------------------------------------------------------------------------------------------------------


@precondition(
    "RMAP-MOVE-001",
    on=MOVE,
    source=rmap("page_move_anon_rmap"),
    fields=OWNER,
    locks=("page_lock",),
    enforced_by="VM_BUG_ON in page_move_anon_rmap(), but for the exclusiveness",
    would_catch="a page moved to one process while another still has a swap entry for it",
    since="2.6.34",
)
def only_a_page_of_ones_own_is_moved(op: Operation) -> Truth:
    """A page MUST be moved to an area's anon_vma only with the page locked, an anon_vma in the area, the linear index of
    the address as its index, and one mapping and no swap entry that refers to it.

    Only after copy on write found nobody else is the page really the area's.
    """
    page, vma = op.page, op.vma
    return (
        page.locked
        and vma.anon_vma is not None
        and page.index == _index(op)
        and page._mapcount == 0
        and not _swap_references(page)
    )


@postcondition(
    "RMAP-MOVE-002", on=MOVE, source=rmap("page_move_anon_rmap"), fields=OWNER, since="2.6.34", interfaces=("ReverseMap",)
)
def moved_page_belongs_to_the_area(op: Operation) -> Truth:
    """Afterwards the page MUST belong to the area's own anon_vma, and nothing but `mapping` be different."""
    return pav(op.page) is op.vma.anon_vma and all(
        e.field == "mapping" and e.obj is op.page for e in op.all("write")
    )


@postcondition(
    "RMAP-MOVE-003",
    on=MOVE,
    source=rmap("page_move_anon_rmap", "linking"),
    fields=OWNER,
    would_catch="reclaim that visits a thousand processes for each page that only one of them has (AIM7, 2010)",
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def moved_page_is_not_searched_elsewhere(op: Operation) -> Truth:
    """After the move, walks of the page MUST visit only areas of this process and of those forked from it since: no parent
    and no sibling.
    """
    own = op.vma.anon_vma
    return every(own in chain(vma) for vma in areas(pav(op.page)))
