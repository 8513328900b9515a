"""Architecture profiles: what differs between machines, as data."""

from __future__ import annotations

from typing import Final

from mmspec.arch.arm64 import ARM64_4K, ARM64_16K, ARM64_64K
from mmspec.arch.powerpc import POWERPC64
from mmspec.arch.profile import FEATURES, Architecture, DirtyYoung, Flush, HugePage, PteBits, PteValue, TableLevel
from mmspec.arch.riscv import RISCV64_SV39, RISCV64_SV48
from mmspec.arch.s390 import S390X
from mmspec.arch.x86 import I386, I386_PAE, X86_64, X86_64_LA57
from mmspec.errors import UsageError

#: All profiles, by name, in the order in which reports list them.
ARCHITECTURES: Final = {
    profile.name: profile
    for profile in (
        X86_64,
        X86_64_LA57,
        I386,
        I386_PAE,
        ARM64_4K,
        ARM64_16K,
        ARM64_64K,
        POWERPC64,
        S390X,
        RISCV64_SV39,
        RISCV64_SV48,
    )
}


def architecture(name: str) -> Architecture:
    """The profile of that name.

    :raises UsageError: if there is none.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"no architecture is called {name!r}; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def architectures(selection: str) -> list[Architecture]:
    """The profiles that `selection` names: "all", or names separated by commas.

    :raises UsageError: if one of them does not exist, or none is named.
    """
    if selection == "all":
        return list(ARCHITECTURES.values())
    names = [name.strip() for name in selection.split(",") if name.strip()]
    if not names:
        raise UsageError(f"no architecture is named; known are {', '.join(ARCHITECTURES)}")
    return [architecture(name) for name in names]


__all__ = [
    "ARCHITECTURES",
    "FEATURES",
    "Architecture",
    "DirtyYoung",
    "Flush",
    "HugePage",
    "PteBits",
    "PteValue",
    "TableLevel",
    "architecture",
    "architectures",
]
