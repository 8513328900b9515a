"""HWP: pages whose memory has failed, and the entries that stand for them."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import Over, lock_rule, postcondition, transition
from mmspec.invariants.rmap.terms import TTU_IGNORE_HWPOISON
from mmspec.logic import Truth, implies
from mmspec.sources import rmap
from mmspec.trace import Event, Operation

HERE: dict[str, Any] = {"features": ("MEMORY_FAILURE",)}
LISTS = ("anon_vma_mutex", "i_mmap_mutex")
SLOT_LOCKS = ("ptl", "page_table_lock")


@transition(
    "HWP-001",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("try_to_unmap_one"),
    fields=("pte", "page.PG_hwpoison"),
    functions=("try_to_unmap_one", "copy_page_range"),
    **HERE,
)
def poison_entries_name_poisoned_pages(event: Event) -> Truth:
    """An entry that stands for failed memory MUST name a page that is marked as poisoned.

    Whoever meets the entry is killed for it.
    """
    poison = event.new is not None and event.new.kind == "hwpoison"
    # The frame may have been given up; it is not given out again.
    return implies(poison and event.new.page in event.mm.system.pages, lambda: bool(event.new.page.PG_hwpoison))


@postcondition(
    "HWP-002",
    on=("try_to_unmap",),
    source=rmap("try_to_unmap_one"),
    fields=("pte", "page.PG_hwpoison"),
    **HERE,
)
def recoverable_pages_leave_no_poison_entries(op: Operation) -> Truth:
    """If the caller says that the content is not lost, unmapping a poisoned page MUST leave the entries that any page would
    leave, and none that stands for failed memory; if it does not say so, none but those.

    A clean page of a file can be read in again; killing its users would be for nothing.
    """
    # The scan of nonlinear areas takes whatever it meets, and leaves what can be read in again.
    steps = [e for o in op.calls("try_to_unmap_one") for e in o.events]
    made = [e.new for e in steps if e.kind == "set_pte" and e.new is not None and e.new.kind != "present"]
    poison = [e for e in made if e.kind == "hwpoison"]
    gone = [e for e in steps if e.kind == "ptep_clear" and e.entry is not None and e.entry.kind == "present"]
    if op.flags & TTU_IGNORE_HWPOISON or not op.page.PG_hwpoison:
        return implies(gone and op.page.PG_hwpoison, lambda: not poison)
    # The mark may come at any moment, without a lock.
    return implies(gone and op.alone, lambda: len(poison) == len(made))


@lock_rule(
    "HWP-003",
    on=("acquire",),
    source=rmap("locks-failure"),
    locks=(*LISTS, "tasklist_lock", *SLOT_LOCKS),
    functions=("collect_procs", "memory_failure"),
    enforced_by="lockdep",
    **HERE,
)
def victims_are_collected_under_list_then_tasks_then_slots(event: Event) -> Truth:
    """Who looks for the processes that use a page MUST take the mutex of the list of areas first, then the list of tasks,
    then locks of page tables.
    """
    cls = event.lock.cls
    if cls == "tasklist_lock":
        within = event.op is not None and event.op.within("collect_procs") is not None
        listed = any(name in LISTS for name in event.classes)
        return not any(name in SLOT_LOCKS for name in event.classes) and (listed or not within)
    return implies(cls in LISTS and event.how != "trylock", lambda: "tasklist_lock" not in event.classes)
