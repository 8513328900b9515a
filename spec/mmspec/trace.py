"""What an implementation lets be seen of its running: events, operations, critical sections, runs.

The reference implementation records through these classes; another implementation may. Predicates over
:class:`Event`, :class:`Section`, :class:`Operation` and :class:`Run` read nothing else.

A *context* is one thread of the implementation. Its locks are named `class` (exclusive) or `class:r` (shared).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from mmspec.invariant import ALWAYS, QUIESCENT, REGISTRY, Over, examine


class Event:
    """One atomic step. `kind` names it, `held` the locks of the thread, further attributes what it was about."""

    __slots__ = ("kind", "op", "held", "rcu", "seq", "data")

    def __init__(
        self, kind: str, op: Operation | None, held: tuple[Held, ...], seq: int, data: dict[str, Any], *, rcu: bool = False
    ) -> None:
        self.kind = kind
        self.op = op
        self.held = held
        self.rcu = rcu
        """Whether the thread is in an RCU read-side section."""
        self.seq = seq
        self.data = data

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(f"event {self.kind} has no {name}") from None

    def __repr__(self) -> str:
        data = " ".join(f"{k}={v!r}" for k, v in self.data.items())
        locks = ",".join(str(h) for h in self.held)
        return f"<{self.kind}{' ' if data else ''}{data}{' holding ' if locks else ''}{locks}>"

    def holds(self, cls: str, of: object = None) -> bool:
        """Whether the thread holds a lock of class `cls` (`x` exclusively, `x:r` shared or exclusively).

        `of` restricts it to the lock that belongs to that object.
        """
        return any(h.matches(cls, of) for h in self.held)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the held locks, outermost first."""
        return tuple(h.cls for h in self.held)

    @property
    def spinlocks(self) -> tuple[str, ...]:
        """The classes of the held locks under which nothing may sleep."""
        return tuple(h.cls for h in self.held if h.spinning)


class Held:
    """A lock in the hands of a thread."""

    __slots__ = ("cls", "shared", "spinning", "owner", "name")

    def __init__(self, cls: str, shared: bool, spinning: bool, owner: object, name: str) -> None:
        self.cls = cls
        self.shared = shared
        self.spinning = spinning
        self.owner = owner
        self.name = name

    def matches(self, cls: str, of: object = None) -> bool:
        """Whether it is a lock of that class (see :meth:`Event.holds`) and belongs to `of`."""
        if of is not None and self.owner is not of:
            return False
        if cls.endswith(":r"):
            return self.cls == cls[:-2]
        return self.cls == cls and not self.shared

    def __str__(self) -> str:
        return f"{self.name}{':r' if self.shared else ''}"

    __repr__ = __str__


class Operation:
    """One call of a function: its name, arguments (as attributes), result, and what it did meanwhile.

    `delta` and `net` count the operation's *own* writes, so they hold however it was interleaved with others.
    `alone` says whether no other thread moved between call and return.
    """

    def __init__(self, name: str, context: Context, arguments: dict[str, Any], parent: Operation | None) -> None:
        self.name = name
        self.context = context
        self.arguments = arguments
        self.parent = parent
        self.result: Any = None
        self.returned = False
        self.noted: dict[str, Any] = {}
        self.sections: list[Section] = []
        """The critical sections that began in this function itself, in order of their ends."""
        self.held_at_entry = context.held
        self.first = len(context.events)
        self.last: int | None = None
        self.seq_at_entry = context.recorder.seq
        self.switches_at_entry = context.recorder.switches

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for values in (self.noted, self.arguments):
            if name in values:
                return values[name]
        raise AttributeError(f"operation {self.name} has no {name}")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        result = f" -> {self.result!r}" if self.returned else ""
        return f"{self.name}({arguments}){result}"

    def get(self, name: str, default: Any = None) -> Any:
        """The argument or note `name`, or `default`."""
        return self.noted.get(name, self.arguments.get(name, default))

    @property
    def events(self) -> list[Event]:
        """The steps of this operation, those of functions that it called included, in order."""
        return self.context.events[self.first : self.last]

    @property
    def alone(self) -> bool:
        """Whether no other thread made a step between call and now."""
        return self.context.recorder.switches == self.switches_at_entry

    def kinds(self) -> list[str]:
        """The names of the steps, in order."""
        return [e.kind for e in self.events]

    def all(self, *kinds: str) -> list[Event]:
        """The steps of these kinds."""
        return [e for e in self.events if e.kind in kinds]

    def one(self, kind: str) -> Event | None:
        """The last step of that kind, or None."""
        return next((e for e in reversed(self.events) if e.kind == kind), None)

    def did(self, *kinds: str) -> bool:
        """Whether a step of one of these kinds happened."""
        return any(e.kind in kinds for e in self.events)

    def before(self, first: str, second: str) -> bool:
        """Whether each step `second` was preceded by a step `first`."""
        seen = False
        for event in self.events:
            if event.kind == first:
                seen = True
            elif event.kind == second and not seen:
                return False
        return True

    def calls(self, name: str) -> list[Operation]:
        """The calls of the function `name` that this operation made and that have returned, in order."""
        return [e.data["operation"] for e in self.events if e.kind == "return" and e.data["operation"].name == name]

    def ancestors(self) -> Iterator[Operation]:
        """This operation, the one that called it, and so on."""
        op: Operation | None = self
        while op is not None:
            yield op
            op = op.parent

    def within(self, name: str) -> Operation | None:
        """The innermost operation `name` that this one is part of, or None."""
        return next((op for op in self.ancestors() if op.name == name), None)

    def delta(self, field: str, of: object = None) -> int:
        """By how much this operation's own writes have changed the counter `field` (of the object `of`)."""
        return sum(
            e.data["new"] - e.data["old"]
            for e in self.events
            if e.kind == "write" and e.data["field"] == field and (of is None or e.data["obj"] is of)
        )

    def net(self, *fields: str) -> dict[tuple[str, str], tuple[Any, Any]]:
        """What this operation's own writes have changed in the end: (object, field) to (old, new).

        Counters are summed, everything else is compared first value against last. `fields` restricts it.
        """
        first: dict[tuple[str, str], Any] = {}
        last: dict[tuple[str, str], Any] = {}
        for e in self.events:
            if e.kind != "write" or (fields and e.data["field"] not in fields):
                continue
            key = (str(e.data["obj"]), e.data["field"])
            old, new = e.data["old"], e.data["new"]
            if type(old) is int and type(new) is int:
                first.setdefault(key, 0)
                last[key] = last.get(key, 0) + new - old
            else:
                first.setdefault(key, old)
                last[key] = new
        return {k: (first[k], last[k]) for k in first if first[k] != last[k]}


class Section:
    """A critical section of one lock: what the protected object's counters were at its start and its end."""

    __slots__ = ("lock", "owner", "op", "context", "old", "new", "first", "last")

    def __init__(self, held: Held, context: Context, old: Any) -> None:
        self.lock = held.cls
        self.owner = held.owner
        self.op = context.op
        self.context = context
        self.old = old
        self.new = old
        self.first = len(context.events)
        self.last: int | None = None

    @property
    def events(self) -> list[Event]:
        """The steps of the thread inside the section."""
        return self.context.events[self.first : self.last]

    def delta(self, field: str) -> int:
        """How the counter `field` differs between start and end."""
        return int(getattr(self.new, field) - getattr(self.old, field))

    def deltas(self) -> dict[str, int]:
        """All counters that differ, with the difference."""
        return {f: self.delta(f) for f in self.old.names() if self.delta(f)}

    def did(self, *kinds: str) -> list[Event]:
        """The steps of these kinds inside the section."""
        return [e for e in self.events if e.kind in kinds]

    def __repr__(self) -> str:
        return f"<section of {self.lock} in {self.op!r}: {self.old!r} -> {self.new!r}>"


class Run:
    """A complete run of several threads from a known start.

    `results` maps a thread's name to what its program returned; `stuck` names the threads that can never go on,
    `stuck_because` is "" (all finished), "deadlock" or "endless retry".
    """

    def __init__(self, scenario: str, recorder: Recorder) -> None:
        self.scenario = scenario
        self.recorder = recorder
        self.results: dict[str, Any] = {}
        self.stuck: list[str] = []
        self.stuck_because = ""
        self.facts: dict[str, Any] = {}
        """What the scenario knows beforehand, such as the supply and demand of pages."""

    def operations(self, *names: str) -> list[Operation]:
        """All returned operations of these names, of all threads, in order of return."""
        return [o for o in self.recorder.history if o.name in names]

    def events(self, *kinds: str) -> list[Event]:
        """All steps of these kinds, of all threads, in order."""
        found = [e for c in self.recorder.contexts for e in c.events if e.kind in kinds]
        return sorted(found, key=lambda e: e.seq)

    def __repr__(self) -> str:
        end = f"{self.stuck_because}: {', '.join(self.stuck)}" if self.stuck else "finished"
        return f"<run of {self.scenario}: {self.results} {end}>"


class Context:
    """One thread, as the recorder sees it."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name
        self.events: list[Event] = []
        self.held: tuple[Held, ...] = ()
        self.op: Operation | None = None
        self.rcu_depth = 0
        """How many RCU read-side sections it is in."""
        self.sections: list[Section] = []
        self.touched: dict[str, dict[Any, None]] = {}
        """Guard to the objects that this thread has changed since it last gave such a guard free."""

    def __repr__(self) -> str:
        return self.name


class Recorder:
    """Collects events and evaluates the monitors.

    State invariants with a lock as guard are evaluated when a lock of that class is released, for the objects that
    were touched since; :data:`~mmspec.invariant.ALWAYS` after each atomic step (:meth:`step_done`),
    :data:`~mmspec.invariant.QUIESCENT` when the engine says that nothing is in flight (:meth:`quiet`).
    """

    active: ClassVar[Recorder | None] = None

    def __init__(self) -> None:
        self.seq = 0
        self.switches = 0
        self.contexts: list[Context] = []
        self.current = self.context("main")
        self.history: list[Operation] = []

    def context(self, name: str) -> Context:
        """A new thread."""
        context = Context(self, name)
        self.contexts.append(context)
        return context

    def switch(self, context: Context) -> None:
        """From here on `context` is the thread that runs."""
        if context is not self.current:
            self.switches += 1
            self.current = context

    # -- what implementations report ---------------------------------------------------------------------------------

    def emit(self, kind: str, **data: Any) -> Event:
        """Record an atomic step of the current thread and evaluate the rules for it."""
        context = self.current
        self.seq += 1
        event = Event(kind, context.op, context.held, self.seq, data, rcu=context.rcu_depth > 0)
        context.events.append(event)
        examine(Over.EVENT, kind, event)
        return event

    def write(self, obj: Any, field: str, old: Any, new: Any) -> None:
        """Record that the current thread has changed `obj.field`."""
        event = self.emit("write", obj=obj, field=field, old=old, new=new)
        examine(Over.EVENT, field, event)
        self.touch(obj)

    def touch(self, obj: Any) -> None:
        """Remember that `obj` has changed; `obj.over` says what it is."""
        touched = self.current.touched
        for guard in REGISTRY.guards(obj.over):
            touched.setdefault(guard, {})[obj] = None

    def forget(self, obj: Any) -> None:
        """`obj` is gone; nothing is asked of it any more."""
        for context in self.contexts:
            for objects in context.touched.values():
                objects.pop(obj, None)

    def acquired(self, held: Held, how: str = "") -> None:
        """Record that the current thread has got a lock; its owner's `counters()` open a section.

        `how` is "trylock", "nested" (a second one of its class), or nothing.
        """
        context = self.current
        self.emit("acquire", lock=held, how=how)
        context.held = (*context.held, held)
        if held.owner is not None and hasattr(held.owner, "counters"):
            context.sections.append(Section(held, context, held.owner.counters()))

    def released(self, held: Held) -> None:
        """Record that the current thread gives back a lock, and evaluate what that lock guards."""
        context = self.current
        section = next((s for s in context.sections if s.owner is held.owner and s.lock == held.cls), None)
        if section is not None:
            context.sections.remove(section)
            section.new = held.owner.counters()  # type: ignore[attr-defined]
            section.last = len(context.events)
            if section.op is not None:
                section.op.sections.append(section)
        context.held = tuple(h for h in context.held if h is not held)
        self.emit("release", lock=held)
        if section is not None:
            examine(Over.SECTION, held.cls, section)
        if not held.shared:
            self._evaluate(context, held.cls)

    def enter(self, name: str, arguments: dict[str, Any]) -> Operation:
        """Record the call of a function."""
        context = self.current
        operation = Operation(name, context, arguments, context.op)
        context.op = operation
        return operation

    def leave(self, operation: Operation) -> None:
        """Record the return from a function; `operation.result` is set already."""
        context = operation.context
        operation.last = len(context.events)
        operation.returned = True
        context.op = operation.parent
        self.history.append(operation)
        self.emit("return", operation=operation)

    # -- when engines evaluate ---------------------------------------------------------------------------------------

    def step_done(self) -> None:
        """An atomic step is over."""
        self._evaluate(self.current, ALWAYS)

    def quiet(self, world: Any = None) -> None:
        """No operation is in flight, so every guard is free; `world`, if given, is checked as a whole as well."""
        for context in self.contexts:
            for guard in list(context.touched):
                self._evaluate(context, guard)
        if world is not None:
            examine(Over.WORLD, QUIESCENT, world)

    @staticmethod
    def _evaluate(context: Context, guard: str) -> None:
        touched = context.touched.get(guard)
        if touched:
            context.touched[guard] = {}
            for obj in touched:
                examine(obj.over, guard, obj)


def emit(kind: str, **data: Any) -> None:
    """Record an atomic step with the active recorder, if there is one."""
    if Recorder.active is not None:
        Recorder.active.emit(kind, **data)


def wrote(obj: Any, field: str, old: Any, new: Any) -> None:
    """Record a change of `obj.field` with the active recorder, if there is one."""
    if Recorder.active is not None:
        Recorder.active.write(obj, field, old, new)


def note(**facts: Any) -> None:
    """Attach facts that the specification asks for to the running operation, if there is a recorder."""
    recorder = Recorder.active
    if recorder is not None and recorder.current.op is not None:
        recorder.current.op.noted.update(facts)


class recording:  # noqa: N801 - used like a function
    """Make `recorder` the active one for a `with` block."""

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder

    def __enter__(self) -> Recorder | None:
        self.before = Recorder.active
        Recorder.active = self.recorder
        return self.recorder

    def __exit__(self, *_: object) -> None:
        Recorder.active = self.before


Predicate = Callable[..., Any]
