"""Small concurrent programs, each with the outcomes that it allows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import attrs

from mmconformance.engines.execution import TaskProgram
from mmconformance.scenarios import drills, races
from mmconformance.scenarios.stage import Stage, performance
from mmspec.config import VARIANTS
from mmspec.errors import UsageError


@attrs.frozen
class Scenario:
    """A program that is run under every schedule."""

    name: str
    description: str
    script: Callable[[Stage], None]
    variants: tuple[str, ...] = VARIANTS
    failures: int = 0
    """How many allocations may fail in one run."""

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")


def _collect(module: ModuleType) -> dict[str, Scenario]:
    found = {}
    for name, script in vars(module).items():
        if inspect.isfunction(script) and script.__module__ == module.__name__ and not name.startswith("_"):
            description = " ".join((inspect.getdoc(script) or "").split())
            found[name] = Scenario(name, description, script, failures=WITH_FAILURES.get(name, 0))
    return found


#: Scenarios in which allocations fail as well: there are few enough orders for it.
WITH_FAILURES = {
    "shared_last_page_2": 1,
    "private_noreserve_last_page": 1,
    "fork_between_reserve_and_fault": 1,
    "fault_against_munmap": 1,
    "two_reserves": 1,
    "surplus_against_free": 1,
}

SCENARIOS = _collect(races)
DRILLS = _collect(drills)


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


def drill(name: str, arch: str, variant: str) -> TaskProgram:
    """A short sequence, as a program."""
    return performance(name, DRILLS[name].script, arch, variant)
