"""What the model's kernel reports by itself, as violations of the invariants that forbid it."""

from __future__ import annotations

from mmreference.kernel.bug import KernelBug
from mmreference.kernel.lockdep import LockOrderViolation
from mmreference.kernel.locks import LockMisuse, SleepInAtomic
from mmreference.kernel.memory import UseAfterFree
from mmspec.errors import Violation
from mmspec.invariant import REGISTRY, Judge, Over

#: What kind of object was used after it was freed, to the invariant about its lifetime.
LIFETIME = {Over.MAP: "HTLB-MAP-002", Over.PAGE: "HTLB-POOL-004", Over.VMA: "HTLB-VMA-006", Over.FILE: "HTLB-TRN-010"}


def violation_for(hazard: Exception) -> Violation | None:
    """The violation that the hazard is, or None if it is a fault of this suite itself."""
    if isinstance(hazard, UseAfterFree):
        return _violation(LIFETIME[type(hazard.obj).over], hazard)
    if isinstance(hazard, LockOrderViolation):
        return _violation("HTLB-LCK-001", hazard)
    if isinstance(hazard, SleepInAtomic):
        id_ = "HTLB-LCK-002" if "hugetlb_lock" in str(hazard) else "HTLB-LCK-003"
        return _violation("HTLB-ALC-015" if "kmalloc" in str(hazard) else id_, hazard)
    if isinstance(hazard, LockMisuse):
        return _violation("HTLB-FLT-022", hazard)
    if isinstance(hazard, KernelBug):
        return _violation("HTLB-ERR-007", hazard)
    return None


def _violation(id_: str, hazard: Exception) -> Violation:
    if Judge.active is not None:
        Judge.active.real[id_] += 1
    return Violation(REGISTRY[id_], {"hazard": str(hazard)}, note=str(hazard))
