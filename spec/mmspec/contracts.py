"""An invariant as a contract on a function.

:func:`requires` and :func:`guarantees` turn invariants into icontract pre- and postconditions, on plain functions, on
`async def` and on the abstract methods of an interface, whose implementations inherit them. A predicate's parameters
are found by name: the function's own arguments, `result`, `old` and `new` (what the `view` given to
:func:`guarantees` shows before and after the call) and `op` (the :class:`mmspec.trace.Operation` that
:func:`operation` records).

With `MMSPEC_CONTRACTS=off` in the environment every decorator here returns the function that it is given.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

import icontract

from mmspec.errors import Violation
from mmspec.invariant import Invariant
from mmspec.trace import Recorder

F = TypeVar("F", bound=Callable[..., Any])

#: Whether contracts are compiled in; read once, at import.
ENABLED = os.environ.get("MMSPEC_CONTRACTS", "on").lower() not in ("off", "0", "no")

#: Function name to the ids of the invariants that its contracts cite.
CITED_BY: dict[str, list[str]] = {}


class _Condition:
    """Several invariants as one icontract condition; remembers which of them failed."""

    def __init__(self, invariants: tuple[Invariant, ...], view: Callable[..., Any] | None, *, after: bool) -> None:
        self.invariants = invariants
        self.view = view
        self.view_parameters = tuple(inspect.signature(view).parameters) if view is not None else ()
        self.looks_again = any("new" in i.parameters for i in invariants)
        self.failed: Violation | None = None
        wanted = {p for i in invariants for p in i.parameters} - {"op", "new", "old"}
        wanted |= {"result"} if after else set()
        wanted |= {"OLD", *self.view_parameters} if view is not None else set()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in sorted(wanted)])
        self.__name__ = "+".join(i.id for i in invariants)

    def __call__(self, **values: Any) -> bool:
        recorder = Recorder.active
        operation = recorder.current.op if recorder is not None else None
        if operation is not None and "result" in values:
            operation.result = values["result"]
        values["op"] = operation
        if self.view is not None:
            values["old"] = values["OLD"].old
            if self.looks_again:
                values["new"] = self.view(**{p: values[p] for p in self.view_parameters})
        for invariant in self.invariants:
            if operation is None and "op" in invariant.parameters:
                continue
            arguments = {p: values[p] for p in invariant.parameters}
            if not invariant.holds(**arguments):
                self.failed = invariant.violation(**arguments)
                return False
        return True

    def error(self) -> Violation:
        """What icontract raises."""
        assert self.failed is not None
        return self.failed


def _cite(function: Callable[..., Any], invariants: tuple[Invariant, ...]) -> None:
    name = f"{function.__module__}.{function.__qualname__}"
    CITED_BY.setdefault(name, []).extend(i.id for i in invariants)


def requires(*invariants: Invariant) -> Callable[[F], F]:
    """The function may be called only where these preconditions hold."""

    def decorate(function: F) -> F:
        _cite(function, invariants)
        if not ENABLED:
            return function
        condition = _Condition(invariants, None, after=False)
        return icontract.require(condition, error=condition.error)(function)

    return decorate


def guarantees(*invariants: Invariant, view: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """The function establishes these postconditions whenever it returns, with success or with an error code.

    `view` is a function of some of the arguments (by name); predicates see what it returns as `old` and `new`.
    """

    def decorate(function: F) -> F:
        _cite(function, invariants)
        if not ENABLED:
            return function
        condition = _Condition(invariants, view, after=True)
        checked = icontract.ensure(condition, error=condition.error)(function)
        return icontract.snapshot(view, name="old")(checked) if view is not None else checked

    return decorate


def operation(function: F) -> F:
    """Record each call of the function as an :class:`~mmspec.trace.Operation`; the outermost decorator."""
    if not ENABLED:
        return function
    name = function.__name__
    parameters = tuple(inspect.signature(function).parameters.values())
    names = tuple(p.name for p in parameters)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    def enter(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return recorder.enter(name, {**defaults, **dict(zip(names, args, strict=False)), **kwargs})

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def recorded_async(*args: Any, **kwargs: Any) -> Any:
            recorder = Recorder.active
            if recorder is None:
                return await function(*args, **kwargs)
            op = enter(recorder, args, kwargs)
            op.result = await function(*args, **kwargs)
            recorder.leave(op)
            return op.result

        return recorded_async  # type: ignore[return-value]

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        recorder = Recorder.active
        if recorder is None:
            return function(*args, **kwargs)
        op = enter(recorder, args, kwargs)
        op.result = function(*args, **kwargs)
        recorder.leave(op)
        return op.result

    return recorded  # type: ignore[return-value]
