"""What the model's kernel reports by itself, as violations of the invariants that forbid it."""

from __future__ import annotations

import attrs

from mmreference.kernel.bug import KernelBug
from mmreference.kernel.lockdep import LockOrderViolation
from mmreference.kernel.locks import LockMisuse, SleepInAtomic
from mmreference.kernel.memory import UseAfterFree
from mmspec.config import HUGETLB, RMAP
from mmspec.errors import Violation
from mmspec.invariant import REGISTRY, Judge, Over


@attrs.frozen
class Forbidden:
    """The ids of the invariants by which a system forbids the hazards."""

    freed: dict[Over, str]
    """Kind of object that was used after it was freed, to the invariant about its lifetime."""
    freed_other: str
    """The one about all other objects."""
    sleep: dict[str, str]
    """A word of the hazard's description, to the invariant about sleeping there; the first one that occurs counts."""
    order: str
    misuse: str
    bug: str
    """The one that stands for assertions which name none themselves."""


FORBIDDEN = {
    HUGETLB: Forbidden(
        freed={
            Over.MAP: "HTLB-MAP-002", Over.PAGE: "HTLB-POOL-004", Over.VMA: "HTLB-VMA-006", Over.FILE: "HTLB-TRN-010",
        },
        freed_other="HTLB-POOL-004",
        sleep={"kmalloc": "HTLB-ALC-015", "hugetlb_lock": "HTLB-LCK-002", "": "HTLB-LCK-003"},
        order="HTLB-LCK-001",
        misuse="HTLB-FLT-022",
        bug="HTLB-ERR-007",
    ),
    RMAP: Forbidden(
        freed={
            Over.ANON_VMA: "AVMA-ROOT-008", Over.PAGE: "RMAP-MAPCOUNT-007", Over.VMA: "AVMA-UNLINK-004",
            Over.FILE: "RMAP-ANON-016",
        },
        freed_other="RMAP-MAPCOUNT-007",
        sleep={"": "LOCK-ORD-024"},
        order="LOCK-ORD-019",
        misuse="LOCK-ORD-025",
        bug="RMAP-MAPCOUNT-006",
    ),
}  # fmt: skip


def violation_for(hazard: Exception) -> Violation | None:
    """The violation that the hazard is in the judge's system, or None if it is a fault of this suite itself."""
    forbidden = FORBIDDEN[Judge.active.system if Judge.active is not None else HUGETLB]
    id_ = _forbids(forbidden, hazard)
    if not id_:
        return None
    if Judge.active is not None:
        Judge.active.real[id_] += 1
    return Violation(REGISTRY[id_], {"hazard": str(hazard)}, note=str(hazard))


def _forbids(by: Forbidden, hazard: Exception) -> str:
    """The id of the invariant that forbids the hazard, or ""."""
    match hazard:
        case UseAfterFree():
            return by.freed.get(type(hazard.obj).over, by.freed_other)
        case LockOrderViolation():
            return by.order
        case SleepInAtomic():
            return next(id_ for word, id_ in by.sleep.items() if word in str(hazard))
        case LockMisuse():
            return by.misuse
        case KernelBug():
            return hazard.id or by.bug
        case _:
            return ""
