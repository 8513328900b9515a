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


def hunt(mutant: Mutant, arch: str = "x86_64") -> tuple[str, int]:
    """The id of the invariant that was broken ("" if none was), and how many programs were run until then."""
    import mmspec.invariants  # noqa: F401
    from mmconformance.engines.exhaustive import explore
    from mmconformance.engines.sampled import run_plans
    from mmconformance.scenarios import DRILLS, SCENARIOS, drill, program
    from mmconformance.scenarios.drills import ClearLast
    from mmspec.invariant import Judge, judging

    executions = 0
    for variant in mutant.variants:
        with judging(Judge.of(arch, variant)):
            for name in DRILLS:
                executions += 1
                violation = drill(name, arch, variant)(ClearLast()).violation
                if violation is not None:
                    return violation.invariant.id, executions
    for variant in mutant.variants:
        with judging(Judge.of(arch, variant)):
            for name, scenario in SCENARIOS.items():
                found = explore(
                    program(name, arch, variant), max_executions=400, failures=scenario.failures, stop_at_first=True
                )
                executions += found.executions
                if found.violations and found.violations[0].violation is not None:
                    return found.violations[0].violation.invariant.id, executions
    for variant in mutant.variants:
        with judging(Judge.of(arch, variant)):
            sampled = run_plans(arch, variant, examples=600, seed_=0)
            executions += sampled.operations
            if sampled.violation is not None:
                return sampled.violation.invariant.id, executions
    return "", executions


if __name__ == "__main__":
    main(sys.argv[1])
