"""HTLB-QTA: the file system's quota of huge pages."""

from __future__ import annotations

from typing import Any

from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_SIGBUS
from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, state_invariant, transition
from mmspec.invariants.hugetlb.terms import outstanding_private, outstanding_shared
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field, gibson, whitcroft
from mmspec.trace import Event, Operation

BLOCKS = ("sb.free_blocks",)
FAULT = ("hugetlb_no_page", "hugetlb_cow")


@state_invariant(
    "HTLB-QTA-001",
    over=Over.SUPER,
    guard="stat_lock",
    source=gibson("H-nopage-a", "H-nopage-c"),
    fields=BLOCKS,
    locks=("stat_lock",),
    functions=("hugetlb_get_quota", "hugetlb_put_quota"),
    interfaces=("MemoryManager",),
    would_catch="each SIGBUS beyond the end raising the free blocks by one",
)
def quota_in_range(super: Any) -> Truth:  # noqa: A002
    """0 <= `free_blocks` <= `max_blocks` MUST hold."""
    return bool(0 <= super.free_blocks <= super.max_blocks)


@transition(
    "HTLB-QTA-002",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=gibson("H-nopage-a", "H-nopage-c"),
    fields=BLOCKS,
    functions=FAULT,
    would_catch="quota returned on the SIGBUS path before any was taken (2006 as posted)",
)
def fault_returns_only_what_it_took(op: Operation) -> Truth:
    """A fault MUST return quota only if it took it, once, and only if the page it paid for is not kept."""
    taken = 0
    checks = []
    for call in op.calls("hugetlb_get_quota") + op.calls("hugetlb_put_quota"):
        if call.parent is None or call.parent.name not in FAULT:
            continue
        if call.name == "hugetlb_get_quota":
            taken += call.blocks if call.result == 0 else 0
        else:
            checks.append(call.blocks <= taken)
            taken -= call.blocks
    kept = sum(1 for e in op.all("settle") if e.page.private is not None)
    return every(checks) and (taken <= kept + len(op.all("pool_return")))


@postcondition("HTLB-QTA-003", on=("hugetlb_no_page",), source=gibson("H-nopage-a"), fields=BLOCKS)
def no_quota_no_allocation(op: Operation, result: Any) -> Truth:
    """Failing to get quota MUST end the attempt before anything is allocated: in VM_FAULT_SIGBUS, or in a repetition
    where a block may come back.
    """
    failed = op.one("quota_failed")
    if failed is None:
        return VACUOUS
    return (
        result in (VM_FAULT_SIGBUS, VM_FAULT_MINOR)
        and (not op.did("quota_exhausted") or result is VM_FAULT_SIGBUS)
        and not [e for e in op.all("availability_test") if e.seq > failed.seq]
    )


@transition(
    "HTLB-QTA-004",
    over=Over.OPERATION,
    on=("hugetlb_no_page",),
    source=gibson("H-nopage-a"),
    fields=BLOCKS,
    functions=FAULT,
)
def quota_before_page(op: Operation) -> Truth:
    """A fault MUST take quota before the page, and return it after the page was given back or not obtained."""
    if not op.did("quota_get"):
        return VACUOUS
    order = [e.kind for e in op.events if e.kind in ("quota_get", "availability_test", "quota_put")]
    return order.index("quota_get") < (order.index("availability_test") if "availability_test" in order else 99) and (
        "quota_put" not in order or order.index("quota_put") > order.index("availability_test")
    )


@state_invariant(
    "HTLB-QTA-005",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=gibson("H-nopage-a") + whitcroft("H-needs", "H-reserve"),
    fields=BLOCKS,
    functions=("hugetlb_get_quota", "hugetlb_put_quota"),
)
def used_blocks_are_pages_and_promises(world: Any) -> Truth:
    """With nothing in flight, the blocks in use MUST equal the charged pages outside the pool plus the outstanding
    reservations.
    """
    pages = sum(1 for page in world.pages if page.private is world.super and page._count > 0)
    promises = sum(outstanding_shared(i) for i in world.inodes) + sum(outstanding_private(v) for v in world.vmas)
    return bool(world.super.max_blocks - world.super.free_blocks == pages + promises)


@postcondition("HTLB-QTA-006", on=("hugetlb_reserve_pages",), source=whitcroft("H-reserve"), fields=BLOCKS)
def reservation_charges_quota(op: Operation, result: int) -> Truth:
    """A reservation MUST charge quota for exactly the promised pages; if the pages cannot be promised, it MUST return
    the quota.
    """
    return implies(op.get("charge") is not None, lambda: op.delta("free_blocks") == (-op.charge if result == 0 else 0))


@postcondition(
    "HTLB-QTA-007",
    on=("hugetlb_vm_op_close",),
    source=whitcroft("H-close"),
    fields=BLOCKS,
    would_catch="close that returns the global part of the reservation only (2008 as posted)",
)
def close_returns_quota(op: Operation, old: Any) -> Truth:
    """Closing an owner VMA MUST return the quota of its unconsumed part as well as the promises."""
    return implies(old.owner, lambda: op.delta("free_blocks") == old.npages - old.used)


@postcondition("HTLB-QTA-008", on=("hugetlb_fault",), source=whitcroft("H-needs"), fields=BLOCKS)
def fault_charges_what_prepare_said(op: Operation) -> Truth:
    """A fault MUST charge quota only for the amount that prepare has reported."""
    charges = [c.result for c in op.calls("vma_needs_reservation") if c.result >= 0]
    gets = [c for c in op.calls("hugetlb_get_quota") if c.parent is not None and c.parent.name in FAULT]
    if not charges:
        return VACUOUS
    return all(call.blocks in charges for call in gets) and (max(charges) == 1 or not gets)


@postcondition(
    "HTLB-QTA-009",
    on=("free_huge_page",),
    source=gibson("H-free") + field("base"),
    fields=BLOCKS,
    would_catch="private pages whose block is never returned (2006)",
)
def freed_page_returns_its_block(op: Operation, old: Any) -> Truth:
    """Freeing a page MUST return the block charged for it exactly once; a page that returns to its reservation leaves
    the block with the reservation, and a page never charged MUST NOT return one.
    """
    charged = old.private is not None and old.drawn_from is None
    return op.delta("free_blocks") == int(charged)


@lock_rule(
    "HTLB-QTA-010",
    on=("quota_get", "quota_put"),
    source=gibson("H-nopage-a"),
    fields=BLOCKS,
    locks=("stat_lock", "hugetlb_lock"),
    functions=("hugetlb_get_quota", "hugetlb_put_quota"),
)
def quota_has_its_own_lock(event: Event) -> Truth:
    """Quota counters MUST be changed under the super block's own lock, never under `hugetlb_lock`."""
    return event.holds("stat_lock", event.sb) and "hugetlb_lock" not in event.classes
