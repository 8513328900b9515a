"""PERF: promises about effort that can be counted: visits, locks, allocations; never time."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import PTL_CLASSES, areas, chain, pav
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import rmap
from mmspec.trace import Operation

ANON_WALKS = ("page_referenced_anon", "try_to_unmap_anon", "rmap_walk_anon")
LISTS = ("anon_vma.head", "vma.anon_vma_chain")
TREE_MUTEX = "anon_vma_mutex"


@state_invariant(
    "PERF-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("linking"),
    fields=LISTS,
    functions=("anon_vma_fork", "anon_vma_clone"),
    would_catch="one anon_vma for a server and all its children: every walk for any page visits every process",
    interfaces=("ReverseMap",),
)
def walks_of_a_family_visit_two_areas_on_average(world: Any) -> Truth:
    """With N processes, forked from one of them, walks for the pages that they made since MUST visit no more than 2 - 1/N
    areas on average, if each has made equally many.

    Pages of the parent are looked for in all N, pages of a child in the child alone.
    """
    families: dict[str, list[Any]] = {}
    for mm in world.mms:
        for vma in mm.vmas:
            if vma.anon_vma is not None:
                families.setdefault(vma.anon_vma.root.name, []).append(vma)
    return every(_family(vmas) for vmas in families.values())


def _family(vmas: list[Any]) -> Truth:
    """Of the areas of one tree, one in each process and none forked from another child."""
    root, number = vmas[0].anon_vma.root, len(vmas)
    simple = len({v.mm.name for v in vmas}) == number > 1 and all(v.anon_vma.parent in (None, root) for v in vmas)
    return implies(simple, lambda: sum(len(areas(v.anon_vma)) for v in vmas) <= 2 * number - 1)


@transition(
    "PERF-002",
    over=Over.OPERATION,
    on=ANON_WALKS,
    source=rmap("linking"),
    fields=LISTS,
    functions=ANON_WALKS,
    interfaces=("ReverseMap",),
)
def walks_visit_only_those_who_may_have_the_page(op: Operation) -> Truth:
    """A walk for an anonymous page MUST visit each area at most once, and none outside of the list of the page's anon_vma; of
    a page that was copied on write and not inherited further that is the one area that has it.
    """
    owner = pav(op.page)
    visited = [e.vma.name for e in op.all("visit", "walk_call")]
    if owner is None or not visited:
        return VACUOUS
    listed = {v.name for v in areas(owner)}
    return len(visited) == len(set(visited)) and set(visited) <= listed


@postcondition(
    "PERF-008",
    on=("page_dup_rmap", "do_page_add_anon_rmap", "page_add_file_rmap", "page_remove_rmap"),
    source=rmap("memcg"),
    fields=("page.memcg", "memcg.usage"),
    features=("CGROUP_MEM_RES_CTLR",),
)
def further_mappings_cost_the_group_nothing(op: Operation) -> Truth:
    """Adding a mapping to a mapped page, or taking one that is not the last, MUST NOT touch the page's control group."""
    moved = [e for e in op.all("write") if e.field == "_mapcount" and e.obj is op.page]
    edge = any(-1 in (e.old, e.new) for e in moved)
    return implies(moved and not edge, lambda: not op.did("charge", "uncharge", "uncharge_called", "memcg_file_mapped"))


@postcondition(
    "PERF-009",
    on=("handle_pte_fault",),
    source=rmap("split-ptlock"),
    fields=("pte",),
    locks=("ptl", "page_table_lock"),
    features=("SPLIT_PTLOCKS",),
    would_catch="threads of one process that fault in different places wait for each other",
)
def faults_in_different_tables_do_not_meet(op: Operation) -> Truth:
    """With split page-table locks, a fault MUST take the lock of its own table only, and that of the address space only to
    install an anon_vma.
    """
    index = op.vpn // op.mm.system.ptrs_per_pte
    taken = [e for e in op.all("acquire") if e.lock.cls in PTL_CLASSES and _own(e)]
    return every(
        e.lock.owner.index == index if e.lock.cls == "ptl" else _for_an_anon_vma(e) for e in taken
    )


def _for_an_anon_vma(event: Any) -> bool:
    """Whether the step is part of giving the area an anon_vma."""
    return event.op is not None and event.op.within("anon_vma_prepare") is not None


def _own(event: Any) -> bool:
    """Whether the step is the fault's own business, not that of a walk over other users of the page."""
    return event.op is not None and event.op.within("try_to_munlock") is None


@postcondition(
    "PERF-010",
    on=("page_check_address",),
    source=rmap("__page_check_address"),
    fields=("pte",),
    locks=("ptl", "page_table_lock"),
)
def empty_slots_are_not_locked(op: Operation) -> Truth:
    """Unless asked to be exact, a look for a mapping MUST NOT take the lock of a slot that is empty at a first look.

    A page that very many processes may map is mapped by few.
    """
    empty = "probed" in op.noted and not (op.probed is not None and op.probed.kind == "present")
    return implies(
        not op.sync and empty, lambda: not any(e.lock.cls in PTL_CLASSES for e in op.all("acquire"))
    )


@postcondition(
    "PERF-011",
    on=("page_lock_anon_vma",),
    source=rmap("page_lock_anon_vma"),
    fields=("anon_vma.refcount",),
    locks=(TREE_MUTEX,),
)
def uncontended_lookup_is_one_atomic_step(op: Operation, result: Any) -> Truth:
    """If nobody has the mutex, finding and locking a page's anon_vma MUST take nothing but the mutex: no reference."""
    tried = op.one("trylock_root")
    return implies(
        tried is not None and result is not None,
        lambda: (
            not [e for e in op.all("write") if e.field == "refcount"]
            and len([e for e in op.all("acquire") if e.lock.cls == TREE_MUTEX]) == 1
        ),
    )


@postcondition(
    "PERF-012",
    on=("anon_vma_clone", "unlink_anon_vmas"),
    source=rmap("lock_anon_vma_root"),
    fields=LISTS,
    locks=(TREE_MUTEX,),
)
def one_lock_per_chain(op: Operation) -> Truth:
    """Going through the chain of an area MUST take the mutex of the tree once, however long the chain is, and once more for
    each time that an allocation had to be repeated without it.
    """
    steps = ("lock_anon_vma_root", op.name)
    taken = [e for e in op.all("acquire") if e.lock.cls == TREE_MUTEX and e.op is not None and e.op.name in steps]
    undone = {id(e) for o in op.calls("unlink_anon_vmas") for e in o.events}
    repeated = [e for e in op.all("alloc") if e.what == "anon_vma_chain" and e.may_reclaim and e.op is op]
    own = [e for e in taken if id(e) not in undone]
    return implies(own, lambda: len(own) <= 1 + len(repeated))


@postcondition(
    "PERF-013",
    on=("anon_vma_prepare",),
    source=rmap("anon_vma_prepare"),
    fields=("vma.anon_vma",),
    locks=(TREE_MUTEX, "page_table_lock"),
)
def prepared_areas_cost_nothing(op: Operation, old: Any) -> Truth:
    """For an area that has an anon_vma, preparing it MUST take no lock and allocate nothing.

    It happens at every fault for an anonymous page.
    """
    return implies(old.anon_vma is not None, lambda: not op.did("acquire", "alloc"))


@postcondition(
    "PERF-014",
    on=("shrink_lists",),
    source=rmap("mlock"),
    fields=("page.PG_mlocked", "page.PG_unevictable"),
    implied_by=("MLOCK-001",),
)
def reclaim_does_not_look_at_marked_pages(op: Operation) -> Truth:
    """A pass of reclaim over all lists MUST NOT come across a page that is marked as locked in memory."""
    marked = [p for p in op.system.pages if p.PG_mlocked]
    return implies(op.alone and marked, lambda: not any(e.mlocked for e in op.all("scan")))


@postcondition(
    "PERF-015",
    on=("do_anonymous_page", "do_swap_page"),
    source=rmap("hiwater"),
    fields=("mm.hiwater_rss",),
)
def growing_costs_the_peak_nothing(op: Operation) -> Truth:
    """A fault that makes the resident set larger MUST NOT touch its peak: the peak is noted only before it shrinks."""
    writes = [e for e in op.all("write") if e.field in ("rss_anon", "rss_file") and e.obj is op.mm]
    grown = [e for e in writes if e.new > e.old]
    shrunk = [e for e in writes if e.new < e.old]
    return implies(grown and not shrunk, lambda: not op.did("update_hiwater_rss") and not op.net("hiwater_rss"))


@transition(
    "PERF-016",
    over=Over.OPERATION,
    on=("mmu_notifier_unregister",),
    source=rmap("notifiers"),
    fields=("page._count", "mmu_notifier.sptes"),
    functions=("mmu_notifier_unregister",),
    features=("MMU_NOTIFIER",),
)
def secondary_translations_go_without_unpinning(op: Operation) -> Truth:
    """Taking down secondary translations MUST NOT drop a reference or flush a TLB: they had no part in either."""
    return implies(op.did("spte_drop"), lambda: not op.did("put_page", "tlb_flush") and op.delta("_count") == 0)


@postcondition(
    "PERF-017",
    on=("page_move_anon_rmap",),
    source=rmap("page_move_anon_rmap", "linking"),
    fields=("page.mapping", *LISTS),
    interfaces=("ReverseMap",),
)
def moved_page_is_not_looked_for_in_relatives(op: Operation) -> Truth:
    """A page that was given to its only user MUST NOT be looked for in the parent or in siblings any more: whoever else is on
    the list has inherited from that user.
    """
    owner = pav(op.page)
    # Who has it as their own and newest one is the user itself; all others must have inherited it.
    return owner is not None and all(v.anon_vma is owner or owner in chain(v)[1:] for v in areas(owner)) and (
        owner is op.vma.anon_vma
    )


@transition(
    "PERF-018",
    over=Over.OPERATION,
    on=("swap_duplicate", "swap_free"),
    source=rmap("continuations"),
    fields=("swap_map",),
    functions=("swap_duplicate", "swap_free"),
    features=("SWAP",),
)
def continuations_are_touched_only_on_a_wrap(op: Operation) -> Truth:
    """As long as a count stays within its byte, the pages that hold its further digits MUST NOT be looked at."""
    changed = op.all("swap_map")
    inside = len(changed) == 1 and abs(changed[0].new - changed[0].old) == 1
    return implies(inside, lambda: changed[0].accesses == op.accesses_before and not op.did("alloc"))


@postcondition(
    "PERF-019",
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork"),
    fields=LISTS,
)
def fork_allocates_one_link_per_ancestor(op: Operation, result: Any) -> Truth:
    """fork of an area MUST allocate one link for each anon_vma of the parent's area, an anon_vma, and a link to that."""
    made = [e for e in op.all("alloc") if e.what in ("anon_vma", "anon_vma_chain")]
    # An attempt that had to be repeated with the mutex given back.
    repeated = [e for e in made if e.op is not None and e.op.name == "anon_vma_clone" and e.may_reclaim]
    return implies(
        result == 0 and op.pvma.anon_vma is not None,
        lambda: len(made) - len(repeated) == len(chain(op.pvma)) + 2 == len(chain(op.vma)) + 1,
    )
