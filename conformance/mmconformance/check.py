"""The check run: every invariant, on every profile, against one implementation."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

import attrs

import mmspec
import mmspec.invariants  # noqa: F401 - fills the registry
from mmconformance.adapters.loading import Target
from mmconformance.adapters.running import kernel_machine, standalone
from mmconformance.engines.deadline import Deadline
from mmconformance.engines.execution import Execution
from mmconformance.engines.exhaustive import Exploration, explore
from mmconformance.engines.lanes import text_lanes
from mmconformance.engines.sampled import Sampled, run_machine, run_plans
from mmconformance.machines.memory_manager import MemoryManagerMachine
from mmconformance.machines.reservation_map import ReservationMapMachine
from mmconformance.machines.steps import Step
from mmconformance.replaying import keep_steps, machine_of, replay_command, violation_of
from mmconformance.report.progress import Say
from mmconformance.scenarios import DRILLS, SCENARIOS, drill, program
from mmconformance.scenarios.drills import ClearLast
from mmconformance.smoke import smoke
from mmconformance.verdicts import Failure, Report, Result, judge_results
from mmspec.errors import ImplementationFailure, Violation
from mmspec.invariant import REGISTRY, Invariant, Judge, judging

#: Seconds that a profile has, after an interruption, to say what it knows.
LAST_WORDS = 5.0

#: About what a profile of the reference takes without a budget.
USUAL_SECONDS = 4.0

OUT_OF_BUDGET = "the budget ran out before everything was run"

#: How often a profile is run again without the invariants that have failed, to find those behind them.
ROUNDS = 3


@attrs.define
class Effort:
    """How much is done per profile, and time and again for as long as a budget lasts."""

    machine_examples: int = 40
    plans: int = 150
    executions: int = 60
    """Executions per scenario of the exhaustive engine; many scenarios need fewer to be complete."""


@attrs.define
class Job:
    """One profile of one target, to be run in a process of its own."""

    target: Target
    arch: str
    variant: str
    engine: str
    seed: int
    effort: Effort
    seconds: float | None
    """How long it may take."""

    @property
    def profile(self) -> str:
        """What reports call it."""
        return f"{self.arch}/{self.variant}" if self.target.kind == "reference" else self.arch


@attrs.define
class Done:
    """What became of a job."""

    profile: str
    results: list[Result]
    operations: int
    cut_short: str = ""
    """Why not everything was run; "" if it was."""


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
    progress: Say | None = None,
) -> Report:
    """Run the suite.

    :param budget: seconds for all of it; without one, a fixed amount of work is done.
    :raises ImplementationFailure: if the implementation crashes, hangs or breaks the protocol.
    """
    say = progress or (lambda *_, **__: None)
    # Only the reference has variants to choose from.
    chosen = variants if target.kind == "reference" else [""]
    effort = Effort()
    count = len(archs) * len(chosen)
    workers = min(os.cpu_count() or 1, count)
    # Each profile gets its share, in parallel.
    share = None if budget is None else budget * workers / count
    if share is not None:
        effort.executions = max(1, round(effort.executions * share / USUAL_SECONDS))
    jobs = [Job(target, arch, variant, engine, seed, effort, share) for arch in archs for variant in chosen]
    done: dict[str, Done] = {}

    def finished(result: Done) -> None:
        done[result.profile] = result
        failed = sum(r.trace is not None for r in result.results)
        say(f"{result.profile}: {result.operations} operations, {failed} violations", done=len(done), total=count)

    interrupted = _run_all(jobs, workers, finished)
    results = [r for job in jobs if job.profile in done for r in done[job.profile].results]
    notes = [f"{d.profile}: {d.cut_short}" for d in done.values() if d.cut_short]
    if interrupted:
        notes += [f"{job.profile}: not run" for job in jobs if job.profile not in done]
    return Report(
        target.name, target.interface, mmspec.__version__, seed, engine, results,
        {"python": platform.python_version(), "system": platform.platform()}, notes, interrupted,
    )  # fmt: skip


def _run_all(jobs: list[Job], workers: int, finished: Callable[[Done], None]) -> bool:
    """Run the jobs in processes of their own, so that nothing an implementation does can reach the report.

    After Ctrl-C those under way end with what they know so far. Returns whether that was so.
    """
    context = multiprocessing.get_context("fork")
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_run_apart, job, context) for job in jobs]
        try:
            for future in as_completed(futures):
                finished(future.result())
        except KeyboardInterrupt:
            under_way = [f for f in futures if not f.done() and not f.cancel()]
            _signal_workers(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                for future in as_completed(under_way, timeout=LAST_WORDS):
                    with contextlib.suppress(ImplementationFailure):
                        finished(future.result())
            _signal_workers(signal.SIGTERM)
            return True
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _signal_workers(signal.SIGTERM)
            raise
    return False


def _signal_workers(number: signal.Signals) -> None:
    for process in multiprocessing.active_children():
        if process.pid is not None:
            # It may end, and be waited for by its own thread, just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


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
    if isinstance(outcome, ImplementationFailure):
        raise outcome
    done: Done = outcome
    return done


def _send(job: Job, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    deadline = Deadline(job.seconds)
    signal.signal(signal.SIGINT, lambda *_: deadline.interrupt())
    sender.send(_run_job(job, deadline))


def _end_with_parent() -> None:
    """Nobody would hear what is found after the parent process has been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _run_job(job: Job, deadline: Deadline) -> Done | ImplementationFailure:
    """Run a job; what comes back can be sent between processes."""
    try:
        return _Profile(job, deadline).run()
    except ImplementationFailure as failure:
        return ImplementationFailure(str(failure))
    except Exception as error:
        if job.target.kind == "reference":
            raise
        # What a foreign implementation returns can be of a kind that no predicate is prepared for.
        return ImplementationFailure(f"{job.target.name} cannot be judged: {type(error).__name__}: {error}")


class _Profile:
    """One profile's run."""

    def __init__(self, job: Job, deadline: Deadline) -> None:
        self.job = job
        self.deadline = deadline
        # Only of the reference is it known which variant it is.
        self.judge = Judge.of(job.arch, job.variant) if job.target.kind == "reference" else Judge()
        self.failures: dict[str, Failure] = {}
        self.steps: dict[str, list[Step]] = {}
        """The steps of a state machine that made the failure's run."""
        self.operations = 0
        self.cut_short = ""
        # Each profile draws examples of its own, the same whichever others are run.
        self.seed = job.seed + zlib.crc32(job.profile.encode())

    def run(self) -> Done:
        with judging(self.judge):
            self._work()
        if self.deadline.interrupted:
            self.cut_short = "interrupted"
        scope = [i.id for i in in_scope(self.job.target.interface, self.job.target.kind)]
        scope += [id_ for id_ in self.failures if id_ not in scope]
        self._find_roots()
        return Done(
            self.job.profile,
            judge_results(self.judge, self.job.profile, scope, self.failures),
            self.operations,
            self.cut_short,
        )

    def _work(self) -> None:
        # A violation is for the machines to find again, with the shortest run.
        with contextlib.suppress(Violation):
            smoke(self.job.target.interface, self._make())
        for stage in self._stages():
            if self.deadline.passed():
                self.cut_short = OUT_OF_BUDGET
                break
            self._repeat(stage)
        self._use_what_is_left()

    def _use_what_is_left(self) -> None:
        """Whoever gives a budget wants it used: go on with other seeds until it is."""
        stages = [s for s in self._stages() if s not in (self._drills, self._scenarios)]
        while stages and self.deadline.limited and not self.deadline.passed():
            self.seed += 1
            for stage in stages:
                stage()
            self.judge.ignore(self.failures)

    def _stop_if_interrupted(self, _: Exploration) -> None:
        if self.deadline.interrupted:
            raise KeyboardInterrupt

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
            self.judge.ignore(self.failures)

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
                record=self.job.target.kind == "reference", deadline=self.deadline,
            )
        )  # fmt: skip

    def _map_machine(self) -> bool:
        return self._keep_sampled(
            run_machine(
                ReservationMapMachine, self._make, examples=self.job.effort.plans * 2, seed_=self.seed, record=True,
                deadline=self.deadline,
            )
        )

    def _plans(self) -> bool:
        job = self.job
        return self._keep_sampled(
            run_plans(job.arch, job.variant, examples=job.effort.plans, seed_=self.seed, deadline=self.deadline)
        )

    def _scenarios(self) -> bool:
        failed = False
        for name, scenario in SCENARIOS.items():
            if self.job.variant not in scenario.variants:
                continue
            if self.deadline.passed():
                self.cut_short = OUT_OF_BUDGET
                break
            found = explore(
                program(name, self.job.arch, self.job.variant),
                max_executions=self.job.effort.executions,
                budget_seconds=self.deadline.left,
                progress=self._stop_if_interrupted,
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
            self.steps[failure.id] = found.steps
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
        """Whatever other failures explain is named there as a consequence."""
        reasons = {id_: self._reasons(id_) for id_ in self.failures}

        def roots(id_: str, seen: frozenset[str]) -> set[str]:
            found = {root for r in reasons[id_] - seen for root in roots(r, seen | {r})}
            return found or {id_}

        for id_ in self.failures:
            for root in roots(id_, frozenset({id_})) - {id_}:
                self.failures[root].consequences.append(id_)

    def _reasons(self, id_: str) -> set[str]:
        """The other failures that bring this one along: by their meaning, or because its run breaks them before."""
        reasons = {r for r in REGISTRY[id_].implied_by if r in self.failures}
        if id_ in self.steps:
            machine = machine_of(self.job.target, self.job.arch, self.job.variant)
            first, made = violation_of(self.steps[id_], machine, Judge())
            if first is not None and len(made.steps) < len(self.steps[id_]):
                reasons |= {first.invariant.id} & self.failures.keys()
        return reasons - {id_}
