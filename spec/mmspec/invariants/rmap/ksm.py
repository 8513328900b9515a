"""KSM: pages of equal content merged into one, which has a node of the stable tree instead of an anon_vma."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmspec.errors import SWAP_FAIL
from mmspec.invariant import QUIESCENT, Over, liveness, lock_rule, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import VM_NONLINEAR, entered_with, is_anon, is_ksm, linear_page_index, pav
from mmspec.logic import Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

HERE: dict[str, Any] = {"features": ("KSM",)}
VM_MERGEABLE = 0x80000000

WALKS = ("page_referenced", "try_to_unmap", "try_to_munlock", "rmap_walk")
KSM_WALKS = ("page_referenced_ksm", "try_to_unmap_ksm", "rmap_walk_ksm")
OTHER_WALKS = (
    "page_referenced_anon",
    "page_referenced_file",
    "try_to_unmap_anon",
    "try_to_unmap_file",
    "rmap_walk_anon",
    "rmap_walk_file",
)


@postcondition("KSM-001", on=WALKS, source=rmap(*WALKS), fields=("page.mapping",), **HERE)
def merged_pages_have_a_walk_of_their_own(op: Operation) -> Truth:
    """Whoever looks for the mappings of a merged page MUST do it by its node, never by an anon_vma or a file.

    `mapping` of a merged page points to a node; taken for an anon_vma, it leads anywhere.
    """
    return implies(
        op.get("was_ksm", is_ksm(op.page)), lambda: not any(op.calls(name) for name in OTHER_WALKS)
    )


@lock_rule(
    "KSM-002",
    over=Over.OPERATION,
    on=KSM_WALKS,
    source=rmap("ksm-swappable", "rmap-walk"),
    fields=("page.mapping", "stable_node.hlist"),
    locks=("page_lock",),
    functions=KSM_WALKS,
    enforced_by="VM_BUG_ON(!PageLocked(page))",
    **HERE,
)
def page_lock_keeps_the_node(op: Operation) -> Truth:
    """A merged page MUST be locked while its node is walked."""
    return entered_with(op, "page_lock", op.page)


@postcondition(
    "KSM-003",
    on=("ksm_might_need_to_copy",),
    source=rmap("ksm-swappable"),
    fields=("page.mapping", "page.index", "page.content"),
    functions=("ksm_might_need_to_copy", "do_swap_page"),
    would_catch="a page that was merged before it was swapped out is mapped where nobody will find it",
    **HERE,
)
def swapped_in_page_belongs_to_its_place(op: Operation, result: Any) -> Truth:
    """What a swap-in maps MUST be attributable to the place: a page of the same tree with the same index, one that is nobody's
    yet, one that is still merged, or else a private copy with the same content.
    """
    page, vma = op.page, op.vma
    if result is None:
        return implies(False, lambda: True)
    if result is not page:
        return bool(result.content == page.content and result.mapping is None and result._mapcount == -1)
    if is_ksm(page) or not is_anon(page):
        return True
    vpn = op.address // vma.mm.system.page_size
    owner = pav(page)
    return bool(vma.anon_vma is not None and owner.root is vma.anon_vma.root and page.index == linear_page_index(vma, vpn))


@transition(
    "KSM-004",
    over=Over.OPERATION,
    on=("ksm_might_need_to_copy",),
    source=rmap("ksm-swappable"),
    fields=("vma.vm_flags",),
    functions=("ksm_might_need_to_copy",),
    **HERE,
)
def copies_do_not_depend_on_advice(op: Operation, result: Any) -> Truth:
    """A page that belongs to another place MUST NOT be mapped by swap-in, whether the area may still be merged or not.

    The advice may have been taken back while the page was in swap.
    """
    page, vma = op.page, op.vma
    owner = pav(page)
    foreign = owner is not None and (
        vma.anon_vma is None
        or owner.root is not vma.anon_vma.root
        or page.index != linear_page_index(vma, op.address // vma.mm.system.page_size)
    )
    return implies(foreign and not vma.vm_flags & VM_MERGEABLE, lambda: result is not page)


@transition(
    "KSM-005",
    over=Over.EVENT,
    on=("set_pte", "vm_flags"),
    source=rmap("ksm-swappable"),
    fields=("pte", "vma.vm_flags"),
    functions=("try_to_merge_one_page", "replace_page", "remap_file_pages"),
    **HERE,
)
def nonlinear_areas_are_not_merged(event: Event) -> Truth:
    """A nonlinear area MUST NOT be given a merged page, and MUST NOT be marked as one to merge in.

    Nobody could find the page there.
    """
    if event.kind == "set_pte":
        merged = event.new is not None and event.new.kind == "present" and is_ksm(event.new.page) and event.vma is not None
        return implies(merged, lambda: not event.vma.vm_flags & VM_NONLINEAR)
    both = VM_MERGEABLE | VM_NONLINEAR
    return implies((event.new ^ event.old) & event.new & both, lambda: event.new & both != both)


@liveness(
    "KSM-006",
    over=Over.OPERATION,
    on=("ksm_do_scan",),
    source=rmap("ksm-swappable"),
    fields=("stable_tree", "rmap_item"),
    functions=("ksm_do_scan",),
    **HERE,
)
def bookkeeping_of_merged_pages_is_bounded(op: Operation) -> Truth:
    """After a round of the scanner there MUST be no node whose page is gone, and no more items than base pages in areas that
    may be merged.

    Merged pages that are swapped out and come back as copies would otherwise leave memory behind that nothing can free.
    """
    system = op.system
    places = sum((v.vm_end - v.vm_start) // system.page_size for mm in system.mms for v in mm.vmas if v.vm_flags & VM_MERGEABLE)
    return implies(
        op.alone and system.has("KSM"),
        lambda: (
            len(system.rmap_items) <= places
            and all(n.page in system.pages and n.page.mapping.pointer is n for n in system.stable_tree.values())
        ),
    )


@state_invariant(
    "KSM-007",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("anon_vma_free", "migrate-pin") + field_2011("base"),
    fields=("rmap_item.anon_vma", "anon_vma.refcount"),
    functions=("try_to_merge_with_ksm_page", "remove_rmap_item_from_tree"),
    would_catch="a merged page outlives the area that it was merged in, and its walk uses an anon_vma that is gone",
    **HERE,
)
def items_pin_their_anon_vmas(world: Any) -> Truth:
    """Every item of the stable tree MUST have a pin on the anon_vma that it names, one each."""
    items = [i for i in world.rmap_items.values() if i.stable]
    counts = Counter(i.anon_vma for i in items)
    return every(
        a is not None and a.allocated and a.refcount >= sum(a.pins.values()) >= count for a, count in counts.items()
    )


@postcondition(
    "KSM-008",
    on=("unmap_and_move",),
    source=rmap("rmap-walk", "ksm-swappable"),
    fields=("page.mapping", "stable_node.page"),
    functions=("unmap_and_move", "rmap_walk_ksm"),
    features=("KSM", "MIGRATION"),
)
def merged_pages_can_be_moved(op: Operation, result: Any) -> Truth:
    """A merged page MUST be moved like any other page on the lists: its mappings are replaced, and if that succeeds its node
    names the new page.
    """

    def moved() -> Truth:
        if result != 0:
            return bool(op.calls("try_to_unmap"))
        node = op.newpage.mapping.pointer
        return bool(is_ksm(op.newpage) and (node is None or node.page is op.newpage))

    return implies(op.get("was_ksm") and op.alone, moved)


@postcondition(
    "KSM-009",
    on=("try_to_munlock",),
    source=rmap("try_to_munlock"),
    fields=("page.mapping",),
    **HERE,
)
def munlock_admits_that_it_cannot_know(op: Operation, result: Any) -> Truth:
    """For a merged page whose node is not known yet, try_to_munlock MUST fail, neither denying nor claiming that somebody
    locks the page.
    """
    return implies(is_ksm(op.page) and op.page.mapping.pointer is None, lambda: result is SWAP_FAIL)
