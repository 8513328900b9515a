"""RMAP-ANON: `mapping` and `index` of anonymous pages, by which the areas that may map them are found."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import ALWAYS, QUIESCENT, Over, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    PAGE_MAPPING_ANON,
    PAGE_MAPPING_KSM,
    areas,
    census,
    chain,
    first_mapping,
    in_this_order,
    is_anon,
    is_ksm,
    linear_page_index,
    mapped,
    own_writes,
    pav,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

MAPPING = ("page.mapping",)
OWNER = ("page.mapping", "page.index")
SETTING = (
    "do_page_add_anon_rmap", "page_add_new_anon_rmap", "hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap",
)  # fmt: skip


@state_invariant(
    "RMAP-ANON-001",
    over=Over.PAGE,
    guard=ALWAYS,
    source=rmap("page_get_anon_vma", "__page_set_anon_rmap", "ksm-swappable"),
    fields=MAPPING,
    functions=("__page_set_anon_rmap", "set_page_stable_node"),
    since="2.6.33",
)
def low_bits_say_what_mapping_is(page: Any) -> Truth:
    """The two low bits of `mapping` MUST be 0 for a file, ANON for an anon_vma, or ANON and KSM for a node of the
    stable tree; KSM alone is no kind of page.

    Each walk picks its lists by these bits; a fourth value would be taken for one of the three.
    """
    kinds = (0, PAGE_MAPPING_ANON, PAGE_MAPPING_ANON | PAGE_MAPPING_KSM)
    return implies(page.mapping is not None, lambda: page.mapping.bits in kinds)


@transition(
    "RMAP-ANON-002",
    over=Over.EVENT,
    on=("mapping",),
    source=rmap("page_get_anon_vma", "__page_set_anon_rmap") + field_2011("analysis"),
    fields=MAPPING,
    functions=("anon_vma_alloc", "set_page_stable_node", "add_to_page_cache"),
    enforced_by="the alignment that the slab allocator and the compiler give",
    would_catch="struct address_space on an architecture that aligned it to two bytes (CRIS)",
)
def tag_is_no_part_of_the_address(event: Event) -> Truth:
    """What a `mapping` points to MUST lie at a multiple of 4 bytes, so that the tag takes no bit of the address."""
    return implies(
        event.new is not None and event.new.pointer is not None, lambda: event.new.pointer.address % 4 == 0
    )


@transition(
    "RMAP-ANON-003",
    over=Over.EVENT,
    on=("free_anon_vma", "_mapcount", "mapping"),
    source=rmap("page_get_anon_vma", "oldest"),
    fields=MAPPING,
    functions=("__page_set_anon_rmap", "unlink_anon_vmas", "anon_vma_free"),
    would_catch="page_referenced() of 2.6.34-rc following a page to an anon_vma that went with the child",
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def owner_lives_while_the_page_is_mapped(event: Event) -> Truth:
    """As long as an anonymous page that is not merged is mapped, the anon_vma that its `mapping` names MUST be
    allocated, and still be the one that was meant when it was set.

    Whoever walks has nothing but this pointer; what it names in its next life has other areas.
    """
    if event.kind == "free_anon_vma":
        dying = event.anon_vma
        owned = [p for p in dying.system.pages if pav(p) is dying and p.anon_generation == dying.generation]
        return every(not mapped(page) for page in owned)
    page = event.obj
    if not mapped(page) or pav(page) is None:
        return VACUOUS
    if event.field == "mapping":
        return bool(pav(page).allocated)
    return bool(pav(page).allocated and page.anon_generation == pav(page).generation)


def _anonymous_places(world: Any) -> list[tuple[Any, Any]]:
    """Each anonymous page that is not merged, with each place that maps it."""
    return [(page, place) for page, places in census(world).maps.items() if pav(page) is not None for place in places]


@state_invariant(
    "RMAP-ANON-004",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("oldest", "linking"),
    fields=(*MAPPING, "vma.anon_vma_chain", "anon_vma.head"),
    functions=("__page_set_anon_rmap", "page_move_anon_rmap", "anon_vma_clone", "anon_vma_fork", "vma_adjust"),
    implied_by=("RMAP-ANON-009", "RMAP-ANON-011", "RMAP-ANON-013"),
    would_catch="page_referenced() of 2.6.34-rc: a page shared by fork and swapped in belonged to the child alone",
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def reverse_mapping_finds_each_mapping(world: Any) -> Truth:
    """For each area that maps an anonymous page that is not merged, the page's anon_vma MUST be on the area's chain, and
    the area on the list of that anon_vma.

    An entry that no walk finds is not unmapped: the page is freed, or moved, under a process that uses it.
    """
    return every(
        place.vma is not None and pav(page) in chain(place.vma) and place.vma in areas(pav(page))
        for page, place in _anonymous_places(world)
    )


@state_invariant(
    "RMAP-ANON-005",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("__page_check_anon_rmap"),
    fields=(*MAPPING, "vma.anon_vma", "anon_vma.root"),
    functions=("__page_set_anon_rmap", "anon_vma_fork"),
    implied_by=("RMAP-ANON-004",),
    enforced_by="BUG_ON in __page_check_anon_rmap() with CONFIG_DEBUG_VM",
    since="2.6.36",
    interfaces=("ReverseMap",),
)
def page_and_area_are_of_one_tree(world: Any) -> Truth:
    """The anon_vma of an anonymous page that is not merged and that of an area that maps it MUST have the same root.

    It is what a debug kernel can test cheaply of the rule that the owner is on the chain.
    """
    return every(
        place.vma is not None and place.vma.anon_vma is not None and pav(page).root is place.vma.anon_vma.root
        for page, place in _anonymous_places(world)
    )


@state_invariant(
    "RMAP-ANON-006",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("__page_check_anon_rmap", "page_move_anon_rmap"),
    fields=("page.index", "vma.vm_pgoff", "vma.vm_start"),
    functions=("__page_set_anon_rmap", "vma_adjust", "move_page_tables"),
    implied_by=("RMAP-ADDNEW-002",),
    enforced_by="BUG_ON in __page_check_anon_rmap() with CONFIG_DEBUG_VM",
    would_catch="an area whose `vm_pgoff` was not carried along when it was split, merged or moved",
    since="2.6.22",
)
def index_is_where_the_area_maps_it(world: Any) -> Truth:
    """For each mapping of an anonymous page that is not merged, `index` MUST be the linear index of the mapped
    address in its area.

    A walk computes the address back from it, and looks there only.
    """
    return every(
        place.vma is not None and page.index == linear_page_index(place.vma, place.vpn)
        for page, place in _anonymous_places(world)
    )


@postcondition(
    "RMAP-ANON-007",
    on=("page_remove_rmap",),
    source=rmap("page_remove_rmap"),
    fields=OWNER,
    would_catch="a last unmapping that resets what a fault on the same page of the swap cache has just set",
    interfaces=("ReverseMap",),
)
def removal_leaves_the_owner(op: Operation) -> Truth:
    """Removing a mapping, the last one too, MUST leave `mapping` and `index` as they are; they go when the page is freed.

    The page may be mapped again from the swap cache at this moment by somebody who sees that it is anonymous already.
    """
    return not own_writes(op, "mapping", "index", of=op.page)


@postcondition(
    "RMAP-ANON-008",
    on=("page_lock_anon_vma", "page_get_anon_vma", "rmap_walk_anon"),
    source=rmap("page_remove_rmap", "page_get_anon_vma", "migrate-pin"),
    fields=MAPPING,
    would_catch="a lookup that takes the lock of an anon_vma that has become somebody else's",
    since="2.6.35",
)
def owner_is_trusted_only_while_mapped(op: Operation, result: Any) -> Truth:
    """`mapping` of an anonymous page MUST be followed only after the page was seen mapped, and what was found that way
    MUST be given out only if the page was seen mapped again with the lock or the reference in hand; who walks a page that
    is not mapped MUST hold a pin.

    When the last mapping goes the pointer stays, and what it points to may go.
    """
    if op.name == "rmap_walk_anon":
        return implies(op.get("owner") is not None, lambda: bool(op.stable))
    seen = secured = again = False
    for step in op.events:
        if step.kind == "mapcount_read":
            seen, again = seen or step.mapped, step.mapped and secured
        elif step.kind in ("load_root", "trylock_root", "pin_anon_vma"):
            if not seen:
                return False
            secured = secured or step.kind != "load_root"
    return implies(seen, lambda: result is None or again)


@postcondition(
    "RMAP-ANON-009",
    on=("do_page_add_anon_rmap",),
    source=rmap("__page_set_anon_rmap", "oldest"),
    fields=MAPPING,
    would_catch="page_referenced() of 2.6.34-rc: the youngest anon_vma was named, and went before the page did",
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def shared_page_belongs_to_the_root(op: Operation) -> Truth:
    """At its first mapping, a page that is not anonymous yet and that others may use too MUST become the page of the
    root of the area's anon_vma.

    Whoever may come to map it is below the root, and the root outlives them all.
    """
    return implies(
        first_mapping(op) and not op.exclusive and not op.was_anon, lambda: pav(op.page) is op.vma.anon_vma.root
    )


@postcondition(
    "RMAP-ANON-010",
    on=("do_page_add_anon_rmap",),
    source=rmap("__page_set_anon_rmap"),
    fields=MAPPING,
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def exclusive_page_belongs_to_the_area(op: Operation) -> Truth:
    """At its first mapping, a page that is not anonymous yet and that nobody else uses MUST become the page of the
    area's own anon_vma.

    Walks of it then visit this process and its children, not its parent and all of that one's children.
    """
    return implies(first_mapping(op) and op.exclusive and not op.was_anon, lambda: pav(op.page) is op.vma.anon_vma)


@postcondition(
    "RMAP-ANON-011",
    on=("do_page_add_anon_rmap",),
    source=rmap("__page_set_anon_rmap"),
    fields=OWNER,
    would_catch="a page of the swap cache whose owner was changed while another process still had an entry for it",
    since="2.6.36",
    interfaces=("ReverseMap",),
)
def anonymous_page_keeps_its_owner(op: Operation) -> Truth:
    """A page that is anonymous already when it is mapped again MUST keep `mapping` and `index`.

    Other entries for its swap slot may be in areas that only the old owner leads to.
    """
    return implies(
        first_mapping(op) and op.was_anon, lambda: not own_writes(op, "mapping", "index", of=op.page)
    )


@state_invariant(
    "RMAP-ANON-012",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("ksm-swappable", "__page_set_anon_rmap") + field_2011("analysis"),
    fields=OWNER,
    functions=("__page_set_anon_rmap", "ksm_might_need_to_copy", "do_swap_page"),
    features=("SWAP",),
    would_catch="a page swapped in for one process and mapped as it is by another that had shared it through KSM",
    since="2.6.36",
)
def swap_cache_owner_leads_to_each_entry(world: Any) -> Truth:
    """For each swap entry whose page is in the swap cache, anonymous and not merged, the page's anon_vma MUST be on the
    chain of the entry's area, or tree or index MUST differ so that a fault takes a private copy.

    The fault keeps the owner of a page that has one; if that owner did not lead to the area, nobody would find the mapping.
    """
    checks = []
    for slot, places in census(world).swap.items():
        page = world.swapper_space.pages.get(slot)
        if page is None or pav(page) is None:
            continue
        for place in places:
            checks.append(place.vma is not None and (pav(page) in chain(place.vma) or _must_copy(world, page, place)))
    return every(checks)


def _must_copy(world: Any, page: Any, place: Any) -> bool:
    """Whether a fault at the place can see that the page is not its own."""
    own = place.vma.anon_vma
    return world.has("KSM") and (
        own is None or pav(page).root is not own.root or page.index != linear_page_index(place.vma, place.vpn)
    )


@transition(
    "RMAP-ANON-013",
    over=Over.EVENT,
    on=("mapping",),
    source=rmap("page_get_anon_vma", "page_move_anon_rmap"),
    fields=MAPPING,
    functions=("page_move_anon_rmap",),
    would_catch="a page moved to an anon_vma from whose list another mapping of it cannot be found",
    since="2.6.34",
    interfaces=("ReverseMap",),
)
def mapped_page_moves_down_its_tree_only(event: Event) -> Truth:
    """As long as a page is mapped, its `mapping` MUST change from one anon_vma only to one that descends from it.

    A lookup that has locked the old owner's tree has locked the new one's too, and a list above leads to all that the
    list below leads to.
    """
    old, new = (m.pointer if m is not None and m.bits == PAGE_MAPPING_ANON else None for m in (event.old, event.new))
    if old is None or new is None or old is new or not mapped(event.obj):
        return VACUOUS

    def descends(links: list[Any]) -> bool:
        return old in links and new in links and links.index(new) < links.index(old)

    return old.root is new.root and any(descends(chain(vma)) for vma in areas(new))


@transition(
    "RMAP-ANON-014",
    over=Over.EVENT,
    on=("mapping",),
    source=rmap("page_add_anon_rmap", "ksm-swappable"),
    fields=MAPPING,
    locks=("page_lock",),
    functions=("set_page_stable_node",),
    features=("KSM",),
    enforced_by="comment at page_add_anon_rmap()",
    since="2.6.33",
)
def merging_is_for_life_and_under_the_page_lock(event: Event) -> Truth:
    """An anonymous page MUST become a merged one only under its page lock, and a merged page that is mapped MUST stay
    one; it never becomes an ordinary anonymous page again.

    Those who add a mapping decide by the page lock alone that the kind they saw stays.
    """
    merged = PAGE_MAPPING_ANON | PAGE_MAPPING_KSM
    was = event.old is not None and event.old.bits == merged
    becomes = event.new is not None and event.new.bits == merged
    if was:
        return becomes or (event.new is None and not mapped(event.obj))
    return implies(becomes, lambda: event.holds("page_lock", event.obj))


@postcondition(
    "RMAP-ANON-015",
    on=SETTING,
    source=rmap("do_page_add_anon_rmap", "page_remove_rmap"),
    fields=(*MAPPING, "page._mapcount"),
)
def count_is_raised_before_the_owner_is_set(op: Operation) -> Truth:
    """At a first mapping the map count MUST be raised before `mapping` is written.

    Somebody who takes the last mapping away at the same time has lowered it already, and so leaves the new owner alone;
    lookups that see the old one ask for the map count.
    """
    return implies(
        own_writes(op, "mapping", of=op.page),
        lambda: in_this_order(
            op,
            lambda e: e.kind == "write" and e.obj is op.page and e.field == "_mapcount",
            lambda e: e.kind == "write" and e.obj is op.page and e.field == "mapping",
        ),
    )


@transition(
    "RMAP-ANON-016",
    over=Over.EVENT,
    on=("mapping",),
    source=rmap("page_referenced_file") + field_2011("base"),
    fields=MAPPING,
    locks=("page_lock",),
    functions=("delete_from_page_cache", "page_referenced_file"),
    enforced_by="BUG_ON(page_mapped(page)) in __delete_from_page_cache()",
)
def file_page_stays_in_its_file(event: Event) -> Truth:
    """`mapping` of a page of a file MUST be taken away or changed only with the page locked and mapped by nobody; a
    mapped page of a file is in that file as long as its lock is held.

    page_referenced_file() follows the pointer without looking twice. Freeing a page that nobody knows is no change.
    """
    page, old = event.obj, event.old
    if old is None or old.bits or event.new == old or page._count == 0:
        return VACUOUS
    return event.holds("page_lock", page) and not mapped(page)


@postcondition(
    "RMAP-ANON-017",
    on=("page_referenced", "try_to_unmap", "try_to_munlock", "rmap_walk", "page_address_in_vma"),
    source=rmap("do_page_add_anon_rmap", "ksm-swappable") + field_2011("analysis"),
    fields=("page.index",),
    functions=("vma_address", "page_referenced_ksm", "try_to_unmap_ksm", "rmap_walk_ksm"),
    features=("KSM",),
    since="2.6.33",
)
def index_of_a_merged_page_means_nothing(op: Operation) -> Truth:
    """No address MUST be computed from the `index` of a merged page.

    Each of its mappings has an index of its own; the stable tree remembers the addresses.
    """
    merged = op.get("walker") == "ksm" or (op.name == "page_address_in_vma" and is_anon(op.page) and is_ksm(op.page))
    return implies(merged, lambda: not any(call.page is op.page for call in op.calls("vma_address")))
