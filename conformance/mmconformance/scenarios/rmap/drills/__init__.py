"""Short sequences that lead to states which random programs rarely reach. Each runs alone, once per profile.

One module per subject; in most of them processes take turns, in some a thread is stopped at a chosen step.
"""

from mmconformance.scenarios.rmap.drills import (
    addresses,
    anon_vma,
    hugetlb,
    ksm,
    memory_failure,
    migration,
    mlock,
    nonlinear,
    notifiers,
    references,
    statistics,
    swap,
    thp,
    tlb,
    writeback,
)

__all__ = [
    "addresses", "anon_vma", "hugetlb", "ksm", "memory_failure", "migration", "mlock", "nonlinear", "notifiers", "references",
    "statistics", "swap", "thp", "tlb", "writeback",
]  # fmt: skip
