"""What CPUs remember of page tables, and how they are made to forget it.

A remembered translation stays usable until it is flushed, whatever the tables say by then. Each CPU forgets in a step
of its own, so a flush takes as long as the slowest CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.scheduler import Access, Scheduler, touched
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Mm
    from mmreference.mm.page import Page


@attrs.define
class Translation:
    """What one CPU remembers of one address; `dirty` says that a store needs no second look at the tables."""

    page: Page
    write: bool
    dirty: bool


class Tlbs:
    """One translation buffer per CPU; a task runs on a CPU of its own."""

    def __init__(self) -> None:
        self._cpus: dict[int, dict[tuple[str, int], Translation]] = {}
        self.flushes = 0
        """Flushes of single pages so far."""

    @staticmethod
    def this_cpu() -> int:
        """The CPU of the running task."""
        scheduler = Scheduler.current
        return scheduler.running.cpu if scheduler is not None and scheduler.running is not None else 0

    def lookup(self, mm: Mm, vpn: int) -> Translation | None:
        """What the running CPU remembers of a base page number."""
        cpu = self.this_cpu()
        touched(("tlb", cpu, mm.name, vpn), write=False)
        return self._cpus.get(cpu, {}).get((mm.name, vpn))

    def fill(self, mm: Mm, vpn: int, page: Page, *, write: bool, dirty: bool) -> None:
        """The running CPU remembers a translation."""
        cpu = self.this_cpu()
        touched(("tlb", cpu, mm.name, vpn))
        self._cpus.setdefault(cpu, {})[mm.name, vpn] = Translation(page, write, dirty)

    def holders(self, mm: Mm, vpn: int) -> list[int]:
        """The CPUs that remember the page."""
        return [cpu for cpu, tlb in self._cpus.items() if (mm.name, vpn) in tlb]

    def translations(self, page: Page) -> list[tuple[int, str, int]]:
        """CPU, address space and base page number of all translations to the page."""
        return [(cpu, name, vpn) for cpu, tlb in self._cpus.items() for (name, vpn), t in tlb.items() if t.page is page]

    async def flush_tlb_page(self, mm: Mm, vpn: int) -> None:
        """All CPUs forget one base page, one CPU after the other."""
        me = self.this_cpu()
        for cpu in sorted(self._cpus, key=lambda c: c != me):
            if cpu != me:
                await Access(("tlb", cpu, mm.name, vpn), f"CPU {cpu} flushes {mm.name}[{vpn - mm.system.first_vpn}]", write=True)
            else:
                touched(("tlb", cpu, mm.name, vpn))
            self._cpus[cpu].pop((mm.name, vpn), None)
        self.flushes += 1
        emit("tlb_flush", mm=mm, vpn=vpn)

    def forget_mm(self, mm: Mm) -> None:
        """The address space is gone."""
        for tlb in self._cpus.values():
            for key in [k for k in tlb if k[0] == mm.name]:
                del tlb[key]
