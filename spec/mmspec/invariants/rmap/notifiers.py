"""MMUN: secondary MMUs follow the page tables without holding pages."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, state_invariant, transition
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

HERE: dict[str, Any] = {"features": ("MMU_NOTIFIER",)}
SPTES = ("mmu_notifier.sptes",)


def _notifiers(system: Any) -> list[Any]:
    return [n for mm in system.mms for n in mm.notifiers]


def _primary(mm: Any, vpn: int) -> Any:
    """The entry that translates a base page number, at whichever level; None if there is none."""
    system = mm.system
    index = vpn // system.ptrs_per_pte
    if index in mm.pmds:
        return mm.pmds[index]
    first = vpn >> system.huge_page_order << system.huge_page_order
    if first in mm.huge:
        return mm.huge[first]
    table = mm.tables.get(index)
    return None if table is None else table.entries.get(vpn)


@transition(
    "MMUN-001",
    over=Over.EVENT,
    on=("free_page",),
    source=rmap("notifiers"),
    fields=(*SPTES, "page._count"),
    functions=("free_page", "mmu_notifier_invalidate_page", "mmu_notifier_invalidate_range_start"),
    would_catch="a guest goes on writing to memory that its host has given to somebody else",
    **HERE,
)
def freed_pages_have_no_secondary_translation(event: Event) -> Truth:
    """When a page is freed, no secondary MMU MUST have a translation to it."""
    notifiers = _notifiers(event.page.system)
    return implies(notifiers, lambda: all(s.page is not event.page for n in notifiers for s in n.sptes.values()))


@transition(
    "MMUN-002",
    over=Over.EVENT,
    on=("put_page",),
    source=rmap("notifiers", "try_to_unmap_one", "try_to_unmap_cluster", "page_mkclean_one"),
    fields=(*SPTES, "pte", "page._count"),
    functions=("try_to_unmap_one", "try_to_unmap_cluster", "unmap_page_range", "do_wp_page"),
    **HERE,
)
def secondary_translation_goes_before_the_reference(event: Event) -> Truth:
    """Who has taken a mapping away MUST have had the secondary translation dropped before they drop the page's reference.

    Nothing else keeps the page for the secondary MMU.
    """
    op, page = event.op, event.page
    if op is None or not _notifiers(page.system):
        return VACUOUS
    taken = [e for e in op.all("ptep_clear") if e.entry is not None and e.entry.kind == "present" and e.entry.page is page]
    return every(
        all(n.sptes[e.vpn].page is not page for n in e.mm.notifiers if e.vpn in n.sptes)
        for e in taken
        if e.mm.notifiers and _maps_not(e, page)
    )


def _maps_not(event: Event, page: Any) -> bool:
    """Whether the slot that was emptied has not come to map the page again."""
    now = _primary(event.mm, event.vpn)
    return now is None or now.kind != "present" or now.page is not page


@postcondition(
    "MMUN-003",
    on=("secondary_fault",),
    source=rmap("notifiers"),
    fields=("page._count",),
    would_catch="pages that a secondary MMU uses are pinned and cannot be swapped",
    **HERE,
)
def secondary_translations_hold_no_reference(op: Operation, result: Any) -> Truth:
    """A secondary fault on a page that the process maps already MUST leave the page's references as they were."""
    made = op.one("spte_establish")
    faulted = op.calls("handle_mm_fault")
    return implies(result and made and not faulted, lambda: op.delta("_count", made.page) == 0)  # type: ignore[union-attr]


@transition(
    "MMUN-004",
    over=Over.EVENT,
    on=("spte_establish",),
    source=rmap("notifiers"),
    fields=SPTES,
    functions=("secondary_fault", "mmu_notifier_invalidate_range_start", "mmu_notifier_invalidate_range_end"),
    would_catch="a secondary fault in the middle of munmap maps a page that is about to be freed without further notice",
    **HERE,
)
def no_secondary_fault_while_a_range_goes(event: Event) -> Truth:
    """Between the start and the end of the invalidation of a range, no secondary translation MUST be made in it."""
    return not any(event.vpn in vpns for n in event.mm.notifiers for vpns in n.invalidating)


@state_invariant(
    "MMUN-005",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("notifiers"),
    fields=(*SPTES, "pte"),
    functions=("page_mkclean_one", "try_to_unmap_one", "change_protection", "copy_page_range", "do_wp_page"),
    **HERE,
)
def secondary_translations_grant_no_more(world: Any) -> Truth:
    """A secondary translation MUST be to the page that the process maps there, and allow writing only if the process may
    write.
    """
    return every(
        (primary := _primary(n.mm, vpn)) is not None
        and primary.kind == "present"
        and primary.page is spte.page
        and (primary.write or not spte.write)
        for n in _notifiers(world)
        for vpn, spte in n.sptes.items()
    )


@transition(
    "MMUN-006",
    over=Over.EVENT,
    on=("clear_young",),
    source=rmap("page_referenced_one", "try_to_unmap_one", "notifiers"),
    fields=(*SPTES, "pte.young"),
    functions=("page_referenced_one", "try_to_unmap_one", "try_to_unmap_cluster"),
    **HERE,
)
def ageing_asks_secondary_mmus(event: Event) -> Truth:
    """Where an entry is asked whether it was used, what secondary MMUs know of it MUST count, and be cleared.

    A page that only a guest uses would be taken from it again and again.
    """
    notifiers = event.mm.notifiers
    if len(notifiers) != 1 or event.vpn not in notifiers[0].sptes:
        return VACUOUS
    asked = event.op.one("notifier_clear_young") if event.op is not None else None
    return (
        not notifiers[0].sptes[event.vpn].young
        and asked is not None
        and asked.vpn == event.vpn
        and (event.young or not asked.young)
    )


@postcondition(
    "MMUN-007",
    on=("mmu_notifier_register", "mmu_notifier_unregister"),
    source=rmap("notifiers"),
    fields=("mm.notifiers",),
    locks=("mmap_sem", "i_mmap_mutex", "anon_vma_mutex"),
    **HERE,
)
def registration_is_all_or_nothing(op: Operation, result: Any) -> Truth:
    """A secondary MMU MUST be attached with the address space at rest: `mmap_sem` for write and all its mutexes. Attaching
    may fail with -EINTR or -ENOMEM and has no effect then; detaching cannot fail.
    """
    if op.name == "mmu_notifier_unregister":
        return result is None and op.did("notifier_unregister")
    done = op.one("notifier_register")
    if done is None:
        return isinstance(result, int) and result in (-errno.EINTR, -errno.ENOMEM) and op.context.held == op.held_at_entry
    held = [h.owner for h in done.held]
    return (
        not isinstance(result, int)
        and done.holds("mmap_sem", op.mm)
        and all(any(owner is wanted for owner in held) for wanted in _owners(op.mm))
    )


def _owners(mm: Any) -> list[Any]:
    """The files and the roots whose mutexes the areas of an address space are on the lists of, each once."""
    files = [v.vm_file for v in mm.vmas if v.vm_file is not None]
    trees = [avc.anon_vma.root for v in mm.vmas for avc in v.anon_vma_chain]
    return list(dict.fromkeys([*files, *trees]))


@lock_rule(
    "MMUN-008",
    over=Over.OPERATION,
    on=("mm_take_all_locks",),
    source=rmap("notifiers") + field_2011("base"),
    locks=("i_mmap_mutex", "anon_vma_mutex"),
    functions=("mm_take_all_locks",),
    would_catch="two areas of one file: the second attempt to take the file's mutex waits for itself",
    **HERE,
)
def all_locks_are_taken_once(op: Operation, result: Any) -> Truth:
    """Taking all locks of an address space MUST take the mutex of each file and of each tree exactly once, however many
    areas share it; if it is broken off, none is kept.
    """
    got = [e.lock.owner for e in op.all("acquire") if e.lock.cls in ("i_mmap_mutex", "anon_vma_mutex")]
    if result is None:
        return op.context.held == op.held_at_entry
    wanted = _owners(op.mm)
    return len(got) == len(wanted) and all(any(owner is w for owner in got) for w in wanted)


@transition(
    "MMUN-009",
    over=Over.EVENT,
    on=("ptep_clear_flush_notify", "clear_young"),
    source=rmap("notifiers"),
    fields=("pte",),
    functions=("ptep_clear_flush_notify", "ptep_clear_flush_young_notify"),
)
def without_listeners_notifying_changes_nothing(event: Event) -> Truth:
    """Without a secondary MMU, an operation that notifies MUST do to the entry exactly what its plain counterpart does:
    empty it, flush, and return what was in it; or clear its young bit and say whether that was set.
    """
    if event.mm.notifiers or event.op is None:
        return VACUOUS
    own, flushed = _done_here(event)
    if event.kind == "ptep_clear_flush_notify":
        return bool(own) and own[-1].new is None and own[-1].old == event.entry and flushed
    if event.young:
        return bool(own) and own[-1].old.young and not own[-1].new.young and flushed
    now = _primary(event.mm, event.vpn)
    return now is None or now.kind != "present" or not now.young


def _done_here(event: Event) -> tuple[list[Event], bool]:
    """The stores to the event's slot since the last event of its kind, in order, and whether there was a flush."""
    assert event.op is not None
    stores: list[Event] = []
    flushed = False
    for step in reversed(event.op.context.events):
        if step is event:
            continue
        if step.kind == event.kind:
            break
        flushed = flushed or (step.kind == "tlb_flush" and step.mm is event.mm)
        if step.kind == "set_pte" and step.mm is event.mm and (step.level, step.vpn) == (event.level, event.vpn):
            stores.insert(0, step)
    return stores, flushed


@transition(
    "MMUN-010",
    over=Over.EVENT,
    on=("clear_young",),
    source=rmap("thp", "page_referenced_one"),
    fields=(*SPTES, "pmd.young"),
    functions=("page_referenced_one",),
    features=("MMU_NOTIFIER", "TRANSPARENT_HUGEPAGE"),
)
def ageing_a_huge_entry_reaches_the_head(event: Event) -> Truth:
    """Ageing a trans-huge entry MUST reach at least the secondary translation of its first address; it carries no range, so
    those of the others MAY stay as they are.

    Secondary MMUs are expected to map the page as a huge one, too.
    """
    notifiers = event.mm.notifiers
    if event.level != "pmd" or len(notifiers) != 1:
        return VACUOUS
    head = event.vpn // event.mm.system.ptrs_per_pte * event.mm.system.ptrs_per_pte
    return implies(head in notifiers[0].sptes, lambda: not notifiers[0].sptes[head].young)
