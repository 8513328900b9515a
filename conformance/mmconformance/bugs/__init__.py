"""Real bugs as mutants: the reference with one mistake each, and the run that shows how soon it is found.

A mutant is a small edit of the reference's source. It is applied while the module is imported, in a process of its
own; nothing on disk changes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from mmconformance.bugs.mutant import Edit, Mutant
from mmconformance.bugs.stories import ALL
from mmspec.errors import UsageError

MUTANTS: dict[str, Mutant] = {mutant.id: mutant for mutant in ALL}

#: Seconds after which a mutant's run is given up.
TIME_LIMIT = 120


class MutantResult(msgspec.Struct):
    """How a mutant fared. `status` is "killed", "survived" or "crashed" (the run ended in an error of the suite)."""

    id: str
    status: str
    killed_by: str
    executions: int
    seconds: float
    note: str = ""


def mutant(id_: str) -> Mutant:
    """The mutant of that id.

    :raises UsageError: if there is none.
    """
    if id_ not in MUTANTS:
        raise UsageError(f"no mutant has the id {id_!r}; `mmspec bugs --list` shows all")
    return MUTANTS[id_]


def run_mutants(ids: Iterable[str], finished: Callable[[MutantResult], None]) -> bool:
    """Run each mutant in a process of its own, two at a time; results come in the order of `ids`.

    Ctrl-C ends those under way. Returns whether that was so.
    """
    chosen = [mutant(id_).id for id_ in ids]
    running: set[subprocess.Popen[str]] = set()
    with ThreadPoolExecutor(2) as pool:
        try:
            for result in pool.map(lambda id_: _run(id_, running), chosen):
                finished(result)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
            return True
    return False


def _run(id_: str, running: set[subprocess.Popen[str]]) -> MutantResult:
    command = [sys.executable, "-m", "mmconformance.bugs.worker", id_]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        running.add(process)
        try:
            output, errors = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            return MutantResult(id_, "survived", "", 0, TIME_LIMIT, "the time limit ran out")
        finally:
            running.discard(process)
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["no output"])[-1]
        return MutantResult(id_, "crashed", "", 0, 0.0, last)
    return msgspec.convert(json.loads(output.splitlines()[-1]), MutantResult)


__all__ = ["MUTANTS", "Edit", "Mutant", "MutantResult", "mutant", "run_mutants"]
