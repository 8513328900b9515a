"""RMAP-REF: page_referenced, which tells reclaim how much a page was used, and forgets that it was."""

from __future__ import annotations

from typing import Any

import attrs

from mmspec.invariant import Over, liveness, lock_rule, postcondition, precondition, transition
from mmspec.invariants.rmap.terms import (
    VM_LOCKED,
    VM_NONLINEAR,
    VM_SEQ_READ,
    in_this_order,
    is_anon,
    is_trans_huge,
    maps_at,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

ALL = ("page_referenced",)
ONE = ("page_referenced_one",)
WALKS = ("page_referenced_anon", "page_referenced_file")
YOUNG = ("pte.young", "pmd.young")


def _found(op: Operation) -> list[Event]:
    """The mappings that the walk has found."""
    return op.all("visit_found")


def _contributions(op: Operation) -> list[Operation]:
    return op.calls("page_referenced_one")


def _young_cleared(op: Operation) -> list[Event]:
    return [e for e in op.all("set_pte") if e.old is not None and e.old.kind == "present" and e.old.young]


@postcondition(
    "RMAP-REF-001",
    on=ALL,
    source=rmap("page_referenced"),
    would_catch="reclaim deciding by the flags of the page before",
    since="2.6.31",
)
def flags_start_empty(op: Operation, result: tuple[int, int]) -> Truth:
    """If no mapping was found, the flags that are reported MUST be empty.

    The caller has one variable for all pages of a batch.
    """
    return implies(not _found(op), lambda: result[1] == 0)


@postcondition("RMAP-REF-002", on=ALL, source=rmap("page_referenced"), fields=YOUNG, since="2.6.33")
def unmapped_page_is_not_walked(op: Operation, result: tuple[int, int]) -> Truth:
    """A page that nothing maps, or without an owner to find its mappings by, MUST give 0 without a walk and without
    a change.
    """
    return implies(
        not op.was_mapped or not op.had_mapping,
        lambda: result == (0, 0) and not op.did("visit", "visit_found", "set_pte", "write", "key_clear", "trylock_page"),
    )


def _locks_the_page(op: Operation) -> list[Event]:
    return [e for e in op.all("acquire") if e.lock.cls == "page_lock" and e.lock.owner is op.page]


@lock_rule(
    "RMAP-REF-003",
    over=Over.OPERATION,
    on=ALL,
    source=rmap("page_referenced", "ksm-swappable"),
    locks=("page_lock",),
    functions=ALL,
    would_catch="a walk of a file that the page is truncated from meanwhile",
    since="2.6.33",
)
def file_and_merged_pages_are_locked_or_left(op: Operation, result: tuple[int, int]) -> Truth:
    """A page of a file and a merged page MUST be locked during the walk. If the caller has not locked it the lock MUST
    only be tried for, and without it the page be reported as referenced once, unvisited.

    Their owner may change without the lock; and reclaim must not wait.
    """
    if not op.was_mapped or not op.had_mapping or (op.was_anon and not op.was_ksm):
        return VACUOUS
    if any(e.how != "trylock" for e in _locks_the_page(op)):
        return False
    if not op.is_locked and not _locks_the_page(op):
        return result == (1, 0) and not op.did("visit_found", "set_pte", "key_clear")
    return all(e.holds("page_lock", op.page) for e in op.all("visit", "visit_found"))


@postcondition("RMAP-REF-004", on=ALL, source=rmap("page_referenced"), locks=("page_lock",))
def page_lock_is_as_before(op: Operation) -> Truth:
    """The thread MUST hold the page's lock on return exactly if it did on entry."""

    def holds(held: Any) -> bool:
        return any(h.matches("page_lock", op.page) for h in held)

    return holds(op.context.held) == holds(op.held_at_entry)


@lock_rule(
    "RMAP-REF-005",
    over=Over.OPERATION,
    on=ALL,
    source=rmap("page_referenced"),
    locks=("page_lock",),
    functions=ALL,
    since="2.6.33",
)
def anonymous_pages_need_no_page_lock(op: Operation) -> Truth:
    """An anonymous page that is not merged MUST be walked without an attempt at its lock.

    It would be found busy, and so used, whenever somebody else works on it.
    """
    return implies(
        op.was_mapped and op.was_anon and not op.was_ksm,
        lambda: not op.did("trylock_page") and not _locks_the_page(op),
    )


@postcondition(
    "RMAP-REF-006",
    on=ONE,
    source=rmap("page_referenced_one", "notifiers"),
    fields=YOUNG,
    would_catch="a virtual machine's hot pages swapped out, as the use through its own tables was not seen",
    since="2.6.27",
)
def found_mapping_is_aged_everywhere(op: Operation) -> Truth:
    """A mapping that is found in an area that is not locked in memory MUST have its young bit cleared and flushed from
    the TLBs, and each secondary MMU of the address space MUST be asked for its use and forget it.

    With a translation left in a TLB the next use would not set the bit again.
    """
    found = op.one("visit_found")
    if found is None or found.vm_flags & VM_LOCKED:
        return VACUOUS

    def clears(e: Event) -> bool:
        return e.kind == "set_pte" and e.vpn == found.vpn and e.new is not None and e.new.kind == "present" and not e.new.young

    checks: list[Truth] = []
    if found.entry.young:
        checks.append(in_this_order(op, clears, lambda e: e.kind == "tlb_flush" and e.mm is op.vma.mm and e.vpn == found.vpn))
    if op.vma.mm.notifiers:
        checks.append(any(e.vpn == found.vpn for e in op.all("notifier_clear_young")))
    return every(checks)


@postcondition(
    "RMAP-REF-007",
    on=ONE,
    source=rmap("page_referenced_one"),
    fields=(*YOUNG, "vma.vm_flags"),
    would_catch="a file read once through a mapping pushing everything else out of memory",
    since="2.6.28",
)
def sequential_reading_is_no_use(op: Operation, result: int) -> Truth:
    """A young pte in an area that is read sequentially MUST be cleared but not counted; a young trans-huge mapping MUST
    be counted in any area.

    What was read in sequence is not read again soon.
    """
    found = op.one("visit_found")
    if found is None or found.vm_flags & VM_LOCKED or not found.entry.young:
        return VACUOUS
    pretended = len(op.all("swap_token"))
    if found.level == "pmd":
        return result == 1 + pretended
    return implies(found.vm_flags & VM_SEQ_READ, lambda: result == pretended and bool(_young_cleared(op)))


@postcondition(
    "RMAP-REF-008",
    on=ALL,
    source=rmap("page_referenced_one"),
    fields=YOUNG,
    would_catch="pages of a locked area aged and scanned again and again",
    since="2.6.39",
)
def walk_ends_at_a_locked_area(op: Operation, result: tuple[int, int]) -> Truth:
    """At the first mapping that is found in an area that is locked in memory the walk MUST end, report VM_LOCKED, count
    nothing for it and leave its young bit alone.

    The page is going to be marked and left alone; what else uses it does not matter.
    """
    found = _found(op)
    first = next((e for e in found if e.vm_flags & VM_LOCKED), None)
    if first is None:
        return VACUOUS
    aged = [e for e in op.all("set_pte") if e.mm is first.vma.mm and e.vpn == first.vpn]
    contribution = [c.result for c in _contributions(op) if c.vma is first.vma and first in c.events]
    return bool(result[1] & VM_LOCKED) and found[-1] is first and not aged and contribution == [0]


@postcondition(
    "RMAP-REF-009",
    on=ALL,
    source=rmap("page_referenced_one"),
    fields=("vma.vm_flags",),
    would_catch="a parent's page taken for locked because the child has locked its own copy",
    since="2.6.39",
)
def locked_areas_count_only_where_they_map(op: Operation, result: tuple[int, int]) -> Truth:
    """VM_LOCKED MUST be reported only if an area that is locked in memory was found to map the page.

    Areas are on the list that never mapped the page, or map another one there by now.
    """
    return implies(
        result[1] & VM_LOCKED,
        lambda: any(e.vm_flags & VM_LOCKED and e.entry.page is op.page and e.entry.kind == "present" for e in _found(op)),
    )


@postcondition(
    "RMAP-REF-010",
    on=ONE,
    source=rmap("page_referenced_one"),
    fields=("system.swap_token",),
    since="2.6.9",
    until="3.4",
)
def swap_token_counts_as_use(op: Operation, result: int) -> Truth:
    """A mapping in another address space that has the swap token and whose `mmap_sem` is held MUST count as used once
    more, and no other mapping MUST.

    It is in a page fault, perhaps for this very page; one process at a time is to make progress.
    """
    found, mm = op.one("visit_found"), op.vma.mm
    if found is None or found.vm_flags & VM_LOCKED:
        return VACUOUS
    sem = mm.mmap_sem
    pretend = mm is not mm.system.current_mm() and mm.system.swap_token is mm and bool(sem.writer or sem.readers)
    pretended = len(op.all("swap_token"))
    return implies(pretend or pretended, lambda: pretended == int(pretend) and result >= pretended)


@postcondition(
    "RMAP-REF-011",
    on=WALKS,
    source=rmap("page_referenced_anon", "page_referenced_file"),
    fields=("page._mapcount",),
    would_catch="a search of all processes for a page whose only mapping was found first",
)
def walk_ends_with_the_last_mapping(op: Operation) -> Truth:
    """No further area MUST be visited once as many mappings were found as there were when the walk began.

    On long lists that is most of them.
    """
    sample = op.one("sample_mapcount")
    if sample is None or sample.mapcount < 1:
        return VACUOUS
    found = 0
    for step in op.events:
        if step.kind == "visit" and found >= sample.mapcount:
            return False
        found += step.kind == "visit_found"
    return implies(found >= sample.mapcount, lambda: True)


@postcondition("RMAP-REF-012", on=ALL, source=rmap("page_referenced_one"), fields=("vma.vm_flags",), since="2.6.31")
def flags_are_those_of_the_users(op: Operation, result: tuple[int, int]) -> Truth:
    """The reported flags MUST be those of the areas through which the page was found used, together, and VM_LOCKED
    where a locked one ended the walk; areas that did not use it MUST NOT add theirs.

    Reclaim keeps an executable page longer, if it was executed.
    """
    if not op.alone or not _found(op):
        return VACUOUS
    expected = 0
    for one in _contributions(op):
        found = one.one("visit_found")
        if found is not None:
            expected |= found.vm_flags if one.result else found.vm_flags & VM_LOCKED
    return result[1] == expected


@postcondition(
    "RMAP-REF-013",
    on=ALL,
    source=rmap("page_referenced_anon", "page_referenced_file"),
    fields=("mm.memcg",),
    features=("CGROUP_MEM_RES_CTLR",),
    would_catch="a group that cannot shrink because another group uses the pages it shares with it",
    since="2.6.25",
)
def other_groups_are_not_asked(op: Operation) -> Truth:
    """Where a control group is reclaimed from, areas of address spaces outside of it MUST be skipped: neither counted
    nor aged.

    Ageing them would make them look idle to their own group.
    """
    if op.memcg is None:
        return VACUOUS
    visited = [e.vma.mm for e in op.all("visit")] + [e.mm for e in op.all("set_pte")]
    return every(mm.memcg is op.memcg for mm in visited)


@postcondition("RMAP-REF-014", on=("page_referenced_file",), source=rmap("try_to_unmap_file"), fields=("vma.vm_flags",))
def nonlinear_areas_are_not_visited(op: Operation) -> Truth:
    """Mappings in nonlinear areas MUST NOT be visited; for their pages the result is a lower bound.

    Where the page is in them nobody knows; the scan of try_to_unmap looks at their young bits.
    """
    file = op.page.mapping.pointer if op.page.mapping is not None else None
    visited = [e.vma for e in op.all("visit", "visit_found")]
    return implies(
        visited or (file is not None and file.i_mmap_nonlinear),
        lambda: all(not vma.vm_flags & VM_NONLINEAR for vma in visited),
    )


@lock_rule(
    "RMAP-REF-015",
    over=Over.OPERATION,
    on=ONE,
    source=rmap("page_referenced_one", "thp"),
    fields=("pmd",),
    locks=("page_table_lock",),
    functions=ONE,
    features=("TRANSPARENT_HUGEPAGE",),
    would_catch="a trans-huge page that counts as idle, and is swapped out, because it is being split",
    since="2.6.38",
)
def trans_huge_entry_is_found_under_page_table_lock(op: Operation) -> Truth:
    """The pmd of a trans-huge page MUST be examined under the `page_table_lock` of the address space, and a mapping be
    found also while it is being split.
    """
    if not is_trans_huge(op.page):
        return VACUOUS
    locked = op.all("slot_locked")
    there = maps_at(op.page, op.vma.mm, op.address // op.vma.mm.system.page_size, "pmd")
    found = op.did("visit_found")
    return every(e.holds("page_table_lock", op.vma.mm) for e in locked) and implies(there or found, lambda: there == found)


@postcondition(
    "RMAP-REF-016",
    on=ALL,
    source=rmap("page_referenced"),
    fields=("page.key_young",),
    architectures=("s390x",),
    since="2.6.12",
    would_catch="pages that are hot on s390 only, as the young bit is in the storage key",
)
def storage_key_counts_once(op: Operation, result: tuple[int, int]) -> Truth:
    """After a walk the young bit of the page's storage key MUST be tested and cleared once, and add one to the
    count if it was set.

    It is one for the whole page, however many mappings there are.
    """
    if not op.did("key_clear", "visit_found"):
        return VACUOUS
    tests = [e for e in op.all("key_clear") if e.which == "young" and e.page is op.page]
    counted = sum(one.result for one in _contributions(op))
    return len(tests) == 1 and result[0] == counted + int(tests[0].was)


@postcondition("RMAP-REF-017", on=ALL, source=rmap("page_referenced") + field_2011("analysis"), fields=YOUNG)
def count_is_bounded(op: Operation, result: tuple[int, int]) -> Truth:
    """The count MUST be between 0 and the number of mappings that were found, twice if their address spaces have the
    swap token, and one more for the storage key; for a page that could not be locked it MUST be 1.
    """
    if op.did("trylock_page") and not _locks_the_page(op):
        return result[0] == 1
    return 0 <= result[0] <= len(_found(op)) + len(op.all("swap_token")) + int(op.page.system.storage_keys)


KEPT = (
    "_mapcount", "_count", "mapping", "index", "PG_dirty", "PG_lru", "PG_active", "PG_unevictable", "PG_mlocked",
    "rss_anon", "rss_file", "swapents", "NR_ANON_PAGES", "NR_FILE_MAPPED", "NR_ANON_TRANSPARENT_HUGEPAGES",
)  # fmt: skip


@postcondition("RMAP-REF-018", on=ALL, source=rmap("page_referenced") + field_2011("analysis"), fields=YOUNG)
def only_young_bits_change(op: Operation) -> Truth:
    """Asking for references MUST change young bits only: no entry comes or goes, becomes clean or read-only, and map
    counts, statistics and LRU stay.
    """
    objects = (op.page, op.page.system.zone, *(e.vma.mm for e in _found(op)))
    kept = not any(e.field in KEPT and any(e.obj is o for o in objects) for e in op.all("write"))
    return implies(
        op.was_mapped,
        lambda: (
            kept
            and all(
                e.old is not None and e.new is not None and e.old.kind == "present" and e.new == attrs.evolve(e.old, young=False)
                for e in op.all("set_pte")
            )
        ),
    )


@precondition(
    "RMAP-REF-019",
    on=("page_referenced_file",),
    source=rmap("page_referenced_file"),
    fields=("page.mapping",),
    locks=("page_lock",),
    enforced_by="BUG_ON in page_referenced_file()",
)
def file_walk_needs_a_locked_page_of_a_file(op: Operation) -> Truth:
    """The walk of a file MUST be given a locked page that is not anonymous and has a `mapping`."""
    return op.page.locked and not is_anon(op.page) and op.page.mapping is not None


@transition(
    "RMAP-REF-020",
    over=Over.OPERATION,
    on=WALKS,
    source=rmap("page_referenced_file"),
    fields=("page._mapcount",),
    locks=("anon_vma_mutex", "i_mmap_mutex"),
    functions=WALKS,
    would_catch="a walk that waits for the mutex while fork adds mappings, and ends too early by the old count",
)
def count_is_sampled_with_the_list_locked(op: Operation) -> Truth:
    """The map count MUST be sampled after the mutex of the list was obtained.

    Waiting for it may take long, and the sample is to be of the list that is walked.
    """
    mutex = "i_mmap_mutex" if op.name == "page_referenced_file" else "anon_vma_mutex"
    return every(e.holds(mutex) for e in op.all("sample_mapcount"))


@postcondition("RMAP-REF-021", on=("page_referenced_anon",), source=rmap("page_referenced_anon"), fields=YOUNG)
def no_owner_no_reference(op: Operation, result: Any) -> Truth:
    """If no anon_vma can be had for an anonymous page, the walk MUST report no reference and change nothing.

    The page was unmapped meanwhile.
    """
    return implies(
        op.get("lookup") is None,
        lambda: result.referenced == 0 and result.vm_flags == 0 and not op.did("visit", "set_pte", "clear_young"),
    )


@liveness(
    "RMAP-REF-022",
    over=Over.OPERATION,
    on=WALKS,
    source=rmap("page_referenced_anon", "page_referenced_file") + field_2011("analysis"),
    fields=("anon_vma.head", "address_space.i_mmap"),
    functions=WALKS,
)
def each_area_is_visited_at_most_once(op: Operation) -> Truth:
    """A walk MUST visit each area of its list at most once, and so end."""
    visited = [e.vma for e in op.all("visit")]
    return implies(visited, lambda: len(set(visited)) == len(visited))
