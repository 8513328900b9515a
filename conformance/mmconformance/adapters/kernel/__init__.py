"""The running kernel as a subject: `mmconformance.adapters.kernel:RunningKernel`.

Nothing heavy is imported here, because the processes of the fork server import this package too and should stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmconformance.adapters.kernel.manager import RunningKernel, available

__all__ = ["RunningKernel", "available"]


def __getattr__(name: str) -> Any:
    """Import :class:`RunningKernel` and :func:`available` when they are asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no {name}")
    from mmconformance.adapters.kernel import manager

    return getattr(manager, name)
