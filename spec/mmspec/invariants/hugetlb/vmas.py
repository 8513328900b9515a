"""HTLB-VMA: open, close, split, fork, unmap and exit."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

from mmspec.invariant import Over, postcondition, precondition, state_invariant, transition
from mmspec.invariants.hugetlb.terms import (
    is_page,
    mapped_shared,
    own_counters,
    own_effects,
    owner,
    private_map,
    region_growth,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field, whitcroft
from mmspec.trace import Event, Operation, Run

CLAIM = ("vma.vm_private_data", "resv_map.refs")
RESV = ("hstate.resv_huge_pages",)
SPAN = ("vma.vm_start", "vma.vm_end", "vma.vm_pgoff")


@transition("HTLB-VMA-001", over=Over.OPERATION, on=("dup_mm",), source=whitcroft("H-open", "H-comment"), fields=CLAIM)
def reset_before_open(op: Operation) -> Truth:
    """At fork the reset MUST happen before open is called on the child's VMA.

    Open takes a reference for whatever claim it finds.
    """
    reset: set[str] = set()
    checks = []
    for event in op.all("reset_vma_resv", "vm_op_open"):
        if event.kind == "reset_vma_resv":
            reset.add(event.vma.name)
        else:
            checks.append(event.vma.name in reset)
    return every(checks)


@postcondition("HTLB-VMA-002", on=("hugetlb_vm_op_open",), source=whitcroft("H-open"), fields=CLAIM)
def open_takes_one_reference(op: Operation) -> Truth:
    """Open MUST add one reference exactly if the VMA has a map, and change nothing else."""
    expected = 0 if private_map(op.vma) is None else 1
    return op.delta("refs") == expected and not own_counters(op)


@postcondition("HTLB-VMA-003", on=("hugetlb_vm_op_close",), source=whitcroft("H-close"), fields=RESV)
def close_without_map_returns_nothing(op: Operation, old: Any) -> Truth:
    """Close on a VMA without a map MUST change no counter."""
    return implies(old.map is None, lambda: not own_counters(op))


@postcondition("HTLB-VMA-004", on=("hugetlb_vm_op_close",), source=whitcroft("H-close"), fields=(*RESV, *CLAIM))
def close_releases_its_own_span(op: Operation, old: Any) -> Truth:
    """Close on an owner VMA MUST drop one reference and release the unconsumed part of its own span only."""
    return implies(old.owner, lambda: op.released == old.npages - old.used and op.delta("refs") == -1)


@postcondition("HTLB-VMA-005", on=("hugetlb_vm_op_close",), source=whitcroft("H-close"), fields=RESV)
def close_of_a_used_up_vma_is_silent(op: Operation, old: Any) -> Truth:
    """A close that has nothing to return MUST NOT touch the pool's counters."""
    return implies(old.owner and old.npages == old.used, lambda: not own_counters(op) and not op.did("acct"))


@precondition("HTLB-VMA-006", on=("hugetlb_vm_op_close",), source=whitcroft("H-lockrule"), locks=("mmap_sem",))
def closed_once_and_alone(op: Operation) -> Truth:
    """Close MUST be called once per VMA, with `mmap_sem` held for write or nobody else able to reach the mm."""
    mm = op.vma.mm
    return op.vma.closes == 0 and (any(h.matches("mmap_sem", mm) for h in op.context.held) or mm.users == 0)


@transition(
    "HTLB-VMA-007",
    over=Over.EVENT,
    on=("vm_op_close",),
    source=whitcroft("M5", "H-close"),
    fields=("mm.ptes",),
    functions=("do_munmap", "mmput"),
)
def unmapped_before_closed(event: Event) -> Truth:
    """The page tables of the span MUST be torn down before close computes what is left.

    A fault in between consumes what close gives back.
    """
    vma = event.vma
    first = vma.vm_start // vma.huge_page_size
    return not any(vpn in vma.mm.ptes for vpn in range(first, first + vma.npages))


@postcondition(
    "HTLB-VMA-008",
    on=("split_vma",),
    source=whitcroft("M2", "M5"),
    fields=(*RESV, *CLAIM),
    would_catch="the remaining reservation copied with the VMA and returned by both halves (2008)",
)
def split_moves_no_promise(op: Operation, result: int, vma: Any) -> Truth:
    """A split MUST leave counters, regions and consumption unchanged, and raise `refs` by one if there is a map."""
    return implies(
        result == 0,
        lambda: not own_counters(op) and region_growth(op) == 0 and op.delta("refs") == (0 if private_map(vma) is None else 1),
    )


@postcondition("HTLB-VMA-009", on=("split_vma",), source=whitcroft("M5"), fields=SPAN)
def split_keeps_every_offset(old: Any, new: Any, result: int) -> Truth:
    """A split MUST keep the offset of every address: `vm_pgoff` of the upper part grows by the length of the lower."""
    return implies(result == 0, lambda: old.index_of == new.index_of)


@postcondition("HTLB-VMA-010", on=("split_vma",), source=whitcroft("M2", "M5"), fields=(*SPAN, *CLAIM))
def both_parts_inherit(op: Operation, old: Any, new: Any, result: int, vma: Any) -> Truth:
    """Both parts MUST inherit flags, map and owner status, and their lengths MUST add up to the old one."""
    return implies(
        result == 0,
        lambda: (
            op.new_vma.vm_flags == vma.vm_flags == old.flags
            and op.new_vma.vm_private_data == vma.vm_private_data == old.private_data
            and new.npages == old.npages
        ),
    )


@precondition(
    "HTLB-VMA-011",
    on=("split_vma", "do_munmap"),
    source=field("base"),
    fields=SPAN,
)
def unaligned_boundary_is_refused(op: Operation, result: int) -> Truth:
    """Splitting or unmapping at an address that is no huge-page boundary MUST give -EINVAL with no change."""
    vma_or_mm = op.get("vma") or op.mm
    size = vma_or_mm.huge_page_size if op.name == "split_vma" else op.mm.system.arch.huge_page_size
    crooked = op.address % size or op.get("length", 0) % size
    return implies(crooked, lambda: result == -errno.EINVAL and not own_effects(op))


@postcondition("HTLB-VMA-012", on=("split_vma",), source=whitcroft("H-open"), fields=CLAIM)
def failed_split_keeps_no_reference(op: Operation, result: int) -> Truth:
    """If a split fails, no reference of it MUST remain."""
    return implies(result < 0, lambda: op.delta("refs") == 0 and not own_effects(op))


@postcondition(
    "HTLB-VMA-013",
    on=("split_vma",),
    source=whitcroft("M3", "M4", "M5"),
    fields=(*SPAN, "resv_map.regions"),
    would_catch="apportioning the remaining count in open, which cannot know what was consumed on which side",
)
def apportioning_is_exact(old: Any, new: Any, result: int) -> Truth:
    """For any partition of a mapping into VMAs, the remainders of the parts MUST sum to the remainder of the whole."""
    return implies(result == 0 and old.refs > 0, lambda: new.remainder == old.remainder)


@postcondition(
    "HTLB-VMA-014",
    over=Over.RUN,
    on=(),
    source=whitcroft("M1", "M2"),
    fields=RESV,
    functions=("hugetlb_reserve_pages", "hugetlb_vm_op_close", "alloc_huge_page"),
    would_catch="both halves of a split mapping returning the whole remainder",
)
def lifetime_balance_is_zero(run: Run) -> Truth:
    """Over the life of a private mapping, what it has reserved MUST equal what was drawn plus what was released,
    whatever the order in which its parts went.
    """
    balance: Counter[str] = Counter()
    for op in run.operations("hugetlb_reserve_pages"):
        made = [c.result.name for c in op.calls("resv_map_alloc") if c.result is not None]
        if op.result == 0 and made:
            balance[made[0]] += op.to - op.frm
    for event in run.events("draw", "restore"):
        if event.map.private:
            balance[event.map.name] += -1 if event.kind == "draw" else 1
    for op in run.operations("hugetlb_vm_op_close"):
        if op.get("map") is not None:
            balance[op.map.name] -= op.released
    gone = [e.obj.name for e in run.events("free") if e.obj.over is Over.MAP]
    return every(balance[name] == 0 for name in gone if name in balance)


@postcondition(
    "HTLB-VMA-015", on=("do_munmap",), implied_by=("HTLB-RSV-008",), source=whitcroft("M2"), fields=(*RESV, *CLAIM),
    interfaces=("MemoryManager",),
)
def unmapping_the_middle_leaves_two(op: Operation, result: int) -> Truth:
    """Unmapping the middle of a mapping MUST leave two VMAs with the same map, and release only the middle's
    remainder.
    """
    splits, closes = op.all("split"), op.calls("hugetlb_vm_op_close")
    if result != 0 or len(splits) != 2 or len(closes) != 1 or closes[0].get("map") is None:
        return VACUOUS
    return op.delta("refs") == 1 and op.delta("resv_huge_pages") == -closes[0].released


@postcondition("HTLB-VMA-016", on=("mmput",), source=whitcroft("M5"), fields=CLAIM)
def exit_closes_everything(op: Operation) -> Truth:
    """Exit MUST close every VMA, return what each has left, and drop its maps, even if children still map the pages."""
    mm = op.mm
    closed = op.calls("hugetlb_vm_op_close")
    return (
        not mm.vmas
        and not mm.ptes
        and mm.file_rss == 0
        and (op.delta("resv_huge_pages") == -sum(c.get("released", 0) for c in closed) + _unreserved_by_eviction(op))
    )


def _unreserved_by_eviction(op: Operation) -> int:
    return sum(c.delta("resv_huge_pages") for c in op.calls("hugetlb_unreserve_pages"))


@transition(
    "HTLB-VMA-017",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=whitcroft("H-comment"),
    fields=CLAIM,
)
def child_leaves_the_parents_map_alone(op: Operation) -> Truth:
    """Faults of a process that does not own the reservation MUST NOT change any private map, its references or its
    regions.
    """
    return implies(
        not mapped_shared(op.vma) and not owner(op.vma),
        lambda: op.delta("refs") == 0 and region_growth(op, private=True) == 0 and not _private_draws(op),
    )


def _private_draws(op: Operation) -> list[Event]:
    return [e for e in op.all("draw") if e.map.private]


@state_invariant("HTLB-VMA-018", over=Over.VMA, guard="mmap_sem", source=whitcroft("H-close"), fields=SPAN)
def offsets_span_the_length(vma: Any) -> Truth:
    """Offsets MUST be computed in huge pages from `vm_start` and `vm_pgoff`, for the end address as well, so that their
    difference is the VMA's length.
    """
    size = vma.huge_page_size
    return (
        vma.index(vma.vm_end) - vma.index(vma.vm_start) == (vma.vm_end - vma.vm_start) // size
        and vma.vm_start % size == 0
        and vma.vm_end % size == 0
        and vma.vm_start < vma.vm_end
    )


@transition(
    "HTLB-VMA-019",
    over=Over.EVENT,
    on=("region_count",),
    source=whitcroft("H-open", "H-close"),
    fields=SPAN,
    locks=("mmap_sem",),
    functions=("split_vma", "hugetlb_vm_op_close"),
)
def nobody_counts_while_parts_overlap(event: Event) -> Truth:
    """While a split has its two VMAs overlap, no span of theirs MUST be counted."""
    spans = sorted((v.lo, v.hi) for v in event.map.system.vmas if private_map(v) is event.map)
    return implies(event.map.private, lambda: all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False)))


@postcondition("HTLB-VMA-020", on=("do_mremap",), source=field("base"), fields=SPAN)
def moving_is_refused(op: Operation, result: int) -> Truth:
    """Moving or growing a huge-page VMA MUST be refused with no change, or carry the map with unchanged offsets; it MUST
    NOT create a second claim.
    """
    return result == -errno.EINVAL and not own_effects(op)


@postcondition("HTLB-VMA-021", on=("dup_mm",), source=field("base"), fields=("mm.ptes", "page._count", "mm.file_rss"))
def fork_shares_pages_read_only(op: Operation, old: Any, result: Any) -> Truth:
    """fork MUST copy each present entry with one more reference, leave no private entry writable on either side and
    shared ones as they were, and give the child the same rss.
    """
    if not is_page(result) or not op.alone or not old.entries:
        return VACUOUS
    child = result
    shared = {
        vpn: mapped_shared(v) for v in child.vmas for vpn in range(v.vm_start // v.huge_page_size, v.vm_end // v.huge_page_size)
    }
    copied = child.ptes.keys() == old.entries.keys() and child.file_rss == old.rss
    return copied and all(
        child.ptes[vpn].page is page
        and op.delta("_count", of=page) == sum(1 for other, _ in old.entries.values() if other is page)
        and child.ptes[vpn].writable == (writable and shared[vpn])
        and op.oldmm.ptes[vpn].writable == (writable and shared[vpn])
        for vpn, (page, writable) in old.entries.items()
    )


@postcondition("HTLB-VMA-022", on=("dup_mm",), source=whitcroft("H-comment", "H-open"), fields=(*CLAIM, "page._count"))
def failed_fork_leaves_nothing(op: Operation, result: Any) -> Truth:
    """A failing fork MUST leave no reference, rss or map reference behind."""
    return implies(
        isinstance(result, int),
        lambda: not own_effects(op) and op.delta("_count") == 0 and op.delta("file_rss") == 0,
    )
