"""HTLB-REG: region lists."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.invariant import QUIESCENT, Over, postcondition, precondition, state_invariant, transition
from mmspec.invariants.hugetlb.terms import region_growth
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field, whitcroft
from mmspec.trace import Event, Operation

Pairs = tuple[tuple[int, int], ...]
REGIONS = ("resv_map.regions",)
MAP = ("ReservationMap",)


def overlap(regions: Pairs, f: int, t: int) -> int:
    """How many offsets of `[f, t)` the regions cover; the definition that everything here is measured by."""
    edges = sorted({f, t, *(x for pair in regions for x in pair if f < x < t)})
    return sum(b - a for a, b in zip(edges, edges[1:], strict=False) if any(lo <= a and b <= hi for lo, hi in regions))


def same_coverage(one: Pairs, other: Pairs, *, beyond: int | None = None) -> bool:
    """Whether both cover the same offsets, at and above `beyond` if that is given."""
    edges = sorted({x for pair in (*one, *other) for x in pair} | ({beyond} if beyond is not None else set()))
    cells = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if beyond is None or a >= beyond]
    return all(overlap(one, a, b) == overlap(other, a, b) for a, b in cells)


def is_covered(regions: Pairs, a: int) -> bool:
    """Whether the offset is covered."""
    return any(lo <= a < hi for lo, hi in regions)


def pairs(regions: Any) -> Pairs:
    """A region list as pairs, whatever its elements are."""
    return tuple((rg.frm, rg.to) if hasattr(rg, "frm") else (rg[0], rg[1]) for rg in regions)


@state_invariant(
    "HTLB-REG-001",
    over=Over.MAP,
    guard="resv_map.lock",
    source=whitcroft("H-count", "H-needs"),
    fields=REGIONS,
    functions=("region_chg", "region_add", "region_truncate"),
    interfaces=MAP,
)
def regions_are_ordered_pairs(map: Any) -> Truth:  # noqa: A002
    """Every region MUST satisfy from <= to; only a placeholder has from == to."""
    return every(lo <= hi for lo, hi in pairs(map.regions))


@state_invariant(
    "HTLB-REG-002",
    over=Over.MAP,
    guard="resv_map.lock",
    source=whitcroft("H-count"),
    fields=REGIONS,
    functions=("region_chg", "region_add", "region_truncate"),
    interfaces=MAP,
)
def regions_are_sorted_and_disjoint(map: Any) -> Truth:  # noqa: A002
    """Regions MUST be sorted and pairwise disjoint.

    Counting stops at the first region that begins beyond the range; on an unsorted list it misses the rest.
    """
    list_ = pairs(map.regions)
    return every(a[1] <= b[0] for a, b in zip(list_, list_[1:], strict=False))


@state_invariant(
    "HTLB-REG-003",
    over=Over.MAP,
    guard="resv_map.lock",
    source=whitcroft("H-commit"),
    fields=REGIONS,
    functions=("region_add",),
    interfaces=MAP,
)
def regions_are_coalesced(map: Any) -> Truth:  # noqa: A002
    """Consecutive regions, placeholders included, MUST NOT touch.

    A list that is not coalesced grows with every fault.
    """
    list_ = pairs(map.regions)
    return every(a[1] < b[0] for a, b in zip(list_, list_[1:], strict=False))


@postcondition(
    "HTLB-REG-004",
    over=Over.CALL,
    on=("region_count",),
    source=whitcroft("H-count"),
    fields=REGIONS,
    interfaces=MAP,
)
def count_is_the_overlap(old: Pairs, f: int, t: int, result: int) -> Truth:
    """`region_count(f, t)` MUST return the number of covered offsets in [f, t)."""
    return result == overlap(old, f, t)


@postcondition(
    "HTLB-REG-005",
    over=Over.CALL,
    on=("region_count",),
    source=whitcroft("H-count"),
    fields=REGIONS,
    interfaces=MAP,
)
def counting_changes_nothing(old: Pairs, new: Pairs) -> Truth:
    """`region_count` MUST NOT change the list."""
    return old == new


@postcondition(
    "HTLB-REG-006",
    over=Over.CALL,
    on=("region_count",),
    source=whitcroft("M5", "H-close"),
    fields=REGIONS,
    interfaces=MAP,
)
def count_is_additive(old: Pairs, f: int, t: int, result: int) -> Truth:
    """The count MUST be additive over adjacent ranges and lie between 0 and t - f.

    This is why the parts of a split mapping can count for themselves and still give back the whole.
    """
    cuts = [x for pair in old for x in pair if f <= x <= t] or [(f + t) // 2]
    return 0 <= result <= t - f and all(result == overlap(old, f, m) + overlap(old, m, t) for m in cuts)


@postcondition(
    "HTLB-REG-007",
    over=Over.CALL,
    on=("region_count",),
    source=whitcroft("H-count"),
    fields=REGIONS,
    interfaces=MAP,
)
def touching_is_not_overlapping(old: Pairs, f: int, t: int, result: int) -> Truth:
    """An empty range MUST count 0, and regions that touch the range only at an end point MUST contribute nothing."""
    apart = f >= t or all(hi <= f or lo >= t for lo, hi in old)
    return implies(apart, lambda: result == 0)


@postcondition(
    "HTLB-REG-008",
    over=Over.CALL,
    on=("region_count",),
    source=whitcroft("H-count"),
    fields=REGIONS,
    interfaces=MAP,
    would_catch="32-bit temporaries for 64-bit offsets in region_count as posted in 2008",
)
def count_is_exact_for_wide_offsets(old: Pairs, f: int, t: int, result: int) -> Truth:
    """`region_count` MUST be exact over the full offset type; no narrower temporary MUST be used.

    [2^31 - 1, 2^31 + 1) holds two offsets, not minus 4294967294.
    """
    return implies(t >= 1 << 31, lambda: result == overlap(old, f, t) and 0 <= result <= t - f)


@postcondition(
    "HTLB-REG-009",
    over=Over.CALL,
    on=("region_chg",),
    source=field("base"),
    fields=REGIONS,
    interfaces=MAP,
)
def charge_is_what_is_missing(old: Pairs, f: int, t: int, result: int) -> Truth:
    """`region_chg(f, t)` MUST return the number of offsets of [f, t) that are not covered yet."""
    return implies(result >= 0, lambda: result == (t - f) - overlap(old, f, t))


@postcondition(
    "HTLB-REG-010",
    over=Over.CALL,
    on=("region_chg",),
    source=field("base"),
    fields=REGIONS,
    interfaces=MAP,
)
def prepare_adds_a_placeholder_at_most(old: Pairs, new: Pairs) -> Truth:
    """`region_chg` MUST NOT change coverage; it may add one placeholder, so that a later add needs no memory."""
    return same_coverage(old, new) and len(new) <= len(old) + 1


@postcondition(
    "HTLB-REG-011",
    over=Over.CALL,
    on=("region_chg",),
    source=field("analysis"),
    fields=REGIONS,
    interfaces=MAP,
)
def prepare_is_idempotent(new: Pairs, f: int, t: int, result: int) -> Truth:
    """A second `region_chg` of the same range MUST report the same, as long as nobody has changed the list."""
    return implies(result >= 0, lambda: (t - f) - overlap(new, f, t) == result)


@postcondition(
    "HTLB-REG-012",
    over=Over.CALL,
    on=("region_chg", "map_region_chg"),
    source=field("base"),
    fields=REGIONS,
    interfaces=MAP,
)
def failed_prepare_changes_nothing(old: Pairs, new: Pairs, result: int) -> Truth:
    """`region_chg` MUST return -ENOMEM with the list unchanged if a region cannot be allocated, and no other error."""
    return implies(result < 0, lambda: result == -errno.ENOMEM and old == new)


@precondition(
    "HTLB-REG-013",
    over=Over.EVENT,
    on=("region_add",),
    source=whitcroft("H-needs", "H-commit"),
    fields=REGIONS,
    would_catch="a commit after truncation had dropped the placeholder: the list head overwritten",
)
def commit_is_prepared(event: Event) -> Truth:
    """`region_add(f, t)` MUST be preceded by a successful `region_chg(f, t)`: the first region that ends at or after f
    begins at or before t.
    """
    following = [lo for lo, hi in pairs(event.map.regions) if hi >= event.f]
    return bool(following) and following[0] <= event.t


@postcondition(
    "HTLB-REG-014",
    over=Over.CALL,
    on=("region_add",),
    source=whitcroft("H-commit"),
    fields=REGIONS,
    interfaces=MAP,
)
def add_covers_the_range(old: Pairs, new: Pairs, f: int, t: int) -> Truth:
    """`region_add(f, t)` MUST make coverage exactly the old coverage and [f, t), and MUST NOT fail."""
    return same_coverage((*old, (f, t)), new)


@transition(
    "HTLB-REG-015",
    over=Over.EVENT,
    on=("region_add",),
    source=whitcroft("H-lockrule"),
    fields=REGIONS,
    functions=("region_chg", "region_add"),
)
def preparation_survives_others(event: Event) -> Truth:
    """A preparation MUST survive other prepares and commits, so that several threads may be between the two.

    Coverage only grows, and growing regions swallow placeholders without leaving a gap.
    """
    list_ = pairs(event.map.regions)
    others = [(f, t) for f, t in event.map.prepared if (f, t) != (event.f, event.t)]
    return every(any(hi >= f and lo <= t for lo, hi in list_) for f, t in others)


@transition(
    "HTLB-REG-016",
    over=Over.EVENT,
    on=("region_truncate",),
    source=whitcroft("H-lockrule"),
    fields=REGIONS,
    functions=("region_truncate",),
    would_catch="list corruption in a third of the interleavings of fault and truncate",
)
def no_truncation_between_prepare_and_commit(event: Event) -> Truth:
    """`region_truncate` MUST NOT run between a prepare and its commit on the same list, as far as it reaches.

    It would drop the placeholder that the commit relies on.
    """
    return not [1 for f, t in event.map.prepared if t > event.end]


@postcondition(
    "HTLB-REG-017",
    over=Over.CALL,
    on=("region_truncate",),
    source=whitcroft("H-lockrule", "H-map"),
    fields=REGIONS,
    interfaces=MAP,
)
def truncate_drops_what_is_beyond(old: Pairs, new: Pairs, end: int, result: int) -> Truth:
    """`region_truncate(end)` MUST drop all coverage at or above end, keep all below, and return the number of offsets
    dropped.
    """
    top = max([end, *(hi for _, hi in old)])
    below = tuple((lo, min(hi, end)) for lo, hi in old if lo < end)
    return result == overlap(old, end, top) and same_coverage(below, new)


@postcondition(
    "HTLB-REG-018",
    over=Over.CALL,
    on=("region_truncate",),
    source=whitcroft("H-map"),
    fields=REGIONS,
    interfaces=MAP,
)
def truncate_to_nothing_empties(end: int, new: Pairs) -> Truth:
    """`region_truncate(0)` MUST leave an empty list, with every region freed, placeholders too."""
    return implies(end == 0, lambda: not new)


@transition(
    "HTLB-REG-019",
    over=Over.EVENT,
    on=("regions",),
    source=whitcroft("M5", "H-commit"),
    fields=REGIONS,
    functions=("vma_commit_reservation",),
)
def private_coverage_only_grows(event: Event) -> Truth:
    """Coverage of a private map MUST only grow from creation to release.

    What was consumed stays consumed, even if the page is gone.
    """
    return implies(event.obj.private and event.obj.refs > 0, lambda: event.old <= event.new)


@state_invariant(
    "HTLB-REG-020",
    over=Over.MAP,
    guard="resv_map.lock",
    source=whitcroft("M5"),
    fields=REGIONS,
    functions=("vma_commit_reservation",),
)
def private_coverage_stays_in_range(map: Any) -> Truth:  # noqa: A002
    """Covered offsets of a private map MUST lie inside the offset range of the original mmap."""
    return implies(map.private and map.hi, lambda: map.coverage() <= set(range(map.lo, map.hi)))


@state_invariant(
    "HTLB-REG-021",
    over=Over.FILE,
    guard=QUIESCENT,
    source=whitcroft("H-comment"),
    fields=REGIONS,
    functions=("add_to_page_cache", "vma_commit_reservation"),
)
def file_coverage_outlives_instantiation(file: Any) -> Truth:
    """Coverage of a file's map MUST stay after instantiation: each settled page of the page cache is covered.

    In a file's map an offset means "was reserved once", in a private map it means "is consumed".
    """
    coverage = file.resv_map.coverage()
    return every(idx in coverage for idx, page in file.pages.items() if page.tag == 0)


@postcondition(
    "HTLB-REG-022",
    over=Over.OPERATION,
    on=("hugetlb_fault",),
    source=whitcroft("H-comment", "H-close"),
    fields=REGIONS,
)
def the_two_maps_count_opposite_things(op: Operation) -> Truth:
    """What a fault consumes MUST show as a page in the cache with unchanged coverage for a file's reservation, and as
    new coverage for a private one; the two formulas for what is outstanding MUST NOT be exchanged.
    """
    drawn = [e for e in op.all("draw") if not [r for r in op.all("restore") if r.page is e.page]]
    if not drawn or not op.did("settle"):
        return VACUOUS
    growth = region_growth(op, drawn[0].map)
    return growth == 1 if drawn[0].map.private else growth == 0 and op.did("cache_insert")


@postcondition(
    "HTLB-REG-023",
    over=Over.CALL,
    on=("region_count", "region_chg"),
    source=whitcroft("H-reserve", "H-needs"),
    fields=REGIONS,
    interfaces=MAP,
)
def placeholders_are_invisible(old: Pairs, f: int, t: int, result: int) -> Truth:
    """A placeholder left by an aborted prepare MUST NOT show in any count or charge."""
    real = tuple((lo, hi) for lo, hi in old if lo < hi)
    inside = overlap(real, f, t)
    return implies(len(real) < len(old) and result >= 0, lambda: result in (inside, t - f - inside))


@postcondition(
    "HTLB-REG-024",
    on=("hugetlb_reserve_pages",),
    source=whitcroft("H-reserve"),
    fields=REGIONS,
    would_catch="the charge of mmap computed before, and the range added after, a fault had covered part of it (2015)",
)
def charge_equals_coverage_gained(op: Operation, result: int) -> Truth:
    """What a request for a file was charged in the end MUST equal the coverage that it has added for offsets without a
    page.

    Two requests that count the same missing offset and both pay for it leave one promise that nobody holds.
    """
    file_map = op.inode.resv_map
    return implies(
        result == 0 and op.did("prepare") and (op.vma is None or not op.vma.map),
        lambda: region_growth(op, file_map) - op.get("filled", 0) == op.delta("resv_huge_pages") == op.charge,
    )
