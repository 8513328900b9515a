"""MIGR: moving a page to another frame under its users, and the walk over all places where it may be mapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmspec.errors import SWAP_AGAIN, VM_FAULT_MINOR
from mmspec.invariant import Over, lock_rule, postcondition, precondition, transition
from mmspec.invariants.rmap.terms import (
    VM_HUGETLB,
    VM_NONLINEAR,
    areas,
    chain,
    entered_with,
    entries_in,
    is_anon,
    is_temporary_stack,
    mapped,
    pav,
    roots,
)
from mmspec.logic import Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

MIGRATION: dict[str, Any] = {"features": ("MIGRATION",)}
ENTRIES = ("pte",)


def _is_migration(entry: Any) -> bool:
    return entry is not None and entry.kind == "migration"


def _migration_entries(system: Any) -> Iterator[tuple[Any, int, Any]]:
    """Address space, base page number and entry of all migration entries that there are."""
    for mm in system.mms:
        for entries in (*(t.entries for t in mm.tables.values()), mm.huge):
            for vpn, entry in entries.items():
                if entry.kind == "migration":
                    yield mm, vpn, entry


def _slot(mm: Any, vpn: int) -> Any:
    """The entry of a base page number, or None."""
    table = mm.tables.get(vpn // mm.system.ptrs_per_pte)
    return None if table is None else table.entries.get(vpn)


def _address(page: Any, vma: Any) -> int | None:
    """Where (bytes) the area would map the page by its index, or None."""
    system = vma.mm.system
    pgoff = page.index << system.huge_page_order if vma.vm_flags & VM_HUGETLB else page.index
    address = int(vma.vm_start + (pgoff - vma.vm_pgoff) * system.page_size)
    return address if vma.vm_start <= address < vma.vm_end else None


# -- migration entries --------------------------------------------------------------------------------------------------


@transition(
    "MIGR-ENTRY-001",
    over=Over.EVENT,
    on=("set_pte", "release"),
    source=rmap("swapless"),
    fields=(*ENTRIES, "page.PG_locked"),
    locks=("page_lock",),
    functions=("try_to_unmap_one", "remove_migration_ptes", "copy_page_range"),
    would_catch="an entry left in a child that fork made while the page moved: BUG at the next fault",
    enforced_by="BUG_ON(!PageLocked(p)) in migration_entry_to_page",
    **MIGRATION,
)
def migration_entries_live_under_the_page_lock(event: Event) -> Truth:
    """A migration entry MUST come into being only while the page that it names is locked, and there MUST be none when
    that lock is given back.

    A fault that meets the entry waits for the page lock; if nobody holds it, the fault is repeated for ever or uses a
    page that is somebody else's.
    """
    if event.kind == "set_pte":
        return implies(_is_migration(event.new), lambda: bool(event.new.page.locked))
    if event.lock.cls != "page_lock":
        return implies(False, lambda: True)
    page = event.lock.owner
    left = any(entry.page is page for _, _, entry in _migration_entries(page.system))
    return implies(left, lambda: False)


@transition(
    "MIGR-ENTRY-002",
    over=Over.OPERATION,
    on=("try_to_unmap_one", "remove_migration_pte", "copy_page_range"),
    source=rmap("swapless", "rmap-walk"),
    fields=("page._count", "page._mapcount", "swap_map"),
    functions=("try_to_unmap_one", "remove_migration_pte", "copy_page_range"),
    **MIGRATION,
)
def migration_entries_hold_nothing(op: Operation) -> Truth:
    """A migration entry MUST hold no reference, no map count and no swap count: they go with the mapping that it replaces
    and come back with the one that replaces it.
    """
    stores = op.all("set_pte")
    moving = [e for s in stores for e in (s.old, s.new) if _is_migration(e)]
    pages = {e.page.name: e.page for e in moving}
    for restored in op.all("migration_restored"):
        pages[restored.new.name] = restored.new

    def balanced(page: Any) -> bool:
        net = sum(_maps(s.new, page) - _maps(s.old, page) for s in stores)
        return op.delta("_mapcount", page) == op.delta("_count", page) == net

    swapped = op.name == "try_to_unmap_one" and op.did("swap_map")
    return implies(moving, lambda: not swapped and all(map(balanced, pages.values())))


def _maps(entry: Any, page: Any) -> int:
    return int(entry is not None and entry.kind == "present" and entry.page is page)


@transition(
    "MIGR-ENTRY-003",
    over=Over.OPERATION,
    on=("try_to_unmap_one", "remove_migration_pte", "copy_page_range", "unmap_page_range"),
    source=rmap("swapless", "try_to_unmap_one"),
    fields=("mm.rss_anon", "mm.rss_file"),
    functions=("try_to_unmap_one", "remove_migration_pte", "copy_page_range", "unmap_page_range"),
    **MIGRATION,
)
def migration_entries_count_as_resident(op: Operation) -> Truth:
    """The resident set MUST count a migration entry like the mapping that it stands for, in whichever address space it is
    made, copied, restored or thrown away.
    """
    stores = op.all("set_pte")
    mms = {s.mm.name: s.mm for s in stores if _is_migration(s.old) or _is_migration(s.new)}

    def balanced(mm: Any) -> bool:
        weight = {"pte": 1, "pmd": mm.system.hpage_pmd_nr, "huge": 0}
        net = sum(weight[s.level] * (_resident(s.new) - _resident(s.old)) for s in stores if s.mm is mm)
        return op.delta("rss_anon", mm) + op.delta("rss_file", mm) == net

    return every(balanced(mm) for mm in mms.values())


def _resident(entry: Any) -> int:
    return int(entry is not None and entry.kind in ("present", "migration"))


@postcondition(
    "MIGR-ENTRY-004",
    on=("swapon_type",),
    source=rmap("swapless"),
    fields=("swap_info.type",),
    would_catch="a test that relied on the number of types being a power of two; the next device overwrote memory",
)
def special_types_are_no_swap_devices(op: Operation, result: Any) -> Truth:
    """A swap device MUST be given a type below those that stand for something else, and be refused if none is left."""
    limit = swap_types(op.system)
    return bool(0 <= result < limit) if op.taken < limit else bool(result < 0)


def swap_types(system: Any) -> int:
    """How many of the 32 types are left for swap devices: migration takes two, poison one."""
    return 32 - (2 if system.has("MIGRATION") else 0) - (1 if system.has("MEMORY_FAILURE") else 0)


# -- those who meet one -------------------------------------------------------------------------------------------------


@transition(
    "MIGR-FAULT-001",
    over=Over.OPERATION,
    on=("do_swap_page",),
    source=rmap("swapless", "try_to_unmap_one"),
    fields=ENTRIES,
    locks=("page_lock",),
    functions=("do_swap_page", "migration_entry_wait"),
    **MIGRATION,
)
def fault_waits_and_repeats(op: Operation, result: Any) -> Truth:
    """A fault that meets a migration entry MUST wait for the lock of the page that moves and be repeated; it MUST NOT map
    anything by itself.
    """
    got = [e.lock.owner for e in op.all("acquire") if e.lock.cls == "page_lock"]
    return implies(
        _is_migration(op.orig),
        lambda: (
            result is VM_FAULT_MINOR
            and not op.did("set_pte")
            and bool(op.calls("migration_entry_wait"))
            and all(any(owner is e.page for owner in got) for e in op.all("wait_page_lock"))
        ),
    )


@transition(
    "MIGR-FORK-001",
    over=Over.EVENT,
    on=("pte_copied",),
    source=rmap("swapless"),
    fields=("pte.write",),
    functions=("copy_page_range",),
    would_catch="copied entries became writable on both sides, and processes executed each other's data",
    **MIGRATION,
)
def fork_takes_the_right_to_write_from_migration_entries(event: Event) -> Truth:
    """When fork copies a migration entry of a private area, neither the parent's nor the child's MUST keep the right to
    write.

    Restored, both map the same page.
    """
    return implies(
        event.cow and _is_migration(event.entry),
        lambda: all(
            entry is not None and not entry.write
            for entry in (_slot(event.src, event.vpn), _slot(event.dst, event.vpn))
        ),
    )


@postcondition(
    "MIGR-MPROTECT-001",
    on=("change_protection",),
    source=rmap("swapless"),
    fields=("pte.write",),
    **MIGRATION,
)
def write_protection_reaches_migration_entries(op: Operation) -> Truth:
    """After a range was write-protected, no migration entry in it MUST carry the right to write."""
    size = op.vma.mm.system.page_size
    inside = range(op.start // size, op.end // size)
    found = [e for vpn, e in entries_in(op.vma) if vpn in inside and _is_migration(e)] if not op.write else []
    return every(not e.write for e in found)


# -- moving -------------------------------------------------------------------------------------------------------------


@postcondition(
    "MIGR-ORPHAN-001",
    on=("remove_migration_ptes",),
    source=rmap("swapless", "linking"),
    fields=ENTRIES,
    functions=("remove_migration_ptes", "rmap_walk", "anon_vma_chain_link", "copy_page_range"),
    would_catch="fork copies an entry behind the walk that restores it, if children stand before parents on the list",
    implied_by=("AVMA-LIST-005", "MIGR-WALK-003"),
    **MIGRATION,
)
def no_migration_entry_is_left_behind(op: Operation) -> Truth:
    """When a page's migration entries have been restored, no slot of any address space MUST hold one for the old or the new
    page.
    """
    pages = (op.old, op.new)
    return not any(any(entry.page is p for p in pages) for _, _, entry in _migration_entries(op.new.system))


@precondition(
    "MIGR-INSERT-001",
    on=("move_to_new_page",),
    source=rmap("swapless"),
    fields=("page._mapcount",),
    **MIGRATION,
)
def only_unmapped_pages_move(op: Operation) -> Truth:
    """A page of which a mapping is left when all were to be replaced MUST NOT be moved.

    Missing an entry is allowed; whoever has it must not be left with the old frame.
    """
    return not mapped(op.page)


@transition(
    "MIGR-ISOL-001",
    over=Over.OPERATION,
    on=("unmap_and_move",),
    source=rmap("migrate-pin"),
    fields=("page.mapping", "page._mapcount", "anon_vma.refcount"),
    functions=("unmap_and_move", "page_get_anon_vma"),
    would_catch="the last user unmaps between isolation and migration, and the walk uses an anon_vma that is gone",
    **MIGRATION,
)
def unmapped_anonymous_pages_are_not_walked(op: Operation, result: Any) -> Truth:
    """An anonymous page that nothing maps MUST be left alone by migration unless it is in the swap cache, and there MUST be
    no walk of its areas then.

    Its anon_vma may be gone. In the swap cache a page can be moved without a walk.
    """
    unpinned = op.get("was_anon") and not op.get("was_ksm") and "pinned" in op.noted and op.pinned is None
    return implies(
        unpinned,
        lambda: not op.did("walk_call") and (result != 0 or op.page.PG_swapcache or op.newpage.PG_swapcache),
    )


@transition(
    "MIGR-ISOL-002",
    over=Over.OPERATION,
    on=("unmap_and_move",),
    source=rmap("migrate-pin", "page_get_anon_vma"),
    fields=("anon_vma.refcount",),
    functions=("unmap_and_move", "remove_migration_ptes"),
    **MIGRATION,
)
def anon_vma_is_pinned_from_first_to_last_entry(op: Operation) -> Truth:
    """Migration MUST pin the anon_vma of an anonymous page while the page is still mapped, before its first migration
    entry, and keep the pin until the last one is restored.

    In between nothing maps the page, and all its areas may go.
    """
    if not op.get("was_anon") or op.get("was_ksm"):
        return implies(False, lambda: True)
    pins: Counter[str] = Counter()
    checks = []
    for event in op.events:
        if event.kind == "pin_anon_vma":
            pins[event.anon_vma.name] += 1
        elif event.kind == "unpin_anon_vma":
            pins[event.anon_vma.name] -= 1
        elif event.kind in ("ptep_clear", "walk_call", "migration_restored"):
            checks.append(any(n > 0 for n in pins.values()))
    return every(checks)


@transition(
    "MIGR-MLOCK-001",
    over=Over.OPERATION,
    on=("move_to_new_page",),
    source=field_2011("base", "later"),
    fields=("page.PG_mlocked", "zone.NR_MLOCK"),
    functions=("migrate_page_copy",),
    **MIGRATION,
)
def the_mark_moves_with_the_page(op: Operation, result: Any) -> Truth:
    """The new page MUST be marked as locked in memory exactly if the old one was, the old one no more, and the number of
    marked pages stays; where the move fails, nothing changes.
    """
    old, new = op.page.PG_mlocked, op.newpage.PG_mlocked
    if result != 0:
        return bool(old == op.old_mlocked)
    return bool(new == op.old_mlocked and not old and op.delta("NR_MLOCK") == 0)


@postcondition(
    "MIGR-POLICY-001",
    on=("new_vma_page",),
    source=rmap("new-vma-page"),
    fields=("vma.vm_pgoff", "page.index"),
    would_catch="a range over several areas hits an assertion, or is moved only as far as its first area goes",
    **MIGRATION,
)
def policy_is_that_of_the_area_that_maps(op: Operation) -> Truth:
    """A frame for a page of a range MUST be chosen by the first area, from the start of the range on, that may map the page;
    by none if there is none.
    """
    page, vmas = op.page, op.start.mm.vmas

    def may_map(vma: Any) -> bool:
        if is_anon(page):
            owner = pav(page)
            belongs = owner is not None and vma.anon_vma is not None and vma.anon_vma.root is owner.root
        else:
            belongs = not vma.vm_flags & VM_NONLINEAR and vma.vm_file is page.mapping.pointer
        return belongs and _address(page, vma) is not None

    def first() -> Any:
        return next((v for v in vmas[vmas.index(op.start) :] if may_map(v)), None)

    return implies(op.alone and page.mapping is not None, lambda: op.policy_vma is first())


@transition(
    "MIGR-RACE-001",
    over=Over.OPERATION,
    on=("do_page_add_anon_rmap",),
    source=rmap("do_page_add_anon_rmap"),
    fields=("page.mapping", "vma.vm_start", "vma.vm_end"),
    functions=("remove_migration_pte", "vma_adjust"),
    **MIGRATION,
)
def restored_mappings_can_be_found(op: Operation) -> Truth:
    """A mapping that migration restores MUST be one that a later walk finds, even if the boundary between two areas has
    moved over its address meanwhile: the page's anon_vma is on the chain of the area that has the address now.
    """
    owner = pav(op.page)
    now = op.vma.mm.area_at(op.address)
    restores = op.within("remove_migration_pte") is not None and owner is not None
    return implies(restores, lambda: owner in chain(op.vma) and (now is None or owner in chain(now)))


# -- the walk -----------------------------------------------------------------------------------------------------------


@precondition(
    "MIGR-WALK-001",
    on=("rmap_walk",),
    source=rmap("rmap_walk"),
    fields=("page.PG_locked",),
    locks=("page_lock",),
    enforced_by="VM_BUG_ON(!PageLocked(page))",
    **MIGRATION,
)
def walk_needs_the_page_lock(op: Operation) -> Truth:
    """rmap_walk MUST be called with the page locked."""
    return entered_with(op, "page_lock", op.page)


@precondition(
    "MIGR-WALK-002",
    on=("rmap_walk_anon",),
    source=rmap("rmap-walk", "migrate-pin", "rmap_walk_anon"),
    fields=("anon_vma.refcount",),
    locks=("mmap_sem",),
    would_catch="a walk of a page that is not mapped uses an anon_vma after its last area has gone",
    **MIGRATION,
)
def walker_keeps_the_anon_vma_alive(op: Operation) -> Truth:
    """Who walks an anonymous page MUST keep its anon_vma alive, by a pin of their own or by `mmap_sem` of an address space
    with an area on its list.

    The page may not be mapped at all, so the look-up that is safe by itself would refuse.
    """
    owner = pav(op.page)

    def kept() -> Truth:
        if not owner.allocated:
            return False
        pinned = owner.pins.get(f"pin {op.context.name}", 0) > 0
        return pinned or any(entered_with(op, "mmap_sem:r", v.mm) for v in areas(owner))

    return implies(owner is not None, kept)


@postcondition(
    "MIGR-WALK-003",
    on=("rmap_walk_anon", "rmap_walk_file"),
    source=rmap("rmap_walk_anon", "rmap_walk_file"),
    fields=("anon_vma.head", "mapping.i_mmap"),
    **MIGRATION,
)
def walk_visits_each_linear_area_once(op: Operation, result: Any) -> Truth:
    """A walk MUST call its function once for each linear area on the list in which the page has an address, with that
    address; stop at the first answer other than SWAP_AGAIN, and return it.
    """
    page = op.page
    anon = op.name == "rmap_walk_anon"
    if page.mapping is None or (anon and pav(page) is None):
        return implies(False, lambda: True)
    vmas = areas(pav(page)) if anon else list(page.mapping.pointer.i_mmap)
    wanted = [(v.name, at) for v in vmas if (at := _address(page, v)) is not None]
    made = [(e.vma.name, e.address) for e in op.all("walk_call")]
    answers = [e.result for e in op.all("walk_result")]
    stopped = bool(answers) and answers[-1] is not SWAP_AGAIN

    def visited() -> Truth:
        # A tree finds areas in an order of its own, a list in its order; a border may have moved since an area was visited.
        known = [place for place in made if place in wanted] if not op.alone else made
        right = known == [place for place in wanted if place in known] if anon else set(known) <= set(wanted)
        return (
            right
            and len(set(made)) == len(made) == len(answers)
            and all(a is SWAP_AGAIN for a in answers[:-1])
            and (stopped or set(wanted) <= set(made))
            and result is (answers[-1] if answers else SWAP_AGAIN)
        )

    return implies(wanted or made, visited)


@postcondition(
    "MIGR-WALK-004",
    on=("rmap_walk_anon", "rmap_walk_file"),
    source=rmap("rmap_walk_anon", "rmap_walk_file"),
    fields=("page.mapping",),
    **MIGRATION,
)
def walk_of_nobodys_page_calls_nothing(op: Operation, result: Any) -> Truth:
    """For a page without an anon_vma or a file, the walk MUST call nothing and return SWAP_AGAIN."""
    page = op.page
    nobody = page.mapping is None or (op.name == "rmap_walk_anon" and pav(page) is None)
    return implies(nobody, lambda: result is SWAP_AGAIN and not op.did("walk_call"))


@lock_rule(
    "MIGR-WALK-005",
    on=("walk_call",),
    source=rmap("rmap_walk_anon", "rmap_walk_file"),
    fields=("anon_vma.head", "mapping.i_mmap"),
    locks=("anon_vma_mutex", "i_mmap_mutex"),
    functions=("rmap_walk_anon", "rmap_walk_file", "rmap_walk_ksm"),
    **MIGRATION,
)
def walk_holds_the_list_mutex(event: Event) -> Truth:
    """The mutex of the list that is walked MUST be held around each call."""
    if is_anon(event.page):
        return any(event.holds("anon_vma_mutex", root) for root in roots(event.vma))
    return implies(event.page.mapping is not None, lambda: event.holds("i_mmap_mutex", event.page.mapping.pointer))


@transition(
    "MIGR-WALK-006",
    over=Over.EVENT,
    on=("set_pte", "vm_flags"),
    source=rmap("rmap_walk_file") + field_2011("later"),
    fields=("pte", "vma.vm_flags"),
    functions=("try_to_unmap_file", "remap_file_pages"),
    would_catch="an area made nonlinear while migration entries are in it hides them from the walk (2014)",
    **MIGRATION,
)
def nonlinear_areas_have_no_migration_entries(event: Event) -> Truth:
    """A nonlinear area MUST NOT contain a migration entry: none is put there, and an area that has some does not become
    nonlinear.

    The walk that restores entries does not look into nonlinear areas.
    """
    if event.kind == "set_pte":
        return implies(
            _is_migration(event.new) and event.vma is not None, lambda: not event.vma.vm_flags & VM_NONLINEAR
        )
    becomes = event.new & VM_NONLINEAR and not event.old & VM_NONLINEAR
    return implies(becomes, lambda: not any(_is_migration(e) for _, e in entries_in(event.obj)))


# -- the stack of a new program -----------------------------------------------------------------------------------------


@postcondition("MIGR-STACK-001", on=("is_vma_temporary_stack",), source=rmap("is_vma_temporary_stack"), fields=("vma.vm_flags",))
def temporary_stack_needs_growth_and_both_marks(op: Operation, result: Any) -> Truth:
    """An area MUST count as a stack that exec still moves exactly if it may grow, up or down, and carries both bits of the
    marker.

    Each bit alone is advice that a process may give for any area.
    """
    return bool(result) == is_temporary_stack(op.vma)


@transition(
    "MIGR-STACK-002",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("try_to_unmap_anon", "is_vma_temporary_stack"),
    fields=("pte", "vma.vm_flags"),
    functions=("try_to_unmap_anon", "setup_arg_pages"),
    would_catch="entries put into exec's stack between the moves of the area and of its page tables are never found again",
    **MIGRATION,
)
def temporary_stacks_get_no_migration_entries(event: Event) -> Truth:
    """No migration entry MUST be put into the stack of a program that exec is still moving.

    exec moves the area first and its page tables later, without excluding walks in between.
    """
    return implies(_is_migration(event.new) and event.vma is not None, lambda: not is_temporary_stack(event.vma))
