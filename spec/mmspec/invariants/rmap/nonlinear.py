"""NLIN: nonlinear areas, in which nobody knows where a page is: they are scanned cluster by cluster."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_MLOCK
from mmspec.invariant import QUIESCENT, Over, liveness, lock_rule, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    TTU_ACTION_MASK,
    TTU_MUNLOCK,
    VM_NONLINEAR,
    census,
    is_anon,
    linear_page_index,
    removed,
)
from mmspec.logic import Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

CLUSTER = ("try_to_unmap_cluster",)
SCAN = ("try_to_unmap_nonlinear",)
CURSOR = ("vma.vm_private_data",)
SLOTS = ("pte",)


def _vpns(op: Operation) -> range:
    start, end = op.window
    size = op.vma.mm.system.page_size
    return range(start // size, end // size)


@postcondition(
    "NLIN-CLUSTER-001",
    on=CLUSTER,
    source=rmap("try_to_unmap_cluster"),
    fields=(*CURSOR, "vma.vm_start", "vma.vm_end"),
    would_catch="a window that reaches into a second page table is scanned under the lock of the first",
)
def window_is_one_cluster_of_the_area(op: Operation) -> Truth:
    """A scanned window MUST be the aligned cluster that the cursor names, cut to the area, and nothing outside of it
    may be touched; so it is never empty and lies in one page table.

    The scan holds the lock of one table only.
    """
    vma, system = op.vma, op.vma.mm.system
    size, pmd = system.cluster_size, system.pmd_size
    start, end = op.window
    first = (vma.vm_start + op.cursor) // size * size
    inside = _vpns(op)
    return (
        (start, end) == (max(first, vma.vm_start), min(first + size, vma.vm_end))
        and start < end
        and start // pmd == (end - 1) // pmd
        and all(e.mm is vma.mm and e.vpn in inside for e in op.all("set_pte"))
    )


@postcondition("NLIN-CLUSTER-002", on=CLUSTER, source=rmap("try_to_unmap_cluster"), fields=SLOTS)
def cluster_without_table_is_a_no_op(op: Operation, result: Any) -> Truth:
    """Where an upper level is not there, the scan of a window MUST change nothing and let the walk go on."""
    return implies(op.get("level_absent"), lambda: result is SWAP_AGAIN and not op.net() and not op.did("set_pte"))


@state_invariant(
    "NLIN-CLUSTER-003",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("try_to_unmap_cluster", "unpaged"),
    fields=("pte", "page.mapping"),
    functions=CLUSTER,
    enforced_by="BUG_ON(!page || PageAnon(page))",
)
def nonlinear_areas_map_file_pages(world: Any) -> Truth:
    """Every present entry of a nonlinear area MUST map a page of a file, in base pages.

    Nonlinear areas are shared, so nobody has a private copy there; an anonymous page could not be found again.
    """
    return every(
        p.level == "pte" and not is_anon(p.entry.page)
        for p in census(world).places
        if p.vma is not None and p.vma.vm_flags & VM_NONLINEAR and p.entry.kind == "present"
    )


@postcondition("NLIN-CLUSTER-004", on=CLUSTER, source=rmap("try_to_unmap_cluster", "notifiers"), fields=("pte.young",))
def young_entries_are_spared_once(op: Operation) -> Truth:
    """Before the scan removes an entry it MUST ask, and clear, whether the entry was used; one that was stays, not young.

    Otherwise nonlinear areas lose the pages that they use most.
    """
    asked = {e.vpn: e for e in op.all("clear_young")}
    gone = {e.vpn for e in removed(op)}
    last = {e.vpn: e.new for e in op.all("set_pte")}
    return every(
        (vpn in asked and not asked[vpn].young)
        if vpn in gone
        else vpn not in last or (last[vpn] is not None and last[vpn].kind == "present" and not last[vpn].young)
        for vpn in (*asked, *gone)
    )


@transition(
    "NLIN-CLUSTER-005",
    over=Over.EVENT,
    on=("put_page",),
    source=rmap("try_to_unmap_cluster"),
    fields=SLOTS,
    functions=CLUSTER,
    would_catch="a page that is out of line comes back as the linear one",
)
def removed_entry_remembers_its_index(event: Event) -> Truth:
    """A removed entry MUST have become one that holds the page's index if that is not the linear one of its address,
    and empty if it is.

    The page table is the only place that knows what belongs at an address of a nonlinear area.
    """
    op = event.op
    cleared = op.one("ptep_clear") if op is not None and op.name == "try_to_unmap_cluster" else None
    if op is None or cleared is None or cleared.entry is None or cleared.entry.page is not event.page:
        return implies(False, lambda: True)
    now = next(e.new for e in reversed(op.all("set_pte")) if e.vpn == cleared.vpn)
    if event.page.index == linear_page_index(op.vma, cleared.vpn):
        return now is None
    return now is not None and now.kind == "file" and now.pgoff == event.page.index


@postcondition(
    "NLIN-CLUSTER-006",
    on=CLUSTER,
    source=rmap("try_to_unmap_cluster", "hiwater"),
    fields=("page._mapcount", "page._count", "page.PG_dirty", "mm.rss_file"),
)
def removed_entries_are_settled_one_by_one(op: Operation) -> Truth:
    """For each removed entry the dirty bit MUST be handed to the page, the map count lowered, the reference dropped, and
    the resident set of files lowered by one; and the scan wants one mapping less.
    """
    gone = removed(op)
    pages = Counter(e.entry.page.name for e in gone)
    puts = Counter(e.page.name for e in op.all("put_page"))
    unmapped = Counter(o.page.name for o in op.calls("page_remove_rmap"))
    dirtied = {e.page.name for e in op.all("set_page_dirty")}
    return implies(
        gone,
        lambda: (
            op.delta("rss_file", op.vma.mm) == -len(gone)
            and unmapped == pages
            and all(puts[name] >= count for name, count in pages.items())
            and all(e.entry.page.name in dirtied for e in gone if e.entry.dirty)
            and op.wanted - op.budget.mapcount == len(gone)
        ),
    )


@transition(
    "NLIN-CLUSTER-007",
    over=Over.OPERATION,
    on=CLUSTER,
    source=rmap("try_to_unmap_cluster", "hiwater"),
    fields=("mm.hiwater_rss", "mm.rss_file"),
    functions=CLUSTER,
)
def peak_is_noted_before_the_window_shrinks(op: Operation) -> Truth:
    """The peak of the resident set MUST be noted once for a window, before its first entry is removed."""
    noted = op.all("update_hiwater_rss")
    return implies(removed(op), lambda: len(noted) == 1 and op.before("update_hiwater_rss", "ptep_clear"))


@postcondition(
    "NLIN-MLOCK-001",
    on=CLUSTER,
    source=rmap("try_to_unmap_cluster", "mlock"),
    fields=("page.PG_mlocked", "vma.vm_flags", "pte"),
    locks=("mmap_sem",),
)
def locked_areas_are_marked_not_scanned(op: Operation, result: Any) -> Truth:
    """If `mmap_sem` can be had at once and the area is locked in memory, no entry of the window MUST change; the answer is
    SWAP_MLOCK exactly if the page that the caller is after was found there, and it is marked then.
    """
    page, vpns = op.check_page, _vpns(op)

    def spared() -> Truth:
        marked = any(o.page is page for o in op.calls("mlock_vma_page"))
        there = any(s.mm is op.vma.mm and s.vpn in vpns for s in page.slots)
        return (
            not op.did("set_pte")
            and (result is SWAP_MLOCK) == marked
            and (result is not SWAP_MLOCK or page.PG_mlocked)
            and (not op.alone or (result is SWAP_MLOCK) == there)
        )

    return implies(op.get("locked_vma") and op.get("may_mark"), spared)


@postcondition(
    "NLIN-MLOCK-002",
    on=CLUSTER,
    source=rmap("try_to_unmap_cluster") + field_2011("analysis"),
    fields=("page.PG_mlocked",),
    locks=("mmap_sem",),
)
def nothing_is_marked_without_mmap_sem(op: Operation, result: Any) -> Truth:
    """If `mmap_sem` cannot be had at once, the scan MUST NOT mark a page and MUST NOT answer SWAP_MLOCK; whether it takes
    entries out of a locked area then is left to the implementation.

    Linux 3.2 treats the area as one that is not locked, unlike the walk of linear areas, which lets the page be.
    """
    return implies(op.get("may_mark") is False, lambda: result is not SWAP_MLOCK and not op.did("set_mlocked"))


@lock_rule(
    "NLIN-MLOCK-003",
    on=("mlock_vma_page",),
    source=rmap("try_to_unmap_cluster", "mlock") + field_2011("later"),
    fields=("page.PG_mlocked",),
    locks=("page_lock",),
    functions=("try_to_unmap_cluster", "mlock_vma_page"),
    would_catch="pages next to the wanted one marked without their lock while they migrate (2014, CVE-2014-3122)",
    enforced_by="BUG_ON(!PageLocked(page)) in mlock_vma_page",
)
def marking_needs_the_page_lock(event: Event) -> Truth:
    """A page MUST be marked as locked in memory only by a thread that has the page itself locked.

    The walk has the page locked that it is after, not those that it meets beside it.
    """
    return event.holds("page_lock", event.page)


@postcondition("NLIN-FILE-001", on=("try_to_unmap_file",), source=rmap("try_to_unmap_file", "mlock"), fields=("page.PG_mlocked",))
def munlock_skips_nonlinear_areas(op: Operation) -> Truth:
    """A walk for munlock MUST NOT scan nonlinear areas.

    It would have to look at all of them; a page that loses its mark that way gets it back from reclaim.
    """
    mapping = op.page.mapping.pointer if op.page.mapping is not None else None
    return implies(
        op.flags & TTU_ACTION_MASK == TTU_MUNLOCK and mapping is not None and mapping.i_mmap_nonlinear,
        lambda: not op.did("cluster") and not op.calls("try_to_unmap_cluster"),
    )


@postcondition("NLIN-FILE-002", on=SCAN, source=rmap("try_to_unmap_file"), fields=("vma.vm_start", "vma.vm_end"))
def scan_fails_only_with_nothing_to_scan(op: Operation, result: Any) -> Truth:
    """The scan of nonlinear areas MUST fail exactly if all of them are empty; it never does for areas as they are."""
    return bool((result is SWAP_FAIL) == all(v.vm_end <= v.vm_start for v in op.areas))


@transition(
    "NLIN-FILE-003",
    over=Over.OPERATION,
    on=SCAN,
    source=rmap("try_to_unmap_file", "cluster"),
    fields=CURSOR,
    functions=SCAN,
    locks=("i_mmap_mutex",),
)
def each_area_is_scanned_round_and_round(op: Operation, result: Any) -> Truth:
    """Each nonlinear area MUST keep a position of its own, go on where the last scan has stopped, advance by one cluster at
    a time, and begin anew only when all areas have been round.
    """
    size = op.page.system.cluster_size
    before = dict(zip(op.areas, op.get("cursors", ()), strict=False))
    seen: dict[Any, list[int]] = {}
    for event in op.all("cluster"):
        seen.setdefault(event.vma, []).append(event.cursor)
    reset = bool(op.areas) and all(v.vm_private_data == 0 for v in op.areas)

    def advanced(vma: Any) -> bool:
        cursors = seen.get(vma, [])
        expected = before[vma] + len(cursors) * size
        inner = cursors == list(range(before[vma], expected, size))
        now = vma.vm_private_data
        # The cluster at which the walk ended with SWAP_MLOCK may be looked at again.
        stopped = result is SWAP_MLOCK and now == expected - size
        return inner and (now == expected or stopped or (now == 0 and reset))

    return implies(before and seen, lambda: all(advanced(v) for v in op.areas))


@liveness(
    "NLIN-FILE-004",
    over=Over.OPERATION,
    on=SCAN,
    source=rmap("cluster") + field_2011("analysis"),
    fields=(*CURSOR, "vma.vm_start"),
    functions=(*SCAN, *CLUSTER),
    would_catch="the end of an area that begins inside of a cluster is never scanned",
)
def a_full_round_leaves_nothing_out(op: Operation, result: Any) -> Truth:
    """When the scan begins anew, the windows of the round that has ended MUST cover each area completely.

    Linux 3.2 counts clusters from the start of the area but scans aligned ones, and so never visits up to one cluster at
    the end of an area that begins inside of one.
    """
    ended = result is SWAP_AGAIN and op.did("cluster") and all(v.vm_private_data == 0 for v in op.areas)
    return every(_covered(op, v) for v in op.areas) if ended else implies(False, lambda: True)


def _covered(op: Operation, vma: Any) -> Truth:
    """Whether the last round of the area's scans, back to the one at its beginning, saw all of it."""
    windows = []
    for scan in reversed(op.context.recorder.history):
        if scan.name == "try_to_unmap_cluster" and scan.vma is vma:
            windows.append(scan.window)
            if scan.cursor == 0:
                break
    else:
        return implies(False, lambda: True)
    if any(start < vma.vm_start or end > vma.vm_end for start, end in windows):
        # The area has changed its size meanwhile.
        return implies(False, lambda: True)
    reached = vma.vm_start
    for start, end in sorted(windows):
        if start > reached:
            return False
        reached = max(reached, end)
    return bool(reached == vma.vm_end)


@postcondition("NLIN-FILE-005", on=SCAN, source=rmap("try_to_unmap_file", "cluster"), fields=("page._mapcount",))
def effort_is_bounded_by_the_map_count(op: Operation) -> Truth:
    """One scan MUST NOT remove more entries than the page had mappings when it began, beyond what the last window gives,
    whichever pages these entries map.
    """
    system = op.page.system
    spare = system.cluster_size // system.page_size - 1
    return implies(op.did("cluster"), lambda: len(removed(op)) <= max(op.sampled, 0) + spare)


@liveness(
    "NLIN-FILE-006",
    over=Over.OPERATION,
    on=SCAN,
    source=rmap("try_to_unmap_file"),
    fields=CURSOR,
    functions=SCAN,
)
def a_scan_visits_no_cluster_twice(op: Operation) -> Truth:
    """One scan MUST end after at most as many rounds as the largest area has clusters, and visit none of them twice."""
    size = op.page.system.cluster_size
    clusters = {v: (v.vm_end - 1) // size - v.vm_start // size + 1 for v in op.areas}
    visits = [(e.vma, e.cursor) for e in op.all("cluster")]
    counts = Counter(vma for vma, _ in visits)
    return implies(
        visits,
        lambda: (
            len(set(visits)) == len(visits)
            and all(counts[v] <= clusters[v] for v in counts)
            and op.get("rounds", 0) <= max(clusters.values())
        ),
    )
