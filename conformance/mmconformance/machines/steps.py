"""Steps of a state machine as data: recorded, made smaller, and made again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

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


def shortest(make: Callable[[], Any], steps: list[Step], id_: str, attempts: int) -> tuple[list[Step], Any]:
    """Leave out steps as long as the invariant is still violated; what is left, and the machine that made it.

    Hypothesis has made the arguments small; what it leaves is sometimes longer than it needs to be.
    """
    machine = make()
    perform(machine, steps)
    first = 1 if steps and steps[0][0] == "start" else 0
    size = max(1, len(steps) // 2)
    while size and attempts:
        position = first
        shorter = False
        while position < len(steps) and attempts:
            attempts -= 1
            candidate = steps[:position] + steps[position + size :]
            trial = make()
            violation = perform(trial, candidate)
            if violation is not None and violation.invariant.id == id_:
                steps, machine, shorter = trial.steps, trial, True
            else:
                position += size
        size = size if shorter and size == 1 else size // 2
    return steps, machine
