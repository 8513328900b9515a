"""HTLB-LCK: which locks, in which order, for what."""

from __future__ import annotations

from typing import Final

from mmspec.config import INSTANTIATION_MUTEX
from mmspec.invariant import Over, lock_rule, precondition
from mmspec.invariants.hugetlb.faults import in_fork
from mmspec.invariants.hugetlb.terms import mapped_shared
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Event, Operation

#: Lock classes from the outermost to the innermost; the documentation draws its picture from this.
LOCK_ORDER: Final = (
    "mmap_sem",
    "i_mutex",
    "fault_sem",
    "instantiation_mutex",
    "page_lock",
    "i_mmap_lock",
    "page_table_lock",
    "resv_map.lock",
    "tree_lock",
    "hugetlb_lock",
    "stat_lock",
)

PTE_WRITES = ("pte_insert", "pte_replace", "pte_clear", "pte_mkwrite", "pte_wrprotect")
REGION_STEPS = ("prepare", "region_add", "region_count", "region_truncate")


@lock_rule(
    "HTLB-LCK-001",
    on=("acquire",),
    source=gibson("D2", "H-cow", "H-nopage-c", "H-keep") + whitcroft("H-lockrule"),
    locks=LOCK_ORDER,
    functions=("hugetlb_fault", "hugetlb_vmtruncate", "do_munmap"),
    enforced_by="lockdep",
)
def locks_are_taken_in_order(event: Event) -> Truth:
    """Lock order MUST be acyclic: `mmap_sem`, `i_mutex`, the truncation exclusion, the instantiation mutex, page lock,
    `i_mmap_lock`, `page_table_lock`, region lock, `hugetlb_lock`; the quota lock is a leaf.

    A lock that is only tried for cannot be waited for, and is exempt.
    """
    rank = LOCK_ORDER.index
    held = [h for h in event.held if h.cls in LOCK_ORDER]
    if event.how == "trylock" or not held or event.lock.cls not in LOCK_ORDER:
        return VACUOUS
    inner = max(rank(h.cls) for h in held)
    return inner < rank(event.lock.cls) or (event.how == "nested" and inner == rank(event.lock.cls))


@lock_rule(
    "HTLB-LCK-002",
    on=("clear_huge_page", "copy", "kmalloc_may_sleep", "acquire"),
    source=gibson("H-alloc", "H-free", "H-keep"),
    locks=("hugetlb_lock",),
    functions=("alloc_huge_page", "free_huge_page", "keep_huge_page"),
)
def hugetlb_lock_is_a_leaf(event: Event) -> Truth:
    """Nothing that sleeps, clears, copies or takes another lock MUST run under `hugetlb_lock`."""
    return "hugetlb_lock" not in event.classes


@lock_rule(
    "HTLB-LCK-003",
    on=("clear_huge_page", "copy", "kmalloc_may_sleep", "acquire"),
    source=gibson("H-cow", "D2"),
    locks=("page_table_lock",),
    functions=("hugetlb_cow", "hugetlb_no_page"),
    enforced_by="might_sleep() with CONFIG_DEBUG_ATOMIC_SLEEP",
)
def nothing_sleeps_under_page_table_lock(event: Event) -> Truth:
    """No sleeping operation MUST run under `page_table_lock`: clearing, copying, locking a page, region memory."""
    if event.kind == "acquire" and (event.lock.spinning or event.how == "trylock"):
        return VACUOUS
    return "page_table_lock" not in event.classes


@lock_rule(
    "HTLB-LCK-004",
    on=REGION_STEPS,
    source=whitcroft("H-lockrule"),
    variants=(INSTANTIATION_MUTEX,),
    locks=("mmap_sem", "hugetlb_instantiation_mutex"),
    fields=("resv_map.regions",),
    functions=("region_chg", "region_add", "region_count"),
)
def private_regions_follow_the_lock_rule(event: Event) -> Truth:
    """A private map's regions MUST be read and changed with `mmap_sem` held for write, or for read together with the
    instantiation mutex, or as the last user of the address space.
    """
    if not event.map.private:
        return VACUOUS
    exiting = event.op.within("mmput") if event.op is not None else None
    return (
        event.holds("mmap_sem")
        or (event.holds("mmap_sem:r") and event.holds("instantiation_mutex"))
        or (exiting is not None and exiting.mm.users == 0)
    )


@lock_rule(
    "HTLB-LCK-005",
    on=REGION_STEPS,
    source=whitcroft("H-lockrule"),
    locks=("resv_map.lock",),
    fields=("resv_map.regions",),
    functions=("region_chg", "region_add", "region_truncate"),
    would_catch="regions of one file changed by mmap in one process and a fault in another at once (2013)",
)
def regions_have_a_common_lock(event: Event) -> Truth:
    """Regions of a file's map MUST be protected by a lock common to all address spaces and to truncation; one process's
    `mmap_sem` excludes nobody else.
    """
    changes = event.kind in ("region_add", "region_truncate")
    lock = "resv_map.lock" if changes else "resv_map.lock:r"
    return implies(event.map.refs > 0, lambda: event.holds(lock, event.map))


@lock_rule(
    "HTLB-LCK-006",
    on=REGION_STEPS,
    source=whitcroft("H-lockrule"),
    locks=("resv_map.lock", "mmap_sem"),
    fields=("resv_map.regions",),
    functions=("region_chg", "region_add"),
)
def one_thread_in_a_region_list(event: Event) -> Truth:
    """A thread that changes a region list MUST be the only one inside it."""
    if event.op is None or event.map.refs == 0 or not event.holds("resv_map.lock", event.map):
        return VACUOUS
    holders = [
        h
        for c in event.op.context.recorder.contexts
        for h in c.held
        if h.cls == "resv_map.lock" and h.owner is event.map
    ]
    return len(holders) == 1


@lock_rule(
    "HTLB-LCK-007",
    on=("vm_private_data",),
    source=whitcroft("H-comment", "H-accessors"),
    fields=("vma.vm_private_data",),
    locks=("mmap_sem", "hugetlb_instantiation_mutex"),
    functions=("set_vma_resv_flags", "reset_vma_resv_huge_pages", "unmap_ref_private"),
)
def private_data_changes_unseen_or_excluded(event: Event) -> Truth:
    """`vm_private_data` MUST be changed only while nobody else can use the VMA: at mmap, at fork before it is linked, or
    under the lock that also covers those who read the flags.
    """
    vma = event.obj
    return event.holds("mmap_sem", vma.mm) or not vma.linked or event.holds("instantiation_mutex")


@lock_rule(
    "HTLB-LCK-008",
    on=PTE_WRITES,
    source=gibson("H-nopage-c", "H-cow"),
    locks=("page_table_lock",),
    fields=("mm.ptes",),
    functions=("set_huge_pte_at", "huge_ptep_clear_flush"),
)
def entries_change_under_their_lock(event: Event) -> Truth:
    """A page-table entry MUST be changed only under the owning address space's `page_table_lock`."""
    return event.holds("page_table_lock", event.mm)


@lock_rule(
    "HTLB-LCK-009",
    on=("availability_test", "settle", "pool_return", "cache_insert"),
    source=gibson("D2", "H-fault"),
    variants=(INSTANTIATION_MUTEX,),
    locks=("hugetlb_instantiation_mutex",),
    functions=("hugetlb_fault",),
)
def mutex_covers_allocation_to_publication(event: Event) -> Truth:
    """A fault MUST hold the instantiation mutex from before the entry is tested until its page is published or
    returned.
    """
    return event.holds("instantiation_mutex")


@lock_rule(
    "HTLB-LCK-010",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=field("analysis"),
    variants=(),
    locks=("hugetlb_fault_mutex_table",),
    functions=("hugetlb_fault",),
    since="3.15",
    would_catch="shared and private faults on one file offset hashed to different mutexes (2019)",
)
def one_slot_one_mutex(op: Operation) -> Truth:
    """Where a table of mutexes replaces the one, all faults on one (file, index), shared or private, in whatever address
    space, MUST use the same mutex.
    """
    keys = {h.name for h in op.context.held if h.cls == "fault_mutex"}
    return len(keys) == 1


@lock_rule(
    "HTLB-LCK-011",
    on=("pte_insert", "pte_replace"),
    source=gibson("H-fault", "H-nopage-c", "H-cow"),
    locks=("page_table_lock",),
    fields=("mm.ptes",),
    functions=("hugetlb_no_page", "hugetlb_cow"),
)
def effects_depend_on_the_locked_read(event: Event) -> Truth:
    """The unlocked first read of the entry MUST be used only to choose the path; every effect MUST depend on a re-read
    in the same section of `page_table_lock`.
    """
    if in_fork(event):
        return VACUOUS
    for earlier in reversed(event.op.events[:-1]):  # type: ignore[union-attr]
        if earlier.kind == "pte_check" and earlier.mm is event.mm and earlier.vpn == event.vpn:
            return bool(earlier.same)
        if earlier.kind == "acquire" and earlier.lock.cls == "page_table_lock":
            return False
    return False


@lock_rule(
    "HTLB-LCK-012",
    on=("pte_insert",),
    source=gibson("H-nopage-a", "H-nopage-b", "H-nopage-c"),
    locks=("page_lock",),
    fields=("mm.ptes",),
    functions=("hugetlb_no_page",),
)
def page_lock_spans_lookup_and_entry(event: Event) -> Truth:
    """In a shared mapping, the page lock MUST be held from lookup or insertion until the entry is set."""
    if in_fork(event) or not mapped_shared(event.vma):
        return VACUOUS
    found = [
        e
        for e in event.op.events  # type: ignore[union-attr]
        if e.kind in ("cache_insert", "cache_lookup") and e.page is event.page
    ]
    released = [
        e
        for e in event.op.events  # type: ignore[union-attr]
        if found and e.kind == "release" and e.lock.cls == "page_lock" and e.seq > found[-1].seq
    ]
    return event.holds("page_lock", event.page) and bool(found) and not released


@precondition(
    "HTLB-LCK-013", on=("hugetlb_reserve_pages", "hugetlb_vmtruncate"), source=field("base"), locks=("i_mutex",)
)
def reserve_and_truncate_exclude_each_other(op: Operation) -> Truth:
    """Reserving and truncating one file MUST exclude each other through the inode lock."""
    return any(h.matches("i_mutex", op.inode) for h in op.context.held)
