"""DIRTY: that a page was written is noted in entries, in the page, or in its storage key, and is never forgotten."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, lock_rule, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    PTL_CLASSES,
    VM_NONLINEAR,
    VM_SHARED,
    census,
    dirty_somewhere,
    heads,
    is_anon,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

BITS = ("page.PG_dirty", "pte.dirty", "page.key_dirty")
REMOVING = ("try_to_unmap_one", "try_to_unmap_cluster")

#: Locks that set_page_dirty must not take, as they are taken before the lock of a slot.
OUTER = ("i_mutex", "mmap_sem", "page_lock", "i_mmap_mutex", "anon_vma_mutex", "tasklist_lock", *PTL_CLASSES)


def _backing(world: Any, page: Any) -> tuple[bool, int | None]:
    """Whether the page has a place on disk or in swap, and what is there."""
    if page.PG_swapcache and world.swap is not None:
        return True, world.swap.data.get(page.private)
    mapping = page.mapping
    if page.huge or mapping is None or mapping.bits or mapping.pointer.pages.get(page.index) is not page:
        return False, None
    return True, mapping.pointer.disk.get(page.index, 0)


@state_invariant(
    "DIRTY-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster", "page_mkclean", "page_remove_rmap") + field_2011("analysis"),
    fields=BITS,
    functions=(*REMOVING, "page_mkclean", "page_remove_rmap", "set_page_dirty"),
    implied_by=("RMAP-UNMAP-009", "RMAP-MKCLEAN-007", "RMAP-REMOVE-003", "DIRTY-002", "DIRTY-003"),
    would_catch="the file corruption of 2.6.19, and each other way to forget that a page was written",
)
def written_page_is_dirty_somewhere(world: Any) -> Truth:
    """Dirtiness MUST end only by writing out, truncation, or freeing: as long as a page in the page cache or the swap cache
    differs from what its file or its swap slot holds, its flag, an entry that maps it, or its storage key MUST say
    that it was written.

    Bits move from entries to the page and back; each move is a chance to drop one.
    """
    checks = []
    for page in heads(world):
        backed, stored = _backing(world, page)
        if backed and page.PG_uptodate and not page.PG_hwpoison and page.content != stored:
            checks.append(bool(dirty_somewhere(page)))
    return every(checks)


@transition(
    "DIRTY-002",
    over=Over.OPERATION,
    on=REMOVING,
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster"),
    fields=BITS,
    functions=REMOVING,
    would_catch="a page marked dirty before its entry was cleared, written out, and then written to once more unnoticed",
)
def flag_is_set_between_clearing_and_removing(op: Operation) -> Truth:
    """For each mapping that is removed and was dirty, the page MUST be marked dirty after the entry was cleared and flushed,
    and before the mapping is counted off and its reference dropped.

    Earlier, a CPU may write again; later, the page may be freed as a clean one.
    """
    checks = []
    pending: dict[Any, str] = {}
    for step in op.events:
        if step.kind == "ptep_clear_flush_notify" and step.entry is not None and step.entry.kind == "present":
            if step.entry.dirty:
                pending[step.entry.page] = "cleared"
        elif step.kind == "set_page_dirty" and step.page in pending:
            pending[step.page] = "marked"
        elif step.kind == "write" and step.field == "_mapcount" and step.obj in pending:
            checks.append(pending[step.obj] == "marked")
            pending[step.obj] = "counted off"
        elif step.kind == "put_page" and step.page in pending:
            checks.append(pending.pop(step.page) == "counted off")
    return every(checks)


@transition(
    "DIRTY-003",
    over=Over.EVENT,
    on=("cpu_store",),
    source=rmap("page_mkclean_one", "try_to_unmap_one") + field_2011("base"),
    fields=BITS,
    functions=("ptep_clear_flush", "ptep_clear_flush_notify"),
    implied_by=("TLB-001",),
    would_catch="a store through an old translation after its dirty bit was read: the data is in a page that counts as clean",
)
def store_is_noted_or_faults(event: Event) -> Truth:
    """When a store reaches a page, the entry at its address MUST map the page and say that it was written (or the
    storage key does), or whoever changes the entry still hold the slot's lock, and so not have flushed all CPUs.

    The flush is part of the clearing: what was written before is in the dirty bit that was read, and nothing is written
    after.
    """
    mm, page = event.mm, event.page
    entry = _translated_by(mm, event.vpn)
    noted = entry is not None and entry.kind == "present" and entry.page in (page, page.first_page)
    return (noted and (entry.dirty or mm.system.storage_keys)) or _being_changed(event)


def _translated_by(mm: Any, vpn: int) -> Any:
    """The entry by which hardware translates a base page number, or None."""
    system = mm.system
    index, order = vpn // system.ptrs_per_pte, system.huge_page_order
    table = mm.tables.get(index)
    return mm.huge.get(vpn >> order << order) or mm.pmds.get(index) or (table.entries.get(vpn) if table is not None else None)


def _being_changed(event: Event) -> bool:
    """Whether another thread is between changing the entry and the end of its flush."""
    if event.op is None:
        return False
    owners = (event.mm, event.mm.tables.get(event.vpn // event.mm.system.ptrs_per_pte))
    here = event.op.context
    for context in here.recorder.contexts:
        if context is not here and any(h.cls in PTL_CLASSES and h.owner in owners for h in context.held):
            return True
    return False


@lock_rule(
    "DIRTY-004",
    over=Over.OPERATION,
    on=("set_page_dirty",),
    source=rmap("locks", "page_remove_rmap"),
    fields=("page.PG_dirty",),
    locks=("ptl", "private_lock", "tree_lock", "i_lock", "wb_list_lock"),
    functions=("set_page_dirty",),
    enforced_by="lockdep",
    would_catch="a file system that sleeps, or takes the page lock, when a page is marked dirty",
)
def marking_takes_inner_locks_only(op: Operation) -> Truth:
    """Marking a page dirty MUST take only spinlocks that rank below the locks of page tables, as it is done with one of
    these held.
    """
    taken = [e.lock for e in op.all("acquire")]
    return implies(taken, lambda: all(lock.spinning and lock.cls not in OUTER for lock in taken))


@state_invariant(
    "DIRTY-005",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("page_mkclean") + field_2011("base"),
    fields=("page.PG_dirty", "pte.write"),
    functions=("page_mkclean", "do_wp_page", "handle_mm_fault", "mprotect_fixup"),
    implied_by=("RMAP-MKCLEAN-002",),
    would_catch="memory filled with dirty pages of shared mappings that nobody throttles or writes back (before 2.6.19)",
)
def clean_page_is_not_writable_when_shared(world: Any) -> Truth:
    """As long as nothing says that a page of a file was written, no entry for it in a shared, linear area MUST be
    writable; so that its first write is a fault, and is counted.
    """
    checks = []
    for page, places in census(world).maps.items():
        if page.huge or is_anon(page) or page.mapping is None or dirty_somewhere(page):
            continue
        for place in places:
            shared = place.vma is not None and place.vma.vm_flags & VM_SHARED and not place.vma.vm_flags & VM_NONLINEAR
            checks.append(not place.entry.write if shared else VACUOUS)
    return every(checks)
