"""HIST: mistakes that the history of mm/rmap.c tells of, each in the situation in which it was made.

What is demanded follows from other invariants, to which these predicates delegate where they can; that one of these was
really evaluated says that the situation was met again.
"""

from __future__ import annotations

import errno
from typing import Any

from mmspec.invariant import Over, postcondition, precondition, transition
from mmspec.invariants.rmap.cost import ANON_WALKS, faults_in_different_tables_do_not_meet, one_lock_per_chain
from mmspec.invariants.rmap.hugetlb_anon import shared_huge_page_belongs_to_the_root
from mmspec.invariants.rmap.ksm import swapped_in_page_belongs_to_its_place
from mmspec.invariants.rmap.migration import (
    no_migration_entry_is_left_behind,
    restored_mappings_can_be_found,
    special_types_are_no_swap_devices,
    swap_types,
    unmapped_anonymous_pages_are_not_walked,
    walker_keeps_the_anon_vma_alive,
)
from mmspec.invariants.rmap.mlock import munlock_ignores_permissions
from mmspec.invariants.rmap.swap import swap_counts_never_saturate
from mmspec.invariants.rmap.terms import (
    VM_LOCKED,
    areas,
    chain,
    entered_with,
    entries_in,
    is_anon,
    is_ksm,
    maps_at,
    pav,
)
from mmspec.invariants.rmap.thp import both_walks_of_a_split_see_the_same, tail_references_and_splits_exclude_each_other
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

VM_RIGHTS = 0x7


def _others(op: Operation, *names: str) -> list[Operation]:
    """The calls of these functions that other threads are in at this moment."""
    contexts = [c for c in op.context.recorder.contexts if c is not op.context and c.op is not None]
    return [inner for c in contexts for inner in c.op.ancestors() if inner.name in names]  # type: ignore[union-attr]


# -- trees of areas -----------------------------------------------------------------------------------------------------


@transition(
    "HIST-001",
    over=Over.OPERATION,
    on=ANON_WALKS,
    source=rmap("linking"),
    fields=("anon_vma.head",),
    functions=ANON_WALKS,
    implied_by=("PERF-001", "PERF-002"),
    would_catch="one anon_vma for a process and all that were ever forked from it",
)
def copied_pages_are_looked_for_in_one_process(op: Operation) -> Truth:
    """A walk for a page that a child without children of its own has made MUST NOT visit another process."""
    owner = pav(op.page)
    if owner is None or owner.root is owner or any(a.parent is owner for a in op.page.system.live_anon_vmas):
        return VACUOUS
    visited = {e.vma.mm.name for e in op.all("visit", "walk_call")}
    return implies(visited, lambda: len(visited) == 1)


@transition(
    "HIST-002",
    over=Over.OPERATION,
    on=("split_vma", "vma_adjust"),
    source=rmap("linking"),
    fields=("vma.vm_start", "vma.vm_end", "vma.vm_pgoff"),
    functions=("split_vma", "vma_adjust"),
    would_catch="callers that did not expect a change of boundaries to need memory",
)
def boundaries_do_not_move_without_memory(op: Operation, result: Any) -> Truth:
    """If an area cannot be split or adjusted for want of memory, -ENOMEM MUST be returned and all areas be what they were."""
    return implies(result == -errno.ENOMEM, lambda: not op.net("vm_start", "vm_end", "vm_pgoff"))


@transition(
    "HIST-003",
    over=Over.EVENT,
    on=("visit",),
    source=rmap("linking", "anon_vma_clone"),
    fields=("vma.anon_vma_chain", "anon_vma.head"),
    functions=("anon_vma_clone", "anon_vma_fork"),
    would_catch="a walk that meets an area which is linked to some of its anon_vmas only",
)
def visited_areas_are_linked_completely(event: Event) -> Truth:
    """An area that a walk visits, and that maps the page, MUST be on the lists of all anon_vmas of its chain."""
    page, vma = event.page, event.vma
    maps = is_anon(page) and any(s.mm is vma.mm for s in page.slots)
    return implies(maps, lambda: all(any(v is vma for v in areas(a)) for a in chain(vma)))


@postcondition(
    "HIST-025",
    on=("page_lock_anon_vma",),
    source=rmap("page_lock_anon_vma"),
    fields=("anon_vma.root",),
    locks=("anon_vma_mutex",),
    would_catch="the anon_vma was reused in another tree meanwhile, and the mutex of that one was unlocked",
)
def lookup_unlocks_what_it_locked(op: Operation, result: Any) -> Truth:
    """A look-up that took the mutex of a tree and then found the page unmapped MUST give back the very mutex that it took."""
    taken = [e.lock.owner for e in op.all("acquire") if e.lock.cls == "anon_vma_mutex"]
    given = [e.lock.owner for e in op.all("release") if e.lock.cls == "anon_vma_mutex"]
    return implies(
        result is None and taken,
        lambda: op.context.held == op.held_at_entry and all(any(g is t for g in given) for t in taken),
    )


@postcondition(
    "HIST-026",
    on=("anon_vma_prepare",),
    source=rmap("anon_vma_prepare"),
    fields=("anon_vma.head",),
    locks=("anon_vma_mutex",),
    would_catch="a stale look-up holds the lock of what the memory was before, and walks the list while it is filled",
)
def new_anon_vmas_are_linked_under_their_lock(op: Operation) -> Truth:
    """Also an anon_vma that was just allocated MUST be linked with its mutex held: its memory may have been one before."""
    fresh = {e.anon_vma.name for e in op.all("anon_vma_allocated")}
    links = [e for e in op.all("link") if e.anon_vma.name in fresh]
    return implies(links, lambda: all(e.holds("anon_vma_mutex", e.anon_vma) for e in links))


@postcondition("HIST-027", on=("anon_vma_fork",), source=rmap("anon_vma_fork"), fields=("vma.anon_vma_chain",))
def failed_fork_leaks_no_links(op: Operation, result: Any) -> Truth:
    """If fork of an area fails after some links were made, none of them MUST be left."""
    vma = op.vma
    linked = op.did("link")
    return implies(
        result == -errno.ENOMEM and linked,
        lambda: not vma.anon_vma_chain and not any(avc.vma is vma for a in vma.mm.system.live_anon_vmas for avc in a.head),
    )


@postcondition("HIST-028", on=("anon_vma_clone",), source=rmap("anon_vma_clone", "oldest"), fields=("vma.anon_vma_chain",))
def long_chains_are_copied_in_order(op: Operation, result: Any) -> Truth:
    """A chain of several anon_vmas MUST be copied in its order, so that the last one is the root in the copy as well."""
    source = chain(op.src)
    return implies(result == 0 and len(source) > 1, lambda: chain(op.dst) == source and source[-1].root is source[-1])


@precondition(
    "HIST-033",
    on=("anon_vma_free",),
    source=rmap("unlink_anon_vmas", "page_lock_anon_vma"),
    fields=("anon_vma.refcount",),
    locks=("anon_vma_mutex",),
    would_catch="the last reference dropped with the tree's mutex held, which freeing takes",
)
def anon_vmas_are_freed_without_the_mutex(op: Operation) -> Truth:
    """Whoever drops the last reference to an anon_vma MUST NOT hold the mutex of its tree."""
    return not entered_with(op, "anon_vma_mutex", op.anon_vma.root)


@transition(
    "HIST-034",
    over=Over.EVENT,
    on=("alloc",),
    source=rmap("anon_vma_clone"),
    fields=("vma.anon_vma_chain",),
    locks=("anon_vma_mutex",),
    functions=("anon_vma_clone",),
    would_catch="cloning waits for memory, reclaim for the mutex that cloning holds",
)
def cloning_does_not_wait_for_reclaim(event: Event) -> Truth:
    """An allocation while the chain of an area is copied MUST NOT enter reclaim with the mutex of a tree held."""
    clones = event.op is not None and event.op.name == "anon_vma_clone"
    return implies(clones, lambda: not (event.may_reclaim and event.holds("anon_vma_mutex")))


@postcondition(
    "HIST-038",
    on=("anon_vma_clone",),
    source=rmap("lock_anon_vma_root"),
    fields=("vma.anon_vma_chain",),
    locks=("anon_vma_mutex",),
    implied_by=("PERF-012",),
)
def long_chains_cost_one_lock(op: Operation, result: Any) -> Truth:
    """Copying a chain of several anon_vmas MUST take the mutex of the tree once, not once for each."""
    return implies(result == 0 and len(op.src.anon_vma_chain) > 1, lambda: one_lock_per_chain.predicate(op))


# -- migration ----------------------------------------------------------------------------------------------------------


@transition(
    "HIST-005",
    over=Over.OPERATION,
    on=("remove_migration_ptes",),
    source=rmap("swapless"),
    fields=("pte",),
    functions=("remove_migration_ptes", "dup_mm"),
    features=("MIGRATION",),
    implied_by=("MIGR-ORPHAN-001",),
    would_catch="fork copied the parent's entry into a child that the walk had passed already",
)
def fork_hides_no_entry_from_restoration(op: Operation) -> Truth:
    """If a process is forked while migration entries are restored, none MUST be left in the child."""
    return implies(_others(op, "dup_mm"), lambda: no_migration_entry_is_left_behind.predicate(op))


@transition(
    "HIST-006",
    over=Over.OPERATION,
    on=("remove_migration_ptes",),
    source=rmap("swapless"),
    fields=("pte.write",),
    functions=("remove_migration_ptes", "copy_page_range"),
    features=("MIGRATION",),
    implied_by=("MIGR-FORK-001",),
    would_catch="entries copied by fork came back writable, and a child wrote into its parent's pages",
)
def shared_pages_do_not_come_back_writable(op: Operation) -> Truth:
    """An anonymous page that several address spaces map MUST NOT be writable for any of them after it was moved."""
    shared = is_anon(op.new) and len({slot.mm.name for slot in op.new.slots}) > 1
    return implies(shared, lambda: not any(entry.write for entry in op.new.slots.values()))


@postcondition("HIST-007", on=("swapon_type",), source=rmap("swapless"), fields=("swap_info.type",), implied_by=("MIGR-ENTRY-004",))
def the_last_swap_device_is_refused(op: Operation, result: Any) -> Truth:
    """When all types are taken that are not special, the next swap device MUST be refused."""
    return implies(op.taken >= swap_types(op.system), lambda: special_types_are_no_swap_devices.predicate(op, result))


@postcondition(
    "HIST-008",
    on=("migrate_range",),
    source=rmap("new-vma-page"),
    fields=("pte",),
    features=("MIGRATION",),
    implied_by=("MIGR-POLICY-001",),
    would_catch="the range was moved as far as its first area went, and no further",
)
def all_areas_of_a_range_are_moved(op: Operation, result: Any) -> Truth:
    """Moving a range that spans several areas with success MUST have moved pages in each area that had some."""
    size = op.mm.system.page_size
    inside = range(op.start // size, op.end // size)
    mapped = {
        v.name
        for v in op.mm.vmas
        if any(e.kind == "present" and not e.page.huge for vpn, e in entries_in(v) if vpn in inside)
    }
    moved = {e.vma.name for e in op.all("migration_restored")}
    return implies(op.alone and result == 0 and len(mapped) > 1, lambda: mapped <= moved)


@precondition(
    "HIST-013",
    on=("rmap_walk_anon",),
    source=rmap("rmap-walk", "migrate-pin"),
    fields=("anon_vma.refcount",),
    features=("MIGRATION",),
    implied_by=("MIGR-WALK-002",),
)
def walks_outlive_the_owners(op: Operation) -> Truth:
    """While the owners of a page are unmapping or exiting, a walk of the page MUST have its anon_vma pinned."""
    leaving = _others(op, "do_munmap", "mmput", "unlink_anon_vmas")
    return implies(leaving, lambda: walker_keeps_the_anon_vma_alive.predicate(op))


@transition(
    "HIST-014",
    over=Over.OPERATION,
    on=("unmap_and_move",),
    source=rmap("migrate-pin"),
    fields=("page._mapcount",),
    functions=("unmap_and_move",),
    features=("MIGRATION",),
    implied_by=("MIGR-ISOL-001",),
)
def pages_that_lost_their_users_are_skipped(op: Operation, result: Any) -> Truth:
    """An anonymous page whose last mapping went between isolation and migration MUST be skipped."""
    return implies(
        op.page._mapcount < 0 and op.newpage._mapcount < 0,
        lambda: unmapped_anonymous_pages_are_not_walked.predicate(op, result),
    )


@transition(
    "HIST-023",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("try_to_unmap_anon"),
    fields=("pte",),
    functions=("try_to_unmap_anon", "shift_arg_pages"),
    features=("MIGRATION",),
    implied_by=("MIGR-STACK-002",),
)
def moving_stacks_get_no_migration_entries(event: Event) -> Truth:
    """While exec moves a stack, no migration entry MUST be put in it."""
    if event.new is None or event.new.kind != "migration" or event.op is None:
        return VACUOUS
    moving = [op.vma for op in _others(event.op, "shift_arg_pages")]
    return implies(moving, lambda: not any(vma is event.vma for vma in moving))


@transition(
    "HIST-024",
    over=Over.OPERATION,
    on=("do_page_add_anon_rmap",),
    source=rmap("do_page_add_anon_rmap"),
    fields=("vma.vm_start", "vma.vm_end"),
    functions=("remove_migration_pte",),
    features=("MIGRATION",),
    implied_by=("MIGR-RACE-001",),
    would_catch="an assertion that the address lies in the area",
)
def restoring_outside_of_the_area_is_consistent(op: Operation) -> Truth:
    """If a boundary has moved, so that a mapping is restored at an address outside of the area that the walk came by, the
    page MUST still be one that walks find.
    """
    outside = not op.vma.vm_start <= op.address < op.vma.vm_end
    return implies(outside, lambda: restored_mappings_can_be_found.predicate(op))


# -- mlock, swap, merging -----------------------------------------------------------------------------------------------


@postcondition(
    "HIST-015",
    on=("munlock_vma_pages_range",),
    source=rmap("mlock"),
    fields=("page.PG_mlocked",),
    implied_by=("MLOCK-010",),
)
def areas_without_rights_can_be_munlocked(op: Operation) -> Truth:
    """munlock MUST reach the pages of an area that has lost all rights since it was locked."""
    return implies(not op.vma.vm_flags & VM_RIGHTS, lambda: munlock_ignores_permissions.predicate(op))


@transition(
    "HIST-016",
    over=Over.EVENT,
    on=("set_mlocked",),
    source=rmap("mlock"),
    fields=("page.PG_mlocked", "page.mapping"),
    functions=("mlock_vma_pages_range", "truncate_inode_pages"),
    implied_by=("MLOCK-011",),
)
def truncated_pages_are_not_marked_any_more(event: Event) -> Truth:
    """mlock MUST NOT mark a page that truncation has taken out of its file since it was looked up."""
    ranged = event.op is not None and event.op.within("mlock_vma_pages_range") is not None
    return implies(ranged, lambda: event.page.mapping is not None)


@postcondition(
    "HIST-011",
    on=("swap_duplicate", "swap_free"),
    source=rmap("continuations"),
    fields=("swap_map",),
    features=("SWAP",),
    implied_by=("SWAP-COUNT-002",),
)
def counts_beyond_a_byte_are_exact(op: Operation, result: Any) -> Truth:
    """Where the count of a swap slot leaves or enters the range of its byte, it MUST stay exact."""
    wraps = [e for e in op.all("swap_map") if abs(e.new - e.old) != 1]
    return implies(wraps, lambda: swap_counts_never_saturate.predicate(op, result))


@postcondition(
    "HIST-012",
    on=("ksm_might_need_to_copy",),
    source=rmap("ksm-swappable"),
    fields=("page.mapping", "page.index"),
    features=("KSM",),
    implied_by=("KSM-003",),
)
def once_merged_pages_come_back_apart(op: Operation, result: Any) -> Truth:
    """A page that was merged across trees or offsets and comes back from swap MUST be copied for all but the first."""
    owner = pav(op.page)
    foreign = owner is not None and op.vma.anon_vma is not None and owner.root is not op.vma.anon_vma.root
    return implies(foreign and result is not None, lambda: swapped_in_page_belongs_to_its_place.predicate(op, result))


@postcondition("HIST-036", on=("page_address_in_vma",), source=rmap("page_address_in_vma"), fields=("vma.anon_vma", "page.mapping"))
def areas_without_anon_vma_have_no_anonymous_page(op: Operation, result: Any) -> Truth:
    """Asked where an area without an anon_vma maps an anonymous page, or where a merged page is, the answer MUST be -EFAULT."""
    page, vma = op.page, op.vma
    return implies(is_anon(page) and (vma.anon_vma is None or is_ksm(page)), lambda: bool(result == -errno.EFAULT))


@postcondition("HIST-009", on=("page_address_in_vma",), source=rmap("unpaged", "page_address_in_vma"), fields=("vma.vm_file",))
def anonymous_areas_map_no_page_of_a_file(op: Operation, result: Any) -> Truth:
    """Asked where an area without a file maps a page of a file, the answer MUST be -EFAULT."""
    page, vma = op.page, op.vma
    return implies(not is_anon(page) and vma.vm_file is None, lambda: bool(result == -errno.EFAULT))


# -- secondary MMUs, locks ----------------------------------------------------------------------------------------------


@transition(
    "HIST-017",
    over=Over.OPERATION,
    on=("try_to_unmap_one",),
    source=rmap("notifiers"),
    fields=("mmu_notifier.sptes", "page._count"),
    functions=("try_to_unmap_one",),
    features=("MMU_NOTIFIER",),
    implied_by=("MMUN-002", "MMUN-003"),
)
def pages_in_secondary_use_can_be_unmapped(op: Operation) -> Truth:
    """Reclaim MUST be able to take away a page that a secondary MMU uses; the use goes before the reference."""
    drops = op.all("spte_drop")
    return implies(
        drops and op.get("removed"),
        lambda: op.before("spte_drop", "put_page")
        and not any(maps_at(op.page, e.mm, e.vpn) for e in drops)
        and not any(s.page is op.page for e in drops for n in e.mm.notifiers for v, s in n.sptes.items() if v == e.vpn),
    )


@transition(
    "HIST-018",
    over=Over.OPERATION,
    on=("secondary_fault",),
    source=rmap("notifiers"),
    fields=("mmu_notifier.sptes",),
    functions=("secondary_fault", "unmap_region"),
    features=("MMU_NOTIFIER",),
    implied_by=("MMUN-004",),
)
def secondary_faults_in_a_vanishing_range_get_nothing(op: Operation) -> Truth:
    """A secondary fault that ends while its range is being invalidated MUST leave no translation behind."""
    notifier = op.notifier
    return implies(any(op.vpn in vpns for vpns in notifier.invalidating), lambda: op.vpn not in notifier.sptes)


@transition(
    "HIST-021",
    over=Over.OPERATION,
    on=("handle_pte_fault",),
    source=rmap("split-ptlock"),
    fields=("pte",),
    functions=("handle_pte_fault",),
    features=("SPLIT_PTLOCKS",),
    implied_by=("PERF-009",),
)
def concurrent_faults_do_not_share_a_lock(op: Operation) -> Truth:
    """Faults of two threads in different page tables of one address space MUST NOT wait for one another's slot locks."""
    index = op.vpn // op.mm.system.ptrs_per_pte
    beside = [
        o for o in _others(op, "handle_pte_fault") if o.mm is op.mm and o.vpn // op.mm.system.ptrs_per_pte != index
    ]
    return implies(beside, lambda: faults_in_different_tables_do_not_meet.predicate(op))


@transition(
    "HIST-022",
    over=Over.EVENT,
    on=("put_tail", "split_refcount"),
    source=rmap("thp"),
    fields=("page._count",),
    functions=("put_compound_page", "__split_huge_page_refcount"),
    features=("TRANSPARENT_HUGEPAGE",),
    implied_by=("THP-PUT-001",),
)
def pins_end_beside_splits(event: Event) -> Truth:
    """A pin of a tail that is dropped while its page is split MUST be counted once."""
    if event.op is None or not _others(event.op, "split_huge_page", "put_compound_page"):
        return VACUOUS
    return bool(tail_references_and_splits_exclude_each_other.predicate(event))


@transition(
    "HIST-035",
    over=Over.OPERATION,
    on=("split_huge_page",),
    source=rmap("anon_vma_chain_link"),
    fields=("anon_vma.head",),
    functions=("split_huge_page", "dup_mm"),
    features=("TRANSPARENT_HUGEPAGE",),
    implied_by=("THP-SPLIT-004",),
)
def splits_beside_fork_see_all_entries(op: Operation) -> Truth:
    """If a process is forked while one of its huge pages is split, both walks of the split MUST see the same entries."""
    return implies(_others(op, "dup_mm"), lambda: both_walks_of_a_split_see_the_same.predicate(op))


# -- references, dirtiness, hugetlb -------------------------------------------------------------------------------------


@postcondition("HIST-029", on=("page_referenced",), source=rmap("page_referenced_one"), fields=("vma.vm_flags",))
def areas_that_do_not_map_the_page_do_not_lock_it(op: Operation, result: Any) -> Truth:
    """page_referenced MUST report that an area locks the page only if that area was found to map it."""
    found = [e for e in op.all("visit_found") if e.vm_flags & VM_LOCKED]
    return implies(result[1] & VM_LOCKED, lambda: bool(found))


@postcondition(
    "HIST-030",
    on=("page_remove_rmap",),
    source=rmap("page_remove_rmap"),
    fields=("page.key_dirty", "page.PG_dirty"),
    would_catch="what was written through one mapping is lost for another user of the same slot of swap",
)
def unmapped_pages_in_swap_keep_what_was_written(op: Operation) -> Truth:
    """If the last mapping of a page in the swap cache goes on an architecture that keeps the dirty bit with the page, what was
    written MUST end up in the page's flag.
    """
    keeps = op.page.system.storage_keys and op.get("last") and op.get("swapcache") and op.get("key_dirty")
    return implies(keeps, lambda: bool(op.page.PG_dirty))


@postcondition(
    "HIST-032",
    on=("page_remove_rmap",),
    source=rmap("page_remove_rmap"),
    fields=("page.mapping",),
    would_catch="the last unmapping clears what a first mapping has just set",
)
def last_unmapping_keeps_the_owner(op: Operation) -> Truth:
    """Taking the last mapping away MUST leave `mapping` as it is: another thread may be mapping the page anew."""
    return implies(op.get("last"), lambda: not any(e.field == "mapping" and e.obj is op.page for e in op.all("write")))


@postcondition(
    "HIST-037",
    on=("hugepage_add_anon_rmap",),
    source=rmap("__hugepage_set_anon_rmap") + field_2011("base"),
    fields=("page.mapping",),
    features=("HUGETLB_PAGE",),
    implied_by=("HTLB-001",),
)
def childrens_huge_pages_belong_to_the_root(op: Operation) -> Truth:
    """A hugetlb page that a child maps first, and that others may share, MUST belong to the root and not to the child."""
    owner = op.vma.anon_vma
    return implies(
        owner is not None and owner.root is not owner, lambda: shared_huge_page_belongs_to_the_root.predicate(op)
    )
