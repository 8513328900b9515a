"""How a script becomes a program for the engines: a stage is set, the threads race, the end is judged."""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from mmconformance.engines.execution import TaskProgram
from mmconformance.hazards import violation_for
from mmreference.kernel.locks import Lock
from mmreference.kernel.memory import KernelObject, is_freed
from mmreference.kernel.scheduler import First, Scheduler, Strategy
from mmspec.invariant import REGISTRY, Judge, Over, judging
from mmspec.trace import Recorder, Run

Body = Callable[[], Coroutine[Any, Any, Any]]
"""What a thread does."""

F = TypeVar("F", bound=Callable[..., None])


class Stage(ABC):
    """A world of one system, on which a script is set up, run and cleared, with everything that happens recorded.

    `facts` are what the script knows beforehand and invariants over runs ask for.
    """

    expectations: ClassVar[tuple[str, ...]] = ("serial_outcomes",)
    """The facts about the outcome; they are known of runs in which nothing is made to fail."""

    rehearsal: ClassVar[Callable[[], Strategy]] = First
    """In which order the threads of a drill run."""

    def __init__(self, arch: str, variant: str, recorder: Recorder) -> None:
        self.arch = arch
        self.variant = variant
        self.recorder = recorder
        self.threads: list[tuple[str, Body, str]] = []
        """Name, body and kind of each thread, see :meth:`race_body`."""
        self.facts: dict[str, Any] = {}

    def race_body(self, thread: str, body: Body, alike: str = "") -> None:
        """`thread` runs the coroutine at the same time as the others.

        Threads with the same word for `alike` can be exchanged: it makes no difference which of them is which.
        """
        self.threads.append((thread, body, alike))

    @property
    @abstractmethod
    def system(self) -> Any:
        """The world, which invariants over :data:`~mmspec.invariant.Over.WORLD` speak of."""

    @abstractmethod
    def outcome(self, run: Run) -> str:
        """What observers see in the end, beside the results of the threads; can be printed and compared."""

    @abstractmethod
    def clear(self) -> None:
        """Everybody leaves."""

    @abstractmethod
    def baseline(self) -> Any:
        """What is left after everybody has left."""

    def state(self) -> Any:
        """All that :meth:`clear` and what it leaves depend on."""
        return self.system


def conditions(*, failures: int = 0, variants: tuple[str, ...] = (), features: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Say of a script under which conditions it runs.

    :param failures: how many allocations may fail in one run; for scripts with few orders.
    :param variants: only in these variants of its system.
    :param features: only with these features of the kernel, by names of :data:`mmspec.config.FEATURES`.
    """

    def decorate(script: F) -> F:
        said = {"failures": failures, "variants": variants, "features": features}
        script.conditions = {name: value for name, value in said.items() if value}  # type: ignore[attr-defined]
        return script

    return decorate


def performance(name: str, stage: type[Stage], script: Callable[[Any], None], arch: str, variant: str) -> TaskProgram:
    """The script as a program for the engines: set up, race, judge, clear, judge again."""

    cleared: dict[bytes, Any] = {}

    def build(scheduler: Scheduler, recorder: Recorder) -> Callable[[Run], str]:
        scene = stage(arch, variant, recorder)
        # A set-up that is repeated was judged when it was made for the first time.
        with judging(Judge.active if Judge.at_work() else None):
            script(scene)
        for thread, body, alike in scene.threads:
            scheduler.spawn(thread, body(), alike)
        return lambda run: _finish(scene, scheduler, run, cleared)

    return TaskProgram(name, build, translate=violation_for)


class _Digest(pickle.Pickler):
    """All that can be reached from an object; of locks, who holds them; of freed objects, that they are."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Lock):
            return obj.name, repr(obj.writer), repr(obj.readers)
        if isinstance(obj, KernelObject) and is_freed(obj):
            return repr(obj)
        return None


def digest(state: Any) -> bytes:
    """The same for equal states; equal states may differ in it, which costs time only."""
    buffer = io.BytesIO()
    _Digest(buffer, pickle.HIGHEST_PROTOCOL).dump(state)
    return buffer.getvalue()


def _finish(stage: Stage, scheduler: Scheduler, run: Run, cleared: dict[bytes, Any]) -> str:
    """Judge the end of a run; `cleared` tells from which end states everybody has left before, and what that left."""
    run.facts.update(stage.facts)
    if scheduler.failures:
        for fact in stage.expectations:
            run.facts.pop(fact, None)
    ends = [f"{t.name} stuck" if t.name in run.stuck else f"{t.name}={t.result!r}" for t in scheduler.tasks]
    outcome = run.facts["outcome"] = " ".join(filter(None, [*ends, stage.outcome(run)]))
    if not run.stuck:
        run.recorder.quiet(stage.system)
        state = digest(stage.state())
        if state in cleared:
            left = cleared[state]
        else:
            stage.clear()
            run.recorder.quiet(stage.system)
            left = stage.baseline()
            if Judge.at_work():
                cleared[state] = left
        run.facts["baseline"] = left
    for invariant in REGISTRY.about(Over.RUN):
        invariant.demand(run)
    return outcome
