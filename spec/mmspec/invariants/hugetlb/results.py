"""HTLB-ERR: which error for what."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.config import TENTATIVE
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, Signal
from mmspec.invariant import Over, postcondition
from mmspec.invariants.hugetlb.terms import NO_PAGE, RETRY, is_shortage, own_effects
from mmspec.logic import VACUOUS, Truth, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Operation, Run

FAULT_PARTS = ("hugetlb_no_page", "hugetlb_cow")


@postcondition("HTLB-ERR-001", on=FAULT_PARTS, source=gibson("H-cow", "H-nopage-a"), variants=(TENTATIVE,))
def allocation_errors_map_one_to_one(op: Operation, result: Any) -> Truth:
    """-EAGAIN MUST map to VM_FAULT_MINOR and any other allocation error to VM_FAULT_OOM, in both callers."""
    calls = op.calls("alloc_huge_page")
    if not calls or not is_shortage(calls[-1].result):
        return VACUOUS
    return result is {RETRY: VM_FAULT_MINOR, NO_PAGE: VM_FAULT_OOM}[calls[-1].result]


@postcondition(
    "HTLB-ERR-002",
    implied_by=("HTLB-FLT-008",),
    on=("hugetlb_fault",),
    source=gibson("H-nopage-a"),
    fields=("inode.i_size",),
    interfaces=("MemoryManager",),
    would_catch="an out-of-memory kill beyond the end of a file (2006)",
)
def end_of_file_wins_over_shortage(op: Operation, old: Any, new: Any, result: Any) -> Truth:
    """Beyond the end of the file a fault MUST report SIGBUS, not out of memory, also with an empty pool."""
    return implies(old.idx >= max(old.size, new.size) and not op.did("pte_alloc_failed"), lambda: result is VM_FAULT_SIGBUS)


@postcondition("HTLB-ERR-003", on=FAULT_PARTS, source=gibson("H-nopage-a"))
def quota_is_sigbus_and_pool_is_oom(op: Operation, result: Any) -> Truth:
    """Exhausted quota MUST map to VM_FAULT_SIGBUS, an exhausted pool to VM_FAULT_OOM."""
    if op.did("quota_exhausted"):
        return result is VM_FAULT_SIGBUS
    calls = op.calls("alloc_huge_page")
    return implies(calls and calls[-1].result == NO_PAGE and not op.calls("unmap_ref_private"), lambda: result is VM_FAULT_OOM)


@postcondition(
    "HTLB-ERR-004", on=("hugetlb_reserve_pages",), source=whitcroft("H-reserve"), interfaces=("MemoryManager",)
)
def reserve_has_two_errors(op: Operation, result: int) -> Truth:
    """A reserve request MUST return -ENOMEM when map, region memory or pages are missing and -ENOSPC when quota is, with
    nothing half done.
    """
    if result >= 0:
        return VACUOUS
    no_quota = any(c.result != 0 for c in op.calls("hugetlb_get_quota"))
    return result == (-errno.ENOSPC if no_quota else -errno.ENOMEM) and not own_effects(op)


@postcondition("HTLB-ERR-005", on=("hugetlb_fault",), source=gibson("D1", "R1"), interfaces=("MemoryManager",))
def error_names_its_cause(op: Operation, result: Any) -> Truth:
    """An error MUST name a condition that the fault has really met: SIGBUS the end of the file, quota, a failed insertion
    or a page taken away; out of memory a page table, region memory or a huge page that was refused.
    """
    if result is VM_FAULT_SIGBUS:
        size = op.one("size_test")
        return (size is not None and size.idx >= size.size) or op.did("quota_exhausted", "insert_failed", "unmapped_for_owner")
    return implies(
        result is VM_FAULT_OOM,
        lambda: (
            op.did("pte_alloc_failed", "anon_vma_failed")
            or any(c.result < 0 for c in op.calls("vma_needs_reservation"))
            or any(c.result == NO_PAGE for c in op.calls("alloc_huge_page"))
        ),
    )


@postcondition("HTLB-ERR-006", on=("hugetlb_fault",), source=gibson("D4"), variants=(TENTATIVE,), fields=("mm.ptes",))
def minor_fault_without_entry_has_a_reason(op: Operation, result: Any) -> Truth:
    """VM_FAULT_MINOR without an entry installed MUST be returned only for a lost race or a retry condition."""
    installed = op.did("pte_insert", "pte_replace", "pte_mkwrite")
    check = op.one("pte_check")
    read = op.one("pte_read")
    return implies(
        result is VM_FAULT_MINOR and not installed,
        lambda: (
            any(c.result == RETRY for c in op.calls("alloc_huge_page"))
            or op.did("cow_lost", "quota_failed")
            or (check is not None and not check.same)
            or (read is not None and read.entry is not None and (read.entry.writable or not op.write))
        ),
    )


@postcondition(
    "HTLB-ERR-007",
    over=Over.RUN,
    on=(),
    source=gibson("H-alloc", "R5"),
    would_catch="the assertion of 2006 as posted, within reach of any user with two mappings",
)
def no_assertion_in_reach_of_users(run: Run) -> Truth:
    """Assertions of the kernel MUST NOT be reachable by what users do; an error is returned instead."""
    return not run.facts.get("assertions")


@postcondition(
    "HTLB-ERR-008",
    on=("access",),
    source=field("base"),
    fields=("vma.vm_flags",),
    functions=("hugetlb_fault",),
    interfaces=("MemoryManager",),
    would_catch="protection that is lost when mprotect splits a mapping",
)
def forbidden_access_is_sigsegv(op: Operation, old: Any, new: Any, result: Any) -> Truth:
    """An access where nothing is mapped, or a write through a mapping without VM_WRITE, MUST end with SIGSEGV and change
    no counter; an access that the mapping allows MUST NOT end so.
    """
    if old.allowed != new.allowed:
        return VACUOUS
    if old.allowed:
        return result != Signal.SIGSEGV
    return result == Signal.SIGSEGV and not own_effects(op)
