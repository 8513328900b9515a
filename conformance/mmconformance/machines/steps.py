"""Steps of a state machine as data: recorded, made smaller, and made again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from mmspec.errors import Violation

F = TypeVar("F", bound=Callable[..., None])

Step = tuple[str, dict[str, Any]]


def recorded(function: F) -> F:
    """A rule that enters itself in `self.steps` when it is applied; goes below `@rule`."""

    @functools.wraps(function)
    def step(self: Any, **arguments: Any) -> None:
        self.steps.append((function.__name__, arguments))
        function(self, **arguments)

    return step  # type: ignore[return-value]


@attrs.define
class Shortest:
    """What is left of a failing run: its violation, the steps that it takes, and the calls with their results."""

    violation: Violation
    steps: list[Step]
    run: list[str]


def perform(machine: Any, steps: list[Step]) -> Violation | None:
    """Apply the steps to a fresh machine, leaving out those that cannot be applied; the violation, if there is one."""
    last = "the end"
    try:
        try:
            for name, arguments in steps:
                rule = getattr(type(machine), name)
                if all(condition(machine) for condition in preconditions(rule)):
                    last = f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
                    rule(machine, **arguments)
            last = "the end"
        finally:
            machine.teardown()
    except Violation as violation:
        machine.log.append(f"{last} violates {violation.invariant.id}")
        return violation
    return None


def preconditions(rule: Any) -> list[Callable[[Any], bool]]:
    """What Hypothesis asks before it applies the rule."""
    found = getattr(rule, "hypothesis_stateful_rule", None)
    return list(found.preconditions) if found is not None else []


def shortest(make: Callable[[], Any], violation: Violation, steps: list[Step], attempts: int) -> Shortest:
    """Leave out steps as long as the same invariant is still violated.

    Hypothesis has made the arguments small; what it leaves is sometimes longer than it needs to be.
    """
    best = Shortest(violation, steps, [])

    def fails(candidate: list[Step]) -> bool:
        machine = make()
        found = perform(machine, candidate)
        if found is None or found.invariant is not violation.invariant:
            return False
        best.violation, best.steps, best.run = found, machine.steps, machine.log
        return True

    fails(steps)
    fails(_moved_down(best.steps))
    first = 1 if steps and steps[0][0] == "start" else 0
    size = max(1, len(best.steps) // 2)
    while size and attempts:
        position = first
        shorter = False
        while position < len(best.steps) and attempts:
            attempts -= 1
            if fails(best.steps[:position] + best.steps[position + size :]):
                shorter = True
            else:
                position += size
        size = size if shorter and size == 1 else size // 2
    return best


#: Arguments from here on are offsets around some edge.
FAR = 1 << 10


def _moved_down(steps: list[Step]) -> list[Step]:
    """The same steps with the far offsets near 0, at the same distances from each other.

    Hypothesis lowers one argument after the other, which tears apart what has to touch.
    """
    far = [v for _, arguments in steps for v in arguments.values() if isinstance(v, int) and v >= FAR]
    base = min(far, default=0)

    def moved(value: Any) -> Any:
        return value - base if isinstance(value, int) and value >= FAR else value

    return [(name, {key: moved(value) for key, value in arguments.items()}) for name, arguments in steps]
