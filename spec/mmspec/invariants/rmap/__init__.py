"""Reverse mapping: from a page to the entries that map it, as of Linux 3.2.

One module per subject. Ids are never reused and never change their meaning; `mmspec/published.json` remembers all of
them.
"""

from mmspec.invariants.rmap import (
    cost,
    hugetlb_anon,
    hwpoison,
    ksm,
    migration,
    mlock,
    nonlinear,
    notifiers,
    swap,
    thp,
)

__all__ = [
    "cost",
    "hugetlb_anon",
    "hwpoison",
    "ksm",
    "migration",
    "mlock",
    "nonlinear",
    "notifiers",
    "swap",
    "thp",
]
