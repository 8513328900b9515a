"""Small programs that each system brings along: scenarios, which run under every schedule, and drills, which run once.

A system has a package here with the modules `stage` (its :class:`~mmconformance.scenarios.staging.Stage`), `races` and
`drills`; either of these may be a package of modules. Each public function of the latter two is a script that sets a
stage; its name and its docstring are those of the scenario.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs

from mmconformance.engines.execution import Execution, TaskProgram
from mmconformance.scenarios import hugetlb, rmap
from mmconformance.scenarios.staging import Stage, performance
from mmspec.arch import architecture
from mmspec.config import HUGETLB, RMAP, SYSTEMS, features
from mmspec.errors import UsageError


@attrs.frozen
class Scenario:
    """A script, and where it can be performed."""

    name: str
    description: str
    system: str
    stage: type[Stage]
    script: Callable[[Any], None]
    variants: tuple[str, ...]
    """Those of its system in which it makes sense."""
    features: tuple[str, ...] = ()
    """What the kernel has to have, by names of :data:`mmspec.config.FEATURES`."""
    failures: int = 0
    """How many allocations may fail in one run."""

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def applies(self, arch: str, variant: str) -> bool:
        """Whether it can be performed in that profile."""
        return variant in self.variants and set(self.features) <= features(architecture(arch), variant)

    def program(self, arch: str, variant: str) -> TaskProgram:
        """What an engine executes in that profile.

        :raises UsageError: if it cannot be performed there.
        """
        if not self.applies(arch, variant):
            needs = f", with {', '.join(self.features)}" if self.features else ""
            raise UsageError(f"{self.name} does not run on {arch}/{variant}; it does in {', '.join(self.variants)}{needs}")
        return performance(self.name, self.stage, self.script, arch, variant)

    def rehearse(self, arch: str, variant: str) -> Execution:
        """Run it once, in the order that its stage has for that."""
        return self.program(arch, variant)(self.stage.rehearsal())


def _modules(module: ModuleType) -> list[ModuleType]:
    """The module; of a package, the modules that it has imported."""
    inside = [m for m in vars(module).values() if inspect.ismodule(m) and m.__name__.startswith(f"{module.__name__}.")]
    return inside or [module]


def _collect(system: str, stage: type[Stage], where: ModuleType) -> list[Scenario]:
    found = []
    for module in _modules(where):
        for name, script in vars(module).items():
            if inspect.isfunction(script) and script.__module__ == module.__name__ and not name.startswith("_"):
                description = " ".join((inspect.getdoc(script) or "").split())
                conditions = {"variants": SYSTEMS[system], **getattr(script, "conditions", {})}
                found.append(Scenario(name, description, system, stage, script, **conditions))
    return found


def _by_name(scenarios: list[Scenario]) -> dict[str, Scenario]:
    found: dict[str, Scenario] = {}
    for each in scenarios:
        if each.name in found:
            raise ValueError(f"{each.system} and {found[each.name].system} both have {each.name}")
        found[each.name] = each
    return found


_PACKAGES = {HUGETLB: hugetlb, RMAP: rmap}

SCENARIOS = _by_name([s for system, p in _PACKAGES.items() for s in _collect(system, p.stage.Stage, p.races)])
DRILLS = _by_name([s for system, p in _PACKAGES.items() for s in _collect(system, p.stage.Stage, p.drills)])


def scenario(name: str) -> Scenario:
    """The scenario of that name.

    :raises UsageError: if there is none.
    """
    if name not in SCENARIOS:
        raise UsageError(f"no scenario is called {name!r}; `mmspec explore --list` shows all")
    return SCENARIOS[name]


def drill(name: str) -> Scenario:
    """The drill of that name.

    :raises UsageError: if there is none.
    """
    if name not in DRILLS:
        raise UsageError(f"no drill is called {name!r}")
    return DRILLS[name]
