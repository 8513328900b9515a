"""Whether what an implementation returns is of the type that its interface promises."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any

from mmspec.errors import ImplementationFailure, printable
from mmspec.interfaces import INTERFACES


@cache
def promised(interface: str, name: str) -> Any:
    """The type that the interface's method or property `name` promises; `object` where nothing is looked at."""
    member = getattr(INTERFACES[interface], name, None)
    function = member.fget if isinstance(member, property) else member
    if not callable(function):
        return object
    promise = typing.get_type_hints(function).get("return", object)
    return object if promise is type(None) else promise


def fits(value: object, promise: Any) -> bool:
    """Whether `value` is what `promise` says; True and False are no numbers here, a pair may be a list."""
    if promise in (Any, object):
        return True
    if promise is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin, parts = typing.get_origin(promise), typing.get_args(promise)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        return _listed(value) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is Sequence:
        return _listed(value) and all(fits(element, parts[0]) for element in value)
    return isinstance(value, origin or promise)


def _listed(value: object) -> typing.TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def checked(interface: str, name: str, value: Any) -> Any:
    """The value, if it is of the type that the interface promises.

    :raises ImplementationFailure: if it is not.
    """
    promise = promised(interface, name)
    if fits(value, promise):
        return value
    wanted = promise.__name__ if isinstance(promise, type) and not typing.get_args(promise) else str(promise)
    wanted = wanted.replace("collections.abc.", "").replace("mmspec.state.", "")
    got = type(value).__name__
    shown = f" ({printable(value, 80)})" if isinstance(value, Sequence) and not isinstance(value, str) else ""
    raise ImplementationFailure(f"{name} returned {got}{shown}, not {wanted}")
