"""Reverse mapping: from a page to the entries that map it, as of Linux 3.2.

One module per subject. Ids are never reused and never change their meaning; `mmspec/published.json` remembers all of
them.
"""

from mmspec.invariants.rmap import (
    adding,
    addresses,
    anonymous,
    cost,
    dirty,
    hugetlb_anon,
    hwpoison,
    ksm,
    mapcount,
    memcg,
    migration,
    mkclean,
    mlock,
    nonlinear,
    notifiers,
    referenced,
    removing,
    swap,
    thp,
    tlb,
    unmapping,
)

__all__ = [
    "adding",
    "addresses",
    "anonymous",
    "cost",
    "dirty",
    "hugetlb_anon",
    "hwpoison",
    "ksm",
    "mapcount",
    "memcg",
    "migration",
    "mkclean",
    "mlock",
    "nonlinear",
    "notifiers",
    "referenced",
    "removing",
    "swap",
    "thp",
    "tlb",
    "unmapping",
]
