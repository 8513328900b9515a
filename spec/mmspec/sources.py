"""The primary sources, and how to point into them.

A source is a public mail or commit that an outsider can find by its title, author, date and list. An *anchor* is a
place in it: a paragraph of the description, or a part of the patch.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Source:
    """One primary source."""

    key: str
    title: str
    author: str
    date: str
    where: str
    era: str
    anchors: dict[str, str] = attrs.field(factory=dict, repr=False, hash=False)

    @property
    def citation(self) -> str:
        """One line by which an outsider finds the source."""
        return f'{self.author}, "{self.title}", {self.date}, {self.where}'


@attrs.frozen
class Anchor:
    """A place in a source."""

    source: Source
    anchor: str

    @property
    def citation(self) -> str:
        """The source's citation and the place in it."""
        return f"{self.source.citation}: {self.source.anchors[self.anchor]}"


GIBSON_2006 = Source(
    key="gibson-2006",
    title='hugepage: Smarter handling of "in-flight" allocations',
    author="David Gibson",
    date="18 October 2006",
    where='mail to Christoph Lameter, subject "Re: Huge performance regression in huge pages"',
    era="2.6.19",
    anchors={
        "Q": "the scheme that the mail answers, quoted at its top",
        "R1": "review point 1, the narrow race",
        "R2": "review point 2, the name of the counter",
        "R3": "review point 3, reserve accounting",
        "R4": "review point 4, backout paths",
        "R5": "the kill and the Oops that remain",
        "D1": "description, spurious out-of-memory",
        "D2": "description, the mutex of today",
        "D3": "description, tentative_huge_pages and its three exits",
        "D4": "description, the retry",
        "D5": "description, the reserve",
        "H-decl": "patch, declaration of tentative_huge_pages and the comment on hugetlb_lock",
        "H-tag": "patch, page_tentative and set_page_tentative",
        "H-free": "patch, free_huge_page",
        "H-alloc": "patch, alloc_huge_page",
        "H-keep": "patch, keep_huge_page",
        "H-cow": "patch, hugetlb_cow",
        "H-nopage-a": "patch, hugetlb_no_page: lookup, size, quota, allocation",
        "H-nopage-b": "patch, hugetlb_no_page: insertion into the page cache",
        "H-nopage-c": "patch, hugetlb_no_page: the page-table entry",
        "H-fault": "patch, hugetlb_fault",
    },
)

WHITCROFT_2008 = Source(
    key="whitcroft-2008",
    title="hugetlb reservations: fix hugetlb MAP_PRIVATE reservations across vma splits V2",
    author="Andy Whitcroft",
    date="23 June 2008",
    where="[PATCH 2/2], linux-kernel and linux-mm, acknowledged by Mel Gorman the same day",
    era="2.6.27",
    anchors={
        "M1": "description, the double credit at unmap",
        "M2": "description, how a split duplicates the count",
        "M3": "description, why open cannot apportion",
        "M4": "description, tracking consumption",
        "M5": "description, regions reused, lifetime of the map",
        "H-lockrule": "patch, locking comment of the region code",
        "H-count": "patch, region_count",
        "H-flags": "patch, HPAGE_RESV_OWNER and HPAGE_RESV_UNMAPPED",
        "H-comment": "patch, comment on private against shared reservations",
        "H-map": "patch, resv_map_alloc and resv_map_release",
        "H-accessors": "patch, vma_resv_map and set_vma_resv_map",
        "H-decr": "patch, decrement_hugepage_resv_vma",
        "H-hasres": "patch, vma_has_private_reserves",
        "H-needs": "patch, vma_needs_reservation",
        "H-commit": "patch, vma_commit_reservation",
        "H-open": "patch, hugetlb_vm_op_open",
        "H-close": "patch, hugetlb_vm_op_close",
        "H-ops": "patch, hugetlb_vm_ops",
        "H-reserve": "patch, hugetlb_reserve_pages",
    },
)

FIELD = Source(
    key="field",
    title="field knowledge",
    author="the Linux kernel",
    date="2006 to 2008",
    where="mm/hugetlb.c and fs/hugetlbfs/inode.c of the releases that the sources patch",
    era="2.6.19 to 2.6.27",
    anchors={
        "base": "base code that the patches do not show",
        "analysis": "derived by analysis of the sources",
    },
)

SOURCES = {source.key: source for source in (GIBSON_2006, WHITCROFT_2008, FIELD)}


def gibson(*anchors: str) -> tuple[Anchor, ...]:
    """Places in Gibson's mail of 2006."""
    return tuple(_anchor(GIBSON_2006, a) for a in anchors)


def whitcroft(*anchors: str) -> tuple[Anchor, ...]:
    """Places in Whitcroft's patch of 2008."""
    return tuple(_anchor(WHITCROFT_2008, a) for a in anchors)


def field(*anchors: str) -> tuple[Anchor, ...]:
    """What everybody in the field knows, but the two sources do not say: `base` or `analysis`."""
    return tuple(_anchor(FIELD, a) for a in anchors)


def _anchor(source: Source, anchor: str) -> Anchor:
    if anchor not in source.anchors:
        raise ValueError(f"{source.key} has no anchor {anchor!r}")
    return Anchor(source, anchor)
