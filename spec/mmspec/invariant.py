"""Invariants as objects, their registry, and the counting of evaluations.

An invariant is declared once, by decorating a pure named function over the vocabulary of :mod:`mmspec.trace` and
:mod:`mmspec.state`. The first paragraph of the docstring is the normative sentence, the rest says why it exists.
The same object is a contract (:mod:`mmspec.contracts`), a monitor (:class:`mmspec.trace.Recorder`) and a chapter of
the documentation.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from typing import Any, Final

import attrs

from mmspec.arch import Architecture, architecture
from mmspec.config import HUGETLB, SYSTEMS, VARIANTS, features, system_of
from mmspec.errors import NotObservable, UsageError, Violation
from mmspec.logic import VACUOUS
from mmspec.sources import Anchor


class Kind(Enum):
    """What sort of statement an invariant makes."""

    PRECONDITION = "precondition"
    POSTCONDITION = "postcondition"
    STATE = "state invariant"
    TRANSITION = "transition invariant"
    LOCK_RULE = "lock rule"
    LIVENESS = "liveness"


class Over(Enum):
    """What a predicate is about, and with that: who evaluates it and when."""

    __hash__ = object.__hash__  # members are single objects, and looked up often
    POOL = "pool"
    """The huge-page pool (one per size)."""
    PAGE = "page"
    """One huge page."""
    MAP = "map"
    """One reservation map with its region list."""
    VMA = "vma"
    """One virtual memory area."""
    FILE = "file"
    """One file with its page cache."""
    SUPER = "super"
    """One file system with its quota."""
    MM = "mm"
    """One address space."""
    ANON_VMA = "anon_vma"
    """One anon_vma."""
    CHAIN = "anon_vma_chain"
    """One anon_vma_chain."""
    ZONE = "zone"
    """One memory zone."""
    MEMCG = "memory control group"
    """One memory control group."""
    NOTIFIER = "mmu_notifier"
    """One secondary MMU."""
    WORLD = "world"
    """Everything; only where no single object shows the relation."""
    EVENT = "event"
    """One atomic step of an operation, as it happens."""
    SECTION = "section"
    """One critical section, as it ends."""
    OPERATION = "operation"
    """One call of a function, as it returns."""
    CALL = "call"
    """Arguments, old state and result of one call, by name."""
    RUN = "run"
    """A complete run of several threads."""


#: Guard of a state invariant that is evaluated after each atomic step.
ALWAYS: Final = "always"
#: Guard of a state invariant that is evaluated when no operation is in flight.
QUIESCENT: Final = "quiescent"

@attrs.define(eq=False, slots=False)
class Invariant:
    """One statement about memory management, with the predicate that is executed."""

    id: str
    kind: Kind
    over: Over
    predicate: Callable[..., Any]
    sources: tuple[Anchor, ...]
    guard: str | None = None
    on: tuple[str, ...] = ()
    """Names of the operations, events or sections that the predicate applies to."""
    fields: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    variants: tuple[str, ...] = attrs.field(default=attrs.Factory(lambda self: SYSTEMS.get(self.system, VARIANTS), takes_self=True))
    """In which variants of its system it holds."""
    architectures: tuple[str, ...] | None = None
    features: tuple[str, ...] = ()
    """The kernel configuration that it needs, by names of :data:`mmspec.config.FEATURES`."""
    interfaces: tuple[str, ...] = ()
    """Plug-in interfaces through which it can be judged, beside the reference's own full view."""
    implied_by: tuple[str, ...] = ()
    """Ids whose violation brings this one along; reports name those first."""
    would_catch: str = ""
    """The real bug it would have caught."""
    enforced_by: str = "nobody"
    """Who enforces it in kernels today: an assertion, lockdep, nobody."""
    since: str = "2.6.19"
    until: str = ""

    @cached_property
    def sentence(self) -> str:
        """The normative sentence: the first paragraph of the predicate's docstring."""
        return " ".join(self._paragraphs[0].split())

    @cached_property
    def rationale(self) -> str:
        """Why it exists: the other paragraphs of the docstring."""
        return "\n\n".join(" ".join(p.split()) for p in self._paragraphs[1:])

    @cached_property
    def _paragraphs(self) -> list[str]:
        return (inspect.getdoc(self.predicate) or "").split("\n\n")

    @property
    def name(self) -> str:
        """The predicate's name, which states the relation."""
        return self.predicate.__name__

    @property
    def system(self) -> str:
        """The system that it speaks of, named as the package that declares it."""
        return self.predicate.__module__.removeprefix("mmspec.invariants.").partition(".")[0]

    def applies(self, arch: Architecture, variant: str) -> bool:
        """Whether it says something about that profile."""
        return (
            variant in self.variants
            and (self.architectures is None or arch.name in self.architectures)
            and set(self.features) <= features(arch, variant)
        )

    @property
    def area(self) -> str:
        """The id without its number, such as `HTLB-RSV`."""
        return self.id.rpartition("-")[0]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of what the predicate speaks of."""
        return tuple(inspect.signature(self.predicate).parameters)

    @property
    def source_code(self) -> str:
        """The text of the predicate."""
        return inspect.getsource(self.predicate)

    def holds(self, *args: Any, **kwargs: Any) -> bool:
        """Evaluate the predicate, count the evaluation, and say whether nothing speaks against it.

        True where the predicate holds, where it is vacuous, and where it is not applicable or not observable; the
        counters of the active :class:`Judge` keep these apart.
        """
        judge = Judge.active
        if judge is None or judge.resting or self.id in judge.inapplicable:
            return True
        return judge.accepts(self, *args, **kwargs)

    def demand(self, *args: Any, note: str = "", **kwargs: Any) -> None:
        """Evaluate as :meth:`holds` does.

        :raises Violation: if the predicate is false.
        """
        if not self.holds(*args, **kwargs):
            raise self.violation(*args, note=note, **kwargs)

    def violation(self, *args: Any, note: str = "", **kwargs: Any) -> Violation:
        """The exception that says this invariant is broken by these values."""
        values = dict(zip(self.parameters, args, strict=False)) | kwargs
        ledgers = [str(v.ledger()) for v in values.values() if callable(getattr(v, "ledger", None))]
        return Violation(self, values, note, "\n".join(ledgers))


@attrs.define(eq=False)
class Judge:
    """Counts, per invariant, what one check run has really evaluated.

    One judge is active at a time (see :func:`judging`); it belongs to one profile, an architecture with a variant.
    """

    inapplicable: frozenset[str] = frozenset()
    system: str = HUGETLB
    """The system of the profile; that of the plug-in interfaces if there is no profile."""
    resting: bool = False
    """While a run repeats what has been judged before, nothing is evaluated."""
    real: Counter[str] = attrs.field(factory=Counter)
    vacuous: Counter[str] = attrs.field(factory=Counter)
    unobservable: Counter[str] = attrs.field(factory=Counter)
    _monitors: dict[tuple[Over, str], list[Invariant]] = attrs.field(factory=dict, init=False, repr=False)

    active = None  # type: Judge | None
    looking = False
    """Whether the specification, not the implementation, is reading the state at this moment."""

    @classmethod
    def at_work(cls) -> bool:
        """Whether there is a judge that does not rest."""
        return cls.active is not None and not cls.active.resting

    def accepts(self, invariant: Invariant, *args: Any, **kwargs: Any) -> bool:
        """Evaluate an applicable invariant and count that; whether nothing speaks against it."""
        before, Judge.looking = Judge.looking, True
        try:
            verdict = invariant.predicate(*args, **kwargs)
        except NotObservable:
            self.unobservable[invariant.id] += 1
            return True
        finally:
            Judge.looking = before
        if verdict is VACUOUS:
            self.vacuous[invariant.id] += 1
            return True
        self.real[invariant.id] += 1
        return bool(verdict)

    def ignore(self, ids: Iterable[str]) -> None:
        """From here on these are not evaluated."""
        self.inapplicable |= frozenset(ids)
        self._monitors.clear()

    @contextmanager
    def without(self, features: Iterable[str]) -> Iterator[None]:
        """For a `with` block in which the kernel lacks features that its profile has: what needs them is not evaluated."""
        lacking = set(features)
        added = frozenset(i.id for i in REGISTRY if lacking & set(i.features)) - self.inapplicable
        self.ignore(added)
        try:
            yield
        finally:
            self.inapplicable -= added
            self._monitors.clear()

    def monitors(self, over: Over, trigger: str) -> list[Invariant]:
        """The applicable invariants among :meth:`Registry.monitors`."""
        key = (over, trigger)
        found = self._monitors.get(key)
        if found is None:
            found = self._monitors[key] = [i for i in REGISTRY.monitors(over, trigger) if i.id not in self.inapplicable]
        return found

    @classmethod
    def of(cls, arch: str, variant: str) -> Judge:
        """A fresh judge for the profile of an architecture and a variant."""
        profile = architecture(arch)
        return cls(frozenset(i.id for i in REGISTRY if not i.applies(profile, variant)), system_of(variant))


def examine(over: Over, trigger: str, subject: Any) -> None:
    """Let the active judge evaluate the monitors of `trigger` on `subject`.

    :raises Violation: for the first that does not hold.
    """
    judge = Judge.active
    if judge is None or judge.resting:
        return
    for invariant in judge.monitors(over, trigger):
        if not judge.accepts(invariant, subject):
            raise invariant.violation(subject)


@contextmanager
def judging(judge: Judge | None) -> Iterator[Judge | None]:
    """Make `judge` the active one; with None nothing is evaluated."""
    before = Judge.active
    Judge.active = judge
    try:
        yield judge
    finally:
        Judge.active = before


class Registry:
    """All invariants, by id and by what evaluates them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Invariant] = {}
        self._monitors: dict[tuple[Over, str], list[Invariant]] = {}
        self._guards: dict[Over, tuple[str, ...]] = {}
        self._areas: tuple[str, ...] = ()

    def add(self, invariant: Invariant) -> Invariant:
        """Register; an id can be declared once."""
        if invariant.id in self._by_id:
            raise ValueError(f"invariant {invariant.id} is declared twice")
        self._by_id[invariant.id] = invariant
        if invariant.guard is not None:
            self._monitors.setdefault((invariant.over, invariant.guard), []).append(invariant)
            guards = self._guards.get(invariant.over, ())
            if invariant.guard not in guards:
                self._guards[invariant.over] = (*guards, invariant.guard)
        elif invariant.over in (Over.EVENT, Over.SECTION):
            for name in invariant.on:
                self._monitors.setdefault((invariant.over, name), []).append(invariant)
        return invariant

    def order(self, areas: Iterable[str]) -> None:
        """Put the invariants in the order of these areas; where several are broken at once, the first one is named.

        Areas that were put in order before keep their places, before these.
        """
        self._areas = tuple(dict.fromkeys((*self._areas, *areas)))
        ranks = {area: rank for rank, area in enumerate(self._areas)}

        def rank(invariant: Invariant) -> int:
            return ranks.get(invariant.area, len(ranks))

        self._by_id = {i.id: i for i in sorted(self._by_id.values(), key=rank)}
        for monitors in self._monitors.values():
            monitors.sort(key=rank)

    def __iter__(self) -> Iterator[Invariant]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._by_id

    def __getitem__(self, id_: str) -> Invariant:
        """The invariant with this id.

        :raises UsageError: if there is none.
        """
        try:
            return self._by_id[id_]
        except KeyError:
            close = _closest(id_, self._by_id)
            hint = f"; did you mean {close}?" if close else "; `mmspec list` shows all ids"
            raise UsageError(f"no invariant has the id {id_!r}{hint}") from None

    def monitors(self, over: Over, trigger: str) -> Iterable[Invariant]:
        """The invariants over `over` whose guard (state) or `on` (event, section) is `trigger`."""
        return self._monitors.get((over, trigger), ())

    def guards(self, over: Over) -> tuple[str, ...]:
        """The guards that the state invariants over `over` name."""
        return self._guards.get(over, ())

    def about(self, over: Over, on: str | None = None) -> list[Invariant]:
        """The invariants over `over` (and, if given, applying to the operation `on`), in order of declaration."""
        return [i for i in self if i.over is over and (on is None or not i.on or on in i.on)]


def _closest(id_: str, ids: Iterable[str]) -> str:
    import difflib

    match = difflib.get_close_matches(id_.upper(), list(ids), n=1, cutoff=0.6)
    return match[0] if match else ""


REGISTRY: Final = Registry()


Declare = Callable[[Callable[..., Any]], "Invariant"]
"""A decorator that makes a predicate an invariant."""


def _declare(kind: Kind, id_: str, over: Over, sources: tuple[Anchor, ...], **rest: Any) -> Declare:
    def register(predicate: Callable[..., Any]) -> Invariant:
        return REGISTRY.add(Invariant(id=id_, kind=kind, over=over, predicate=predicate, sources=sources, **rest))

    return register


def state_invariant(id_: str, *, over: Over, guard: str, source: tuple[Anchor, ...], **rest: Any) -> Declare:
    """Declare a statement about an object that is true whenever its guard is free.

    `guard` is a lock class (checked at each release), :data:`ALWAYS` or :data:`QUIESCENT`.
    """
    return _declare(Kind.STATE, id_, over, source, guard=guard, **rest)


def precondition(id_: str, *, over: Over = Over.OPERATION, on: tuple[str, ...], source: Any, **rest: Any) -> Declare:
    """Declare what the caller of the functions `on` must establish."""
    return _declare(Kind.PRECONDITION, id_, over, source, on=on, functions=on, **rest)


def postcondition(id_: str, *, over: Over = Over.OPERATION, on: tuple[str, ...], source: Any, **rest: Any) -> Declare:
    """Declare what the functions `on` establish."""
    return _declare(Kind.POSTCONDITION, id_, over, source, on=on, functions=rest.pop("functions", on), **rest)


def transition(id_: str, *, over: Over, on: tuple[str, ...] = (), source: Any, **rest: Any) -> Declare:
    """Declare which steps, critical sections, operations or runs are allowed."""
    return _declare(Kind.TRANSITION, id_, over, source, on=on, **rest)


def lock_rule(id_: str, *, over: Over = Over.EVENT, on: tuple[str, ...] = (), source: Any, **rest: Any) -> Declare:
    """Declare which locks a step needs, or must not have."""
    return _declare(Kind.LOCK_RULE, id_, over, source, on=on, **rest)


def liveness(id_: str, *, over: Over = Over.RUN, source: Any, **rest: Any) -> Declare:
    """Declare what must happen eventually; on complete runs, "never" is a deadlock or an endless retry."""
    return _declare(Kind.LIVENESS, id_, over, source, **rest)
