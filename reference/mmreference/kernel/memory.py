"""Kernel objects whose changes can be watched, and which turn to poison when they are freed.

A class lists its watched fields with :func:`watched`. With contracts on, each store to such a field is recorded as a
`write` event together with the locks that are held; with contracts off, a watched field is a plain attribute.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mmreference.kernel.scheduler import Scheduler
from mmspec.contracts import ENABLED
from mmspec.invariant import Judge, Over
from mmspec.trace import Recorder, wrote


class UseAfterFree(Exception):  # noqa: N818
    """A freed object was used. `obj` is the object, `freed_by` who freed it."""

    def __init__(self, obj: Any, field: str, freed_by: str) -> None:
        self.obj = obj
        self.field = field
        self.freed_by = freed_by
        super().__init__(f"{obj!r}.{field} used after it was freed by {freed_by}")


class _Watched:
    """Descriptor of a field whose stores are recorded."""

    __slots__ = ("field", "slot")

    def __init__(self, field: str) -> None:
        self.field = field
        self.slot = f"_{field}_value"

    def __get__(self, obj: Any, cls: type | None = None) -> Any:
        if obj is None:
            return self
        return getattr(obj, self.slot)

    def __set__(self, obj: Any, new: Any) -> None:
        old = getattr(obj, self.slot, None)
        setattr(obj, self.slot, new)
        obj.changes += 1
        if Recorder.active is not None and obj.born:
            wrote(obj, self.field, old, new)


class _Shared(_Watched):
    """Descriptor of a field that threads race on: each access is part of the running step's footprint."""

    __slots__ = ()

    def __get__(self, obj: Any, cls: type | None = None) -> Any:
        if obj is None:
            return self
        if Scheduler.current is not None and not Judge.looking:
            Scheduler.current.access((obj.name, self.field), False)
        return getattr(obj, self.slot)

    def __set__(self, obj: Any, new: Any) -> None:
        if Scheduler.current is not None:
            Scheduler.current.access((obj.name, self.field), True)
        super().__set__(obj, new)


def shared(*fields: str) -> Any:
    """Class decorator: stores to these fields are recorded, and every access belongs to the footprint of its step.

    What the specification looks at does not count.
    """

    def decorate(cls: type) -> type:
        for field in fields:
            setattr(cls, field, _Shared(field))
        return cls

    return decorate


def watched(*fields: str) -> Any:
    """Class decorator: stores to these fields are recorded."""

    def decorate(cls: type) -> type:
        if ENABLED:
            for field in fields:
                setattr(cls, field, _Watched(field))
        return cls

    return decorate


class KernelObject:
    """Something with a name that is the same in each re-execution, and with a lifetime.

    `over` tells the specification what it is. A subclass calls :meth:`be_born` at the end of its constructor; what
    happens before is initialisation, not a change.
    """

    over: ClassVar[Over]
    identity: ClassVar[tuple[str, ...]] = ("name", "over")
    """What can be asked of the object even when it is freed, because it never changes."""
    born = False
    changes = 0
    """Grows with each change of a watched field, and of whatever else the object's lock protects."""

    def __init__(self, name: str) -> None:
        self.name = name

    def be_born(self) -> None:
        """From here on changes are recorded."""
        self.born = True

    def free(self) -> None:
        """Give the memory back; whoever touches the object from now on gets :class:`UseAfterFree`."""
        recorder = Recorder.active
        by = "?"
        if recorder is not None:
            recorder.emit("free", obj=self)
            by = f"{recorder.current.name} in {recorder.current.op!r}" if recorder.current.op else recorder.current.name
            recorder.forget(self)
        self.__dict__["_freed_by"] = by
        self.__class__ = _poisoned(type(self))

    def __repr__(self) -> str:
        return self.name


def is_freed(obj: KernelObject) -> bool:
    """Whether the object is no more."""
    return "_freed_by" in object.__getattribute__(obj, "__dict__")


_POISONED: dict[type[KernelObject], type] = {}


def _poisoned(cls: type[KernelObject]) -> type:
    """The class that a freed object of `cls` becomes."""
    if cls not in _POISONED:

        def refuse(self: Any, field: str) -> Any:
            state = object.__getattribute__(self, "__dict__")
            if field in cls.identity or field in ("__class__", "__dict__"):
                return object.__getattribute__(self, field)
            raise UseAfterFree(self, field, state["_freed_by"])

        def store(self: Any, field: str, value: Any) -> None:
            refuse(self, field)

        body = {
            "__getattribute__": refuse,
            "__setattr__": store,
            "__repr__": lambda self: f"freed {object.__getattribute__(self, '__dict__')['name']}",
            "__hash__": lambda self: id(self),
            "__eq__": lambda self, other: self is other,
        }
        _POISONED[cls] = type(f"Freed{cls.__name__}", (cls,), body)
    return _POISONED[cls]
