"""The machine that drives the running kernel, and the programs that show what it has found."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from mmconformance.machines.memory_manager import MemoryManagerMachine
from mmconformance.machines.steps import Step, perform
from mmconformance.verdicts import Failure
from mmspec.errors import Violation
from mmspec.state import Setup


def kernel_machine() -> type[MemoryManagerMachine]:
    """The machine with the rules of the running kernel's release, where they differ from those of 2006 and 2008."""
    from mmconformance.adapters.kernel.differences import adaptations as of_release
    from mmconformance.adapters.kernel.probe import kernel_release

    class KernelMachine(MemoryManagerMachine):
        """The running kernel."""

        adaptations = frozenset(a.name for a in of_release(kernel_release()))

    return KernelMachine


class _Noting:
    """A manager that notes down each operation in the neutral form of which programs are made."""

    def __init__(self, player: Any) -> None:
        self._player = player

    def start(self, setup: Setup) -> None:
        self.setup = setup
        self._player.start(setup)

    def __getattr__(self, name: str) -> Any:
        from mmconformance.adapters.kernel.operations import KINDS

        return functools.partial(self._noted, name) if name in KINDS else getattr(self._player.manager, name)

    def _noted(self, name: str, *args: Any, **options: Any) -> int:
        result: int = self._player.call(name, *args, **options)
        self.result = min(result, 0) if name == "mmap" else result
        return result


def standalone(steps: list[Step], failure: Failure, kernel: Any) -> str:
    """Make the steps once more on `kernel`, and write a program that needs nothing but Python and shows the finding; its path.

    `MMSPEC_FINDINGS` names the directory, `.mmspec/findings` is the usual one.
    """
    from mmconformance.adapters.kernel.operations import Player
    from mmconformance.adapters.kernel.program import Finding, write_program

    player = Player(kernel)
    manager = _Noting(player)
    driver = kernel_machine()
    found: list[Finding] = []

    class Machine(driver):  # type: ignore[valid-type, misc]
        def subject(self) -> Any:
            return manager

        def note(self) -> None:
            last = len(player.operations), manager.result, self.counters
            found.append(Finding(*last, failure.id, failure.sentence))

        def teardown(self) -> None:
            stopped = isinstance(sys.exc_info()[1], Violation)
            if stopped:
                self.note()
            try:
                super().teardown()
            finally:
                if not stopped:
                    self.note()

    perform(Machine(), steps)
    directory = Path(os.environ.get("MMSPEC_FINDINGS", ".mmspec/findings"))
    path = directory / f"{failure.id.lower().replace('-', '_')}.py"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = write_program(
            manager.setup, player.operations, title=failure.sentence, name=path.name, finding=found[0] if found else None
        )
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"could not be written: {error.strerror}"
    return str(path)
