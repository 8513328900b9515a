"""What a script or a machine can see of an invariant by itself, without its predicate."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import REGISTRY, Judge


def demand(id_: str, holds: object, **values: Any) -> None:
    """Count an evaluation of the invariant with that id; `values` are what was compared.

    Nothing is asked where no judge is at work, and of invariants that are not applicable.

    :raises Violation: of that invariant, if it does not hold.
    """
    judge = Judge.active
    if judge is None or judge.resting or id_ in judge.inapplicable:
        return
    judge.real[id_] += 1
    if not holds:
        raise REGISTRY[id_].violation(**values)
