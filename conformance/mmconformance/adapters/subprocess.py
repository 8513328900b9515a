"""A program in any language as an implementation: JSON-RPC 2.0, one message per line, over its standard streams.

The suite writes `{"jsonrpc": "2.0", "id": 1, "method": "region_chg", "params": {"f": 0, "t": 2}}` and the program
answers `{"jsonrpc": "2.0", "id": 1, "result": 2}`, or with an `error` object. `hello` comes first and answers
`{"interface": "ReservationMap", "version": 1}` (and `"capabilities": [...]` for a MemoryManager); `new` asks for a
fresh instance. A property is a method without parameters. Counters and set-ups are objects with the field names of
:mod:`mmspec.state`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import util
from typing import Any, Literal

import attrs
import msgspec

from mmconformance.adapters.loading import CALL_LIMIT, Target, guarded
from mmconformance.adapters.results import promised
from mmspec.errors import ImplementationFailure, UsageError
from mmspec.interfaces import INTERFACES
from mmspec.state import Mapping, PageState, PoolCounters, Resident, Setup

VERSION = 1

#: Bytes that one answer may have.
ANSWER_LIMIT = 1 << 24


class Request(msgspec.Struct, kw_only=True):
    """What the suite writes."""

    id: int
    method: str
    params: dict[str, Any] = {}
    jsonrpc: str = "2.0"


class Problem(msgspec.Struct):
    """Why a call could not be answered."""

    code: int = 0
    message: str = ""


class Response(msgspec.Struct, kw_only=True):
    """What the program answers."""

    id: int
    result: Any = None
    error: Problem | None = None
    jsonrpc: Literal["2.0"] = "2.0"


class Hello(msgspec.Struct):
    """How a program introduces itself."""

    interface: str
    version: int
    capabilities: list[str] = []
    huge_page_bytes: int = 2 << 20


class Connection:
    """A running program."""

    def __init__(self, command: list[str], name: str) -> None:
        self.name = name
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(f"{name} cannot be started: {error.strerror}: {command[0]}") from None
        # Also at the end of a checking process, where nothing else is called.
        util.Finalize(self, _end, args=(self.process,), exitpriority=10)
        self._serial = 0
        self._rest = b""
        self._said = b""
        """The end of what the program has written to standard error."""
        self._listening = [s for s in (self.process.stdout, self.process.stderr) if s is not None]

    def call(self, method: str, **params: Any) -> Any:
        """Ask and wait for the answer.

        :raises ImplementationFailure: if there is none in time, or it is none.
        """
        self._serial += 1
        message = msgspec.json.encode(Request(id=self._serial, method=method, params=params)) + b"\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(message)
        except BrokenPipeError:
            raise self._died(method) from None
        line = self._line(method)
        try:
            response = msgspec.json.decode(line, type=Response)
        except msgspec.MsgspecError as error:
            raise ImplementationFailure(f"{self.name} answered {method} with what is no response: {error}") from None
        if response.id != self._serial:
            raise ImplementationFailure(f"{self.name} answered request {response.id}, not {self._serial}")
        if response.error is not None:
            raise ImplementationFailure(f"{self.name}: {method} failed: {response.error.message}")
        return response.result

    def _line(self, method: str) -> bytes:
        assert self.process.stdout is not None
        end = time.monotonic() + CALL_LIMIT
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            ready = select.select(self._listening, [], [], max(0.0, left))[0] if left > 0 else []
            if not ready:
                self.close()
                raise ImplementationFailure(f"{self.name}: {method} was not answered within {CALL_LIMIT:g} s")
            if self.process.stdout not in ready:
                # A pipe that nobody reads would stop the program.
                self._hear()
                continue
            chunk = self.process.stdout.read(65536)
            if not chunk:
                raise self._died(method)
            self._rest += chunk
            if len(self._rest) > ANSWER_LIMIT:
                self.close()
                raise ImplementationFailure(f"{self.name}: {method} was answered with more than {ANSWER_LIMIT} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _died(self, method: str) -> ImplementationFailure:
        try:
            how = f"status {self.process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            how = "it closed its output"
        self.close()
        while self.process.stderr in self._listening and select.select([self.process.stderr], [], [], 0)[0]:
            self._hear()
        last = (self._said.decode(errors="replace").strip().splitlines() or ["nothing on stderr"])[-1]
        return ImplementationFailure(f"{self.name} ended during {method} ({how}): {last}")

    def _hear(self) -> None:
        assert self.process.stderr is not None
        said = self.process.stderr.read(65536)
        if not said:
            self._listening.remove(self.process.stderr)
        self._said = (self._said + said)[-4096:]

    def close(self) -> None:
        """End the program, and what it has started."""
        _end(self.process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def exec_target(name: str, interface: str | None) -> Target:
    """The target for `exec:PROGRAM ARGUMENTS`.

    :raises UsageError: if it cannot be started or provides no known interface.
    """
    try:
        command = shlex.split(name.removeprefix("exec:"))
    except ValueError as error:
        raise UsageError(f"{name} is no command: {str(error).lower()}") from None
    if not command:
        raise UsageError("exec: names no program")
    connection = Connection(command, name)
    try:
        hello = _hello(connection)
    finally:
        connection.close()
    chosen = interface or hello.interface
    if chosen not in INTERFACES or hello.interface != chosen:
        raise UsageError(f"{name} provides {hello.interface!r}; wanted is one of {interface or ', '.join(INTERFACES)}")
    # One program serves all instances of a checking process; `new` makes each of them.
    running: list[Connection] = []

    def make(arch: str, variant: str) -> Any:
        if not running:
            running.append(Connection(command, name))
            _hello(running[0])
        running[0].call("new", arch=arch)
        return guarded(_remote(chosen, running[0], hello), chosen)

    return Target(name, chosen, "exec", make)


def _hello(connection: Connection) -> Hello:
    try:
        hello = msgspec.convert(connection.call("hello", version=VERSION), Hello)
    except msgspec.ValidationError as error:
        raise ImplementationFailure(f"{connection.name} answered hello wrongly: {error}") from None
    if hello.version != VERSION:
        raise ImplementationFailure(f"{connection.name} speaks version {hello.version}, this suite {VERSION}")
    return hello


#: The calls whose results say nothing.
NOT_LOOKED_AT = frozenset(
    name
    for interface, cls in INTERFACES.items()
    for name in dir(cls)
    if not name.startswith("_") and callable(getattr(cls, name)) and promised(interface, name) is object
)

#: Capabilities that stand for further members beside the one of their name.
TOGETHER = {"lock_pages": ("unlock_pages",), "create_page_file": ("truncate_page_file",)}

#: What some results are made into.
_RESULTS: dict[str, Any] = {
    "counters": lambda value: PoolCounters(**value),
    "mappings": lambda value: [Mapping(**m) for m in value],
    "regions": lambda value: [tuple(pair) for pair in value],
    "page_state": lambda value: None if value is None else PageState(**value),
    "resident": lambda value: Resident(**value),
}


def _remote(interface: str, connection: Connection, hello: Hello) -> Any:
    """An object whose methods are calls of the program."""
    body: dict[str, Any] = {"capabilities": frozenset(hello.capabilities), "huge_page_bytes": hello.huge_page_bytes}
    announced = {n for name in hello.capabilities for n in (name, *TOGETHER.get(name, ()))}
    optional = {n for n in announced if callable(getattr(INTERFACES[interface], n, None))}
    for name in sorted(INTERFACES[interface].__abstractmethods__ | optional):
        original = inspect.getattr_static(INTERFACES[interface], name)
        if name in body:
            continue
        if isinstance(original, property):
            body[name] = property(lambda self, name=name: _result(name, connection.call(name)))
        else:
            body[name] = _method(name, list(inspect.signature(original).parameters)[1:], connection)
    return type(f"Remote{interface}", (), body)()


def _method(name: str, parameters: list[str], connection: Connection) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        params = {**dict(zip(parameters, args, strict=False)), **kwargs}
        plain = {k: attrs.asdict(v) if isinstance(v, Setup) else v for k, v in params.items()}
        return _result(name, connection.call(name, **plain))

    return method


def _result(name: str, value: Any) -> Any:
    with contextlib.suppress(TypeError, ValueError):
        return _RESULTS[name](value) if name in _RESULTS else value
    raise ImplementationFailure(f"{name} was answered with {value!r}, which is no such thing")


def serve(factory: Callable[[], Any], interface: str) -> None:
    """Make a Python class such a program: answer requests from standard input until it ends.

    What the class itself prints goes to standard error, because standard output is for answers.
    """
    subject: Any = None
    answers = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin.buffer:
            try:
                request = msgspec.json.decode(line, type=Request)
            except msgspec.MsgspecError as error:
                raise SystemExit(f"this is no request: {error}") from None
            response = Response(id=request.id)
            try:
                if request.method == "hello":
                    response.result = _introduction(factory(), interface)
                elif request.method == "new":
                    subject = factory()
                else:
                    response.result = _answer(subject, request)
            except Exception as error:
                response.error = Problem(-32000, f"{type(error).__name__}: {error}")
            answers.write(msgspec.json.encode(response) + b"\n")
            answers.flush()


def _introduction(subject: Any, interface: str) -> Hello:
    capabilities = sorted(getattr(subject, "capabilities", ()))
    return Hello(interface, VERSION, capabilities, getattr(subject, "huge_page_bytes", 2 << 20))


def _answer(subject: Any, request: Request) -> Any:
    params = dict(request.params)
    if "setup" in params:
        params["setup"] = Setup(**params["setup"])
    attribute = getattr(subject, request.method)
    result = attribute(**params) if callable(attribute) else attribute
    if isinstance(result, PoolCounters):
        seen = result.names() if isinstance(result._tentative_huge_pages, int) else result.names()[:4]
        return {n: getattr(result, n) for n in seen}
    if isinstance(result, PageState | Resident):
        return attrs.asdict(result)
    if request.method == "mappings":
        return [attrs.asdict(m) for m in result]
    return None if request.method in NOT_LOOKED_AT else result
