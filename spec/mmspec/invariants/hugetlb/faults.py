"""HTLB-FLT: huge-page faults."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VM_FAULT_SIGBUS
from mmspec.invariant import (
    ALWAYS,
    QUIESCENT,
    Over,
    lock_rule,
    postcondition,
    state_invariant,
    transition,
)
from mmspec.invariants.hugetlb.terms import RETRY, VM_WRITE, is_page, mapped_shared, own_effects, unmapped
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import gibson, whitcroft
from mmspec.trace import Event, Operation, Run

NO_PAGE = ("hugetlb_no_page",)
PTE = ("mm.ptes",)
CACHE = ("inode.pages",)


def in_fork(event: Event) -> bool:
    """Whether the step is part of copying an address space."""
    return event.op is not None and event.op.within("dup_mm") is not None


@postcondition("HTLB-FLT-001", on=("hugetlb_fault",), source=gibson("H-fault"), fields=PTE)
def no_page_table_is_out_of_memory(op: Operation, result: Any) -> Truth:
    """If the page table for the entry cannot be allocated, the fault MUST return VM_FAULT_OOM with nothing changed."""
    return implies(op.did("pte_alloc_failed"), lambda: result is VM_FAULT_OOM and not own_effects(op))


@transition(
    "HTLB-FLT-002",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=gibson("H-fault"),
    fields=PTE,
    functions=("hugetlb_fault",),
)
def the_entry_chooses_the_path(op: Operation) -> Truth:
    """An empty entry MUST go to instantiation, a present one to the write-protect path under `page_table_lock` after
    the entry is read again.
    """
    read = op.one("pte_read")
    if read is None:
        return VACUOUS
    if read.entry is None:
        return bool(op.calls("hugetlb_no_page"))
    return not op.calls("hugetlb_no_page") and (not op.calls("hugetlb_cow") or any(e.same for e in op.all("pte_check")))


@lock_rule(
    "HTLB-FLT-003",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=gibson("H-fault", "D2"),
    variants=(INSTANTIATION_MUTEX,),
    locks=("hugetlb_instantiation_mutex",),
    functions=("hugetlb_fault",),
    would_catch="the entry read before the mutex is taken: a spurious out-of-memory kill",
)
def mutex_spans_the_fault(op: Operation) -> Truth:
    """The instantiation mutex MUST be taken before the entry is read and released after the last effect of the fault,
    on every path.
    """
    steps = op.all("pte_read", "pte_insert", "pte_replace", "pte_mkwrite", "cache_insert", "dequeue", "enqueue")
    return every(e.holds("instantiation_mutex") for e in steps) and op.context.held == op.held_at_entry


@lock_rule(
    "HTLB-FLT-004",
    on=("clear_huge_page",),
    source=gibson("D2", "D3"),
    variants=(TENTATIVE,),
    functions=("hugetlb_no_page",),
    would_catch="page clearing inside a global mutex, one page at a time",
)
def clearing_excludes_nobody(event: Event) -> Truth:
    """A fault MUST NOT hold any lock exclusively while it clears its page.

    Shared holds of `mmap_sem` and of the file's truncation exclusion keep no other fault waiting.
    """
    return all(h.shared for h in event.held)


@transition(
    "HTLB-FLT-005",
    over=Over.OPERATION,
    on=("hugetlb_no_page",),
    source=gibson("D2"),
    fields=PTE,
    functions=NO_PAGE,
    would_catch="clearing moved behind set_huge_pte_at: another thread reads old content",
)
def cleared_before_it_can_be_reached(op: Operation) -> Truth:
    """Clearing MUST be complete before a new page can be reached through a page table or the page cache."""
    obtained = {
        call.result.name
        for call in op.calls("alloc_huge_page")
        if is_page(call.result) and call.parent is not None and call.parent.name == "hugetlb_no_page"
    }
    cleared: set[str] = set()
    checks = []
    for event in op.all("cleared", "cache_insert", "pte_insert"):
        if event.kind == "cleared":
            cleared.add(event.page.name)
        elif event.page.name in obtained:
            checks.append(event.page.name in cleared)
    return every(checks)


@transition(
    "HTLB-FLT-006",
    over=Over.EVENT,
    on=("cache_insert", "pte_insert"),
    source=gibson("H-nopage-a"),
    functions=NO_PAGE,
    fields=("page.content",),
    interfaces=("MemoryManager",),
)
def new_page_reads_as_zeros(event: Event) -> Truth:
    """A new page MUST read as zeros when it is published."""
    return implies(event.kind == "cache_insert" or event.page.tag, lambda: not event.page.content)


@transition(
    "HTLB-FLT-007",
    over=Over.OPERATION,
    on=("hugetlb_no_page",),
    source=gibson("H-nopage-a"),
    fields=("inode.i_size",),
    functions=NO_PAGE,
    would_catch="an out-of-memory kill instead of SIGBUS beyond the end, with the pool empty",
)
def size_before_quota_and_allocation(op: Operation) -> Truth:
    """The file size MUST be tested before quota is taken and before a page is allocated."""
    return implies(
        op.did("quota_get", "quota_failed", "availability_test"),
        lambda: (
            op.before("size_test", "quota_get")
            and op.before("size_test", "quota_failed")
            and op.before("size_test", "availability_test")
        ),
    )


@postcondition(
    "HTLB-FLT-008",
    on=("hugetlb_fault",),
    source=gibson("H-nopage-a"),
    fields=("inode.i_size",),
    interfaces=("MemoryManager",),
)
def beyond_the_end_is_sigbus(op: Operation, old: Any, new: Any, result: Any) -> Truth:
    """A fault at an index at or beyond the size of the file MUST return VM_FAULT_SIGBUS and change neither counters,
    quota, page cache nor page tables.
    """
    return implies(
        old.idx >= max(old.size, new.size) and not op.did("pte_alloc_failed"),
        lambda: result is VM_FAULT_SIGBUS and not own_effects(op),
    )


@lock_rule(
    "HTLB-FLT-009",
    over=Over.OPERATION,
    on=("hugetlb_no_page",),
    source=gibson("H-nopage-a"),
    locks=("page_lock",),
    fields=("inode.i_size",),
    functions=NO_PAGE,
    would_catch="i_size tested before the page lock: a page mapped beyond the end of the file",
)
def size_of_a_cached_page_is_tested_locked(op: Operation) -> Truth:
    """For a page found in the cache, the size MUST be tested with that page locked."""
    found = None
    checks = []
    for event in op.all("cache_lookup", "size_test", "pte_check"):
        if event.kind == "cache_lookup":
            found = event.page
        elif found is not None:
            # The next thing after the lookup is the test, and not yet the entry.
            checks.append(event.kind == "size_test" and event.holds("page_lock", found))
            found = None
    return every(checks)


@lock_rule(
    "HTLB-FLT-010",
    on=("pte_insert",),
    source=gibson("H-nopage-c"),
    locks=("fault_sem", "page_table_lock"),
    fields=("inode.i_size",),
    functions=NO_PAGE,
    would_catch="the second size test removed (2006 as posted): a page mapped beyond the end of the file",
)
def entry_is_set_with_truncation_excluded(event: Event) -> Truth:
    """When a fault sets an entry, truncation MUST be excluded since the size was tested, or the size tested again under
    `page_table_lock`.
    """
    if in_fork(event):
        return VACUOUS
    return event.holds("fault_sem:r", event.vma.vm_file) or _size_tested_again(event)


def _size_tested_again(event: Event) -> bool:
    for earlier in reversed(event.op.events):  # type: ignore[union-attr]
        if earlier.kind == "size_test":
            return earlier.holds("page_table_lock", event.mm)
        if earlier.kind == "acquire" and earlier.lock.cls == "page_table_lock":
            return False
    return False


@transition(
    "HTLB-FLT-011",
    over=Over.OPERATION,
    on=("hugetlb_no_page",),
    source=gibson("H-nopage-c"),
    fields=CACHE,
    functions=NO_PAGE,
)
def failed_fault_leaves_no_cached_page(op: Operation, result: Any) -> Truth:
    """A fault that ends in VM_FAULT_SIGBUS MUST have removed what it put into the cache, returned its quota and
    restored its reservation.
    """
    return implies(
        result is VM_FAULT_SIGBUS,
        lambda: (
            len(op.all("cache_insert")) == len(op.all("cache_remove"))
            and op.delta("free_blocks") == 0
            and op.delta("resv_huge_pages") == 0
        ),
    )


@transition(
    "HTLB-FLT-012",
    over=Over.EVENT,
    on=("pte_insert",),
    source=gibson("H-nopage-b"),
    fields=(*PTE, *CACHE),
    functions=NO_PAGE,
)
def shared_mappings_go_through_the_cache(event: Event) -> Truth:
    """Instantiation in a shared mapping MUST go through the page cache: insertion decides among racers, and comes before
    the entry.
    """
    vma = event.vma
    return implies(
        mapped_shared(vma) and not in_fork(event),
        lambda: vma.vm_file.pages.get(event.page.index) is event.page,
    )


@state_invariant(
    "HTLB-FLT-013", over=Over.WORLD, guard=QUIESCENT, source=gibson("D1"), fields=(*PTE, *CACHE), functions=NO_PAGE
)
def one_page_per_file_offset(world: Any) -> Truth:
    """At most one page MUST exist per file and index, and every entry of a shared mapping for the index MUST point to
    it.
    """
    return every(
        entry.page is vma.vm_file.pages.get(vma.index(vpn * vma.huge_page_size))
        for vma in world.vmas
        if mapped_shared(vma)
        for vpn, entry in vma.mm.ptes.items()
        if vma.vm_start <= vpn * vma.huge_page_size < vma.vm_end
    )


@postcondition("HTLB-FLT-014", on=("hugetlb_no_page",), source=gibson("H-nopage-b"), fields=CACHE)
def loser_of_the_insertion_starts_again(op: Operation) -> Truth:
    """On -EEXIST the fault MUST return its page and quota, and start again from the lookup, reporting nothing."""
    lost = [e for e in op.all("insert_failed") if e.error == -errno.EEXIST]
    if not lost:
        return VACUOUS
    seq = lost[-1].seq
    later = [e.kind for e in op.events if e.seq > seq and e.kind in ("pool_return", "cache_lookup")]
    return later[:2] == ["pool_return", "cache_lookup"]


@postcondition("HTLB-FLT-015", on=("hugetlb_no_page",), source=gibson("H-nopage-b"), fields=CACHE)
def failed_insertion_ends_the_fault(op: Operation, result: Any) -> Truth:
    """Any other insertion error MUST return page and quota and end the fault with an error; the source uses
    VM_FAULT_SIGBUS.
    """
    failed = [e for e in op.all("insert_failed") if e.error != -errno.EEXIST]
    return implies(failed, lambda: result in (VM_FAULT_SIGBUS, VM_FAULT_OOM) and not own_effects(op))


@lock_rule(
    "HTLB-FLT-016",
    on=("pte_insert",),
    source=gibson("H-nopage-b", "H-nopage-c"),
    locks=("page_lock", "page_table_lock"),
    functions=NO_PAGE,
)
def page_lock_outside_page_table_lock(event: Event) -> Truth:
    """A fault MUST lock the page before it takes `page_table_lock`, and unlock it after."""
    classes = event.classes
    return implies(
        not in_fork(event),
        lambda: "page_lock" in classes and classes.index("page_lock") < classes.index("page_table_lock"),
    )


@postcondition("HTLB-FLT-017", on=("hugetlb_no_page",), source=gibson("H-nopage-c"), fields=(*PTE, "mm.file_rss"))
def lost_entry_race_is_a_minor_fault(op: Operation, result: Any) -> Truth:
    """If the entry is no longer empty under `page_table_lock`, the fault MUST drop its page and report a minor fault,
    changing no page table and no rss.
    """
    check = op.one("pte_check")
    return implies(
        check is not None and not check.same and not op.did("pte_insert"),
        lambda: result is VM_FAULT_MINOR and op.delta("file_rss") == 0 and op.delta("temp_refs") == 0,
    )


@postcondition("HTLB-FLT-018", over=Over.EVENT, on=("pte_insert",), source=gibson("H-nopage-c"), fields=PTE)
def entry_is_writable_only_if_shared(event: Event) -> Truth:
    """A new entry MUST be writable exactly if the VMA is writable and shared; a private page is mapped read-only
    first.
    """
    vma = event.vma
    return implies(
        not in_fork(event), lambda: event.entry.writable == (bool(vma.vm_flags & VM_WRITE) and mapped_shared(vma))
    )


@postcondition("HTLB-FLT-019", on=("hugetlb_no_page",), source=gibson("H-nopage-c"), fields=PTE)
def private_write_needs_one_fault(op: Operation, result: Any) -> Truth:
    """A private write fault MUST go on to copy-on-write in the same section of `page_table_lock` and end writable,
    unless it has to repeat for want of a page.
    """
    return implies(
        op.write and not mapped_shared(op.vma) and result is VM_FAULT_MINOR and op.did("pte_insert"),
        lambda: (
            op.did("pte_mkwrite", "pte_replace", "cow_lost", "quota_failed")
            or any(c.result == RETRY for c in op.calls("alloc_huge_page"))
        ),
    )


@state_invariant(
    "HTLB-FLT-020",
    over=Over.MM,
    guard="page_table_lock",
    source=gibson("H-nopage-c"),
    fields=("mm.file_rss",),
    functions=("hugetlb_no_page", "unmap_hugepage_range"),
)
def rss_counts_huge_entries(mm: Any) -> Truth:
    """An address space's file rss MUST be the number of its huge-page entries times the base pages in a huge page."""
    return bool(mm.file_rss == len(mm.ptes) * mm.system.base_pages_per_huge_page)


@state_invariant(
    "HTLB-FLT-021",
    over=Over.PAGE,
    guard=ALWAYS,
    source=gibson("H-nopage-a", "H-nopage-b", "H-cow"),
    fields=("page._count",),
    functions=("hugetlb_no_page", "hugetlb_cow", "dup_mm"),
    would_catch="a missing get_page around a locked page: freed while the fault uses it (2012)",
)
def count_equals_references(page: Any) -> Truth:
    """A page's count MUST equal its place in the page cache plus its page-table entries plus temporary references."""
    cached = page.mapping is not None and page.mapping.pages.get(page.index) is page
    return bool(page._count == int(cached) + len(page.ptes) + page.temp_refs + page.pins)


@transition(
    "HTLB-FLT-022",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=gibson("H-nopage-a", "H-nopage-c"),
    locks=("page_lock", "page_table_lock"),
    fields=("page._count",),
    functions=("hugetlb_fault",),
)
def fault_leaves_no_lock_and_no_reference(op: Operation) -> Truth:
    """Locks and temporary references MUST be balanced on every exit of a fault."""
    return op.context.held == op.held_at_entry and op.delta("temp_refs") == 0


@postcondition("HTLB-FLT-023", on=("hugetlb_no_page",), source=gibson("D4", "H-nopage-a", "H-cow"), fields=PTE)
def retry_code_becomes_a_minor_fault(op: Operation, result: Any) -> Truth:
    """A shortage answered with the retry code MUST make the fault return VM_FAULT_MINOR, so that the access is
    repeated.
    """
    calls = op.calls("alloc_huge_page")
    return implies(calls and calls[-1].result == RETRY, lambda: result is VM_FAULT_MINOR)


@transition(
    "HTLB-FLT-024",
    over=Over.OPERATION,
    on=("access",),
    source=gibson("D4"),
    fields=(*PTE, *CACHE),
    functions=("hugetlb_fault",),
)
def repeated_access_looks_again(op: Operation) -> Truth:
    """A repeated access MUST redo the whole sequence of entry, cache and size; no result of the first attempt may be
    used.
    """
    faults = op.calls("hugetlb_fault")
    orders = [
        [e.kind for e in fault.events if e.kind in ("pte_read", "cache_lookup", "size_test", "availability_test")]
        for fault in faults[1:]
    ]
    return every(
        kinds[:1] == ["pte_read"] and set(kinds[1:3]) in (set(), {"cache_lookup", "size_test"}, {"availability_test"})
        for kinds in orders
    )


@postcondition("HTLB-FLT-025", on=("hugetlb_fault",), source=gibson("H-nopage-c"), fields=PTE)
def success_is_a_minor_fault(op: Operation, result: Any) -> Truth:
    """A successful instantiation MUST report VM_FAULT_MINOR (0 in kernels from 2.6.23 on), never an error."""
    served = op.did("pte_mkwrite", "pte_replace") or (op.did("pte_insert") and not op.write)
    return implies(served, lambda: result is VM_FAULT_MINOR)


@lock_rule(
    "HTLB-FLT-026",
    on=("pte_insert",),
    source=gibson("H-nopage-a", "H-nopage-c"),
    locks=("page_lock",),
    fields=PTE,
    functions=NO_PAGE,
)
def located_page_stays_locked(event: Event) -> Truth:
    """The page that was located MUST stay locked until the entry is set, so that both are about the same page."""
    return implies(not in_fork(event), lambda: event.holds("page_lock", event.page))


@postcondition(
    "HTLB-FLT-027",
    on=("hugetlb_no_page",),
    source=whitcroft("H-flags"),
    variants=(INSTANTIATION_MUTEX,),
    fields=("vma.vm_private_data",),
    would_catch="zeros where a child had data that its parent took away (2008)",
)
def robbed_child_gets_no_zeros(op: Operation, result: Any) -> Truth:
    """A VMA marked HPAGE_RESV_UNMAPPED MUST get VM_FAULT_SIGBUS on an empty entry instead of a fresh page of zeros."""
    return implies(unmapped(op.vma), lambda: result is VM_FAULT_SIGBUS and not op.did("pte_insert"))


@transition(
    "HTLB-FLT-028",
    over=Over.OPERATION,
    on=("hugetlb_no_page",),
    source=gibson("D1", "D4", "R1"),
    fields=PTE,
    functions=("hugetlb_no_page", "alloc_huge_page"),
    would_catch="every spurious failure in a race for the last huge page",
)
def failure_was_true_at_some_instant(op: Operation, result: Any) -> Truth:
    """A fault's failure MUST be linearisable: at some instant between call and return, what it reports held as a whole.
    For out of memory: no page to be had, nothing in flight, and the slot empty.
    """
    # A copy finds its slot filled, with the page that it is to replace.
    allocations = [c for c in op.calls("alloc_huge_page") if c.parent is not None and c.parent.name == op.name]
    return implies(
        result is VM_FAULT_OOM and allocations and not op.did("anon_vma_failed"),
        lambda: not allocations[-1].get("slot_filled") and not is_page(allocations[-1].result),
    )


@transition(
    "HTLB-FLT-029", over=Over.RUN, implied_by=("HTLB-INF-013", "HTLB-INF-014", "HTLB-RSV-029"),
    interfaces=("MemoryManager",), source=gibson("D1"), functions=("hugetlb_fault",), fields=("hstate.free_huge_pages",)
)
def enough_pages_means_nobody_fails(run: Run) -> Truth:
    """In a complete run with enough pages for all distinct demands, no fault MUST return VM_FAULT_OOM.

    To use every huge page of a system is normal.
    """
    return implies(
        run.facts.get("excess") == 0,
        lambda: all(op.result is not VM_FAULT_OOM for op in run.operations("hugetlb_fault")),
    )


@transition(
    "HTLB-FLT-030", over=Over.RUN, source=gibson("D4"), functions=("hugetlb_fault",), fields=("hstate.free_huge_pages",)
)
def excess_demand_fails_exactly(run: Run) -> Truth:
    """If demand exceeds supply, exactly the excess demands MUST fail with VM_FAULT_OOM, and none MUST repeat for
    ever.
    """
    failed = [op for op in run.operations("hugetlb_fault") if op.result is VM_FAULT_OOM]
    return implies(run.facts.get("excess", 0) > 0, lambda: len(failed) == run.facts["excess"] and not run.stuck)
