"""Small concurrent programs, each with the outcomes that it allows."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import attrs

from mmspec.errors import UsageError
from mmspec.invariant import VARIANTS
from mmconformance.engines.execution import TaskProgram
from mmconformance.scenarios import races
from mmconformance.scenarios.stage import Stage, performance


@attrs.frozen
class Scenario:
    """A program that is run under every schedule."""

    name: str
    description: str
    script: Callable[[Stage], None]
    variants: tuple[str, ...] = VARIANTS

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")


def _collect() -> dict[str, Scenario]:
    found = {}
    for name, script in vars(races).items():
        if inspect.isfunction(script) and script.__module__ == races.__name__ and not name.startswith("_"):
            found[name] = Scenario(name, " ".join((inspect.getdoc(script) or "").split()), script)
    return found


SCENARIOS = _collect()


def scenario(name: str) -> Scenario:
    """The scenario of that name.

    :raises UsageError: if there is none.
    """
    if name not in SCENARIOS:
        raise UsageError(f"no scenario is called {name!r}; `mmspec explore --list` shows all")
    return SCENARIOS[name]


def program(name: str, arch: str, variant: str) -> TaskProgram:
    """What an engine executes for the scenario in that profile."""
    chosen = scenario(name)
    return performance(chosen.name, chosen.script, arch, variant)
