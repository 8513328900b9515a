"""MLOCK: pages that stay in memory because an area locks them, and how they are kept from reclaim."""

from __future__ import annotations

from typing import Any

from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_MLOCK, SWAP_SUCCESS
from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, precondition, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    TTU_IGNORE_MLOCK,
    VM_LOCKED,
    VM_NONLINEAR,
    area_of,
    entered_with,
    entries_in,
    heads,
    is_ksm,
    locked_areas,
)
from mmspec.logic import Truth, every, implies
from mmspec.sources import rmap
from mmspec.trace import Event, Operation

MARK = ("page.PG_mlocked",)
UNEVICTABLE = "unevictable"


def _locked_somewhere(page: Any) -> bool:
    """Whether any area that maps the page is locked in memory, linear or not."""
    return any(v is not None and v.vm_flags & VM_LOCKED for v in map(area_of, page.slots))


def _in_the_table(page: Any, vma: Any) -> bool:
    """Whether a walk would see the area's entry: where entries are set in two steps, somebody may be between them."""
    return any(e.kind == "present" and e.page is page for _, e in entries_in(vma))


def _obtainable(vma: Any) -> bool:
    """Whether `mmap_sem` of the area's address space could be had for read."""
    return vma.mm.mmap_sem.writer is None


@state_invariant(
    "MLOCK-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("mlock"),
    fields=(*MARK, "page.PG_lru", "page.PG_unevictable"),
    functions=("mlock_vma_page", "putback_lru_page"),
)
def marked_pages_are_not_evictable(world: Any) -> Truth:
    """A page that is marked as locked in memory MUST NOT be on an evictable list: it is on the unevictable one, on none,
    or on its way to one.

    Reclaim that goes over such pages again and again finds nothing to free, which is what the list was made for.
    """
    return every(all(name == UNEVICTABLE for name in p.lists) for p in heads(world) if p.PG_mlocked)


@precondition(
    "MLOCK-002",
    on=("page_referenced", "try_to_unmap"),
    source=rmap("mlock"),
    fields=MARK,
)
def reclaim_drops_marked_pages_early(op: Operation) -> Truth:
    """Reclaim that has a page locked MUST NOT ask for references to it, or try to unmap it, if it is marked."""
    reclaims = op.within("shrink_page") is not None and entered_with(op, "page_lock", op.page)
    return implies(reclaims, lambda: not op.page.PG_mlocked)


@transition(
    "MLOCK-003",
    over=Over.OPERATION,
    on=("try_to_unmap",),
    source=rmap("mlock", "try_to_unmap_one"),
    fields=(*MARK, "vma.vm_flags"),
    functions=("try_to_unmap", "try_to_unmap_one"),
    interfaces=("VirtualMemory",),
)
def locked_areas_keep_unmarked_pages_too(op: Operation, result: Any) -> Truth:
    """A page that a linear area locks in memory MUST survive try_to_unmap even if it is not marked, unless the caller wants
    the locks ignored.

    The mark may be lost in races; the flag of the area may not.
    """
    slots = [s for s in op.slots_before if (v := area_of(s)) is not None and v.vm_flags & (VM_LOCKED | VM_NONLINEAR) == VM_LOCKED]
    return implies(
        op.alone and not op.flags & TTU_IGNORE_MLOCK and slots,
        lambda: result is not SWAP_SUCCESS and all(s in op.page.slots for s in slots),
    )


@precondition(
    "MLOCK-004",
    on=("try_to_munlock",),
    source=rmap("try_to_munlock"),
    fields=("page.PG_lru",),
    locks=("page_lock",),
    enforced_by="BUG_ON(!PageLocked(page) || PageLRU(page))",
)
def munlock_works_on_a_page_of_its_own(op: Operation) -> Truth:
    """try_to_munlock MUST be called with the page locked and off the lists."""
    return entered_with(op, "page_lock", op.page) and not op.page.PG_lru


@postcondition(
    "MLOCK-005",
    on=("try_to_munlock",),
    source=rmap("try_to_munlock", "try_to_unmap_one", "mlock"),
    fields=(*MARK, "vma.vm_flags"),
    locks=("mmap_sem",),
)
def munlock_finds_who_else_locks(op: Operation, result: Any) -> Truth:
    """try_to_munlock MUST answer SWAP_MLOCK, with the page marked again, exactly if it met an area that maps the page, is
    locked in memory, and whose `mmap_sem` could be had at once.

    The page would otherwise become evictable for all when the first of its lockers leaves.
    """
    page = op.page
    met = [v for v in locked_areas(page) if _obtainable(v) and _in_the_table(page, v)]

    def found() -> Truth:
        marked = page.PG_mlocked and op.did("set_mlocked", "mlock_vma_page")
        # The places of a merged page are known to its node only as far as the scanner has come.
        complete = op.alone and not is_ksm(page)
        return (result is not SWAP_MLOCK or marked) and (not complete or (result is SWAP_MLOCK) == bool(met))

    return implies(result is SWAP_MLOCK or op.alone, found)


@postcondition("MLOCK-006", on=("try_to_munlock",), source=rmap("try_to_munlock"), fields=("pte", "page._mapcount"))
def munlock_unmaps_nothing(op: Operation, result: Any) -> Truth:
    """try_to_munlock MUST NOT change a mapping and MUST NOT answer SWAP_SUCCESS; it fails only for a merged page that cannot
    be located.
    """
    return (
        result in (SWAP_AGAIN, SWAP_FAIL, SWAP_MLOCK)
        and (result is not SWAP_FAIL or is_ksm(op.page))
        and not op.did("ptep_clear", "set_pte")
    )


@precondition(
    "MLOCK-007",
    on=("try_to_munlock",),
    source=rmap("try_to_unmap_anon", "try_to_unmap_file", "mlock"),
    fields=("vma.vm_flags",),
    locks=("mmap_sem",),
)
def munlock_cannot_meet_itself(op: Operation) -> Truth:
    """munlock of a range MUST hold `mmap_sem` for write and have cleared the area's flag before it asks who else locks the
    page.

    Otherwise it finds the very area that it is about to unlock.
    """
    caller = op.within("munlock_vma_pages_range")
    return implies(
        caller is not None,
        lambda: entered_with(op, "mmap_sem", caller.vma.mm) and not caller.vma.vm_flags & VM_LOCKED,  # type: ignore[union-attr]
    )


@postcondition(
    "MLOCK-008",
    on=("munlock_vma_page",),
    source=rmap("try_to_munlock"),
    fields=(*MARK, "page.PG_unevictable"),
    functions=("munlock_vma_page", "try_to_munlock", "putback_lru_page"),
)
def last_munlock_makes_evictable(op: Operation) -> Truth:
    """When no area locks a page any more, munlock MUST leave it unmarked and off the unevictable list."""
    page = op.page
    return implies(
        op.get("was_mlocked") and op.alone and not _locked_somewhere(page),
        lambda: not page.PG_mlocked and UNEVICTABLE not in page.lists,
    )


@lock_rule(
    "MLOCK-009",
    on=("set_mlocked",),
    source=rmap("try_to_unmap_one", "mlock"),
    fields=(*MARK, "vma.vm_flags"),
    locks=("page_lock", "mmap_sem"),
    functions=("try_to_unmap_one", "try_to_unmap_cluster", "mlock_vma_page"),
    would_catch="a page marked for an area that is being unlocked, which nobody ever takes the mark off again",
)
def mark_is_set_for_an_area_that_stays_locked(event: Event) -> Truth:
    """The mark MUST be set only with the page locked, `mmap_sem` of the area's address space held, and the area seen locked
    under it.
    """
    vma = event.vma
    return implies(
        vma is not None,
        lambda: (
            event.holds("page_lock", event.page)
            and event.holds("mmap_sem:r", vma.mm)
            and bool(vma.vm_flags & VM_LOCKED)
        ),
    )


@postcondition(
    "MLOCK-010",
    on=("munlock_vma_pages_range",),
    source=rmap("mlock"),
    fields=(*MARK, "vma.vm_flags"),
    functions=("munlock_vma_pages_range", "follow_page"),
    would_catch="pages of PROT_NONE ranges stayed unevictable after munlock",
)
def munlock_ignores_permissions(op: Operation) -> Truth:
    """munlock of a range MUST take the mark off each page that is present there and that no other area locks, whatever the
    permissions of the range are.

    A look-up that respects permissions finds nothing in an area that has lost them since it was locked.
    """
    size = op.vma.mm.system.page_size
    inside = range(op.start // size, op.end // size)
    pages = [e.page for vpn, e in entries_in(op.vma) if vpn in inside and e.kind == "present"] if op.alone else []
    return every(not p.PG_mlocked for p in pages if p.mapping is not None and not _locked_somewhere(p))


@state_invariant(
    "MLOCK-011",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("mlock"),
    fields=(*MARK, "page.mapping"),
    functions=("clear_page_mlock", "mlock_vma_pages_range", "truncate_inode_pages"),
    would_catch="mlock of a page that truncation has just taken out of its file",
)
def truncated_pages_are_not_marked(world: Any) -> Truth:
    """A page that belongs to nobody any more MUST NOT be marked: no munlock will ever find it."""
    return every(p.mapping is not None for p in heads(world) if p.PG_mlocked)


@postcondition(
    "MLOCK-012",
    on=("try_to_unmap_one",),
    source=rmap("try_to_unmap_one"),
    fields=MARK,
    locks=("mmap_sem",),
)
def walk_never_waits_for_mmap_sem(op: Operation, result: Any) -> Truth:
    """If `mmap_sem` of a locked area cannot be had at once, the walk MUST go on without marking the page, without waiting,
    and without touching the area's flags or the mapping.

    It holds a list mutex, which comes after `mmap_sem`; reclaim tries again later.
    """
    tries = op.all("mmap_sem_trylock")
    waited = [e for e in op.all("acquire") if e.lock.cls == "mmap_sem" and e.how != "trylock"]
    return implies(
        tries and not tries[-1].got,
        lambda: result is SWAP_AGAIN and not waited and not op.net("PG_mlocked", "vm_flags") and not op.did("set_pte"),
    )


@postcondition(
    "MLOCK-013",
    on=("munlock_vma_page",),
    source=rmap("try_to_munlock"),
    fields=MARK,
    functions=("munlock_vma_page", "try_to_munlock"),
)
def one_munlock_does_not_speak_for_others(op: Operation) -> Truth:
    """munlock of a range MUST leave a page marked that an area of somebody else still locks, provided that it could isolate
    the page and that `mmap_sem` of the other could be had.
    """
    others = locked_areas(op.page)
    asks = op.within("munlock_vma_pages_range") is not None and op.alone and op.get("isolated")
    return implies(
        asks and others and all(_obtainable(v) and _in_the_table(op.page, v) for v in others) and not is_ksm(op.page),
        lambda: op.page.PG_mlocked and all(name == UNEVICTABLE for name in op.page.lists),
    )
