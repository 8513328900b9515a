"""HTLB-MAP: reservation maps, their references, and the word of the VMA that points to them."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.invariant import QUIESCENT, Over, postcondition, precondition, state_invariant, transition
from mmspec.invariants.hugetlb.terms import mapped_shared, own_effects, owner, private_map, unmapped
from mmspec.logic import Truth, every, implies
from mmspec.sources import whitcroft
from mmspec.trace import Event, Operation

REFS = ("resv_map.refs",)
DATA = ("vma.vm_private_data",)


def users(resv_map: Any) -> list[Any]:
    """The linked VMAs that refer to the map."""
    return [v for v in resv_map.system.vmas if private_map(v) is resv_map]


@state_invariant(
    "HTLB-MAP-001",
    over=Over.MAP,
    guard="mmap_sem",
    source=whitcroft("M5", "H-map", "H-open", "H-close"),
    fields=REFS,
    functions=("hugetlb_vm_op_open", "hugetlb_vm_op_close"),
    would_catch="a split without kref_get: the first half to go takes the map along",
)
def references_equal_users(map: Any) -> Truth:  # noqa: A002
    """`refs` of a private reservation map MUST equal the number of VMAs that point to it."""
    return implies(map.private, lambda: map.refs == len(users(map)))


@state_invariant(
    "HTLB-MAP-002",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=whitcroft("M5"),
    fields=REFS,
    functions=("resv_map_alloc", "resv_map_put"),
    would_catch="maps leaked by failed mmaps (CVE-2012-2390)",
)
def map_lives_as_long_as_it_is_used(world: Any) -> Truth:
    """A reservation map MUST exist exactly as long as some VMA, or for a file's map its inode, refers to it: none is
    leaked, and no pointer dangles.
    """
    alive = set(world.maps)
    wanted = {m for v in world.vmas if (m := private_map(v)) is not None} | {i.resv_map for i in world.inodes}
    return implies(alive or wanted, lambda: alive == wanted and all(m.refs >= 1 for m in alive))


@postcondition("HTLB-MAP-003", over=Over.CALL, on=("resv_map_alloc",), source=whitcroft("H-map"), fields=REFS)
def new_map_is_empty(result: Any) -> Truth:
    """A new map MUST start with one reference and no region."""
    return implies(result is not None, lambda: result.refs == 1 and not result.regions)


@postcondition("HTLB-MAP-004", on=("hugetlb_reserve_pages",), source=whitcroft("H-reserve"), fields=REFS)
def no_map_no_reservation(op: Operation, result: int) -> Truth:
    """If the map cannot be allocated, the reserve request MUST return -ENOMEM with nothing charged."""
    failed = [c for c in op.calls("resv_map_alloc") if c.result is None]
    return implies(failed, lambda: result == -errno.ENOMEM and not own_effects(op))


@transition("HTLB-MAP-005", over=Over.EVENT, on=("free",), source=whitcroft("H-map"), fields=REFS)
def map_is_emptied_before_it_is_freed(event: Event) -> Truth:
    """The last put MUST empty the region list before it frees the map."""
    return implies(event.obj.over is Over.MAP, lambda: not event.obj.regions and event.obj.refs == 0)


@transition(
    "HTLB-MAP-006",
    over=Over.OPERATION,
    on=("hugetlb_vm_op_close",),
    source=whitcroft("H-close"),
    fields=REFS,
    would_catch="kref_put before region_count: consumed pages credited again, or freed memory read",
)
def close_counts_before_it_puts(op: Operation) -> Truth:
    """Close MUST finish reading the regions before it drops its reference."""
    return implies(op.did("ref_put"), lambda: op.before("region_count", "ref_put"))


@state_invariant("HTLB-MAP-007", over=Over.VMA, guard="mmap_sem", source=whitcroft("H-flags"), fields=DATA)
def pointer_leaves_room_for_flags(vma: Any) -> Truth:
    """A map's address MUST have both low bits clear, so that pointer and flags can be told apart in one word."""
    resv_map = private_map(vma)
    return implies(
        resv_map is not None,
        lambda: resv_map.address % 4 == 0 and vma.vm_private_data & ~3 == resv_map.address,
    )


@postcondition(
    "HTLB-MAP-008",
    over=Over.CALL,
    on=("set_vma_resv_map", "set_vma_resv_flags"),
    source=whitcroft("H-accessors"),
    fields=DATA,
)
def pointer_and_flags_are_independent(old: int, new: int, op: Operation) -> Truth:
    """Setting the map MUST keep the flags; setting a flag MUST keep the map and the other flag."""
    if op.name == "set_vma_resv_map":
        return new & 3 == old & 3 and new & ~3 == op.resv_map.address
    return new == old | op.flags


@precondition(
    "HTLB-MAP-009",
    on=("set_vma_resv_map", "set_vma_resv_flags"),
    source=whitcroft("H-accessors"),
    fields=DATA,
    enforced_by="VM_BUG_ON in the accessors",
)
def only_private_vmas_have_maps(op: Operation) -> Truth:
    """Map and flags MUST be set on private huge-page VMAs only."""
    return not mapped_shared(op.vma)


@postcondition("HTLB-MAP-010", on=("vma_resv_map",), source=whitcroft("H-accessors"), fields=DATA)
def shared_vma_has_no_private_map(op: Operation, result: Any) -> Truth:
    """Reading the map of a shared VMA MUST yield none."""
    return implies(mapped_shared(op.vma), lambda: result is None)


@state_invariant(
    "HTLB-MAP-011",
    over=Over.VMA,
    guard="mmap_sem",
    source=whitcroft("H-reserve", "H-comment"),
    fields=DATA,
    functions=("hugetlb_reserve_pages", "reset_vma_resv_huge_pages"),
)
def owner_exactly_with_map(vma: Any) -> Truth:
    """A private VMA MUST have the owner flag exactly if it has a map."""
    return implies(not mapped_shared(vma), lambda: owner(vma) == (private_map(vma) is not None))


@state_invariant("HTLB-MAP-012", over=Over.VMA, guard=QUIESCENT, source=whitcroft("H-flags"), fields=DATA)
def owner_is_never_unmapped(vma: Any) -> Truth:
    """HPAGE_RESV_UNMAPPED MUST appear only on VMAs without HPAGE_RESV_OWNER."""
    return not (unmapped(vma) and owner(vma))


@state_invariant(
    "HTLB-MAP-013",
    over=Over.MAP,
    guard="mmap_sem",
    source=whitcroft("H-lockrule", "H-comment"),
    fields=DATA,
)
def map_belongs_to_one_mm(map: Any) -> Truth:  # noqa: A002
    """All VMAs that share a private map MUST belong to one address space.

    Its `mmap_sem` is all that protects the regions.
    """
    return implies(map.private and users(map), lambda: len({v.mm.name for v in users(map)}) == 1)


@state_invariant("HTLB-MAP-014", over=Over.MAP, guard="mmap_sem", source=whitcroft("M5"), fields=DATA)
def users_of_a_map_are_disjoint(map: Any) -> Truth:  # noqa: A002
    """VMAs that share a map MUST cover disjoint offsets whenever `mmap_sem` is not held for write.

    An offset that two of them cover is given back twice.
    """
    spans = sorted((v.lo, v.hi) for v in users(map)) if map.private else []
    return every(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


@transition("HTLB-MAP-015", over=Over.EVENT, on=("vm_private_data",), source=whitcroft("H-ops"), fields=DATA)
def vma_never_changes_its_map(event: Event) -> Truth:
    """A VMA MUST NOT come to share a map that it did not have from the start: maps are not merged, and neither are VMAs
    with a close hook.
    """
    before, after = (event.old or 0) & ~3, event.new & ~3
    return before in (0, after) or after == 0


@transition(
    "HTLB-MAP-016",
    over=Over.EVENT,
    on=("ref_get",),
    source=whitcroft("H-open"),
    fields=REFS,
    functions=("hugetlb_vm_op_open",),
)
def open_has_a_living_sibling(event: Event) -> Truth:
    """Open MUST take its reference while a sibling VMA still holds one; only then it needs no lock."""
    return event.map.refs >= 1 and bool(users(event.map))


@transition("HTLB-MAP-017", over=Over.EVENT, on=("refs",), source=whitcroft("H-open", "H-map"), fields=REFS)
def nothing_rises_from_the_dead(event: Event) -> Truth:
    """A reference count MUST NOT be raised from 0, nor fall below it."""
    return event.new >= 0 and not (event.old == 0 and event.new > 0)


@postcondition(
    "HTLB-MAP-018",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("H-reserve"),
    fields=DATA,
    would_catch="map and owner flag attached before the checks that may fail (2008 as posted)",
)
def failed_mmap_keeps_no_map(op: Operation, result: int) -> Truth:
    """After a failed request the VMA MUST have neither map nor owner flag, and every map allocated for it MUST be gone."""
    made = [c.result for c in op.calls("resv_map_alloc") if c.result is not None]
    freed = [e.obj for e in op.all("free")]
    return implies(
        result < 0 and op.vma is not None and not mapped_shared(op.vma),
        lambda: op.vma.vm_private_data == 0 and all(any(m is f for f in freed) for m in made),
    )


@precondition("HTLB-MAP-019", on=("set_vma_resv_map",), source=whitcroft("H-reserve"), fields=DATA)
def map_is_attached_once(op: Operation) -> Truth:
    """A map MUST be attached at most once in a VMA's life, and never be exchanged."""
    return private_map(op.vma) is None


@postcondition(
    "HTLB-MAP-020", over=Over.CALL, on=("reset_vma_resv_huge_pages",), source=whitcroft("H-comment"), fields=DATA
)
def reset_clears_the_childs_claim(old: int, new: int, vma: Any) -> Truth:
    """The reset at fork MUST clear map pointer and both flags of a private child VMA, and leave shared VMAs alone."""
    return new == (old if mapped_shared(vma) else 0)
