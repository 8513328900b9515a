"""RMAP-UNMAP: try_to_unmap, which takes a page away from all who map it."""

from __future__ import annotations

from typing import Any

import attrs

from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_MLOCK, SWAP_SUCCESS
from mmspec.invariant import Over, liveness, lock_rule, postcondition, precondition, transition
from mmspec.invariants.rmap.terms import (
    PTL_CLASSES,
    TTU_ACTION_MASK,
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_HWPOISON,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
    TTU_MUNLOCK,
    TTU_UNMAP,
    VM_LOCKED,
    area_of,
    areas,
    in_this_order,
    is_anon,
    is_temporary_stack,
    is_trans_huge,
    step_index,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

ALL = ("try_to_unmap",)
ONE = ("try_to_unmap_one",)
SLOT = ("pte",)
RSS = ("rss_anon", "rss_file", "swapents")


def _action(op: Operation) -> int:
    return int(op.flags & TTU_ACTION_MASK)


def _poisoned(op: Operation) -> bool:
    """Whether entries are to say that the page's memory has failed."""
    return bool(op.page.PG_hwpoison and not op.flags & TTU_IGNORE_HWPOISON)


def _visit(op: Operation) -> Event | None:
    """The mapping that was found."""
    return op.one("visit_found")


def _locked(op: Operation) -> bool:
    """Whether the mapping was found in an area that is locked in memory, and that matters."""
    found = _visit(op)
    return found is not None and bool(found.vm_flags & VM_LOCKED) and not op.flags & TTU_IGNORE_MLOCK


def _cleared(op: Operation) -> Event | None:
    """The clearing of the entry, with what was in it."""
    return op.one("ptep_clear")


def _removed(op: Operation) -> bool:
    """Whether the operation has taken the mapping away."""
    return op.delta("_mapcount", op.page) == -1


def _last_entry(op: Operation) -> Any:
    """What the operation has left in the slot."""
    last = op.one("set_pte")
    return None if last is None else last.new


def _refused(op: Operation) -> bool:
    """Whether the swap slot could not be given one more reference."""
    return any(call.result for call in op.calls("swap_duplicate"))


def _rss(op: Operation) -> dict[str, int]:
    changes = {field: op.delta(field, op.vma.mm) for field in RSS}
    return {field: change for field, change in changes.items() if change}


# -- the whole walk -------------------------------------------------------------------------------------------------------


@precondition(
    "RMAP-UNMAP-001",
    on=ALL,
    source=rmap("try_to_unmap"),
    locks=("page_lock",),
    enforced_by="BUG_ON and VM_BUG_ON in try_to_unmap()",
    since="2.6.38",
)
def page_to_unmap_is_locked_and_whole(op: Operation) -> Truth:
    """A page MUST be locked to be unmapped, and a trans-huge one have been split; a hugetlb page may be as it is.

    The lock keeps `mapping` and the swap slot; and an entry for a base page does not fit in the place of a pmd.
    """
    return op.page.locked and not is_trans_huge(op.page)


@postcondition(
    "RMAP-UNMAP-002",
    on=ALL,
    source=rmap("try_to_unmap"),
    fields=("page._mapcount",),
    would_catch="a page freed under the process that was faulting it in again",
    since="2.6.28",
)
def success_means_that_nothing_maps_it(op: Operation, result: Any) -> Truth:
    """SWAP_SUCCESS MUST be returned exactly if nothing maps the page at the end and no locked area kept it."""
    return (result is SWAP_SUCCESS) == (op.raw is not SWAP_MLOCK and op.page._mapcount < 0)


@postcondition("RMAP-UNMAP-003", on=ALL, source=rmap("try_to_unmap"), fields=("page.PG_mlocked",), since="2.6.28")
def other_results_say_why(op: Operation, result: Any) -> Truth:
    """The result MUST be one of SUCCESS, AGAIN, FAIL and MLOCK, and with MLOCK the page MUST be marked as locked in
    memory.

    After MLOCK the caller puts the page on the unevictable list, for which the mark is the reason.
    """
    return result in (SWAP_SUCCESS, SWAP_AGAIN, SWAP_FAIL) or (result is SWAP_MLOCK and op.page.PG_mlocked)


@transition(
    "RMAP-UNMAP-004",
    over=Over.OPERATION,
    on=ALL,
    source=rmap("try_to_unmap_anon", "try_to_unmap_file"),
    fields=SLOT,
    functions=("try_to_unmap_anon", "try_to_unmap_file", "try_to_unmap_ksm"),
    would_catch="a walk that unmaps the rest although the page is to stay",
)
def walk_stops_at_the_first_refusal(op: Operation) -> Truth:
    """The walk MUST end at the first mapping that gives anything but AGAIN, and when nothing maps the page any more;
    mappings that were removed before MUST stay removed.
    """
    results = [call.result for call in op.calls("try_to_unmap_one")]
    if not results:
        return VACUOUS
    going_on = all(r is SWAP_AGAIN for r in results[:-1]) and (results[-1] is SWAP_AGAIN or not op.did("cluster"))
    unmapped = step_index(op, lambda e: e.kind == "write" and e.obj is op.page and e.field == "_mapcount" and e.new < 0)
    stopped = unmapped is None or all(e.kind != "visit" for e in op.events[unmapped:])
    gone: set[tuple[Any, int]] = set()
    for call in op.calls("try_to_unmap_one"):
        found = _visit(call)
        if found is not None and (found.vma.mm, found.vpn) in gone:
            return False
        if found is not None and _removed(call):
            gone.add((found.vma.mm, found.vpn))
    return going_on and stopped


@postcondition("RMAP-UNMAP-005", on=ONE, source=rmap("try_to_unmap_one"), fields=SLOT)
def area_that_does_not_map_it_is_skipped(op: Operation, result: Any) -> Truth:
    """An area where the page is not found MUST be skipped, with AGAIN and no change."""
    return implies(_visit(op) is None, lambda: result is SWAP_AGAIN and not op.did("set_pte", "write"))


@postcondition(
    "RMAP-UNMAP-006",
    on=ONE,
    source=rmap("try_to_unmap_one", "mlock"),
    fields=(*SLOT, "vma.vm_flags"),
    would_catch="real-time programs that page-fault in memory they have locked",
    since="2.6.28",
)
def locked_mapping_is_kept(op: Operation, result: Any) -> Truth:
    """Unless told to ignore mlock, a mapping in a linear area that is locked in memory MUST NOT be removed or changed."""
    return implies(
        _locked(op), lambda: not op.did("set_pte", "ptep_clear") and not _removed(op) and result in (SWAP_AGAIN, SWAP_MLOCK)
    )


@postcondition("RMAP-UNMAP-007", on=ONE, source=rmap("try_to_unmap_one"), fields=("pte.young",))
def young_mapping_is_kept(op: Operation, result: Any) -> Truth:
    """Unless told to ignore use, a mapping that is young MUST be kept: its young bit is cleared and the result is FAIL.

    Who used it since reclaim asked is going to use it again.
    """
    found = _visit(op)
    if found is None or _locked(op) or op.flags & TTU_IGNORE_ACCESS or _action(op) == TTU_MUNLOCK or not found.entry.young:
        return VACUOUS
    changes = op.all("set_pte")
    aged = bool(changes) and all(e.new is not None and e.new == attrs.evolve(e.old, young=False) for e in changes)
    return result is SWAP_FAIL and aged and not _removed(op)


# -- one mapping ------------------------------------------------------------------------------------------------------------


@transition(
    "RMAP-UNMAP-008",
    over=Over.OPERATION,
    on=ONE,
    source=rmap("try_to_unmap_one", "hiwater", "notifiers"),
    fields=(*SLOT, "mm.hiwater_rss", "page._mapcount", "page._count"),
    locks=PTL_CLASSES,
    functions=ONE,
    would_catch="a peak of the resident set that is lost, as it is noted after the set has shrunk",
    since="2.6.27",
)
def one_mapping_is_removed_in_order(op: Operation) -> Truth:
    """A mapping MUST be removed in one section of the lock of its slot and in this order: the cache is flushed; the entry
    cleared in one go, and flushed from TLBs and secondary MMUs; dirtiness handed to the page; the peak of the resident
    set noted; the replacement put in and the resident set lowered; the map count lowered; the reference dropped.
    """
    if not _removed(op):
        return VACUOUS
    mm, page = op.vma.mm, op.page

    def counted_off(e: Event) -> bool:
        return e.kind == "write" and e.obj is page and e.field == "_mapcount"

    chain = [
        lambda e: e.kind == "flush_cache_page",
        lambda e: e.kind == "ptep_clear",
        lambda e: e.kind == "ptep_clear_flush_notify",
        lambda e: e.kind == "update_hiwater_rss" and e.mm is mm,
        counted_off,
        lambda e: e.kind == "put_page" and e.page is page,
    ]
    first, last = step_index(op, chain[0]), step_index(op, chain[-1])
    if not in_this_order(op, *chain) or first is None or last is None:
        return False
    peak, off = step_index(op, chain[3]), step_index(op, counted_off)
    clear, dirtied = step_index(op, chain[2]), step_index(op, lambda e: e.kind == "set_page_dirty")
    assert peak is not None and off is not None and clear is not None
    between = [
        i for i, e in enumerate(op.events)
        if (e.kind == "set_pte" and e.new is not None and e.old is None)
        or (e.kind == "write" and e.obj is mm and e.field in RSS)
    ]  # fmt: skip
    section = op.events[first : last + 1]
    one_section = not any(e.kind == "release" and e.lock.cls in PTL_CLASSES for e in section)
    return (
        one_section
        and all(peak < i < off for i in between)
        and (dirtied is None or clear < dirtied < off)
    )


@postcondition(
    "RMAP-UNMAP-009",
    on=ONE,
    source=rmap("try_to_unmap_one"),
    fields=("page.PG_dirty", "pte.dirty"),
    would_catch="written data dropped with a page that seemed clean",
)
def dirtiness_is_handed_to_the_page(op: Operation) -> Truth:
    """If the entry that was cleared was dirty, PG_dirty MUST be set before the reference of the mapping is dropped."""
    cleared = _cleared(op)
    return implies(
        cleared is not None and cleared.entry.dirty and _removed(op),
        lambda: op.page.PG_dirty
        and in_this_order(
            op,
            lambda e: e.kind == "set_page_dirty" and e.page is op.page,
            lambda e: e.kind == "put_page" and e.page is op.page,
        ),
    )


@transition(
    "RMAP-UNMAP-010",
    over=Over.OPERATION,
    on=ONE,
    source=rmap("try_to_unmap_one") + field_2011("analysis"),
    fields=("page.PG_dirty", "pte.dirty"),
    functions=ONE,
    would_catch="a store by another CPU just before the entry was cleared, and after it was read",
)
def dirtiness_is_what_was_cleared(op: Operation) -> Truth:
    """Whether the page is marked dirty MUST be decided by what the atomic clearing returned: marked if that was dirty,
    left if not, whatever the entry was when it was looked at before.
    """
    cleared = _cleared(op)
    if cleared is None:
        return VACUOUS
    return any(e.page is op.page for e in op.all("set_page_dirty")) == bool(cleared.entry.dirty)


@postcondition(
    "RMAP-UNMAP-011",
    on=ONE,
    source=rmap("try_to_unmap_one"),
    fields=(*SLOT, "swap_map", "mm.rss_anon", "mm.swapents"),
    features=("SWAP",),
)
def anonymous_page_leaves_a_swap_entry(op: Operation) -> Truth:
    """Where an anonymous page of the swap cache is unmapped (and not poisoned), the slot MUST hold an entry for the page's
    swap slot, which has one reference more; the mm's anonymous pages are one less and its swap entries one more.
    """
    page = op.page
    if not _removed(op) or not is_anon(page) or not page.PG_swapcache or _poisoned(op):
        return VACUOUS
    entry = _last_entry(op)
    taken = [call for call in op.calls("swap_duplicate") if call.slot == page.private and not call.result]
    return (
        entry is not None
        and entry.kind == "swap"
        and entry.slot == page.private
        and len(taken) == 1
        and _rss(op) == {"rss_anon": -1, "swapents": 1}
    )


@postcondition(
    "RMAP-UNMAP-012",
    on=ONE,
    source=rmap("continuations", "try_to_unmap_one"),
    fields=SLOT,
    features=("SWAP",),
    would_catch="a process that loses a page because its swap slot has more users than the count can hold",
    since="2.6.33",
)
def refused_swap_count_restores_the_entry(op: Operation, result: Any) -> Truth:
    """If the swap slot cannot be given one more reference, the entry that was cleared MUST be put back as it was, FAIL
    returned, and map count, references and resident set stay; PG_dirty may be set.
    """
    cleared = _cleared(op)
    if not _refused(op) or cleared is None:
        return VACUOUS
    unchanged = not _rss(op) and not op.delta("_mapcount", op.page) and not op.delta("_count", op.page)
    return result is SWAP_FAIL and _last_entry(op) == cleared.entry and unchanged


@precondition(
    "RMAP-UNMAP-013",
    on=ALL,
    source=rmap("try_to_unmap_one"),
    fields=("page.PG_swapcache",),
    enforced_by="BUG_ON in try_to_unmap_one()",
    would_catch="an anonymous page that is thrown away, as there was no place for it in swap",
)
def anonymous_page_has_a_place_to_go(op: Operation) -> Truth:
    """An anonymous page that is not in the swap cache MUST be unmapped only to be migrated, or because its memory has
    failed.

    There is nothing else that the entries could say.
    """
    if not is_anon(op.page) or op.page.PG_swapcache or _poisoned(op):
        return VACUOUS
    return _action(op) == TTU_MUNLOCK or (_action(op) == TTU_MIGRATION and op.page.system.has("MIGRATION"))


@postcondition(
    "RMAP-UNMAP-014",
    on=ONE,
    source=rmap("swapless", "try_to_unmap_one"),
    fields=(*SLOT, "mm.rss_anon"),
    features=("MIGRATION",),
    would_catch="a page that is read-only after migration, or writable where fork had made it read-only",
    since="2.6.18",
)
def migrated_anonymous_page_leaves_a_migration_entry(op: Operation) -> Truth:
    """Where an anonymous page outside of the swap cache is unmapped to be migrated, the slot MUST hold a migration entry
    for the page with the old entry's right to write; resident set and swap counts stay.

    The page is still the process's.
    """
    page, cleared = op.page, _cleared(op)
    if not _removed(op) or not is_anon(page) or page.PG_swapcache or _poisoned(op) or cleared is None:
        return VACUOUS
    return _is_migration_entry(op, cleared) and not _rss(op) and not op.calls("swap_duplicate")


def _is_migration_entry(op: Operation, cleared: Event) -> bool:
    entry = _last_entry(op)
    return (
        entry is not None
        and entry.kind == "migration"
        and entry.page is op.page
        and entry.write == cleared.entry.write
    )


@postcondition(
    "RMAP-UNMAP-015",
    on=ONE,
    source=rmap("try_to_unmap_one", "swapless"),
    fields=(*SLOT, "mm.rss_file"),
    features=("MIGRATION",),
    since="2.6.18",
)
def migrated_file_page_leaves_a_migration_entry(op: Operation) -> Truth:
    """Where a page of a file is unmapped to be migrated, the slot MUST hold a migration entry for the page with the old
    entry's right to write, and the resident set stay.
    """
    cleared = _cleared(op)
    if not _removed(op) or is_anon(op.page) or _poisoned(op) or _action(op) != TTU_MIGRATION or cleared is None:
        return VACUOUS
    return _is_migration_entry(op, cleared) and not _rss(op)


@postcondition("RMAP-UNMAP-016", on=ONE, source=rmap("try_to_unmap_one"), fields=(*SLOT, "mm.rss_file"))
def file_page_leaves_nothing(op: Operation) -> Truth:
    """Where a page of a file is unmapped in a linear area by reclaim, the slot MUST be left empty and the mm's file pages
    be one less.

    The next fault finds the page by its index.
    """
    if not _removed(op) or is_anon(op.page) or op.page.huge or _poisoned(op) or _action(op) != TTU_UNMAP:
        return VACUOUS
    return _last_entry(op) is None and _rss(op) == {"rss_file": -1}


@postcondition(
    "RMAP-UNMAP-017",
    on=ALL,
    source=rmap("try_to_unmap_one"),
    fields=("page._mapcount", "page._count"),
    would_catch="a page that leaks, or is freed while it is mapped, once per failed unmapping",
)
def mapping_and_reference_go_together(op: Operation) -> Truth:
    """For each mapping that is removed the map count and the number of references MUST drop by one each, the map count
    first.
    """
    count, reference = 0, 0
    for step in op.events:
        if step.kind == "write" and step.obj is op.page and step.field in ("_mapcount", "_count"):
            change = step.new - step.old
            count += change if step.field == "_mapcount" else 0
            reference += change if step.field == "_count" else 0
            if reference < count:
                return False
    return implies(count or reference, lambda: count == reference < 0)


@postcondition(
    "RMAP-UNMAP-018",
    on=ONE,
    source=rmap("try_to_unmap_one"),
    fields=SLOT,
    enforced_by="BUG_ON(pte_file(*pte)) in try_to_unmap_one()",
    would_catch="an encoding of swap entries that overlaps that of nonlinear file entries",
)
def replacement_is_no_file_entry(op: Operation) -> Truth:
    """What replaces a mapping of an anonymous page MUST NOT read as an index of a nonlinear file.

    The process would get a page of the file instead of its own.
    """
    entries = [e.new for e in op.all("set_pte") if e.new is not None and e.new.kind != "present"]
    return implies(is_anon(op.page) and entries, lambda: all(entry.kind != "file" for entry in entries))


@transition(
    "RMAP-UNMAP-019",
    over=Over.EVENT,
    on=("put_page",),
    source=rmap("notifiers", "try_to_unmap_one"),
    fields=("page._count",),
    functions=("try_to_unmap_one", "try_to_unmap_cluster"),
    would_catch="a virtual machine writing to a page that belongs to somebody else by now",
    since="2.6.27",
)
def translations_go_before_the_reference(event: Event) -> Truth:
    """When the reference of a removed mapping is dropped, no CPU and no secondary MMU MUST have the translation any
    more.

    They hold no references of their own: the page may be free after this.
    """
    op = event.op
    if op is None or op.name not in ("try_to_unmap_one", "try_to_unmap_cluster"):
        return VACUOUS
    cleared = _cleared(op)
    if cleared is None or cleared.entry.page is not event.page:
        return VACUOUS
    mm, vpn = cleared.mm, cleared.vpn
    return not mm.system.tlbs.holders(mm, vpn) and all(vpn not in n.sptes for n in mm.notifiers)


@postcondition(
    "RMAP-UNMAP-020",
    on=ONE,
    source=rmap("try_to_unmap_one"),
    fields=(*SLOT, "mm.rss_anon", "mm.rss_file"),
    features=("MEMORY_FAILURE",),
    would_catch="a process that reads failed memory, or zeros, instead of being told",
    since="2.6.32",
)
def poisoned_page_leaves_a_poison_entry(op: Operation) -> Truth:
    """Where a page whose memory has failed is unmapped, the slot MUST hold a poison entry for it whatever the action is
    and whether it is in the swap cache, and the resident set be one less (that of a hugetlb mapping, which was never
    counted, by nothing).
    """
    page = op.page
    if not _removed(op) or not _poisoned(op):
        return VACUOUS
    entry = _last_entry(op)
    expected = {} if page.huge else {"rss_anon" if is_anon(page) else "rss_file": -1}
    return entry is not None and entry.kind == "hwpoison" and entry.page is page and _rss(op) == expected


@postcondition(
    "RMAP-UNMAP-021",
    on=("try_to_munlock",),
    source=rmap("try_to_unmap_one", "mlock"),
    fields=SLOT,
    would_catch="munlock that unmaps, or ages, what others use",
    since="2.6.28",
)
def munlock_changes_no_entry(op: Operation) -> Truth:
    """Looking for areas that lock a page in memory MUST NOT remove, age or write-protect any mapping."""
    return implies(op.slots_before, lambda: not op.did("set_pte", "ptep_clear") and not op.delta("_mapcount", op.page))


@transition(
    "RMAP-UNMAP-022",
    over=Over.OPERATION,
    on=ONE,
    source=rmap("try_to_unmap_one"),
    fields=("page.PG_mlocked", "vma.vm_flags"),
    locks=("mmap_sem", *PTL_CLASSES),
    functions=ONE,
    would_catch="a page marked for an area that was unlocked meanwhile, which nobody unmarks any more",
    since="2.6.33",
)
def locked_area_is_asked_again_under_mmap_sem(op: Operation, result: Any) -> Truth:
    """On meeting an area that is locked in memory, the slot's lock MUST be given back before `mmap_sem` is tried for, and
    that only be tried for, as the mutex of the list is held. The page MUST be marked, and MLOCK returned, exactly if
    `mmap_sem` was had and the area was still locked then; otherwise AGAIN.

    Whoever unlocks the area holds `mmap_sem` for write, and takes the marks off after.
    """
    if not _locked(op):
        return VACUOUS
    takes = [e for e in op.all("acquire") if e.lock.cls == "mmap_sem"]
    if any(e.how != "trylock" or any(c in PTL_CLASSES for c in e.classes) for e in takes):
        return False
    marked = result is SWAP_MLOCK
    still = bool(op.vma.vm_flags & VM_LOCKED)
    under = all(e.holds("mmap_sem:r", op.vma.mm) or e.holds("mmap_sem", op.vma.mm) for e in op.all("mlock_vma_page"))
    return marked == bool(takes and still) and marked == op.did("mlock_vma_page") and under and (not marked or op.page.PG_mlocked)


@postcondition(
    "RMAP-UNMAP-023",
    on=("try_to_unmap_anon",),
    source=rmap("try_to_unmap_anon", "migrate-pin"),
    fields=("vma.vm_flags",),
    features=("MIGRATION",),
    would_catch="exec moving its stack away from a migration entry, which then is never restored",
    since="2.6.35",
)
def stacks_on_the_move_are_not_migrated(op: Operation) -> Truth:
    """In a walk for migration, areas that are stacks which exec is still moving MUST be skipped.

    The area is moved first and its entries later; in between no walk would find them.
    """
    lookup = op.get("lookup")
    if lookup is None or _action(op) != TTU_MIGRATION:
        return VACUOUS
    visited = [e.vma for e in op.all("visit")]
    moving = [vma for vma in areas(lookup) if is_temporary_stack(vma)]
    return every(vma not in visited for vma in moving)


@postcondition("RMAP-UNMAP-024", on=("try_to_unmap_anon",), source=rmap("try_to_unmap_anon"))
def without_owner_the_answer_is_again(op: Operation, result: Any) -> Truth:
    """If no anon_vma can be had for the page, the walk MUST say AGAIN and change nothing; whether that is a success, the
    map count tells.
    """
    return implies(op.get("lookup") is None, lambda: result is SWAP_AGAIN and not op.did("visit", "set_pte"))


@postcondition(
    "RMAP-UNMAP-025",
    on=ALL,
    source=rmap("try_to_unmap_one") + field_2011("analysis"),
    fields=(*SLOT, "page._mapcount"),
)
def each_anonymous_mapping_leaves_one_entry(op: Operation) -> Truth:
    """The entries for swap, migration or poison that were created for an anonymous page MUST be as many as the mappings
    that were removed.

    One less, and a process finds zeros where its data was.
    """
    page = op.page
    kinds = ("swap", "migration", "hwpoison")
    created = [e for e in op.all("set_pte") if e.new is not None and e.new.kind in kinds]
    gone = -op.delta("_mapcount", page)
    return implies(is_anon(page) and (created or gone), lambda: len(created) == gone)


@postcondition("RMAP-UNMAP-026", on=ONE, source=rmap("try_to_unmap_one") + field_2011("analysis"), fields=SLOT)
def other_slots_are_left_alone(op: Operation) -> Truth:
    """The linear part MUST change no slot but the one that maps the page in the area that is visited."""
    vpn = op.address // op.vma.mm.system.page_size
    return every(
        e.mm is op.vma.mm and e.vpn == vpn and (e.old is None or getattr(e.old, "page", None) is op.page)
        for e in op.all("set_pte")
    )


@liveness(
    "RMAP-UNMAP-027",
    over=Over.EVENT,
    on=("PG_swapcache",),
    source=rmap("continuations", "try_to_unmap_one") + field_2011("analysis"),
    fields=("page.PG_swapcache", "swap_map", "page.content"),
    functions=("try_to_unmap_one", "delete_from_swap_cache", "write_page"),
    would_catch="a page that was freed as clean, and is read back as it was before the last write",
    interfaces=("VirtualMemory",),
)
def content_is_not_lost(event: Event) -> Truth:
    """Whatever the kernel does with a page, processes MUST read what was written last: when a page leaves the swap cache while
    entries still refer to its slot, the slot MUST hold the page's content.

    Where a load can be compared with what was stored, that is done.
    """
    page = event.obj
    swap, slot = page.system.swap, page.private
    moving = event.op is not None and event.op.within("migrate_page_move_mapping") is not None
    if event.new or not event.old or slot is None or moving or page.PG_hwpoison or not swap.count(slot) - _faulting(event.op, slot):
        return VACUOUS
    return slot in swap.data and swap.data[slot] == page.content


def _faulting(op: Operation | None, slot: int) -> int:
    """How many entries for the slot the running fault is just replacing by the page: 1 or 0."""
    fault = op.within("do_swap_page") if op is not None else None
    if fault is None:
        return 0
    table = fault.mm.tables.get(fault.vpn // fault.mm.system.ptrs_per_pte)
    entry = table.entries.get(fault.vpn) if table is not None else None
    return int(entry is not None and entry.kind == "swap" and entry.slot == slot)


@liveness(
    "RMAP-UNMAP-028",
    over=Over.OPERATION,
    on=ALL,
    source=rmap("try_to_unmap") + field_2011("analysis"),
    fields=("page._mapcount",),
    functions=ALL,
    would_catch="reclaim that never frees a page although nobody uses it",
    interfaces=("ReverseMap",),
)
def idle_page_can_be_unmapped(op: Operation, result: Any) -> Truth:
    """If nobody interferes, the page is not a merged one, no mapping of it is young, locked in memory, nonlinear, on a moving
    stack, or used by a secondary MMU, and its swap count can be raised, the page MUST be unmapped.

    So repeated calls succeed in the end, once it is left in peace. What a child has got of a merged page by fork is found
    only as long as the parent is there, or the scanner has seen the child.
    """
    if op.was_ksm or not op.alone or not op.was_mapped or _action(op) == TTU_MUNLOCK or _refused(op):
        return VACUOUS
    page = op.page
    mapping = page.mapping
    if mapping is None or (not is_anon(page) and mapping.pointer.i_mmap_nonlinear):
        return VACUOUS
    if op.count != len(op.slots_before):
        # Somebody is in the middle of adding or removing a mapping, and has its slot locked.
        return VACUOUS
    for slot, entry in op.slots_before.items():
        vma = area_of(slot)
        if vma is None or slot.mm.notifiers or is_temporary_stack(vma):
            return VACUOUS
        if (entry.young and not op.flags & TTU_IGNORE_ACCESS) or (vma.vm_flags & VM_LOCKED and not op.flags & TTU_IGNORE_MLOCK):
            return VACUOUS
    return result is SWAP_SUCCESS


@lock_rule(
    "RMAP-UNMAP-029",
    over=Over.OPERATION,
    on=ALL,
    source=rmap("try_to_unmap_anon", "try_to_unmap_file"),
    fields=("anon_vma.head", "address_space.i_mmap"),
    locks=("anon_vma_mutex", "i_mmap_mutex"),
    functions=("try_to_unmap_anon", "try_to_unmap_file", "try_to_unmap_ksm"),
)
def list_is_locked_during_the_walk(op: Operation) -> Truth:
    """Each area MUST be visited with the mutex of its list held, that of a tree or that of the page's file, and on each
    way out the thread hold the locks that it came with.
    """
    visits = op.all("visit", "visit_found")
    mutex = "anon_vma_mutex" if is_anon(op.page) else "i_mmap_mutex"
    return implies(
        visits, lambda: all(e.holds(mutex) for e in visits) and op.context.held == op.held_at_entry
    )


@precondition("RMAP-UNMAP-030", on=ALL, source=rmap("try_to_unmap_one", "try_to_unmap_anon") + field_2011("base"), since="2.6.32")
def flags_ask_for_one_thing(op: Operation) -> Truth:
    """The flags MUST ask for exactly one of unmapping, migration and munlock.

    Some tests look at the bit of migration alone, others at the whole action.
    """
    return _action(op) in (TTU_UNMAP, TTU_MIGRATION, TTU_MUNLOCK)
