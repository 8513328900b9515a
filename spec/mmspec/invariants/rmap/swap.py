"""SWAP: counts of swap slots, and the list of address spaces that swapoff scans."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from mmspec.invariant import QUIESCENT, Over, liveness, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import census
from mmspec.logic import Truth, every, implies
from mmspec.sources import rmap
from mmspec.trace import Event, Operation

HERE: dict[str, Any] = {"features": ("SWAP",)}
MAP = ("swap_map",)

#: What fits into the first digit of a count, and into each further one.
FIRST_MAX, FURTHER_MAX = 0x3E, 0x7F


def decode(first: int, further: Sequence[int]) -> int:
    """The number that the digits of a count mean, lowest digit first."""
    count, weight = first, FIRST_MAX + 1
    for digit in further:
        count += digit * weight
        weight *= FURTHER_MAX + 1
    return count


@state_invariant(
    "SWAP-COUNT-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("continuations", "try_to_unmap_one"),
    fields=(*MAP, "pte"),
    functions=("swap_duplicate", "swap_free", "try_to_unmap_one", "copy_page_range", "do_swap_page"),
    **HERE,
)
def swap_counts_are_those_of_the_entries(world: Any) -> Truth:
    """The count of a swap slot MUST be the number of page-table entries that refer to it; that the slot is in the swap cache
    is kept apart.

    A count too low gives the slot to somebody else, one too high never gives it back.
    """
    swap, entries = world.swap, census(world).swap
    return every(swap.count(slot) == len(entries.get(slot, ())) for slot in sorted({*swap.swap_map, *entries}))


@transition(
    "SWAP-COUNT-002",
    over=Over.OPERATION,
    on=("swap_duplicate", "swap_free"),
    source=rmap("continuations"),
    fields=MAP,
    functions=("swap_duplicate", "swap_free"),
    would_catch="counts stopped at 127; slots were never freed, or swapoff lost data that was still wanted (2009)",
    **HERE,
)
def swap_counts_never_saturate(op: Operation, result: Any) -> Truth:
    """Taking or dropping a reference to a slot MUST change its count by exactly one, read over all digits that it is kept
    in, also where it leaves or enters the range of one byte.
    """
    changed = op.all("swap_map")
    step = 1 if op.name == "swap_duplicate" else -1

    def exact() -> Truth:
        last = changed[-1]
        digits = last.new <= FIRST_MAX and all(0 <= d <= FURTHER_MAX for d in last.further)
        return digits and decode(last.new, last.further) == op.count_before + step

    return implies(op.name == "swap_free" or result == 0, lambda: bool(changed) and exact())


@postcondition(
    "SWAP-COUNT-003",
    on=("swap_duplicate",),
    source=rmap("continuations"),
    fields=MAP,
    would_catch="an increment that fails in atomic context and is not noticed: one entry more than the count says",
    **HERE,
)
def failed_duplicate_changes_nothing(op: Operation, result: Any) -> Truth:
    """If the count does not fit and no continuation page can be had, the reference MUST be refused with -ENOMEM and the
    count stay what it was; otherwise it MUST NOT be refused.
    """
    if result == 0:
        return implies(False, lambda: True)
    return bool(result == -errno.ENOMEM and not op.did("swap_map") and op.did("alloc"))


@state_invariant(
    "SWAP-MMLIST-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("try_to_unmap_one"),
    fields=("mm.mmlist", "pte"),
    functions=("try_to_unmap_one", "copy_page_range", "swapoff"),
    **HERE,
)
def owners_of_swap_entries_are_listed(world: Any) -> Truth:
    """Every address space that has a swap entry MUST be on the list that swapoff scans."""
    owners = {p.mm.name: p.mm for places in census(world).swap.values() for p in places}
    return every(mm.on_mmlist for mm in owners.values())


@transition(
    "SWAP-MMLIST-002",
    over=Over.EVENT,
    on=("set_pte", "mmlist_add"),
    source=rmap("try_to_unmap_one"),
    fields=("mm.mmlist", "pte"),
    locks=("mmlist_lock",),
    functions=("try_to_unmap_one", "copy_page_range"),
    would_catch="swapoff goes over the list between an entry and the listing of its address space, and misses the entry",
    **HERE,
)
def listed_before_the_entry_is_seen(event: Event) -> Truth:
    """An address space MUST be listed before its first swap entry can be seen; it is listed under `mmlist_lock`, and only if
    it is not listed already.
    """
    if event.kind == "set_pte":
        return implies(event.new is not None and event.new.kind == "swap", lambda: bool(event.mm.on_mmlist))
    return event.holds("mmlist_lock") and not event.mm.on_mmlist


@liveness(
    "SWAP-OFF-001",
    over=Over.OPERATION,
    on=("swapoff",),
    source=rmap("continuations"),
    fields=(*MAP, "pte"),
    functions=("swapoff",),
    **HERE,
)
def swapoff_finds_every_entry(op: Operation, result: Any) -> Truth:
    """swapoff MUST find all entries for a slot in one pass over the list; where it succeeds, no slot is in use and no entry
    refers to the device.

    What it misses is lost with the device.
    """
    system = op.system
    if result != 0:
        return implies(False, lambda: True)
    left = [
        entry
        for mm in system.mms
        for table in mm.tables.values()
        for entry in table.entries.values()
        if entry.kind == "swap"
    ]
    passes = op.all("swapoff_pass")
    return implies(
        passes, lambda: not left and not system.swap.swap_map and not system.swap.has_cache and all(p.found_all for p in passes)
    )
