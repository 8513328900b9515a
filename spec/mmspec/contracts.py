"""An invariant as a contract on a function.

An invariant over operations or calls names the functions it is about, so a function only has to say that it is
contracted: :func:`contracted` looks its invariants up by the function's name and turns them into icontract pre- and
postconditions, on plain functions, on `async def` and on the abstract methods of an interface, whose implementations
inherit them. :func:`maintains` does the same for the state invariants of a class, :func:`operation` also records each
call.

A predicate's parameters are found by name: the function's own arguments, `result`, `old` and `new` (what the `view` of
the function shows before and after the call) and `op` (the :class:`mmspec.trace.Operation` that is running).

With `MMSPEC_CONTRACTS=off` in the environment every decorator here returns the function that it is given.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

import icontract

from mmspec.config import HUGETLB, RMAP
from mmspec.errors import Violation
from mmspec.invariant import REGISTRY, Invariant, Judge, Kind, Over
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

    def __call__(self, /, **values: Any) -> bool:
        if not Judge.at_work():
            return True
        recorder = Recorder.active
        operation = recorder.current.op if recorder is not None else None
        if operation is not None and "result" in values:
            operation.result = values["result"]
        values["op"] = operation
        if self.view is not None:
            values["old"] = values["OLD"].old
            if self.looks_again:
                values["new"] = _looking(self.view)(**{p: values[p] for p in self.view_parameters})
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


def _looking(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view as the specification's own look at the state."""

    @functools.wraps(view)
    def look(*args: Any, **kwargs: Any) -> Any:
        before, Judge.looking = Judge.looking, True
        try:
            return view(*args, **kwargs)
        finally:
            Judge.looking = before

    return look


def invariants_of(name: str, module: str) -> tuple[tuple[Invariant, ...], tuple[Invariant, ...]]:
    """The preconditions and the postconditions that the registry has for the function of that name in its system."""
    # The registry is filled by importing the invariants, which themselves know nothing of contracts.
    import mmspec.invariants  # noqa: F401

    system = system_of_module(module)
    about = [
        i
        for i in REGISTRY
        if i.over in (Over.OPERATION, Over.CALL) and name in i.on and system in (i.system, ANY_SYSTEM)
    ]
    before = tuple(i for i in about if i.kind is Kind.PRECONDITION and not AFTERWARDS & set(i.parameters))
    return before, tuple(i for i in about if i not in before)


#: Interfaces are of no single system.
ANY_SYSTEM = "any"


def system_of_module(module: str) -> str:
    """The system that the functions of a module belong to."""
    if module.startswith("mmreference.mm.hugetlb."):
        return HUGETLB
    return RMAP if module.startswith("mmreference.mm.") else ANY_SYSTEM


AFTERWARDS = {"result", "old", "new"}


def contracted(view: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Put the function under the contracts that the registry has for its name.

    `view` is a function of some of the arguments (by name); predicates see what it returns as `old` and `new`.
    """

    def decorate(function: F) -> F:
        before, after = invariants_of(function.__name__, function.__module__)
        name = f"{function.__module__}.{function.__qualname__}"
        CITED_BY.setdefault(name, []).extend(i.id for i in (*before, *after))
        if not ENABLED:
            return function
        checked = function
        if before:
            required = _Condition(before, None, after=False)
            checked = icontract.require(required, error=required.error)(checked)
        if after:
            ensured = _Condition(after, view, after=True)
            checked = icontract.ensure(ensured, error=ensured.error)(checked)
            if view is not None:
                checked = icontract.snapshot(_looking(view), name="old")(checked)
        return checked

    return decorate


def maintains(*ids: str) -> Callable[[type], type]:
    """Objects of the class keep these state invariants, as seen after each call of a public method."""

    def decorate(cls: type) -> type:
        import mmspec.invariants  # noqa: F401

        invariants = tuple(REGISTRY[id_] for id_ in ids)
        CITED_BY.setdefault(f"{cls.__module__}.{cls.__qualname__}", []).extend(ids)
        if not ENABLED:
            return cls
        for invariant in invariants:
            cls = _maintain(invariant)(cls)
        return cls

    return decorate


def _maintain(invariant: Invariant) -> Callable[[type], type]:
    def condition(self: Any) -> bool:
        return invariant.holds(self)

    def error(self: Any) -> Violation:
        return invariant.violation(self)

    result: Callable[[type], type] = icontract.invariant(condition, error=error)
    return result


def operation(view: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Put the function under its contracts, and record each call as an :class:`~mmspec.trace.Operation`."""

    def decorate(function: F) -> F:
        checked = contracted(view)(function)
        return _recorded(function, checked) if ENABLED else function

    return decorate


def _recorded(function: F, checked: F) -> F:
    name = function.__name__
    parameters = tuple(inspect.signature(function).parameters.values())
    names = tuple(p.name for p in parameters)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    def enter(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return recorder.enter(name, {**defaults, **dict(zip(names, args, strict=False)), **kwargs})

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def recorded_async(*args: Any, **kwargs: Any) -> Any:
            # With no judge there will be none when the call returns either.
            body = function if Judge.active is None else checked
            recorder = Recorder.active
            if recorder is None:
                return await body(*args, **kwargs)
            op = enter(recorder, args, kwargs)
            op.result = await body(*args, **kwargs)
            recorder.leave(op)
            return op.result

        return recorded_async  # type: ignore[return-value]

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        body = checked if Judge.at_work() else function
        recorder = Recorder.active
        if recorder is None:
            return body(*args, **kwargs)
        op = enter(recorder, args, kwargs)
        op.result = body(*args, **kwargs)
        recorder.leave(op)
        return op.result

    return recorded  # type: ignore[return-value]
