"""Record failing runs of the mutants of reverse mapping, for the pictures of `docs/chapter-rmap-bugs.rst`.

`python docs/record_runs.py` records all, `python docs/record_runs.py A-01 B-03` some and leaves the others as they are.
The documentation is built from the file that this writes, `docs/recorded-runs.json`, and runs no mutant itself.

Each mutant is run in a process of its own, and judged by nothing but the invariants that describe its mistake.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "recorded-runs.json"
for folder in ("spec", "reference", "conformance"):
    sys.path.insert(0, str(HERE.parent / folder))
sys.path.insert(0, str(HERE / "_ext"))

#: Areas of bugs that the chapter tells.
AREAS = ("A", "B", "F", "LAT")

#: Mistakes against these are races: a schedule shows them better than a sequence of calls.
RACES = ("AVMA-RCU", "AVMA-REF", "AVMA-PREP", "MIGR-", "MMUN", "DIRTY", "TLB", "RMAP-PCA")


def chosen() -> list[Any]:
    """The mutants of these areas."""
    from mmconformance.bugs.stories import ALL
    from mmspec.config import RMAP

    return [m for m in ALL if m.system == RMAP and m.id.split("-")[0] in AREAS]


def digest(mutant: Any) -> str:
    """Changes with what the mutant edits and by what it is judged."""
    import hashlib

    said = repr([(e.module, e.old, e.new) for e in mutant.edits]) + repr(mutant.expects) + repr(mutant.variants)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def record(id_: str) -> dict[str, Any]:
    """The first failing run of a mutant, in this process."""
    from mmconformance.bugs.mutant import Mutator

    mutant = next(m for m in chosen() if m.id == id_)
    Mutator(mutant).install()
    races = any(id_.startswith(RACES) for id_ in mutant.expects)
    found = (_scenario(mutant) or _drill(mutant)) if races else (_drill(mutant) or _scenario(mutant))
    return {"digest": digest(mutant), **(found or {"lines": []})}


def _judge(mutant: Any, variant: str) -> Any:
    from mmspec.invariant import REGISTRY, Judge

    judge = Judge.of(mutant.arch, variant)
    judge.ignore(i.id for i in REGISTRY if i.id not in mutant.expects)
    return judge


def _suite(mutant: Any) -> Any:
    from mmconformance.suites import SUITES

    return SUITES[mutant.system]


def _drill(mutant: Any) -> dict[str, Any] | None:
    """Calls, one after the other: the shortest sequence of any drill."""
    from mmspec.invariant import judging

    calls = _note_calls()
    best: dict[str, Any] | None = None
    for variant in mutant.variants:
        with judging(_judge(mutant, variant)):
            for drill in _suite(mutant).drills:
                if not drill.applies(mutant.arch, variant):
                    continue
                calls.clear()
                violation = drill.rehearse(mutant.arch, variant).violation
                if violation is not None and violation.invariant.id in mutant.expects:
                    lines = [[number, 0, "", call] for number, call in enumerate(calls, 1)]
                    if best is None or len(lines) < len(best["lines"]):
                        best = _run(drill, mutant, variant, ["calls"], lines, violation)
    return best


def _scenario(mutant: Any) -> dict[str, Any] | None:
    """A race, as short as it can be made."""
    from mmspec_rmap_pictures import execution_lines

    from mmconformance.engines.exhaustive import explore
    from mmconformance.engines.minimise import minimise
    from mmspec.invariant import judging

    for variant in mutant.variants:
        for scenario in _suite(mutant).scenarios:
            if not scenario.applies(mutant.arch, variant):
                continue
            with judging(_judge(mutant, variant)):
                program = scenario.program(mutant.arch, variant)
                found = explore(program, max_executions=600, failures=scenario.failures, stop_at_first=True).violations
                if not found or found[0].violation is None or found[0].violation.invariant.id not in mutant.expects:
                    continue
                best = minimise(program, found[0], budget_seconds=5)
                heads = [task.name for task in best.tasks]
                lines = [list(line) for line in execution_lines(best)]
                return _run(scenario, mutant, variant, heads, lines, best.violation)
    return None


def _run(script: Any, mutant: Any, variant: str, heads: list[str], lines: list[Any], violation: Any) -> dict[str, Any]:
    return {
        "program": script.name,
        "description": script.description,
        "profile": f"{mutant.arch}/{variant}",
        "violates": violation.invariant.id,
        "values": {name: str(value) for name, value in violation.values.items()},
        "heads": heads,
        "lines": lines,
    }


def _note_calls() -> list[str]:
    """From here on the calls of drills are noted."""
    from mmconformance.scenarios.rmap.stage import Stage

    calls: list[str] = []
    plain = Stage.do

    def do(self: Any, call: str, *args: Any, **kwargs: Any) -> Any:
        def shown(value: Any) -> str:
            if isinstance(value, int) and not isinstance(value, bool) and value >= self.machine.page_size:
                return f"page {value // self.machine.page_size - self.system.first_vpn}"
            return str(value)

        said = [shown(a) for a in args] + [f"{name}={shown(value)}" for name, value in kwargs.items()]
        calls.append(f"{call}({', '.join(said)})")
        result = plain(self, call, *args, **kwargs)
        if call in ("mmap", "fork", "stack") or (type(result) is int and result < 0):
            calls[-1] = f"{shown(result)} = {calls[-1]}"
        return result

    Stage.do = do  # type: ignore[method-assign]
    return calls


def _apart(id_: str) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, __file__, "--one", id_]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        print(f"{id_}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return id_, {"digest": "", "lines": []}
    return id_, json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Record, in processes of their own, two at a time."""
    if arguments[:1] == ["--one"]:
        print(json.dumps(record(arguments[1])))
        return
    ids = [m.id for m in chosen()]
    wanted = arguments or ids
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    with ThreadPoolExecutor(2) as pool:
        for id_, run in pool.map(_apart, wanted):
            print(f"{id_}: {run.get('violates', 'no run')} {run.get('program', '')} {len(run['lines'])} lines", flush=True)
            known[id_] = run
    text = json.dumps({id_: known[id_] for id_ in ids if id_ in known}, indent=1, ensure_ascii=False)
    RECORDED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
