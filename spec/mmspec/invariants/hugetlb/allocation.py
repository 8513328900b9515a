"""HTLB-ALC: the contract of the allocator, with its two-phase reservation bookkeeping."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE
from mmspec.errors import VM_FAULT_OOM
from mmspec.invariant import Over, lock_rule, postcondition, precondition, transition
from mmspec.invariants.hugetlb.terms import (
    RETRY,
    is_page,
    mapped_shared,
    own_counters,
    owner,
    private_map,
    reserved,
)
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Event, Operation, Section

RESV = ("hstate.resv_huge_pages", "resv_map.regions")


@precondition(
    "HTLB-ALC-001",
    on=("alloc_huge_page",),
    source=whitcroft("H-lockrule") + gibson("H-fault"),
    locks=("mmap_sem", "hugetlb_instantiation_mutex"),
    fields=("vma.vm_start", "vma.vm_end"),
)
def allocates_inside_the_vma(op: Operation) -> Truth:
    """`alloc_huge_page` MUST be called for an offset inside the VMA, with `mmap_sem` held at least for read, and with
    the instantiation mutex where there is one.
    """
    held = op.context.held
    variant = op.vma.pool.system.variant
    return (
        op.vma.lo <= op.idx < op.vma.hi
        and any(h.matches("mmap_sem:r", op.vma.mm) for h in held)
        and (variant != INSTANTIATION_MUTEX or any(h.cls == "instantiation_mutex" for h in held))
    )


@transition(
    "HTLB-ALC-002",
    over=Over.SECTION,
    on=("hugetlb_lock",),
    source=gibson("H-alloc"),
    locks=("hugetlb_lock",),
    functions=("alloc_huge_page",),
    fields=RESV,
)
def test_draw_and_dequeue_are_one_section(section: Section) -> Truth:
    """Availability test, draw, dequeue, count and tag MUST happen in one section of `hugetlb_lock`.

    A gap between any two is a page promised or counted twice.
    """
    op = section.op
    if op is None or op.name != "alloc_huge_page" or not section.did("dequeue"):
        return VACUOUS
    return (
        bool(section.did("availability_test"))
        and bool(section.did("tag_write"))
        and len(section.did("draw")) == int(op.backed)
    )


@postcondition("HTLB-ALC-003", on=("alloc_huge_page",), source=gibson("H-alloc"), fields=("page._count",))
def returned_page_is_the_callers(op: Operation, result: Any) -> Truth:
    """A returned page MUST have one reference, the caller's, and be on no free list."""
    return implies(
        is_page(result),
        lambda: result._count == 1 and not any(result in pages for pages in op.vma.pool.hugepage_freelists.values()),
    )


@postcondition("HTLB-ALC-004", on=("alloc_huge_page",), source=gibson("H-alloc"), fields=())
def allocator_has_two_errors(op: Operation, result: Any) -> Truth:
    """The errors of the allocator MUST be -EAGAIN and -ENOMEM and no others; with the instantiation mutex -EAGAIN MUST
    NOT occur.
    """
    mutex = op.vma.pool.system.variant == INSTANTIATION_MUTEX
    return is_page(result) or result == -errno.ENOMEM or (result == RETRY and not mutex)


@postcondition(
    "HTLB-ALC-005",
    on=("alloc_huge_page",),
    source=gibson("H-alloc"),
    variants=(TENTATIVE,),
    fields=RESV,
    would_catch="BUG_ON(!page) after the counters were checked, with all free pages on a forbidden node",
)
def policy_refusal_is_a_shortage(op: Operation, result: Any) -> Truth:
    """If the counters promise a page and memory policy permits none, the allocation MUST report a shortage with the
    draw undone.
    """
    return implies(
        op.get("policy_refused") and op.vma.pool.nr_overcommit_huge_pages == 0,
        lambda: not is_page(result) and not own_counters(op),
    )


@transition(
    "HTLB-ALC-006",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=whitcroft("H-needs", "H-commit"),
    fields=RESV,
    functions=("vma_needs_reservation", "vma_commit_reservation"),
)
def prepare_page_commit(op: Operation) -> Truth:
    """Reservation bookkeeping MUST be two-phase: prepare, which may fail, before the page is obtained; commit, which
    cannot, after it.

    After the page is mapped there is no way to report that the list could not be extended.
    """
    resv_map = op.vma.vm_file.resv_map if mapped_shared(op.vma) else private_map(op.vma)
    return implies(
        op.did("dequeue") and resv_map is not None,
        lambda: op.before("prepare", "dequeue") and op.before("dequeue", "commit"),
    )


@postcondition(
    "HTLB-ALC-007",
    on=("vma_needs_reservation",),
    source=whitcroft("H-needs"),
    fields=RESV,
)
def prepare_reports_the_charge(op: Operation, result: int) -> Truth:
    """Prepare MUST report for a shared VMA the number of missing offsets (0 or 1); for an owner VMA 0 while the offset
    is not consumed and 1 after that; for any other private VMA 1; or a negative error.
    """
    prepared = op.one("prepare")
    if result < 0:
        return result == -errno.ENOMEM and prepared is None
    if mapped_shared(op.vma):
        return prepared is not None and result == prepared.chg
    if owner(op.vma):
        return prepared is not None and result == 1 - prepared.chg
    return result == 1 and prepared is None


@postcondition("HTLB-ALC-008", on=("vma_commit_reservation",), source=whitcroft("H-commit"), fields=RESV)
def commit_records_one_offset(op: Operation, old: Any, new: Any) -> Truth:
    """Commit MUST record the single offset in the file's map (shared) or the private map (owner), and nothing for any
    other VMA.
    """
    if old is None:
        return new is None
    return bool(new == old | {op.idx})


@postcondition(
    "HTLB-ALC-009",
    over=Over.EVENT,
    on=("availability_test",),
    source=whitcroft("H-decr"),
    fields=RESV,
    functions=("alloc_huge_page",),
)
def draws_exactly_for_outstanding_reservations(event: Event) -> Truth:
    """An allocation MUST count as backed, and draw from the reserve, exactly if a reservation for its offset is
    outstanding: for shared and for owner VMAs, never for others.
    """
    return event.backed == reserved(event.vma, event.idx)


@postcondition(
    "HTLB-ALC-010",
    on=("alloc_huge_page",),
    source=whitcroft("H-hasres"),
    fields=RESV,
    would_catch="shared mappings refused their own reservation when free == resv (reported July 2008)",
)
def reserved_page_is_not_refused(op: Operation, result: Any) -> Truth:
    """An allocation for an outstanding reservation MUST succeed if any free page is permitted, also when free == resv.

    "Has no private reservation" is not "has no reservation".
    """
    return implies(
        op.backed and op.at_test.free_huge_pages > 0 and not op.get("policy_refused"), lambda: is_page(result)
    )


@postcondition("HTLB-ALC-011", on=("alloc_huge_page",), source=field("base"), fields=RESV)
def second_page_stays_outside_the_reserve(op: Operation, result: Any) -> Truth:
    """An owner's allocation for an offset that is consumed already MUST NOT draw from the reserve, and MUST fail if
    free <= resv.
    """
    return implies(
        owner(op.vma) and op.charge == 1,
        lambda: (
            op.delta("resv_huge_pages") == 0
            and (
                not is_page(result)
                or op.at_test.free_huge_pages > op.at_test.resv_huge_pages
                or op.vma.pool.nr_overcommit_huge_pages > 0
            )
        ),
    )


@postcondition(
    "HTLB-ALC-012",
    on=("hugetlb_fault",),
    source=whitcroft("H-needs"),
    fields=RESV,
    would_catch="a negative result of prepare stored in an unsigned charge (2008)",
)
def failed_prepare_is_an_error(op: Operation, result: Any) -> Truth:
    """A failed prepare MUST be reported as an error of the fault, and MUST NOT be taken for a charge."""
    failed = [c for c in op.calls("vma_needs_reservation") if c.result < 0]
    return implies(failed, lambda: result is VM_FAULT_OOM and not own_counters(op) and not op.did("dequeue"))


@postcondition("HTLB-ALC-013", on=("vma_needs_reservation",), source=whitcroft("H-needs"), fields=RESV)
def prepare_needs_no_undoing(op: Operation, result: int) -> Truth:
    """Giving up after prepare MUST need no undoing: coverage is unchanged, so a later prepare reports the same."""
    return implies(result >= 0 and op.did("prepare"), lambda: not [e for e in op.all("write") if e.field == "regions"])


@transition(
    "HTLB-ALC-014",
    over=Over.OPERATION,
    on=("free_huge_page",),
    source=whitcroft("H-commit"),
    fields=RESV,
    functions=("free_huge_page",),
    would_catch="reservations leaked by the error paths of private mappings (2016)",
)
def unused_page_gives_its_reservation_back(op: Operation, old: Any) -> Truth:
    """If a page was drawn from the reserve and is not used, its offset MUST count as reserved again and
    `resv_huge_pages` MUST be raised, together.
    """
    if old.drawn_from is None:
        return implies(False, lambda: True)
    resv_map, idx = old.drawn_from
    return (
        op.delta("resv_huge_pages") == 1
        and idx not in resv_map.drawn
        and (not resv_map.private or idx not in resv_map.coverage())
    )


@lock_rule(
    "HTLB-ALC-015",
    on=("kmalloc_may_sleep",),
    source=whitcroft("H-needs"),
    fields=("resv_map.regions",),
    locks=("page_table_lock", "hugetlb_lock"),
    functions=("vma_needs_reservation", "hugetlb_cow"),
    would_catch="a region allocated under page_table_lock on the copy path (fixed August 2008)",
    enforced_by="might_sleep() with CONFIG_DEBUG_ATOMIC_SLEEP",
)
def region_memory_outside_spinlocks(event: Event) -> Truth:
    """Memory for region lists MUST NOT be allocated while a spinlock is held."""
    return not event.spinlocks
