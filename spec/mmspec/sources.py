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

#: The functions of mm/rmap.c, and its two comments on locks.
RMAP_FUNCTIONS = (
    "anon_vma_alloc", "anon_vma_free", "anon_vma_chain_alloc", "anon_vma_chain_free", "anon_vma_prepare",
    "lock_anon_vma_root", "unlock_anon_vma_root", "anon_vma_chain_link", "anon_vma_clone", "anon_vma_fork",
    "unlink_anon_vmas", "anon_vma_ctor", "anon_vma_init", "page_get_anon_vma", "page_lock_anon_vma",
    "page_unlock_anon_vma", "vma_address", "page_address_in_vma", "__page_check_address", "page_mapped_in_vma",
    "page_referenced_one", "page_referenced_anon", "page_referenced_file", "page_referenced", "page_mkclean_one",
    "page_mkclean_file", "page_mkclean", "page_move_anon_rmap", "__page_set_anon_rmap", "__page_check_anon_rmap",
    "page_add_anon_rmap", "do_page_add_anon_rmap", "page_add_new_anon_rmap", "page_add_file_rmap",
    "page_remove_rmap", "try_to_unmap_one", "try_to_unmap_cluster", "is_vma_temporary_stack", "try_to_unmap_anon",
    "try_to_unmap_file", "try_to_unmap", "try_to_munlock", "__put_anon_vma", "rmap_walk_anon", "rmap_walk_file",
    "rmap_walk", "__hugepage_set_anon_rmap", "hugepage_add_anon_rmap", "hugepage_add_new_anon_rmap",
)  # fmt: skip

RMAP_2011 = Source(
    key="rmap-2011",
    title="mm/rmap.c, with the history of each of its lines",
    author="Rik van Riel, Andrea Arcangeli, Peter Zijlstra, Hugh Dickins and others",
    date="November 2011",
    where="Linux 3.2-rc, git blame of mm/rmap.c and the messages of the commits it names",
    era="3.2",
    anchors={
        **{name: f"function {name}" for name in RMAP_FUNCTIONS},
        "locks": "comment on lock ordering at the top of the file",
        "locks-failure": "second comment on lock ordering, on memory failure",
        "cluster": "comment on scanning nonlinear areas",
        "hiwater": 'commit "mm: update_hiwaters just in time", Hugh Dickins, 30 October 2005',
        "split-ptlock": 'commit "mm: split page table lock", Hugh Dickins, 30 October 2005',
        "unpaged": 'commit "unpaged: anon in VM_UNPAGED", Hugh Dickins, 22 November 2005',
        "swapless": 'commit "Swapless page migration: add R/W migration entries", Christoph Lameter, 23 June 2006',
        "new-vma-page": 'commit "mbind.c: find correct vma in new_vma_page()", 15 November 2007',
        "memcg": 'commit "memcg: remove refcnt from page_cgroup", KAMEZAWA Hiroyuki, 25 July 2008',
        "notifiers": 'commit "mmu-notifiers: core", Andrea Arcangeli, 29 July 2008',
        "mlock": 'commit "mlock: mlocked pages are unevictable", Nick Piggin, 19 October 2008',
        "continuations": 'commit "swap_info: swap count continuations", Hugh Dickins, 15 December 2009',
        "ksm-swappable": 'commit "ksm: let shared pages be swappable", Hugh Dickins, 15 December 2009',
        "rmap-walk": 'commit "ksm: rmap_walk to remove_migation_ptes", Hugh Dickins, 15 December 2009',
        "linking": 'commit "mm: change anon_vma linking to fix multi-process server scalability issue", Rik van Riel, '
        "6 March 2010",
        "oldest": 'commit "anonvma: when setting up page->mapping, we need to pick the _oldest_ anonvma", Linus Torvalds, '
        "12 April 2010",
        "migrate-pin": 'commit "mm: migration: take a reference to the anon_vma before migrating", Mel Gorman, 25 May 2010',
        "thp": 'commit "thp: transparent hugepage core", Andrea Arcangeli, 14 January 2011',
    },
)

FIELD_2011 = Source(
    key="field-2011",
    title="field knowledge",
    author="the Linux kernel",
    date="2005 to 2014",
    where="callers and headers of mm/rmap.c in Linux 3.2, and later corrections of it",
    era="3.2",
    anchors={
        "base": "callers and headers of that release",
        "analysis": "derived by analysis of the file",
        "later": "a correction that came after the release",
    },
)

SOURCES = {source.key: source for source in (GIBSON_2006, WHITCROFT_2008, FIELD, RMAP_2011, FIELD_2011)}


def gibson(*anchors: str) -> tuple[Anchor, ...]:
    """Places in Gibson's mail of 2006."""
    return tuple(_anchor(GIBSON_2006, a) for a in anchors)


def whitcroft(*anchors: str) -> tuple[Anchor, ...]:
    """Places in Whitcroft's patch of 2008."""
    return tuple(_anchor(WHITCROFT_2008, a) for a in anchors)


def field(*anchors: str) -> tuple[Anchor, ...]:
    """What everybody in the field knows, but the two sources do not say: `base` or `analysis`."""
    return tuple(_anchor(FIELD, a) for a in anchors)


def rmap(*anchors: str) -> tuple[Anchor, ...]:
    """Places in mm/rmap.c of Linux 3.2: names of functions, comments, and commits that its history names."""
    return tuple(_anchor(RMAP_2011, a) for a in anchors)


def field_2011(*anchors: str) -> tuple[Anchor, ...]:
    """What mm/rmap.c does not say itself: `base` (callers), `analysis`, or `later` (a later correction)."""
    return tuple(_anchor(FIELD_2011, a) for a in anchors)


def _anchor(source: Source, anchor: str) -> Anchor:
    if anchor not in source.anchors:
        raise ValueError(f"{source.key} has no anchor {anchor!r}")
    return Anchor(source, anchor)
