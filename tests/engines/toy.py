"""A toy language of concurrent programs over the coroutine kernel, and a generator of random ones.

A statement is a tuple: its name, then its operands; a body is a list of statements. `Toy` executes them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from mmconformance.engines.execution import TaskProgram
from mmreference.kernel.atomics import Atomic
from mmreference.kernel.locks import Lock, LockMisuse, Mutex, RwLock, RwSem, SleepInAtomic, SpinLock
from mmreference.kernel.scheduler import Access, Choice, Location, Pause, Retry, Scheduler, Step, Task, touched
from mmspec.errors import Violation
from mmspec.invariant import Invariant, Kind, Over
from mmspec.trace import Recorder, Run

Body = list[tuple[Any, ...]]


def broken(id_: str) -> Invariant:
    """An invariant that exists in tests only."""

    def never() -> bool:
        """A test's invariant MUST hold."""
        return False

    return Invariant(id=id_, kind=Kind.STATE, over=Over.RUN, predicate=never, sources=())


INVARIANTS = {name: broken(name) for name in ("TOY-A", "TOY-B", "TOY-C", "TOY-END", "TOY-HAZARD")}


class Cells:
    """Shared variables; each is a field and has an atomic."""

    def __init__(self, names: Iterable[str]) -> None:
        self.name = "cells"
        self.changes = 0
        for name in names:
            setattr(self, name, 0)

    def __setattr__(self, field: str, value: Any) -> None:
        """Count changes, as the owner of a lock does: a section without any may commute with others."""
        if field not in ("name", "changes"):
            self.changes += 1
        object.__setattr__(self, field, value)

    def atomic(self, field: str) -> Atomic:
        return Atomic(self, field)


class Until(Step):
    """A step that waits in a way of its own: until a variable has reached a value."""

    def __init__(self, cells: Cells, field: str, least: int) -> None:
        self.cells = cells
        self.field = field
        self.least = least
        self.label = f"wait for {field}"

    def enabled(self, task: Task) -> bool:
        return bool(getattr(self.cells, self.field) >= self.least)

    def reads(self) -> Iterable[Location]:
        return [(self.cells.name, self.field)]


class Toy:
    """One run's world."""

    def __init__(self, fields: Iterable[str] = "xyz") -> None:
        self.fields = list(fields)
        self.cells = Cells(self.fields)
        kinds = {"L": SpinLock, "M": Mutex, "S": RwSem, "R": RwLock}
        self.locks: dict[str, Lock] = {n: kind(n, self.cells, name=n) for n, kind in kinds.items()}
        self.seen: dict[str, list[Any]] = {}

    async def body(self, name: str, statements: Body) -> None:
        self.seen[name] = []
        await self.block(name, statements)

    async def block(self, name: str, statements: Body) -> None:
        for verb, *operands in statements:
            await getattr(self, verb)(name, *operands)

    async def inc(self, name: str, field: str, amount: int = 1) -> None:
        self.seen[name].append(await self.cells.atomic(field).add_return(amount))

    async def read(self, name: str, field: str) -> None:
        self.seen[name].append(await self.cells.atomic(field).read())

    async def write(self, name: str, field: str, value: int) -> None:
        await Access(("cells", field), f"write {field}", write=True)
        setattr(self.cells, field, value)

    async def copy(self, name: str, source: str, target: str) -> None:
        value = await self.cells.atomic(source).read()
        await self.write(name, target, value)

    async def cas(self, name: str, field: str, old: int, new: int) -> None:
        self.seen[name].append(await self.cells.atomic(field).cmpxchg(old, new))

    async def pause(self, name: str) -> None:
        await Pause("pause")

    async def poke(self, name: str, field: str) -> None:
        """Change a variable in passing, in the step that has just begun."""
        touched(("cells", field), write=True)
        setattr(self.cells, field, getattr(self.cells, field) * 2 + 1)

    async def peek(self, name: str, field: str, other: str) -> None:
        """Read a variable, and in the same step, if it is 0, another one."""
        value = await self.cells.atomic(field).read()
        if value == 0:
            touched(("cells", other), write=False)
            value = 100 + getattr(self.cells, other)
        self.seen[name].append(value)

    async def nudge(self, name: str, field: str, other: str) -> None:
        """Read a variable, and in the same step, if it is 0, change another one."""
        if await self.cells.atomic(field).read() == 0:
            await self.poke(name, other)

    async def lock(self, name: str, lock: str, inner: Body) -> None:
        async with self.locks[lock]:
            await self.block(name, inner)

    async def shared(self, name: str, lock: str, inner: Body) -> None:
        async with self.locks[lock].read():  # type: ignore[attr-defined]
            await self.block(name, inner)

    async def attempt(self, name: str, lock: str, inner: Body, instead: Body) -> None:
        await Pause(f"trylock {lock}")
        if self.locks[lock].trylock():
            await self.block(name, inner)
            self.locks[lock].unlock()
        else:
            self.seen[name].append(f"no {lock}")
            await self.block(name, instead)

    async def keep(self, name: str, lock: str) -> None:
        """Take a lock for ever."""
        await self.locks[lock].lock()

    async def branch(self, name: str, field: str, value: int, then: Body, otherwise: Body) -> None:
        seen = await self.cells.atomic(field).read()
        await self.block(name, then if seen == value else otherwise)

    async def choice(self, name: str, usual: Body, unusual: Body) -> None:
        taken = await Choice(2, "unusual")
        self.seen[name].append(f"choice {taken}")
        await self.block(name, unusual if taken else usual)

    async def again(self, name: str, field: str, least: int) -> None:
        """Repeat until a variable is large enough."""
        while await self.cells.atomic(field).read() < least:
            await Retry(f"until {field} >= {least}")

    async def again2(self, name: str, one: str, other: str) -> None:
        """Repeat until two variables, read one after the other, are equal and not 0."""
        while True:
            a = await self.cells.atomic(one).read()
            b = await self.cells.atomic(other).read()
            if a == b != 0:
                return
            await Retry("until equal")

    async def until(self, name: str, field: str, least: int) -> None:
        await Until(self.cells, field, least)
        self.seen[name].append(getattr(self.cells, field))

    async def check(self, name: str, field: str, bad: int, id_: str) -> None:
        """Violate an invariant if a variable has a certain value."""
        if await self.cells.atomic(field).read() == bad:
            raise Violation(INVARIANTS[id_], {field: bad})

    def state(self) -> str:
        return " ".join(f"{f}={getattr(self.cells, f)}" for f in self.fields)


def translate(error: Exception) -> Violation | None:
    """Misuse of locks is a violation, all else a mistake of the test."""
    if isinstance(error, SleepInAtomic | LockMisuse):
        return Violation(INVARIANTS["TOY-HAZARD"], {"error": str(error)})
    return None


def toy(name: str, *bodies: Body, never: str | None = None, limit: int = 2_000, alike: int | None = None) -> TaskProgram:
    """A program of tasks T0, T1, ... with these bodies; an end in the state `never` violates TOY-END.

    With `alike` the outcome does not tell which of the first `alike` tasks is which.
    """

    def build(scheduler: Scheduler, recorder: Recorder) -> Any:
        world = Toy()
        for number, body in enumerate(bodies):
            kin = "T" if alike is not None and number < alike else ""
            scheduler.spawn(f"T{number}", world.body(f"T{number}", body), kin)

        def finish(run: Run) -> str:
            if world.state() == never:
                raise Violation(INVARIANTS["TOY-END"], {"state": never})
            if alike is None:
                return f"{world.state()} {world.seen} {run.stuck_because} {run.stuck}"
            fates = [f"{world.seen.get(t.name)} {'stuck' if t.name in run.stuck else ''}" for t in scheduler.tasks]
            return f"{world.state()} {sorted(fates[:alike])} {fates[alike:]} {run.stuck_because}"

        return finish

    return TaskProgram(name, build, translate=translate, limit=limit)


#: How often random programs contain what.
SIMPLE = {
    "inc": 3, "read": 3, "write": 3, "copy": 1, "cas": 2, "pause": 1, "poke": 2, "peek": 3, "nudge": 2, "again": 1,
    "again2": 0.4, "until": 1, "check": 0.6,
}  # fmt: skip
NESTED = {"lock": 4.5, "shared": 3, "attempt": 1.5, "branch": 1.5, "choice": 1.5, "keep": 0.3}


class Generator:
    """Random programs, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def field(self) -> str:
        return self.random.choice("xxyyz")

    def body(self, size: int, depth: int = 0) -> Body:
        return [self.statement(depth) for _ in range(size)]

    def inner(self, depth: int) -> Body:
        return self.body(self.random.choice((0, 1, 1, 2)), depth + 1)

    def statement(self, depth: int) -> tuple[Any, ...]:
        r = self.random
        weights = {**SIMPLE, **(NESTED if depth < 2 else {})}
        verb = r.choices(list(weights), list(weights.values()))[0]
        field, value = self.field(), r.choice((0, 1, 2))
        operands: dict[str, tuple[Any, ...]] = {
            "inc": (field,), "read": (field,), "write": (field, value), "copy": (field, self.field()),
            "cas": (field, value, r.choice((0, 1, 3))), "pause": (), "poke": (field,), "peek": (field, self.field()),
            "nudge": (field, self.field()),
            "again": (field, 1), "again2": (field, self.field()), "until": (field, 1),
            "check": (field, r.choice((1, 2, 3)), r.choice(("TOY-A", "TOY-B", "TOY-C"))),
        }  # fmt: skip
        if verb in operands:
            return (verb, *operands[verb])
        if verb == "lock":
            return (verb, r.choice("LLMSR"), self.inner(depth))
        if verb == "shared":
            return (verb, r.choice("SSR"), self.inner(depth))
        if verb == "attempt":
            return (verb, r.choice("LLMS"), self.inner(depth), self.inner(depth))
        if verb == "branch":
            return (verb, field, r.choice((0, 1)), self.inner(depth), self.inner(depth))
        if verb == "choice":
            return (verb, self.inner(depth), self.inner(depth))
        return (verb, r.choice("LMS"))

    def bodies(self) -> list[Body]:
        tasks = self.random.choice((2, 2, 3, 3, 3, 4))
        most = {2: 4, 3: 3, 4: 2}[tasks]
        return [self.body(self.random.randint(1, most)) for _ in range(tasks)]
