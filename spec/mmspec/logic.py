"""The three truth values of a check.

A check is *true*, *false*, or *vacuous*: an implication whose left side was false, a statement about all members
of nothing. A vacuous check is no evidence, so it never counts towards a pass; it is truthy because it is no
violation either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import deal


class Vacuous:
    """The third truth value; the only instance is :data:`VACUOUS`."""

    __slots__ = ()

    @deal.pure
    def __repr__(self) -> str:
        return "VACUOUS"


VACUOUS: Final = Vacuous()

Truth = bool | Vacuous


def implies(antecedent: object, consequent: Callable[[], Truth]) -> Truth:
    """If `antecedent` holds, the value of `consequent()`, otherwise :data:`VACUOUS`.

    The consequent is a callable because it usually makes sense only where the antecedent holds.
    """
    return consequent() if antecedent else VACUOUS


def every(checks: Iterable[object]) -> Truth:
    """Whether all `checks` are true; :data:`VACUOUS` if there are none or all of them are vacuous."""
    seen = False
    for check in checks:
        if not check:
            return False
        seen = seen or check is not VACUOUS
    return True if seen else VACUOUS


def both(*checks: Truth) -> Truth:
    """Conjunction; vacuous only where each part is."""
    return every(checks)
