"""Subjects that are not Python objects in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmconformance.adapters.subprocess import serve

__all__ = ["serve"]


def __getattr__(name: str) -> Any:
    """Import :func:`serve` when it is asked for."""
    if name != "serve":
        raise AttributeError(f"module {__name__} has no {name}")
    from mmconformance.adapters.subprocess import serve

    return serve
