"""HTLB-COW: copy on write."""

from __future__ import annotations

from typing import Any

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM
from mmspec.invariant import (
    Over,
    lock_rule,
    postcondition,
    precondition,
    state_invariant,
    transition,
)
from mmspec.invariants.hugetlb.terms import (
    NO_PAGE,
    RETRY,
    is_shortage,
    mapped_shared,
    own_counters,
    owner,
    region_growth,
    unmapped,
)
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import gibson, whitcroft
from mmspec.trace import Event, Operation

PTE = ("mm.ptes",)
COUNT = ("page._count",)
COW = ("hugetlb_cow",)


@precondition("HTLB-COW-001", on=COW, source=gibson("H-fault", "H-cow"), fields=PTE, locks=("page_table_lock",))
def copy_begins_with_the_entry_checked(op: Operation) -> Truth:
    """`hugetlb_cow` MUST be entered with `page_table_lock` held and the entry unchanged, present and not writable."""
    return (
        any(h.matches("page_table_lock", op.mm) for h in op.context.held)
        and op.mm.ptes.get(op.vpn) == op.entry
        and not op.entry.writable
    )


@postcondition("HTLB-COW-002", on=COW, source=gibson("H-cow"), fields=(*PTE, *COUNT), interfaces=("MemoryManager",))
def sole_user_writes_in_place(op: Operation, result: Any) -> Truth:
    """The entry MUST be made writable in place, without allocation, copy or change of any counter, exactly if the old page
    has one reference.

    A page with one mapping that is in the page cache as well belongs to the file.
    """
    return implies(
        op.did("sole_user"),
        lambda: (
            all(e.count == 1 for e in op.all("sole_user"))
            and result is VM_FAULT_MINOR
            and op.did("pte_mkwrite")
            and not op.did("copy")
            and not own_counters(op)
        ),
    )


@transition(
    "HTLB-COW-003",
    over=Over.OPERATION,
    on=COW,
    source=gibson("H-cow"),
    fields=COUNT,
    functions=COW,
    would_catch="a page freed by unmap while it is being copied",
)
def old_page_is_pinned_for_the_copy(op: Operation) -> Truth:
    """The old page MUST be pinned before `page_table_lock` is dropped for the copy, and unpinned after it."""
    copy = op.one("copy")
    if copy is None:
        return VACUOUS
    pins = [
        e.kind
        for e in op.events
        if e.kind in ("get_page", "copied", "put_page") and e.data.get("page", copy.old) is copy.old
    ]
    return pins[:2] == ["get_page", "copied"]


@lock_rule(
    "HTLB-COW-004", on=("copy", "pte_replace"), source=gibson("H-cow"), locks=("page_table_lock",), functions=COW
)
def copy_runs_unlocked(event: Event) -> Truth:
    """The copy MUST run without `page_table_lock`, and be complete before the new page is mapped."""
    if event.kind == "copy":
        return not event.spinlocks
    return any(e.kind == "copied" and e.new is event.page for e in event.op.events)  # type: ignore[union-attr]


@transition("HTLB-COW-005", over=Over.OPERATION, on=COW, source=gibson("H-cow"), fields=PTE, functions=COW)
def entry_is_compared_again(op: Operation) -> Truth:
    """After the copy, the entry MUST be compared again under `page_table_lock`; only an unchanged one MUST be
    replaced.
    """
    if not op.did("pte_replace"):
        return VACUOUS
    steps = op.all("copied", "pte_check", "pte_replace")
    kinds = [e.kind for e in steps]
    at = kinds.index("pte_replace")
    return kinds[at - 1] == "pte_check" and steps[at - 1].same and "copied" in kinds[: at - 1]


@postcondition("HTLB-COW-006", on=COW, source=gibson("H-cow"), variants=(TENTATIVE,), fields=PTE)
def lost_copy_goes_back(op: Operation, result: Any) -> Truth:
    """If the entry has changed meanwhile, the new page MUST go back to the pool, and the fault MUST report a minor
    fault.
    """
    return implies(
        op.did("cow_lost"),
        lambda: op.did("pool_return") and op.delta("tentative_huge_pages") == 0 and result is VM_FAULT_MINOR,
    )


@postcondition("HTLB-COW-007", on=COW, source=gibson("H-cow"), variants=(TENTATIVE,), fields=(*PTE, *COUNT))
def failed_copy_keeps_the_entry(op: Operation, result: Any) -> Truth:
    """When no page can be had, the copy MUST keep the entry, hold no reference, and return VM_FAULT_MINOR for the retry
    code and VM_FAULT_OOM otherwise.
    """
    calls = op.calls("alloc_huge_page")
    return implies(
        calls and is_shortage(calls[-1].result),
        lambda: (
            not op.did("pte_replace", "pte_mkwrite", "pte_clear")
            and op.delta("_count") == 0
            and result is (VM_FAULT_MINOR if calls[-1].result == RETRY else VM_FAULT_OOM)
        ),
    )


@transition(
    "HTLB-COW-008",
    over=Over.OPERATION,
    on=COW,
    source=gibson("H-cow"),
    variants=(TENTATIVE,),
    fields=PTE,
    locks=("page_table_lock",),
    functions=COW,
)
def entry_and_shortage_are_one_section(op: Operation) -> Truth:
    """Within one address space, the test of the entry and a failed allocation MUST be in one section of
    `page_table_lock`.

    A competitor installs its copy under that lock, so between threads no spurious failure is possible.
    """
    calls = op.calls("alloc_huge_page")
    if not calls or calls[-1].result != NO_PAGE:
        return VACUOUS
    return not any(e.kind == "release" and e.lock.cls == "page_table_lock" for e in op.events)


@transition(
    "HTLB-COW-009",
    over=Over.OPERATION,
    on=COW,
    source=gibson("H-cow"),
    variants=(TENTATIVE,),
    fields=COUNT,
    functions=COW,
    would_catch="a child killed although its parent had just made it the page's sole user",
)
def copy_failure_names_a_shared_page(op: Operation, result: Any) -> Truth:
    """A copy that ends in VM_FAULT_OOM MUST have had the page still shared at the instant when the pool was found empty
    with nothing in flight.
    """
    calls = op.calls("alloc_huge_page")
    return implies(
        result is VM_FAULT_OOM and calls,
        lambda: calls[-1].sharers > 1 and calls[-1].at_test.tentative_huge_pages == 0,
    )


@postcondition("HTLB-COW-010", on=COW, source=gibson("H-cow"), fields=("mm.file_rss", *COUNT))
def replacing_keeps_rss(op: Operation) -> Truth:
    """A copy MUST leave rss unchanged and lower the old page's count by one."""
    return implies(
        op.did("pte_replace"),
        lambda: op.delta("file_rss") == 0 and op.delta("_count", of=op.entry.page) == -1,
    )


@postcondition(
    "HTLB-COW-011",
    over=Over.OPERATION,
    on=COW,
    source=gibson("H-cow"),
    fields=("page.content", *PTE),
    interfaces=("MemoryManager",),
)
def copy_is_a_copy(op: Operation) -> Truth:
    """After a copy the writer MUST see the old content, and all other mappers MUST keep the old page."""
    copied = op.one("copied")
    if copied is None or not op.did("pte_replace"):
        return VACUOUS
    others = [e for e in op.all("pte_insert", "pte_replace", "pte_clear", "pte_mkwrite") if e.mm is not op.mm]
    return copied.after == copied.before and not others


@state_invariant(
    "HTLB-COW-012",
    over=Over.MM,
    guard="page_table_lock",
    source=gibson("H-cow"),
    fields=PTE,
    locks=("page_table_lock",),
    functions=("hugetlb_cow", "dup_mm", "unmap_hugepage_range"),
    would_catch="a page-table entry replaced without flushing the old translation",
)
def no_stale_translation(mm: Any) -> Truth:
    """When `page_table_lock` is released, no CPU MUST remember a translation that the page table has replaced, taken
    away or made more permissive than before.

    A stale entry reads the old page, writes a page that is shared, or faults for ever.
    """
    remembered = mm.system.tlbs.translations(mm)
    return implies(remembered, lambda: all(mm.ptes.get(vpn) == entry for vpn, entry in remembered))


@precondition(
    "HTLB-COW-013",
    on=COW,
    source=gibson("H-fault", "H-alloc"),
    fields=PTE,
    would_catch="a private copy in a shared mapping after mprotect, drawn from the reserve once more",
)
def shared_mappings_are_not_copied(op: Operation) -> Truth:
    """Copy-on-write MUST NOT be applied to a shared mapping; its write-protected entry is made writable."""
    return not mapped_shared(op.vma)


@postcondition(
    "HTLB-COW-014",
    on=COW,
    source=whitcroft("H-flags", "H-comment"),
    variants=(INSTANTIATION_MUTEX,),
    fields=("vma.vm_private_data",),
    functions=("hugetlb_cow", "unmap_ref_private"),
)
def owner_gets_its_page_back(op: Operation, result: Any) -> Truth:
    """When the owner must copy a page and there is none outside the reserve, the page MUST be unmapped from those that
    inherited it, which get marked, and the owner reuses it.
    """
    calls = op.calls("unmap_ref_private")
    robbed = [e.vma for e in op.all("pte_clear")]
    return implies(
        calls and op.entry.page.mapping is None and not op.entry.page.pins and op.entry.page.temp_refs == 0,
        lambda: result is not VM_FAULT_OOM and all(unmapped(v) for v in robbed),
    )


@postcondition("HTLB-COW-015", on=COW, source=whitcroft("H-decr", "H-commit"), fields=("hstate.resv_huge_pages",))
def inheritor_copies_outside_the_reserve(op: Operation) -> Truth:
    """A copy by a process that does not own the reservation MUST leave `resv_huge_pages` and every region map
    unchanged.
    """
    return implies(
        not owner(op.vma) and op.did("availability_test"),
        lambda: op.delta("resv_huge_pages") == 0 and region_growth(op) == 0,
    )


@postcondition(
    "HTLB-COW-016",
    on=("hugetlb_fault",),
    source=whitcroft("M4", "H-commit"),
    fields=("resv_map.regions", "hstate.resv_huge_pages"),
)
def first_private_copy_consumes(op: Operation, old: Any, new: Any) -> Truth:
    """A copy by the owner of a page-cache page, the first private page at that offset, MUST consume the offset's
    reservation.
    """
    return implies(
        owner(op.vma) and old.reserved and op.did("pte_replace"),
        lambda: new.consumed and op.delta("resv_huge_pages") == -1,
    )
