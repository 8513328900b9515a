"""How fast it is: `python -m mmconformance.bench`. Ratios within one run; the machine is somebody else's as well."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from mmconformance.engines.exhaustive import explore
from mmconformance.engines.sampled import run_machine
from mmconformance.machines.memory_manager import MemoryManagerMachine
from mmconformance.suites import SUITES
from mmreference.kernel.scheduler import Pause, Scheduler
from mmreference.machine import Machine
from mmreference.manager import ReferenceMemoryManager
from mmspec.config import ALLYESCONFIG, TENTATIVE
from mmspec.invariant import Judge, judging
from mmspec.trace import Recorder, recording

ARCH, VARIANT = "x86_64", TENTATIVE


async def _pauses(count: int) -> None:
    for _ in range(count):
        await Pause("step")


def plain_steps(count: int = 200_000) -> float:
    """Steps per second of a coroutine that does nothing but suspend."""
    scheduler = Scheduler(limit=count + 1)
    scheduler.spawn("task", _pauses(count))
    start = time.perf_counter()
    scheduler.run()
    return count / (time.perf_counter() - start)


def faults(count: int = 300) -> float:
    """Seconds for `count` rounds of mmap, write and munmap on the reference, with whatever contracts there are."""
    manager = ReferenceMemoryManager(ARCH, VARIANT)
    pid = manager.spawn()
    start = time.perf_counter()
    for _ in range(count):
        address = manager.mmap(pid, 2)
        manager.write(pid, address, 1)
        manager.munmap(pid, address, 2)
    return time.perf_counter() - start


def forks(count: int = 100) -> float:
    """Seconds for `count` rounds of mmap, write, fork, a copy on write and exit on the reference of reverse mapping."""
    machine = Machine(ARCH, ALLYESCONFIG)
    pid = machine.spawn()
    start = time.perf_counter()
    for _ in range(count):
        address = machine.do("mmap", pid, 2)
        machine.do("write", pid, address, 1)
        child = machine.do("fork", pid)
        machine.do("write", child, address, 2)
        machine.do("exit", child)
        machine.do("munmap", pid, address, 2)
    return time.perf_counter() - start


#: What is timed with contracts and without: function to its variant and what it does.
WORK = {
    faults: (VARIANT, "mmap, write, munmap of huge pages x 300"),
    forks: (ALLYESCONFIG, "mmap, write, fork, copy on write, exit x 100"),
}


def _recorded(work: Callable[[], float], variant: str) -> float:
    """The same with a recorder and a judge: contracts and monitors at work."""
    with recording(Recorder()), judging(Judge.of(ARCH, variant)):
        return work()


def _without_contracts(work: Callable[[], float]) -> float:
    name = work.__name__
    command = [sys.executable, "-c", f"from mmconformance.bench import {name}; print({name}())"]
    done = subprocess.run(
        command, env={**os.environ, "MMSPEC_CONTRACTS": "off"}, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Print all figures."""
    print(f"atomic steps per second, bare scheduler: {plain_steps():,.0f}")
    for work, (variant, what) in WORK.items():
        on, idle, off = _recorded(work, variant), work(), _without_contracts(work)
        print(f"{what}: contracts at work {on:.2f} s, compiled in but idle {idle:.2f} s, off {off:.2f} s")
        print(f"  cost of contracts: x {on / off:.1f} at work, x {idle / off:.1f} idle")
    with judging(Judge.of(ARCH, VARIANT)):
        start = time.perf_counter()
        found = run_machine(
            MemoryManagerMachine, lambda: ReferenceMemoryManager(ARCH, VARIANT), examples=40, seed_=0, record=True
        )
        print(f"Hypothesis steps per second: {found.operations / (time.perf_counter() - start):,.0f}")
        print("scenario: executions and seconds, with reduction | plain search (2,000 executions at most)")
    for suite in SUITES.values():
        for scenario in suite.scenarios:
            if not scenario.applies(ARCH, suite.usual):
                continue
            with judging(Judge.of(ARCH, suite.usual)):
                reduced = explore(scenario.program(ARCH, suite.usual), budget_seconds=10)
                plain = explore(scenario.program(ARCH, suite.usual), reduction=False, max_executions=2000)
            print(
                f"  {scenario.name:34} {_figure(reduced.executions, reduced.seconds, reduced.complete)} | "
                f"{_figure(plain.executions, plain.seconds, plain.complete)}",
                flush=True,
            )


def _figure(executions: int, seconds: float, complete: bool) -> str:
    return f"{executions:6} {seconds:6.2f} s {'complete' if complete else 'cut off'}"


if __name__ == "__main__":
    main()
