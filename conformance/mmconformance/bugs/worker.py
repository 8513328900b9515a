"""Runs one mutant: the shortest things first, until an invariant is broken."""

from __future__ import annotations

import json
import sys
import time

from mmconformance.bugs.mutant import Mutant, Mutator


def main(id_: str) -> None:
    """Run the mutant and print what became of it as one line of JSON."""
    from mmconformance.bugs.stories import ALL

    mutant = next(m for m in ALL if m.id == id_)
    Mutator(mutant).install()
    start = time.perf_counter()
    killed_by, executions = hunt(mutant)
    print(
        json.dumps(
            {
                "id": id_,
                "status": "killed" if killed_by else "survived",
                "killed_by": killed_by,
                "executions": executions,
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
    )


def hunt(mutant: Mutant) -> tuple[str, int]:
    """The id of the invariant that was broken ("" if none was), and how many programs were run until then."""
    from mmconformance.engines.exhaustive import explore
    from mmconformance.engines.sampled import run_plans
    from mmconformance.suites import SUITES
    from mmspec.invariant import Judge, judging

    suite, arch = SUITES[mutant.system], mutant.arch
    executions = 0
    for variant in mutant.variants:
        with judging(Judge.of(arch, variant)):
            for drill in suite.drills:
                if drill.applies(arch, variant):
                    executions += 1
                    violation = drill.rehearse(arch, variant).violation
                    if violation is not None:
                        return violation.invariant.id, executions
    for variant in mutant.variants:
        with judging(Judge.of(arch, variant)):
            for scenario in suite.scenarios:
                if scenario.applies(arch, variant):
                    program = scenario.program(arch, variant)
                    found = explore(program, max_executions=400, failures=scenario.failures, stop_at_first=True)
                    executions += found.executions
                    if found.violations and found.violations[0].violation is not None:
                        return found.violations[0].violation.invariant.id, executions
    if suite.plan is None:
        return "", executions
    for variant in mutant.variants:
        with judging(Judge.of(arch, variant)):
            sampled = run_plans(suite.plan, arch, variant, examples=600, seed_=0)
            executions += sampled.operations
            if sampled.violation is not None:
                return sampled.violation.invariant.id, executions
    return "", executions


if __name__ == "__main__":
    main(sys.argv[1])
