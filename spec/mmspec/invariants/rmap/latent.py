"""LAT: defects of the code of 3.2 that nobody had noticed then, each as the rule that the correction keeps.

Most of these rules are also stated where they belong; here they are looked at from the side on which the defect showed.
"""

from __future__ import annotations

from typing import Any

from mmspec.errors import SWAP_AGAIN
from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, state_invariant, transition
from mmspec.invariants.rmap.architecture import place_is_exact
from mmspec.invariants.rmap.lists import source_stands_before_destination
from mmspec.invariants.rmap.terms import VM_LOCKED, entries_in
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation


@transition(
    "LAT-001",
    over=Over.EVENT,
    on=("root_mutex_test",),
    source=rmap("__put_anon_vma", "anon_vma_free") + field_2011("later"),
    fields=("anon_vma.root", "anon_vma.refcount"),
    functions=("__put_anon_vma", "anon_vma_free"),
    since="3.0",
    implied_by=("AVMA-REF-010",),
    would_catch="a read of freed memory when the last process of a family ends (corrected in 3.16)",
)
def root_is_alive_when_its_mutex_is_looked_at(event: Event) -> Truth:
    """When the mutex of a root is looked at to free a child, the root MUST still be allocated.

    In 3.2 the child's reference on it is dropped first, and may be the last.
    """
    return implies(event.root is not event.anon_vma, lambda: bool(event.root_allocated))


@transition(
    "LAT-002",
    over=Over.OPERATION,
    on=("page_get_anon_vma", "page_lock_anon_vma"),
    source=rmap("page_get_anon_vma", "page_lock_anon_vma") + field_2011("later"),
    fields=("anon_vma.refcount",),
    functions=("page_get_anon_vma", "page_lock_anon_vma"),
    since="3.0",
    implied_by=("AVMA-REF-011",),
    would_catch='"sleeping function called from invalid context" in __put_anon_vma (corrected in 3.16)',
)
def failed_lookups_leave_the_section_before_they_put(op: Operation) -> Truth:
    """A lookup that gives its pin back MUST have left its RCU section before it drops the reference and frees.

    In 3.2 it does so inside; if the reference is the last and somebody has the mutex, it sleeps there.
    """
    return every(not e.rcu for e in op.all("put_anon_vma", "root_mutex_test", "free_anon_vma"))


@lock_rule(
    "LAT-003",
    on=("mlock_vma_page",),
    source=rmap("try_to_unmap_cluster") + field_2011("later"),
    fields=("page.PG_mlocked",),
    locks=("page_lock",),
    functions=("try_to_unmap_cluster", "mlock_vma_page"),
    since="2.6.28",
    would_catch="the mark set on a page that migration has just emptied (CVE-2014-3122, corrected in 3.15)",
)
def pages_are_locked_when_they_are_marked(event: Event) -> Truth:
    """A page that is marked as locked in memory MUST be locked by the thread that does so, also when it is one of many that the
    scan of a nonlinear area meets.

    In 3.2 only the page that reclaim came for is locked.
    """
    return event.holds("page_lock", event.page)


@transition(
    "LAT-004",
    over=Over.EVENT,
    on=("i_mmap_insert", "set_pte"),
    source=rmap("rmap_walk_file") + field_2011("later"),
    fields=("vma.vm_flags", "pte"),
    functions=("remap_file_pages", "rmap_walk_file", "try_to_unmap_one"),
    since="2.6.33",
    would_catch="a migration entry in an area that has become nonlinear, at which its process waits for ever (corrected in 3.15)",
)
def nonlinear_areas_come_without_migration_entries(event: Event) -> Truth:
    """An area MUST have no migration entries when it becomes nonlinear, and get none while it is.

    The walk that restores them goes through the linear areas only.
    """
    if event.kind == "set_pte":
        moving = event.new is not None and event.new.kind == "migration"
        return implies(moving and event.vma is not None, lambda: not event.vma.nonlinear)
    return implies(
        event.nonlinear, lambda: not any(entry.kind == "migration" for _, entry in entries_in(event.vma))
    )


@transition(
    "LAT-005",
    over=Over.OPERATION,
    on=("try_to_unmap_one",),
    source=rmap("try_to_unmap_one") + field_2011("later"),
    fields=("mm.rss_stat",),
    functions=("try_to_unmap_one",),
    features=("HUGETLB_PAGE",),
    since="2.6.32",
    would_catch="a negative resident set after memory failed in a huge page (corrected in 3.6)",
)
def hugetlb_pages_leave_the_resident_set_alone(op: Operation, page: Any) -> Truth:
    """Replacing the entry of a hugetlb page MUST NOT change the counters of the address space.

    It was not counted when it was mapped.
    """
    fields = ("rss_anon", "rss_file")
    return implies(page.huge and op.get("found"), lambda: all(op.delta(f) == 0 for f in fields))


@postcondition(
    "LAT-006",
    on=("page_check_address",),
    source=rmap("__page_check_address") + field_2011("later"),
    fields=("pmd",),
    features=("HUGETLB_PAGE",),
    since="2.6.35",
    would_catch="a crash on a hugetlb area whose tables were not there yet (corrected in 3.13)",
)
def missing_huge_tables_are_no_mapping(page: Any, mm: Any, address: int, result: Any, op: Operation) -> Truth:
    """Where there is no table for the entry of a hugetlb page, looking for a mapping MUST find none and lock nothing.

    In 3.2 the pointer to the entry is followed without a look.
    """
    missing = page.huge and address // mm.system.page_size not in mm.huge_tables
    return implies(missing and op.alone, lambda: result is None and not op.did("slot_locked"))


@transition(
    "LAT-008",
    over=Over.EVENT,
    on=("moving",),
    source=rmap("anon_vma_chain_link") + field_2011("later"),
    fields=("anon_vma.head",),
    functions=("move_vma", "copy_vma"),
    since="3.2",
    implied_by=("AVMA-LIST-008",),
    would_catch="migration that misses a page of an area that moved into its neighbour (corrected in 3.3)",
)
def destination_is_queued_behind_before_the_move(event: Event) -> Truth:
    """Before mremap moves the first entry, the area that has grown to take them in MUST have been put behind the one that they
    come from, on each list that both are on.

    A neighbour may have been linked long before the source was.
    """
    return source_stands_before_destination(event.src, event.dst)


@state_invariant(
    "LAT-009",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("anon_vma_clone", "anon_vma_fork") + field_2011("later"),
    fields=("vma.anon_vma", "vma.anon_vma_chain"),
    functions=("anon_vma_clone", "anon_vma_fork", "vma_adjust"),
    since="2.6.34",
    implied_by=("AVMA-CLONE-006",),
)
def no_pointer_without_a_chain(world: Any) -> Truth:
    """When nothing is in flight, the anon_vma that an area points to MUST be on its chain.

    After a clone that ran out of memory the copied pointer stays in 3.2.
    """
    return every(
        any(avc.anon_vma is v.anon_vma for avc in v.anon_vma_chain) for v in world.vmas if v.anon_vma is not None
    )


@postcondition(
    "LAT-010",
    on=("try_to_unmap_nonlinear",),
    source=rmap("try_to_unmap_cluster", "try_to_unmap_file") + field_2011("analysis"),
    fields=("vma.vm_private_data",),
    functions=("try_to_unmap_cluster", "try_to_unmap_nonlinear"),
    would_catch="the last pages of a nonlinear area that begins inside of a cluster, which no scan ever visits",
)
def full_rounds_visit_all(mapping: Any, op: Operation) -> Truth:
    """When the scan of the nonlinear areas of a file has gone round once, the windows that it looked at MUST cover all of each
    area.

    Windows are aligned in the address space, areas need not be: they may reach into one cluster more than their length says.
    """
    scans = op.calls("try_to_unmap_cluster")
    steps = op.all("cluster")
    areas = list(dict.fromkeys(e.vma for e in steps))

    def covered(vma: Any) -> Truth:
        mine = [c for c in scans if c.vma is vma]
        # The cluster at which a scan has ended with SWAP_MLOCK is looked at again.
        stopped = any(c.result is not SWAP_AGAIN for c in mine)
        if not mine or mine[0].cursor != 0 or vma.vm_private_data != 0 or stopped:
            return VACUOUS
        windows = sorted(c.window for c in mine)
        reached = vma.vm_start
        for start, end in windows:
            if start > reached:
                return False
            reached = max(reached, end)
        return bool(reached >= vma.vm_end)

    return every(covered(vma) for vma in areas)


@transition(
    "LAT-011",
    over=Over.OPERATION,
    on=("try_to_unmap_cluster",),
    source=rmap("try_to_unmap_cluster") + field_2011("analysis"),
    fields=("vma.vm_flags", "pte"),
    functions=("try_to_unmap_cluster",),
    since="2.6.28",
)
def locked_areas_are_not_unmapped_by_the_scan(op: Operation, vma: Any) -> Truth:
    """The scan of a nonlinear area that is locked in memory MUST NOT unmap anything of it, also when `mmap_sem` cannot be had.

    In 3.2 an area is taken for not locked then.
    """
    locked = op.get("locked_vma", vma.vm_flags & VM_LOCKED)
    return implies(locked, lambda: not any(e.vma is vma for e in op.all("ptep_clear")))


@postcondition(
    "LAT-012",
    on=("vma_address",),
    source=rmap("vma_address") + field_2011("analysis"),
    fields=("page.index", "vma.vm_pgoff"),
    would_catch="a page four gigabytes further on in the file that seems to be mapped in the area",
)
def no_page_is_aliased_into_an_area(page: Any, vma: Any, result: int) -> Truth:
    """A page MUST be given an address in an area exactly if its index lies in what the area maps.

    In 3.2 the distance is shifted in a machine word, which with 32 bits wraps.
    """
    return place_is_exact(page, vma, result)
