"""What there is to judge an implementation by: the reference, system by system; others, through their interface."""

from __future__ import annotations

import attrs
from hypothesis.stateful import RuleBasedStateMachine

import mmspec.invariants  # noqa: F401 - fills the registry
from mmconformance.adapters.loading import Target
from mmconformance.adapters.running import kernel_machine
from mmconformance.engines.sampled import Plan
from mmconformance.machines import concurrent, rmap_plans
from mmconformance.machines.base_pages import BasePagesMachine
from mmconformance.machines.memory_manager import MemoryManagerMachine
from mmconformance.machines.reservation_map import ReservationMapMachine
from mmconformance.machines.reverse_map import ReverseMapMachine
from mmconformance.machines.virtual_memory import VirtualMemoryMachine
from mmconformance.scenarios import DRILLS, SCENARIOS, Scenario
from mmspec.config import ALLYESCONFIG, HUGETLB, RMAP, SYSTEMS, TENTATIVE, system_of
from mmspec.errors import UsageError
from mmspec.invariant import REGISTRY, Invariant, Judge

#: What selects every system, and every variant.
ALL = "all"


@attrs.frozen
class Driver:
    """A state machine that makes calls one after the other, and how it is used."""

    machine: type[RuleBasedStateMachine]
    examples: int
    interface: str = ""
    """The interface of what is driven, whose few fixed calls come first; "" if it has none that others provide."""
    record: bool = True
    """Whether the subject's own contracts and monitors take part."""
    steps: int = 40
    """How many rules an example applies at most."""


@attrs.frozen
class Suite:
    """The stages of a check; what a system does not have is left out."""

    system: str
    usual: str = ""
    """The variant that is meant where none is named; only the reference has variants."""
    driver: Driver | None = None
    plan: type[Plan] | None = None
    """Random concurrent programs."""
    drills: tuple[Scenario, ...] = ()
    scenarios: tuple[Scenario, ...] = ()


def _of(system: str, known: dict[str, Scenario]) -> tuple[Scenario, ...]:
    return tuple(s for s in known.values() if s.system == system)


#: System to what its reference is judged by.
SUITES = {
    suite.system: suite
    for suite in (
        Suite(
            HUGETLB,
            TENTATIVE,
            Driver(MemoryManagerMachine, 40, "MemoryManager"),
            concurrent.Plan,
            _of(HUGETLB, DRILLS),
            _of(HUGETLB, SCENARIOS),
        ),
        Suite(
            RMAP,
            ALLYESCONFIG,
            Driver(VirtualMemoryMachine, 60),
            rmap_plans.Plan,
            _of(RMAP, DRILLS),
            _of(RMAP, SCENARIOS),
        ),
    )
}


def suite_of(target: Target, variant: str) -> Suite:
    """What the target is judged by, as that variant of it."""
    if target.kind == "reference":
        return SUITES[system_of(variant)]
    if target.interface == "ReservationMap":
        return Suite(HUGETLB, driver=Driver(ReservationMapMachine, 300, target.interface))
    if target.interface == "ReverseMap":
        return Suite(RMAP, driver=Driver(ReverseMapMachine, 100, target.interface, record=False, steps=15))
    if target.interface == "VirtualMemory":
        return Suite(RMAP, driver=Driver(BasePagesMachine, 150, target.interface, record=False))
    # Only the reference shows its inside; of others more has to be seen from outside.
    machine = kernel_machine() if target.kind == "kernel" else MemoryManagerMachine
    return Suite(HUGETLB, driver=Driver(machine, 400, target.interface, record=False))


def judge_of(target: Target, arch: str, variant: str) -> Judge:
    """A fresh judge; only of the reference is it known which variant it is."""
    if target.kind == "reference":
        return Judge.of(arch, variant)
    system = suite_of(target, variant).system
    return Judge(frozenset(i.id for i in REGISTRY if i.system != system), system)


def in_scope(target: Target, variant: str) -> list[Invariant]:
    """What can be judged: through the interface, or through the reference's own contracts all of the variant's system."""
    if target.kind == "reference":
        return [i for i in REGISTRY if i.system == system_of(variant)]
    return [i for i in REGISTRY if target.interface in i.interfaces]


def systems() -> dict[str, tuple[str, ...]]:
    """The systems of which there are invariants, with their variants."""
    return {system: variants for system, variants in SYSTEMS.items() if any(i.system == system for i in REGISTRY)}


def variants_of(target: Target, variant: str = ALL, system: str = ALL) -> list[str]:
    """The variants of the target that the selections name; [""] if it has none to choose from.

    :raises UsageError: if a selection names nothing.
    """
    known = systems()
    if system not in (ALL, *known):
        raise UsageError(f"no system is called {system!r}; known are {', '.join(known)}")
    found = [v for s, variants in known.items() if system in (ALL, s) for v in variants]
    if variant not in (ALL, *found):
        where = "" if system == ALL else f" of {system}"
        raise UsageError(f"no variant{where} is called {variant!r}; known are {', '.join(found)}")
    if target.kind == "reference":
        return [v for v in found if variant in (ALL, v)]
    if system not in (ALL, own := suite_of(target, "").system):
        raise UsageError(f"{target.name} cannot be judged as {system!r}; it can be as {own!r}")
    return [""]
