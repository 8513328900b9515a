"""What CPUs remember of huge-page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.scheduler import Scheduler

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.vma import Mm, Pte


class Tlbs:
    """One translation buffer per CPU; a task runs on a CPU of its own."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[tuple[str, int], Pte]] = {}

    def translate(self, mm: Mm, vpn: int, write: bool) -> Pte | None:
        """The entry that the running CPU uses: a remembered one if it suffices, else the one in memory; None faults."""
        scheduler = Scheduler.current
        cpu = scheduler.running.cpu if scheduler is not None and scheduler.running is not None else 0
        tlb = self._entries.setdefault(cpu, {})
        entry = tlb.get((mm.name, vpn))
        if entry is None:
            entry = mm.ptes.get(vpn)
            if entry is None:
                return None
            tlb[mm.name, vpn] = entry
        if write and not entry.writable:
            return None
        return entry

    def translations(self, mm: Mm) -> list[tuple[int, Pte]]:
        """What all CPUs remember of the address space: huge page number and entry."""
        return [(vpn, e) for tlb in self._entries.values() for (name, vpn), e in tlb.items() if name == mm.name]

    def flush_tlb_page(self, mm: Mm, vpn: int) -> None:
        """All CPUs forget the translation."""
        for tlb in self._entries.values():
            tlb.pop((mm.name, vpn), None)

    def flush_tlb_mm(self, mm: Mm) -> None:
        """All CPUs forget the address space."""
        for tlb in self._entries.values():
            for key in [k for k in tlb if k[0] == mm.name]:
                del tlb[key]
