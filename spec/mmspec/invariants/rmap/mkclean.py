"""RMAP-MKCLEAN: page_mkclean, which makes a page of a file clean in all shared mappings, so that the next write is seen."""

from __future__ import annotations

from typing import Any

import attrs

from mmspec.invariant import Over, postcondition, precondition, transition
from mmspec.invariants.rmap.terms import (
    PTL_CLASSES,
    VM_NONLINEAR,
    VM_SHARED,
    in_this_order,
    is_anon,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

ALL = ("page_mkclean",)
ONE = ("page_mkclean_one",)
BITS = ("pte.dirty", "pte.write")


def _area(slot: Any) -> Any:
    """The area of a slot of base pages, or None."""
    return slot.mm.area_at(slot.vpn * slot.mm.system.page_size)


def _shared(slots: dict[Any, Any]) -> dict[Any, Any]:
    """Those of the mappings that are in shared, linear areas."""
    return {
        slot: entry
        for slot, entry in slots.items()
        if (vma := _area(slot)) is not None and vma.vm_flags & VM_SHARED and not vma.vm_flags & VM_NONLINEAR
    }


def _fills(op: Operation) -> list[Event]:
    """The entries that the operation has written back."""
    return [e for e in op.all("set_pte") if e.new is not None and e.new.kind == "present"]


def _is_clear(event: Event) -> bool:
    return event.kind == "ptep_clear"


@precondition(
    "RMAP-MKCLEAN-001",
    on=ALL,
    source=rmap("page_mkclean", "page_mkclean_file"),
    locks=("page_lock",),
    enforced_by="BUG_ON in page_mkclean() and page_mkclean_file()",
)
def cleaning_needs_a_locked_page_of_a_file(op: Operation) -> Truth:
    """A page MUST be locked to be cleaned, and MUST NOT be an anonymous one of the swap cache.

    Without the lock a fault maps it writable behind the walk; and anonymous pages are not written back by file.
    """
    return op.page.locked and not (is_anon(op.page) and op.page.PG_swapcache)


@postcondition(
    "RMAP-MKCLEAN-002",
    on=ALL,
    source=rmap("page_mkclean_file", "page_mkclean_one"),
    fields=BITS,
    would_catch="the file corruption of 2.6.19: data written through a mapping whose dirty bit was cleared and forgotten",
)
def shared_mappings_are_clean_and_read_only(op: Operation) -> Truth:
    """If nobody interfered, each pte that maps the page in a shared, linear area MUST be clean and write-protected
    afterwards.
    """
    return implies(
        op.alone and op.was_mapped,
        lambda: every(not entry.dirty and not entry.write for entry in _shared(op.page.slots).values()),
    )


@postcondition("RMAP-MKCLEAN-003", on=ALL, source=rmap("page_mkclean"), fields=(*BITS, "page.key_dirty"))
def result_says_whether_anything_was_written(op: Operation, result: int) -> Truth:
    """If nobody interfered, the result MUST be other than 0 exactly if one of these ptes was dirty or writable, or the
    page's storage key was dirty.

    Too often, and clean pages are written; too seldom, and data is lost.
    """
    if not op.alone or not op.was_mapped or op.page.mapping is None or is_anon(op.page):
        return VACUOUS
    written = any(e.dirty or e.write for e in _shared(op.slots_before).values())
    return (result != 0) == bool(written or (op.page.system.storage_keys and op.key_dirty))


@postcondition(
    "RMAP-MKCLEAN-004",
    on=ALL,
    source=rmap("page_mkclean_file"),
    fields=BITS,
    would_catch="write-back that takes the page-table locks of all programs that merely run the file",
    since="2.6.19",
)
def private_mappings_are_left_alone(op: Operation) -> Truth:
    """Private areas MUST NOT be visited, and mappings in them not be touched: what they may write they have copied
    before.
    """
    private = [s for s in op.slots_before if (vma := _area(s)) is not None and not vma.vm_flags & VM_SHARED]
    touched = op.all("visit", "set_pte")
    return implies(private or touched, lambda: all(e.vma is not None and e.vma.vm_flags & VM_SHARED for e in touched))


@postcondition(
    "RMAP-MKCLEAN-005",
    on=ONE,
    source=rmap("page_mkclean_one", "notifiers"),
    fields=BITS,
    locks=PTL_CLASSES,
    would_catch="a write through another CPU's TLB between the test of the dirty bit and its clearing (2.6.19)",
    since="2.6.27",
)
def one_mapping_is_cleaned_in_order(op: Operation) -> Truth:
    """A pte MUST be cleaned in one section of its lock: the cache is flushed, then the entry cleared in one go, flushed
    from the TLBs and from secondary MMUs, and only then written back write-protected and clean.
    """
    if not op.did("ptep_clear"):
        return VACUOUS
    ordered = in_this_order(
        op,
        lambda e: e.kind == "flush_cache_page",
        _is_clear,
        lambda e: e.kind == "tlb_flush",
        lambda e: e.kind == "ptep_clear_flush_notify",
        lambda e: e.kind == "set_pte" and e.new is not None and not e.new.write and not e.new.dirty,
    )
    steps = [e for e in op.events if e.kind in ("flush_cache_page", "ptep_clear", "ptep_clear_flush_notify", "set_pte")]
    first, last = op.events.index(steps[0]), op.events.index(steps[-1])
    dropped = any(e.kind == "release" and e.lock.cls in PTL_CLASSES for e in op.events[first:last])
    return ordered and not dropped and all(any(c in PTL_CLASSES for c in e.classes) for e in steps)


@postcondition(
    "RMAP-MKCLEAN-006",
    on=ONE,
    source=rmap("page_mkclean_one") + field_2011("analysis"),
    fields=BITS,
    would_catch="a dirty bit that hardware set after the entry was read and before it was written back",
    since="2.6.20",
)
def entry_is_made_from_what_was_cleared(op: Operation) -> Truth:
    """The entry that is written back MUST be the one that the atomic clearing returned, without its right to write and
    its dirty bit; what hardware has noted up to that instant stays in it, and the result tells of it.
    """
    cleared = op.one("ptep_clear")
    if cleared is None:
        return VACUOUS
    fills = _fills(op)
    return len(fills) == 1 and fills[0].new == attrs.evolve(cleared.entry, write=False, dirty=False)


@postcondition(
    "RMAP-MKCLEAN-007",
    on=ALL,
    source=rmap("page_mkclean") + field_2011("analysis"),
    fields=(*BITS, "page.key_dirty"),
    would_catch="the lost writes of 2.6.19",
)
def removed_dirtiness_is_reported(op: Operation, result: int) -> Truth:
    """Each dirty bit that is taken from an entry or from the storage key MUST be reported by the result, so that the
    caller can mark the page: it is moved, never dropped.
    """
    taken = [e for e in op.all("ptep_clear") if e.entry.dirty]
    taken += [e for e in op.all("key_clear") if e.which == "dirty" and e.was]
    return implies(taken, lambda: result != 0)


@postcondition("RMAP-MKCLEAN-008", on=ALL, source=rmap("page_mkclean"), fields=BITS)
def nothing_to_clean_without_mapping(op: Operation, result: int) -> Truth:
    """A page that nothing maps, or that is in no file (any more), MUST give 0 and stay as it is."""
    return implies(
        not op.was_mapped or op.page.mapping is None,
        lambda: result == 0 and not op.did("set_pte", "write", "key_clear", "visit"),
    )


@postcondition("RMAP-MKCLEAN-009", on=ALL, source=rmap("page_mkclean_one") + field_2011("analysis"), fields=BITS)
def cleaning_changes_two_bits(op: Operation) -> Truth:
    """Cleaning MUST change the bits for dirty and writable only: each entry that is cleared is filled again with the
    same page and the same young bit, and map count, references and resident sets stay.
    """
    if not op.did("set_pte"):
        return VACUOUS
    last: dict[tuple[Any, int], Any] = {}
    for e in op.all("set_pte"):
        last[e.mm, e.vpn] = e.new
    cleared = {(e.mm, e.vpn): e.entry for e in op.all("ptep_clear")}
    kept = all(
        (new := last.get(place)) is not None and new.kind == "present" and (new.page, new.young) == (old.page, old.young)
        for place, old in cleared.items()
    )
    fields = ("_mapcount", "_count", "rss_anon", "rss_file", "swapents")
    return kept and set(last) == set(cleared) and not any(e.field in fields for e in op.all("write"))


@transition(
    "RMAP-MKCLEAN-010",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("page_mkclean_one") + field_2011("base"),
    fields=BITS,
    functions=ONE,
    would_catch="a CPU that goes on writing through a translation from before, unseen by the next write-back",
)
def next_store_faults(event: Event) -> Truth:
    """When a cleaned entry is written back, no CPU and no secondary MMU of the address space MUST still have a
    translation of its address; so the next store through any of them faults.
    """
    op = event.op
    if op is None or op.within("page_mkclean_one") is None or event.new is None or event.new.kind != "present":
        return VACUOUS
    mm = event.mm
    forgotten = not mm.system.tlbs.holders(mm, event.vpn) and all(event.vpn not in n.sptes for n in mm.notifiers)
    return not event.new.write and forgotten


@postcondition(
    "RMAP-MKCLEAN-011",
    on=ALL,
    source=rmap("page_mkclean_one", "__page_check_address"),
    fields=BITS,
    implied_by=("RMAP-PCA-003", "RMAP-PCA-008"),
    would_catch="on powerpc64, an entry that was being rewritten at this moment and stayed dirty (2008)",
    since="2.6.27",
)
def entry_in_the_middle_of_a_change_is_cleaned_too(op: Operation) -> Truth:
    """A shared, linear mapping that was dirty or writable before MUST have been cleaned, also where somebody held the
    lock of its slot and had emptied it for a moment; unless it has gone for good.
    """
    written = {s for s, e in _shared(op.slots_before).items() if e.dirty or e.write}
    own = {(e.mm, e.vpn) for e in _fills(op)}
    return every(
        (slot.mm, slot.vpn) in own or not ((now := op.page.slots.get(slot)) is not None and (now.dirty or now.write))
        for slot in written
    )
