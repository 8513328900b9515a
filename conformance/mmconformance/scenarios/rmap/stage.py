"""The stage of reverse mapping."""

from __future__ import annotations

from typing import Any

from mmconformance.scenarios import staging
from mmreference.kernel.scheduler import Pause
from mmreference.machine import Machine
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.mm_struct import Mm
from mmreference.mm.page import Page, get_page, put_page
from mmspec.errors import Signal, Violation
from mmspec.invariant import REGISTRY, Judge
from mmspec.trace import Recorder, Run


class Stage(staging.Stage):
    """A machine with pages, address spaces and files; `race` collects what runs at once."""

    def __init__(self, arch: str, variant: str, recorder: Recorder) -> None:
        super().__init__(arch, variant, recorder)
        self.machine = Machine(arch, variant)
        self.held: list[Page] = []

    @property
    def system(self) -> Any:
        return self.machine.system

    @property
    def page_size(self) -> int:
        """Bytes of a base page."""
        return self.machine.page_size

    def race(self, thread: str, call: str, *args: Any, alike: str = "", **kwargs: Any) -> None:
        """`thread` makes the call at the same time as the others, see :meth:`staging.Stage.race_body`."""
        self.race_body(thread, lambda: self.machine.call(call, *args, **kwargs), alike)

    def race_body(self, thread: str, body: staging.Body, alike: str = "") -> None:
        async def begin() -> Any:
            # What a thread does before it waits for the first time is a step as well.
            await Pause(f"{thread} begins")
            return await body()

        super().race_body(thread, begin, alike)

    def do(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Make a call now, alone."""
        return self.machine.do(call, *args, **kwargs)

    def spawn(self) -> int:
        """A process."""
        return self.machine.spawn()

    def mm(self, pid: int) -> Mm:
        """Its address space."""
        return self.machine.processes[pid]

    def page(self, pid: int, address: int) -> Page:
        """The page that is mapped there; it must be."""
        page = self.machine.page_at(pid, address)
        assert page is not None, f"nothing is mapped at {address:#x}"
        return page

    def written(self, length: int = 1, value: int = 7, **kwargs: Any) -> tuple[int, int]:
        """A process with an anonymous mapping whose pages it has written: pid and address."""
        pid = self.spawn()
        address = self.do("mmap", pid, length, **kwargs)
        for number in range(length):
            self.do("write", pid, address + number * self.page_size, value + number)
        return pid, address

    def demand(self, id_: str, holds: bool, **values: Any) -> None:
        """What the script itself can see of an invariant.

        :raises Violation: of the invariant with that id, unless it holds.
        """
        if Judge.active is None or not Judge.at_work() or id_ in Judge.active.inapplicable:
            return
        Judge.active.real[id_] += 1
        if not holds:
            raise Violation(REGISTRY[id_], values)

    def expect(self, pid: int, address: int, value: int) -> None:
        """The process reads `value` at the address: what was stored there last, wherever it has been meanwhile."""
        got = self.do("read", pid, address)
        self.demand("RMAP-UNMAP-027", got == value, process=pid, address=hex(address), stored=value, read=got)

    def expect_signal(self, pid: int, address: int) -> None:
        """The process cannot read at the address."""
        got = self.do("read", pid, address)
        self.demand("RMAP-UNMAP-027", isinstance(got, Signal), process=pid, address=hex(address), read=got)

    def quiet(self) -> None:
        """Nothing is in flight: all state invariants are evaluated."""
        self.recorder.quiet(self.system)

    def hold(self, pid: int, address: int) -> Page:
        """The page that is mapped there, with a reference until the end of the run, as reclaim has one."""
        page = self.page(pid, address)
        get_page(page)
        self.held.append(page)
        return page

    def drain(self) -> None:
        """All new pages are on their LRU lists."""
        self.machine.run(lru_add_drain_all(self.system))

    def outcome(self, run: Run) -> str:
        return " ".join(
            f"{mm.name}:anon={mm.rss_anon},file={mm.rss_file},swap={mm.swapents}" for mm in self.system.mms
        )

    def state(self) -> Any:
        return self.system, self.held

    def clear(self) -> None:
        while self.held:
            self.machine.run(put_page(self.held.pop()))
        for pid in list(self.machine.processes):
            self.do("exit", pid)
        for number in range(len(self.machine.files)):
            self.do("truncate", number, 0)
        self.drain()

    def baseline(self) -> Any:
        system = self.system
        return {
            "pages": len(system.pages),
            "anon_vmas": len(system.live_anon_vmas),
            "chains": len(system.live_chains),
            "swap slots": len(system.swap.swap_map) + len(system.swap.has_cache) if system.swap is not None else 0,
        }
