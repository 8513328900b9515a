"""Systems and their variants: what a profile is, beside its architecture.

Each system has variants of its own. Those of huge-page reservations are the two locking schemes of the fault path;
those of reverse mapping are kernel configurations.
"""

from __future__ import annotations

from typing import Final

from mmspec.arch import Architecture
from mmspec.errors import UsageError

#: Systems, by the name of their package under `mmspec.invariants` and `mmreference.mm`.
HUGETLB: Final = "hugetlb"
RMAP: Final = "rmap"

#: The locking variants of the huge-page fault path.
INSTANTIATION_MUTEX: Final = "instantiation_mutex"
TENTATIVE: Final = "tentative"

#: Kernel configurations: everything that the architecture offers, and nothing that can be left out.
ALLYESCONFIG: Final = "allyesconfig"
ALLNOCONFIG: Final = "allnoconfig"

#: System to its variants.
SYSTEMS: Final[dict[str, tuple[str, ...]]] = {
    HUGETLB: (INSTANTIATION_MUTEX, TENTATIVE),
    RMAP: (ALLYESCONFIG, ALLNOCONFIG),
}

#: All variants of all systems.
VARIANTS: Final = tuple(variant for variants in SYSTEMS.values() for variant in variants)

#: What a kernel configuration may leave out, to the feature that the architecture needs for it ("" is none).
FEATURES: Final[dict[str, str]] = {
    "SWAP": "",
    "MIGRATION": "migration",
    "HUGETLB_PAGE": "hugetlb",
    "KSM": "ksm",
    "TRANSPARENT_HUGEPAGE": "thp",
    "MMU_NOTIFIER": "mmu_notifier",
    "CGROUP_MEM_RES_CTLR": "",
    "MEMORY_FAILURE": "hwpoison",
    "SPLIT_PTLOCKS": "",
    "DEBUG_VM": "",
}


def features(arch: Architecture, variant: str) -> frozenset[str]:
    """The names of :data:`FEATURES` that a kernel of that configuration has on that architecture."""
    if variant != ALLYESCONFIG:
        return frozenset()
    return frozenset(name for name, needed in FEATURES.items() if not needed or arch.has(needed))


def system_of(variant: str) -> str:
    """The system that has this variant.

    :raises UsageError: if there is none.
    """
    for system, variants in SYSTEMS.items():
        if variant in variants:
            return system
    raise UsageError(f"no variant is called {variant!r}; known are {', '.join(VARIANTS)}")
