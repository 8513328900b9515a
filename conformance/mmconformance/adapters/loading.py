"""Finding the implementation that is to be tested, and keeping it from taking the suite down."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import attrs

from mmconformance.adapters.results import checked
from mmspec.config import HUGETLB, RMAP, system_of
from mmspec.errors import ImplementationFailure, NotObservable, UsageError, Violation
from mmspec.interfaces import INTERFACES
from mmspec.invariant import judging

#: Seconds that one call of an implementation may take.
CALL_LIMIT = float(os.environ.get("MMSPEC_CALL_LIMIT", "5"))


@attrs.define
class Target:
    """What is tested: a name for reports, its interface, and how to make a fresh instance for a profile."""

    name: str
    interface: str
    kind: str
    """"reference", "class", "exec" or "kernel"."""
    make: Callable[[str, str], Any]


def load_target(name: str | None, interface: str | None = None) -> Target:
    """The implementation of that name.

    None is the reference, `kernel` the running kernel, `exec:...` a program, `package.module:attribute` a class, and
    anything else the name of an installed entry point in the group `mmspec.implementations`.

    :raises UsageError: if there is no such thing, or it lacks methods.
    """
    if interface is not None and interface not in INTERFACES:
        raise UsageError(f"no interface is called {interface!r}; known are {', '.join(INTERFACES)}")
    if name is None:
        return _reference(interface or "MemoryManager")
    if name == "kernel":
        return _kernel()
    if name.startswith("exec:"):
        from mmconformance.adapters.subprocess import exec_target

        return exec_target(name, interface)
    if ":" not in name:
        name = _entry_point(name)
    if name == "mmreference.manager:ReferenceMemoryManager":
        return _reference("MemoryManager")
    return _python(name, interface)


def _reference(interface: str) -> Target:
    from mmreference.machine import Machine
    from mmreference.manager import ReferenceMemoryManager, ReferenceReservationMap

    if interface == "ReservationMap":
        return Target("reference-regions", interface, "class", lambda arch, variant: ReferenceReservationMap())
    if interface == "ReverseMap":
        return _python("mmreference.reverse_map:ReferenceReverseMap", interface)
    if interface == "VirtualMemory":
        return _python("mmreference.virtual_memory:ReferenceVirtualMemory", interface)
    systems: dict[str, Callable[[str, str], Any]] = {HUGETLB: ReferenceMemoryManager, RMAP: Machine}
    return Target("reference", interface, "reference", lambda arch, variant: systems[system_of(variant)](arch, variant))


def _kernel() -> Target:
    from mmconformance.adapters import kernel

    reason = kernel.available()
    if reason is not None:
        raise UsageError(f"the running kernel cannot be tested: {reason}")
    # One instance serves all examples: its processes are expensive to start, and cheap to begin anew.
    running: list[Any] = []

    def make(arch: str, variant: str) -> Any:
        if not running:
            running.append(kernel.RunningKernel())
        return running[0]

    return Target("kernel", "MemoryManager", "kernel", make)


def _entry_point(name: str) -> str:
    found = [e for e in entry_points(group="mmspec.implementations") if e.name == name]
    if not found:
        known = ", ".join(e.name for e in entry_points(group="mmspec.implementations")) or "none"
        raise UsageError(
            f"{name!r} is no package.module:attribute, no exec:PROGRAM and no installed implementation (installed: {known})"
        )
    return found[0].value


def _python(name: str, interface: str | None) -> Target:
    module_name, _, attribute = name.partition(":")
    if not module_name.strip(".") or module_name.startswith(".") or not attribute:
        raise UsageError(f"{name!r} names no implementation; write package.module:attribute")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.split(".")[0] == error.name.split(".")[0]:
            raise UsageError(f"there is no module {module_name!r}; is it installed, or in the current directory?") from None
        raise UsageError(f"{module_name} cannot be imported: it needs {error.name}, which is not installed") from None
    except Exception as error:
        raise UsageError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from None
    factory = getattr(module, attribute, None)
    if factory is None:
        raise UsageError(f"module {module_name} has no {attribute}")
    # A function that makes instances says nothing of them, so one is made.
    sample = factory if inspect.isclass(factory) else _instance(factory, name)
    chosen = interface or _guess(sample, name)
    _require_methods(sample, chosen, name)
    return Target(name, chosen, "class", lambda arch, variant: guarded(_instance(factory, name), chosen))


def _guess(factory: Any, name: str) -> str:
    for known, cls in INTERFACES.items():
        if inspect.isclass(factory) and issubclass(factory, cls):
            return known
    scores = {k: sum(hasattr(factory, m) for m in abstract_names(k)) for k in INTERFACES}
    best = max(scores, key=lambda k: scores[k] / len(abstract_names(k)))
    if not scores[best]:
        raise UsageError(f"{name} has none of the methods of {' or '.join(INTERFACES)}; see --interface")
    return best


def abstract_names(interface: str) -> list[str]:
    """The methods and properties that an implementation must have."""
    return sorted(INTERFACES[interface].__abstractmethods__)


def _require_methods(sample: Any, interface: str, name: str) -> None:
    missing = [m for m in abstract_names(interface) if not hasattr(sample, m)]
    missing += [m for m in getattr(sample, "__abstractmethods__", ()) if m not in missing]
    if inspect.isclass(sample):
        # An attribute that only __init__ sets cannot be seen on the class; the guard looks for it on the instance.
        missing = [m for m in missing if m not in ("regions", "huge_page_bytes", "page_bytes")]
    if missing:
        raise UsageError(f"{name} lacks {', '.join(missing)}, which {interface} needs")


def _instance(factory: Any, name: str) -> Any:
    try:
        with time_limit(f"making {name}"):
            return factory() if callable(factory) else factory
    except ImplementationFailure:
        raise
    except (Exception, SystemExit) as error:
        raise ImplementationFailure(f"{name}() raised {type(error).__name__}: {error}") from error


class _Late(BaseException):
    """Raised in an endless call; no `except Exception` of an implementation may keep it."""


@contextmanager
def time_limit(what: str) -> Iterator[None]:
    """Interrupt whatever runs longer than :data:`CALL_LIMIT`; works in the main thread of a process.

    A call that never comes back to the interpreter cannot be interrupted. In a checking process, it is ended together
    with the process, when it has used up twice the time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(signum: int, frame: object) -> None:
        raise _Late

    apart = multiprocessing.parent_process() is not None
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, CALL_LIMIT, CALL_LIMIT)
    if apart:
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * CALL_LIMIT)
    try:
        yield
    except _Late:
        raise ImplementationFailure(f"{what} did not return within {CALL_LIMIT:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if apart:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGALRM, before)


def guarded(instance: Any, interface: str) -> Any:
    """The instance behind the interface: contracts are evaluated, exceptions and endless calls reported as failures.

    The contracts sit on the interface's methods; a plain class gets them by this delegation. One that inherits them
    is not judged a second time by its own.
    """
    base = INTERFACES[interface]
    names = [n for n in dir(base) if not n.startswith("_")]
    body: dict[str, Any] = {"__init__": lambda self: setattr(self, "_subject", instance), "__slots__": ("_subject",)}
    for name in names:
        original = inspect.getattr_static(base, name)
        if isinstance(original, property):
            body[name] = property(_getter(interface, name, original.fget))
        elif callable(original):
            body[name] = _caller(interface, name, original)
        elif hasattr(instance, name):
            body[name] = getattr(instance, name)
    body["__repr__"] = lambda self: _told(instance)
    cls = type(f"Guarded{interface}", (base,), body)
    return cls()


def _told(instance: Any) -> str:
    """What reports say of it: its regions, if it has any."""
    name = type(instance).__name__
    with judging(None):
        try:
            return f"{name}({list(instance.regions)})"
        except Exception:
            return name


def _subject(self: Any) -> Any:
    return object.__getattribute__(self, "_subject")


def _getter(interface: str, name: str, original: Any) -> Callable[[Any], Any]:
    def get(self: Any) -> Any:
        return _protected(interface, name, lambda: getattr(_subject(self), name))

    get.__doc__ = getattr(original, "__doc__", None)
    return get


def _caller(interface: str, name: str, original: Any) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _protected(interface, name, lambda: getattr(_subject(self), name)(*args, **kwargs))

    # icontract finds arguments by name.
    method.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    method.__name__ = name
    return method


def _protected(interface: str, name: str, call: Callable[[], Any]) -> Any:
    try:
        with time_limit(f"{name}()"), judging(None):
            value = call()
        return checked(interface, name, value)
    except (ImplementationFailure, Violation, NotObservable, KeyboardInterrupt):
        raise
    except AttributeError as error:
        raise ImplementationFailure(f"{name} is missing or broken: {error}") from error
    except (Exception, SystemExit) as error:
        raise ImplementationFailure(f"{name}() raised {type(error).__name__}: {error}") from error
