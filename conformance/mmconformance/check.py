"""The check run: every invariant, on every profile, against one implementation."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

import attrs
import msgspec

import mmspec
import mmspec.invariants  # noqa: F401 - fills the registry
from mmconformance.adapters.loading import Target
from mmconformance.adapters.running import kernel_machine, standalone
from mmconformance.engines.execution import Execution
from mmconformance.engines.exhaustive import explore
from mmconformance.engines.lanes import text_lanes
from mmconformance.engines.sampled import Sampled, run_machine, run_plans
from mmconformance.machines.memory_manager import MemoryManagerMachine
from mmconformance.machines.reservation_map import ReservationMapMachine
from mmconformance.replaying import keep_steps, replay_command
from mmconformance.scenarios import DRILLS, SCENARIOS, drill, program
from mmconformance.scenarios.drills import ClearLast
from mmconformance.smoke import smoke
from mmconformance.verdicts import Failure, Report, Result, judge_results
from mmspec.errors import ImplementationFailure, Violation
from mmspec.invariant import REGISTRY, Invariant, Judge, judging

Progress = Callable[[str], None]

#: How often a profile is run again without the invariants that have failed, to find those behind them.
ROUNDS = 3


@attrs.define
class Effort:
    """How much is done per profile."""

    machine_examples: int = 40
    plans: int = 150
    executions: int = 60
    """Executions per scenario of the exhaustive engine; many scenarios need fewer to be complete."""

    def scaled(self, factor: float) -> Effort:
        """The same, `factor` times as much."""
        return Effort(*(max(1, round(n * factor)) for n in attrs.astuple(self)))


@attrs.define
class Job:
    """One profile of one target, to be run in a process of its own."""

    target: Target
    arch: str
    variant: str
    engine: str
    seed: int
    effort: Effort
    until: float | None
    """Monotonic time at which to stop."""

    @property
    def profile(self) -> str:
        """What reports call it."""
        return f"{self.arch}/{self.variant}" if self.target.kind == "reference" else self.arch

    @property
    def time_left(self) -> float | None:
        """Seconds until it has to stop."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())


@attrs.define
class Done:
    """What became of a job."""

    profile: str
    results: list[Result]
    operations: int
    cut_short: bool = False


def in_scope(interface: str, kind: str) -> list[Invariant]:
    """The invariants that can be judged through the interface; through the reference's own contracts, all."""
    if kind == "reference":
        return list(REGISTRY)
    return [i for i in REGISTRY if interface in i.interfaces]


def check(
    target: Target,
    *,
    archs: list[str],
    variants: list[str],
    engine: str = "all",
    budget: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Run the suite.

    :param budget: seconds for all of it; without one, a fixed amount of work is done.
    :raises ImplementationFailure: if the implementation crashes, hangs or breaks the protocol.
    """
    say = progress or (lambda line: None)
    chosen = variants if target.kind == "reference" else variants[:1]
    effort = Effort()
    count = len(archs) * len(chosen)
    workers = min(os.cpu_count() or 1, count)
    until = None
    if budget is not None:
        # Whoever gives a budget wants it used; each profile gets its share, in parallel.
        until = time.monotonic() + budget
        effort = effort.scaled(max(0.02, budget * workers / count / 4.0))
    jobs = [Job(target, arch, variant, engine, seed, effort, until) for arch in archs for variant in chosen]
    done: dict[str, Done] = {}
    for result in _run_all(jobs, workers):
        done[result.profile] = result
        failed = sum(r.trace is not None for r in result.results)
        say(f"{result.profile}: {result.operations} operations, {failed} violations")
    results = [r for job in jobs if job.profile in done for r in done[job.profile].results]
    notes = [f"{d.profile}: the budget ran out before everything was run" for d in done.values() if d.cut_short]
    return Report(
        target.name, target.interface, mmspec.__version__, seed, engine, results,
        {"python": platform.python_version(), "system": platform.platform()}, notes,
    )  # fmt: skip


def _run_all(jobs: list[Job], workers: int) -> Iterator[Done]:
    """The jobs in processes of their own, so that nothing an implementation does can reach the report."""
    context = multiprocessing.get_context("fork")
    with ThreadPoolExecutor(workers) as pool:
        try:
            futures = [pool.submit(_run_apart, job, context) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_apart(job: Job, context: Any) -> Done:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise ImplementationFailure(f"{job.target.name} took the checking process down ({how})") from None
    finally:
        if process.is_alive():
            process.join(timeout=5)
        if process.is_alive():
            process.terminate()
    return _unwrap(outcome)


def _send(job: Job, sender: Connection) -> None:
    sender.send(_run_job(job))


def _unwrap(outcome: tuple[str, Any]) -> Done:
    kind, value = outcome
    if kind == "done":
        profile, results, operations, cut = value
        return Done(profile, msgspec.json.decode(results, type=list[Result]), operations, cut)
    raise ImplementationFailure(value)


def _run_job(job: Job) -> tuple[str, Any]:
    """Run a job; what comes back can be sent between processes."""
    try:
        done = _Profile(job).run()
    except ImplementationFailure as failure:
        return ("failure", str(failure))
    except Exception as error:
        if job.target.kind == "reference":
            raise
        # What a foreign implementation returns can be of a kind that no predicate is prepared for.
        return ("failure", f"{job.target.name} cannot be judged: {type(error).__name__}: {error}")
    return ("done", (done.profile, msgspec.json.encode(done.results), done.operations, done.cut_short))


class _Profile:
    """One profile's run."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.judge = Judge.of(job.arch, job.variant if job.target.kind == "reference" else "")
        if job.target.kind != "reference":
            self.judge.inapplicable = frozenset()
        self.failures: dict[str, Failure] = {}
        self.operations = 0
        self.cut_short = False
        self.seed = job.seed

    def run(self) -> Done:
        with judging(self.judge):
            # A violation is for the machines to find again, with the shortest run.
            with contextlib.suppress(Violation):
                smoke(self.job.target.interface, self._make())
            for stage in self._stages():
                if self.job.time_left == 0.0:
                    self.cut_short = True
                    break
                self._repeat(stage)
            self._use_what_is_left()
        scope = [i.id for i in in_scope(self.job.target.interface, self.job.target.kind)]
        scope += [id_ for id_ in self.failures if id_ not in scope]
        self._find_roots()
        return Done(
            self.job.profile,
            judge_results(self.judge, self.job.profile, scope, self.failures),
            self.operations,
            self.cut_short,
        )

    def _use_what_is_left(self) -> None:
        """Whoever gives a budget wants it used: go on with other seeds until it is."""
        stages = [s for s in self._stages() if s not in (self._drills, self._scenarios)]
        while stages and self.job.time_left is not None and self.job.time_left > 2:
            self.seed += 1
            for stage in stages:
                stage()
            self.judge.inapplicable |= frozenset(self.failures)

    def _make(self) -> Any:
        return self.job.target.make(self.job.arch, self.job.variant)

    def _stages(self) -> list[Callable[[], bool]]:
        sampled, exhaustive = self.job.engine in ("sampled", "all"), self.job.engine in ("exhaustive", "all")
        if self.job.target.interface == "ReservationMap":
            return [self._map_machine]
        if self.job.target.kind != "reference":
            return [self._machine]
        stages: list[Callable[[], bool]] = []
        if sampled:
            stages += [self._drills, self._machine, self._plans]
        if exhaustive:
            stages += [self._scenarios]
        return stages

    def _repeat(self, stage: Callable[[], bool]) -> None:
        """Run a stage, and again without what has failed, to see what else is wrong."""
        for _ in range(ROUNDS):
            before = len(self.failures)
            failed = stage()
            if not failed or len(self.failures) == before:
                return
            self.judge.inapplicable |= frozenset(self.failures)

    # -- stages; each says whether something has failed ------------------------------------------------------------------

    def _drills(self) -> bool:
        for name in DRILLS:
            self._keep_execution(drill(name, self.job.arch, self.job.variant)(ClearLast()), {"drill": name})
        self.operations += len(DRILLS)
        return bool(self.failures)

    def _machine(self) -> bool:
        # Only the reference shows its inside; of others more has to be seen from outside.
        examples = self.job.effort.machine_examples * (1 if self.job.target.kind == "reference" else 10)
        machine = kernel_machine() if self.job.target.kind == "kernel" else MemoryManagerMachine
        return self._keep_sampled(
            run_machine(
                machine, self._make, examples=examples, seed_=self.seed,
                record=self.job.target.kind == "reference",
            )
        )  # fmt: skip

    def _map_machine(self) -> bool:
        return self._keep_sampled(
            run_machine(
                ReservationMapMachine, self._make, examples=self.job.effort.plans * 2, seed_=self.seed, record=True
            )
        )

    def _plans(self) -> bool:
        job = self.job
        return self._keep_sampled(
            run_plans(job.arch, job.variant, examples=job.effort.plans, seed_=self.seed)
        )

    def _scenarios(self) -> bool:
        failed = False
        for name, scenario in SCENARIOS.items():
            if self.job.variant not in scenario.variants:
                continue
            if self.job.time_left == 0.0:
                self.cut_short = True
                break
            found = explore(
                program(name, self.job.arch, self.job.variant),
                max_executions=self.job.effort.executions,
                budget_seconds=self.job.time_left,
                failures=scenario.failures,
            )
            self.operations += found.executions
            for execution in found.violations:
                failed |= self._keep_execution(execution, {"scenario": name})
        return failed

    # -- what is kept of a failure ---------------------------------------------------------------------------------------

    def _keep_sampled(self, found: Sampled) -> bool:
        self.operations += found.operations
        if found.violation is None:
            return False
        if found.execution is not None and found.plan is not None:
            found.execution.violation = found.violation
            return self._keep_execution(found.execution, {"plan": attrs.asdict(found.plan)})
        failure = self._failure(found.violation)
        failure.run = found.run
        if self.job.target.kind == "kernel":
            failure.run += [f"standalone program: {standalone(found.steps, failure, self._make())}"]
        if failure.id not in self.failures:
            failure.replay_command = keep_steps(
                self.job.arch, self.job.variant, self.job.target.name, self.job.target.interface, found.steps, failure.id
            )
        return self._keep(failure)

    def _keep_execution(self, execution: Execution, source: dict[str, Any]) -> bool:
        if execution.violation is None:
            return False
        failure = self._failure(execution.violation)
        failure.lanes = text_lanes(execution)
        failure.run = [f"{step.task.name}: {step.label}" for step in execution.executed]
        if failure.id not in self.failures:
            failure.replay_command = replay_command(self.job.arch, self.job.variant, source, execution)
        return self._keep(failure)

    @staticmethod
    def _failure(violation: Violation) -> Failure:
        invariant = violation.invariant
        return Failure(invariant.id, invariant.sentence, violation.values, violation.note, violation.ledger)

    def _keep(self, failure: Failure) -> bool:
        self.failures.setdefault(failure.id, failure)
        return True

    def _find_roots(self) -> None:
        """Whatever another failure implies is named there as a consequence."""
        for id_ in self.failures:
            for root in REGISTRY[id_].implied_by:
                if root in self.failures:
                    self.failures[root].consequences.append(id_)




