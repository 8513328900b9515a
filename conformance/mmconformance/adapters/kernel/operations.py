"""System calls as neutral text: written down, read back, replayed on any subject.

An operation reads `write(p1, m2+1, 7)`. Processes are `p1`, `p2`, ... in the order in which `spawn` and `fork` made
them, files `f0`, `f1`, ... in the order of `create_file`, and `m2+1` is the second huge page of the second mapping,
counting every `mmap`, also one that failed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from mmspec.errors import UsageError
from mmspec.interfaces import MemoryManager
from mmspec.state import PoolCounters, Setup

#: The operations that have a neutral form.
NAMES = frozenset(
    {
        "spawn", "create_file", "mmap", "munmap", "fork", "exit", "read", "write", "truncate", "close_file",
        "set_nr_hugepages", "set_overcommit", "dontneed", "punch_hole", "fallocate", "mprotect",
    }
)  # fmt: skip

#: What each makes, by the letter of its symbol.
MAKES = {"spawn": "p", "fork": "p", "create_file": "f", "mmap": "m"}

_SYMBOL = re.compile(r"^([pfm])(\d+)$")


@attrs.frozen(slots=True, order=True)
class Symbol:
    """A process, a file, or an address in a mapping (`pages` huge pages from its start)."""

    kind: str
    number: int
    pages: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.number}" + (f"+{self.pages}" if self.pages else "")


Value = Symbol | int | None


@attrs.frozen(slots=True)
class Operation:
    """One system call, with what it is applied to as symbols."""

    name: str
    args: tuple[Value, ...] = ()
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        words = [str(a) for a in self.args] + [f"{name}={value}" for name, value in self.options]
        return f"{self.name}({', '.join(words)})"


def parse(text: str) -> Operation:
    """The operation that `text` tells.

    :raises UsageError: it is none.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in NAMES:
            args = tuple(_value(a) for a in call.args)
            return Operation(call.func.id, args, tuple((str(k.arg), _value(k.value)) for k in call.keywords))
    except (SyntaxError, ValueError):
        pass
    raise UsageError(f"{text!r} is no operation: expected one like write(p1, m1+1, 7)")


def parse_all(text: str) -> tuple[Operation, ...]:
    """The operations of a text with one in each line or between semicolons."""
    return tuple(parse(part) for part in re.split(r"[;\n]", text) if part.strip())


def _value(node: ast.expr) -> Value:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, int)):
        return node.value
    pages = 0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.right, ast.Constant):
        pages = int(str(node.right.value))
        node = node.left
    match = _SYMBOL.match(node.id) if isinstance(node, ast.Name) else None
    if match is None:
        raise ValueError(ast.unparse(node))
    return Symbol(match[1], int(match[2]), pages)


@attrs.frozen(slots=True)
class Step:
    """An operation, its result (an address told as 0), and what was seen afterwards."""

    operation: Operation
    result: int
    counters: PoolCounters
    quota_free: int | None


class Player:
    """Runs operations on a subject, given as symbols or as a plain call, and notes them down.

    Replaying :attr:`operations` repeats the run.
    """

    def __init__(self, manager: MemoryManager) -> None:
        self.manager = manager
        self.operations: list[Operation] = []
        self._made: dict[str, list[int]] = {"p": [], "f": [], "m": []}
        self._lengths: list[int] = []

    def start(self, setup: Setup) -> None:
        """A fresh machine, and nothing noted."""
        self.manager.start(setup)
        self.operations.clear()
        self._lengths.clear()
        for made in self._made.values():
            made.clear()

    def play(self, operation: Operation) -> Step:
        """Run one operation."""
        args = [self._resolve(a) for a in operation.args]
        options = {name: self._resolve(value) for name, value in operation.options}
        result = self._run(operation, args, options)
        quota = self.manager.quota_free() if "quota_free" in self.manager.capabilities else None
        return Step(operation, 0 if operation.name == "mmap" and result > 0 else result, self.manager.counters(), quota)

    def call(self, name: str, *args: Any, **options: Any) -> int:
        """Run one operation with real pids, file numbers and addresses, and note it down."""
        kinds = KINDS[name]
        symbols = tuple(self._symbol(kind, value) for kind, value in zip(kinds, args, strict=False))
        named = tuple((key, self._symbol("f" if key == "file" else "", value)) for key, value in options.items())
        return self._run(Operation(name, symbols, named), list(args), options)

    def _run(self, operation: Operation, args: list[Any], options: dict[str, Any]) -> int:
        result = getattr(self.manager, operation.name)(*args, **options)
        self.operations.append(operation)
        if operation.name in MAKES:
            self._made[MAKES[operation.name]].append(result)
        if operation.name == "mmap":
            self._lengths.append(args[1])
        return result  # type: ignore[no-any-return]

    def _resolve(self, value: Value) -> Any:
        if not isinstance(value, Symbol):
            return value
        first = 0 if value.kind == "f" else 1
        try:
            made = self._made[value.kind][value.number - first]
        except IndexError:
            raise UsageError(f"{value}: no such object has been made") from None
        return made + value.pages * self.manager.huge_page_bytes

    def _symbol(self, kind: str, value: Any) -> Value:
        if kind == "" or value is None:
            return value  # type: ignore[no-any-return]
        if kind == "m":
            for number in range(len(self._lengths) - 1, -1, -1):
                pages, rest = divmod(value - self._made["m"][number], self.manager.huge_page_bytes)
                if rest == 0 and 0 <= pages < self._lengths[number]:
                    return Symbol("m", number + 1, pages)
            raise UsageError(f"address {value:#x} lies in no mapping of the run")
        return Symbol(kind, self._made[kind].index(value) + (kind != "f"))


#: The kinds of the positional arguments, "" for plain numbers.
KINDS: dict[str, Sequence[str]] = {
    "spawn": (),
    "create_file": ("",),
    "mmap": ("p", ""),
    "munmap": ("p", "m", ""),
    "fork": ("p",),
    "exit": ("p",),
    "read": ("p", "m"),
    "write": ("p", "m", ""),
    "truncate": ("f", ""),
    "close_file": ("f",),
    "set_nr_hugepages": ("",),
    "set_overcommit": ("",),
    "dontneed": ("p", "m", ""),
    "punch_hole": ("f", "", ""),
    "fallocate": ("f", "", ""),
    "mprotect": ("p", "m", "", ""),
}


def replay(manager: MemoryManager, setup: Setup, operations: Iterable[Operation]) -> list[Step]:
    """Run the operations on a fresh machine; what was seen after each."""
    player = Player(manager)
    player.start(setup)
    return [player.play(operation) for operation in operations]
