"""RMAP-MAPCOUNT: `_mapcount`, and the entries that it counts."""

from __future__ import annotations

from typing import Any

from mmspec.errors import SWAP_SUCCESS
from mmspec.invariant import ALWAYS, QUIESCENT, Over, postcondition, precondition, state_invariant, transition
from mmspec.invariants.rmap.terms import MAP_COUNTERS, PTL_CLASSES, census, heads, in_cache
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

COUNT = ("page._mapcount",)
ADDING = ("do_page_add_anon_rmap", "page_add_new_anon_rmap", "page_add_file_rmap")


@state_invariant(
    "RMAP-MAPCOUNT-001",
    over=Over.PAGE,
    guard=ALWAYS,
    source=rmap("page_add_new_anon_rmap", "page_remove_rmap"),
    fields=COUNT,
    functions=(*ADDING, "page_remove_rmap"),
    implied_by=("RMAP-MAPCOUNT-006",),
    would_catch='"Eeek! page_mapcount(page) went negative", for years the sign of a page unmapped twice',
    since="2.6.5",
    interfaces=("ReverseMap",),
)
def map_count_starts_at_minus_one(page: Any) -> Truth:
    """`_mapcount` MUST never be below -1, the value that says that nothing maps the page.

    The test for the last mapping looks at the sign; from -2 on a page that is mapped again counts as not mapped.
    """
    return bool(page._mapcount >= -1)


@state_invariant(
    "RMAP-MAPCOUNT-002",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("page_add_file_rmap", "page_remove_rmap", "try_to_unmap_one") + field_2011("analysis"),
    fields=COUNT,
    functions=(*ADDING, "page_dup_rmap", "page_remove_rmap", "try_to_unmap_one", "try_to_unmap_cluster"),
    implied_by=("RMAP-MAPCOUNT-003", "RMAP-ADD-003", "RMAP-ADDNEW-002", "RMAP-ADDFILE-001", "RMAP-REMOVE-002"),
    would_catch="an error path of fork or of migration that forgets one side of a mapping",
    interfaces=("ReverseMap",),
)
def map_count_counts_present_entries(world: Any) -> Truth:
    """With nothing in flight, `_mapcount` + 1 MUST be the number of present entries that refer to the page: ptes for
    a base page, huge pmds for the head of a trans-huge page, huge ptes for a hugetlb page; entries for swap, migration,
    poison or a file's index count as none.

    Too low, and reclaim frees memory that a process still writes to; too high, and the page is never freed.
    """
    found = census(world)
    return every(page._mapcount + 1 == len(found.of(page)) for page in heads(world))


@transition(
    "RMAP-MAPCOUNT-003",
    over=Over.EVENT,
    on=("release",),
    source=rmap("page_add_anon_rmap", "page_add_file_rmap", "page_remove_rmap", "split-ptlock"),
    fields=COUNT,
    functions=(*ADDING, "page_dup_rmap", "page_remove_rmap", "try_to_unmap_one", "try_to_unmap_cluster"),
    locks=PTL_CLASSES,
    would_catch="a map count that is taken back after the page-table lock was dropped, while somebody else reads it",
    since="2.6.15",
)
def entry_and_count_change_in_one_section(event: Event) -> Truth:
    """When a thread has given back the last page-table lock that it holds, the entries for a page that came or went
    in the section MUST be those by which it changed the page's map count; so at any instant the count is wrong by no more
    than the sections that are open.

    The split of a trans-huge page is the exception: the counts of its parts change before its entries do, while the
    entries say that it is being split.
    """
    if event.lock.cls not in PTL_CLASSES or event.op is None or any(c in PTL_CLASSES for c in event.classes):
        return VACUOUS
    balance: dict[Any, int] = {}
    open_sections = 1
    for step in reversed(event.op.context.events[:-1]):
        if step.kind == "release" and step.lock.cls in PTL_CLASSES:
            open_sections += 1
        elif step.kind == "acquire" and step.lock.cls in PTL_CLASSES:
            open_sections -= 1
            if not open_sections:
                break
        elif step.kind == "set_pte":
            if _splits(step):
                return VACUOUS
            for entry, sign in ((step.old, -1), (step.new, 1)):
                if entry is not None and entry.kind == "present":
                    balance[entry.page] = balance.get(entry.page, 0) + sign
        elif step.kind == "write" and step.field == "_mapcount":
            balance[step.obj] = balance.get(step.obj, 0) - (step.new - step.old)
    return every(not difference for difference in balance.values())


def _splits(step: Event) -> bool:
    return any(e is not None and e.kind == "present" and e.splitting for e in (step.old, step.new)) or (
        step.op is not None and step.op.within("split_huge_page") is not None
    )


@transition(
    "RMAP-MAPCOUNT-004",
    over=Over.EVENT,
    on=("mapcount_read", "sample_mapcount"),
    source=field_2011("base"),
    fields=COUNT,
    functions=("page_mapped", "page_mapcount"),
    would_catch="a test for more than one mapping where one was meant: the count starts at -1, not at 0",
)
def readers_agree_on_the_encoding(event: Event) -> Truth:
    """Whoever asks whether a page is mapped MUST be told whether `_mapcount` is at least 0, and whoever asks how often
    MUST be told `_mapcount` + 1.

    Walkers decide by the one whether a page is still there, and by the other how long to search.
    """
    page = event.page
    return bool(
        event.mapped == (page._mapcount >= 0) if event.kind == "mapcount_read" else event.mapcount == page._mapcount + 1
    )


@transition(
    "RMAP-MAPCOUNT-005",
    over=Over.EVENT,
    on=("page_allocated", "free_page"),
    source=rmap("page_add_new_anon_rmap") + field_2011("base"),
    fields=COUNT,
    functions=("alloc_page", "free_page"),
    enforced_by="free_pages_check(), which reports a bad page",
    would_catch="bad page state: a page on the free list that somebody still maps",
)
def unused_page_is_not_mapped(event: Event) -> Truth:
    """A page that is handed out, and one that goes back to the free lists, MUST have a `_mapcount` of -1, each of
    its parts included.

    The first mapping of a new page is stored, not added.
    """
    return all(part._mapcount == -1 for part in (event.page, *event.page.subpages))


@precondition(
    "RMAP-MAPCOUNT-006",
    on=("page_remove_rmap",),
    source=rmap("page_remove_rmap"),
    fields=COUNT,
    enforced_by='in early kernels "Eeek!" and BUG(); in 3.2 nobody',
    interfaces=("ReverseMap",),
)
def only_mappings_are_removed(op: Operation) -> Truth:
    """A mapping MUST be removed only from a page whose `_mapcount` says that it has one."""
    return bool(op.page._mapcount >= 0)


@state_invariant(
    "RMAP-MAPCOUNT-007",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster") + field_2011("analysis"),
    fields=(*COUNT, "page._count"),
    functions=("try_to_unmap_one", "try_to_unmap_cluster", "remove_migration_pte", "handle_mm_fault"),
    implied_by=("RMAP-REMOVE-008",),
    would_catch="a page that is freed and given to somebody else while a process still maps it",
)
def each_mapping_holds_a_reference(world: Any) -> Truth:
    """With nothing in flight, a page MUST be allocated and have at least one reference for each entry that maps it, and
    one more if it is in the page cache or the swap cache.

    The map count alone keeps nothing alive.
    """
    found = census(world)
    return every(page in world.pages for page in found.maps) and every(
        page._count >= len(found.of(page)) + in_cache(page) for page in heads(world)
    )


@postcondition(
    "RMAP-MAPCOUNT-008",
    on=("try_to_unmap", "try_to_munlock", "page_mkclean", "rmap_walk"),
    source=rmap("page_referenced_file", "try_to_unmap_file"),
    fields=COUNT,
    would_catch="a walk that ends as soon as it has found as many mappings as there were when it began, while fork adds more",
)
def sampled_count_is_a_hint(op: Operation, result: Any) -> Truth:
    """A map count that a walk has sampled MUST decide only how much effort is made: walks that must find every mapping
    MUST NOT sample it, and a page MUST NOT be reported as unmapped because as many mappings were found.

    Neither the mutex of a tree nor that of a file keeps mappings from coming and going.
    """
    if op.name != "try_to_unmap":
        return not op.did("sample_mapcount") and not op.calls("try_to_unmap_nonlinear")
    sampled = [c for c in op.calls("try_to_unmap_nonlinear") if "sampled" in c.noted]
    linear = [c for c in (*op.calls("try_to_unmap_anon"), *op.calls("try_to_unmap_file")) if c.did("sample_mapcount")]
    return not linear and implies(
        sampled, lambda: result is not SWAP_SUCCESS or (op.page._mapcount < 0 and not op.page.slots)
    )


@postcondition(
    "RMAP-MAPCOUNT-009",
    on=("page_dup_rmap",),
    source=field_2011("base"),
    fields=(*COUNT, "zone.NR_ANON_PAGES", "zone.NR_FILE_MAPPED"),
    would_catch="fork counting a shared page a second time in the statistics",
    interfaces=("ReverseMap",),
)
def fork_adds_one_and_counts_nothing(op: Operation) -> Truth:
    """Where fork copies a mapping, the page's map count MUST grow by exactly one and no statistic of a zone or of a
    control group change, as statistics count pages that are mapped, not mappings.
    """
    return op.delta("_mapcount", op.page) == 1 and not op.net(*MAP_COUNTERS)
