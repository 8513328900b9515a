"""TLB: what CPUs remember of an entry that is being changed."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import Over, transition
from mmspec.logic import Truth, every
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

FLUSHING = ("ptep_clear_flush", "ptep_clear_flush_notify")
CLEARING = ("page_mkclean_one", "try_to_unmap_one", "try_to_unmap_cluster")


def pages_of(event: Any) -> range:
    """The base page numbers of the slot that an event is about."""
    if event.level == "pte":
        return range(event.vpn, event.vpn + 1)
    system = event.mm.system
    span = system.ptrs_per_pte if event.level == "pmd" else 1 << system.huge_page_order
    first = event.vpn // span * span
    return range(first, first + span)


@transition(
    "TLB-001",
    over=Over.EVENT,
    on=("ptep_clear_flush_notify",),
    source=field_2011("base") + rmap("notifiers"),
    fields=("pte",),
    functions=FLUSHING,
    would_catch="a flush that leaves out CPUs which are busy with another address space at the moment",
)
def nobody_remembers_a_flushed_entry(event: Event) -> Truth:
    """When an entry was cleared and flushed, no CPU MUST be able to use the old translation, and no secondary MMU of the
    address space either.

    All that follows, freeing the page first of all, relies on it.
    """
    mm = event.mm
    return all(
        not mm.system.tlbs.holders(mm, vpn) and all(vpn not in n.sptes for n in mm.notifiers) for vpn in pages_of(event)
    )


@transition(
    "TLB-002",
    over=Over.OPERATION,
    on=CLEARING,
    source=rmap("page_mkclean_one", "try_to_unmap_one", "try_to_unmap_cluster"),
    fields=("pte",),
    functions=CLEARING,
    would_catch="on PA-RISC and some ARMs, lines of the page that could not be written back for want of a translation",
    since="2.6.20",
)
def caches_are_flushed_while_the_entry_is_valid(op: Operation) -> Truth:
    """Before an entry is cleared, the caches MUST have been flushed of its page in the same operation, and while the
    entry was still valid.

    A virtually indexed cache finds the lines through the translation.
    """
    checks = []
    flushed: dict[tuple[Any, int], bool] = {}
    for step in op.events:
        if step.kind == "flush_cache_page":
            flushed[step.mm, step.vpn] = step.valid
        elif step.kind == "ptep_clear":
            checks.append(flushed.pop((step.mm, step.vpn), False))
    return every(checks)
