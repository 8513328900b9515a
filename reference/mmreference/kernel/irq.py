"""Interrupts: sections in which a CPU takes none, and interrupts that one CPU sends to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mmreference.kernel.scheduler import Scheduler, Step, Task, current_task, touched


class _Deliver(Step):
    """Take an interrupt, as soon as the CPU lets interrupts in; the engine decides how late that is."""

    __slots__ = ("irqs", "cpu", "label")

    def __init__(self, irqs: Irqs, cpu: int) -> None:
        self.irqs = irqs
        self.cpu = cpu
        self.label = f"IPI arrives at CPU {cpu}"

    def enabled(self, task: Task) -> bool:
        return self.irqs.disabled.get(self.cpu, 0) == 0

    def perform(self, task: Task) -> None:
        touched(("irq", self.cpu), write=False)


class Irqs:
    """The interrupt state of all CPUs."""

    def __init__(self) -> None:
        self.disabled: dict[int, int] = {}
        """CPU to how many sections deep it keeps interrupts out."""

    def off(self) -> _Off:
        """`async with irqs.off():` no interrupt reaches the running task's CPU."""
        return _Off(self)

    async def on_each_cpu(self, cpus: Iterable[int], function: Callable[[int], None]) -> None:
        """Have each of the CPUs run `function`, and wait until all have.

        Targets take the interrupt one after the other; each may be arbitrarily late while it keeps interrupts out.
        """
        me = current_task().cpu
        for cpu in cpus:
            if cpu != me:
                await _Deliver(self, cpu)
            function(cpu)


class _Toggle(Step):
    """local_irq_disable"""

    __slots__ = ("irqs",)
    label = "local_irq_disable"

    def __init__(self, irqs: Irqs) -> None:
        self.irqs = irqs

    def perform(self, task: Task) -> None:
        touched(("irq", task.cpu))
        self.irqs.disabled[task.cpu] = self.irqs.disabled.get(task.cpu, 0) + 1


class _Off:
    """`async with` for a section without interrupts."""

    __slots__ = ("irqs",)

    def __init__(self, irqs: Irqs) -> None:
        self.irqs = irqs

    async def __aenter__(self) -> None:
        await _Toggle(self.irqs)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and Scheduler.current is not None:
            cpu = current_task().cpu
            touched(("irq", cpu))
            self.irqs.disabled[cpu] -= 1
