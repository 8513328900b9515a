"""The check run: every invariant, on every profile, against one implementation."""

from __future__ import annotations

import contextlib
import os
import platform
import zlib
from collections.abc import Callable
from typing import Any

import attrs

import mmspec
from mmconformance.adapters.loading import Target
from mmconformance.adapters.running import standalone
from mmconformance.engines.deadline import Deadline
from mmconformance.engines.execution import Execution
from mmconformance.engines.exhaustive import Exploration, explore
from mmconformance.engines.lanes import text_lanes
from mmconformance.engines.sampled import Sampled, run_machine, run_plans
from mmconformance.jobs import Done, Effort, Job, run_all
from mmconformance.machines.steps import Step
from mmconformance.replaying import keep_steps, machine_of, replay_command, violation_of
from mmconformance.report.progress import Say
from mmconformance.smoke import smoke
from mmconformance.suites import in_scope, judge_of, suite_of
from mmconformance.verdicts import Failure, Report, judge_results
from mmspec.errors import Violation
from mmspec.invariant import REGISTRY, judging

#: About what a profile of the reference takes without a budget.
USUAL_SECONDS = 4.0

OUT_OF_BUDGET = "the budget ran out before everything was run"

#: How often a profile is run again without the invariants that have failed, to find those behind them.
ROUNDS = 3


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

    :param variants: which variants of the target, see :func:`mmconformance.suites.variants_of`.
    :param budget: seconds for all of it; without one, a fixed amount of work is done.
    :raises ImplementationFailure: if the implementation crashes, hangs or breaks the protocol.
    """
    say = progress or (lambda *_, **__: None)
    effort = Effort()
    count = len(archs) * len(variants)
    workers = min(os.cpu_count() or 1, count)
    # Each profile gets its share, in parallel.
    share = None if budget is None else budget * workers / count
    if share is not None:
        effort.executions = max(1, round(effort.executions * share / USUAL_SECONDS))
    jobs = [Job(target, arch, variant, engine, seed, effort, share) for arch in archs for variant in variants]
    done: dict[str, Done] = {}

    def finished(result: Done) -> None:
        done[result.profile] = result
        failed = sum(r.trace is not None for r in result.results)
        say(f"{result.profile}: {result.operations} operations, {failed} violations", done=len(done), total=count)

    interrupted = run_all(jobs, _run, workers, finished)
    results = [r for job in jobs if job.profile in done for r in done[job.profile].results]
    notes = [f"{d.profile}: {d.cut_short}" for d in done.values() if d.cut_short]
    if interrupted:
        notes += [f"{job.profile}: not run" for job in jobs if job.profile not in done]
    return Report(
        target.name, target.interface, mmspec.__version__, seed, engine, results,
        {"python": platform.python_version(), "system": platform.platform()}, notes, interrupted,
    )  # fmt: skip


def _run(job: Job, deadline: Deadline) -> Done:
    return _Profile(job, deadline).run()


class _Profile:
    """One profile's run."""

    def __init__(self, job: Job, deadline: Deadline) -> None:
        self.job = job
        self.deadline = deadline
        self.suite = suite_of(job.target, job.variant)
        self.judge = judge_of(job.target, job.arch, job.variant)
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
        scope = [i.id for i in in_scope(self.job.target, self.job.variant)]
        scope += [id_ for id_ in self.failures if id_ not in scope]
        self._find_roots()
        return Done(
            self.job.profile,
            judge_results(self.judge, self.job.profile, scope, self.failures),
            self.operations,
            self.cut_short,
        )

    def _work(self) -> None:
        driver = self.suite.driver
        if driver is not None and driver.interface:
            # A violation is for the machine to find again, with the shortest run.
            with contextlib.suppress(Violation):
                smoke(driver.interface, self._make())
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
        """What the suite has for the engine; where there is nothing to explore, sampling is all that can be done."""
        suite, engine = self.suite, self.job.engine
        stages = []
        if engine != "exhaustive" or not suite.scenarios:
            stages += [(self._drills, suite.drills), (self._machine, suite.driver), (self._plans, suite.plan)]
        if engine != "sampled":
            stages += [(self._scenarios, suite.scenarios)]
        return [stage for stage, material in stages if material]

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
        for drill in self.suite.drills:
            if drill.applies(self.job.arch, self.job.variant):
                self._keep_execution(drill.rehearse(self.job.arch, self.job.variant), {"drill": drill.name})
                self.operations += 1
        return bool(self.failures)

    def _machine(self) -> bool:
        driver = self.suite.driver
        assert driver is not None
        return self._keep_sampled(
            run_machine(
                driver.machine, self._make, examples=driver.examples, seed_=self.seed, record=driver.record,
                deadline=self.deadline, steps=driver.steps,
            )
        )  # fmt: skip

    def _plans(self) -> bool:
        job, plan = self.job, self.suite.plan
        assert plan is not None
        return self._keep_sampled(
            run_plans(plan, job.arch, job.variant, examples=job.effort.plans, seed_=self.seed, deadline=self.deadline)
        )

    def _scenarios(self) -> bool:
        failed = False
        for scenario in self.suite.scenarios:
            if not scenario.applies(self.job.arch, self.job.variant):
                continue
            if self.deadline.passed():
                self.cut_short = OUT_OF_BUDGET
                break
            found = explore(
                scenario.program(self.job.arch, self.job.variant),
                max_executions=self.job.effort.executions,
                budget_seconds=self.deadline.left,
                progress=self._stop_if_interrupted,
                failures=scenario.failures,
            )
            self.operations += found.executions
            for execution in found.violations:
                failed |= self._keep_execution(execution, {"scenario": scenario.name})
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
            judge = judge_of(self.job.target, self.job.arch, self.job.variant)
            first, made = violation_of(self.steps[id_], machine, judge)
            if first is not None and len(made.steps) < len(self.steps[id_]):
                reasons |= {first.invariant.id} & self.failures.keys()
        return reasons - {id_}
