"""The stage of reverse mapping."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmconformance import demands
from mmconformance.scenarios import staging
from mmconformance.scenarios.rmap.leftovers import clear_away, leftovers
from mmconformance.scenarios.rmap.orders import Failing, InPhases, Interrupted
from mmreference.kernel.scheduler import Pause, Scheduler, Strategy
from mmreference.machine import Machine
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.memory import hardware_entry
from mmreference.mm.mm_struct import Mm, Vma
from mmreference.mm.page import Page, get_page, put_page
from mmreference.mm.rmap.referenced import page_referenced
from mmspec.errors import Signal
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

    def run(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine now, alone."""
        return self.machine.run(body)

    def together(self, *bodies: Coroutine[Any, Any, Any], order: Strategy | None = None) -> list[Any]:
        """Run coroutines now, at once, in the order that a strategy gives: their results."""
        scheduler = Scheduler(order, self.recorder)
        tasks = [scheduler.spawn(f"T{number}", body) for number, body in enumerate(bodies)]
        scheduler.run()
        return [task.result for task in tasks]

    def meanwhile(
        self, step: str, first: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any], later: int = 0
    ) -> list[Any]:
        """The first coroutine runs up to its first step of that kind (or store to that field) and `later` steps on; then the
        others run as far as they can, and then it goes on.
        """
        own = len(self.recorder.contexts)

        def reached() -> bool:
            events = self.recorder.contexts[own].events
            return any(e.kind == step or (e.kind == "write" and e.field == step) for e in events)

        return self.together(first, *others, order=Interrupted(reached, later))

    def in_phases(self, phases: Sequence[tuple[int, str]], *bodies: Coroutine[Any, Any, Any]) -> list[Any]:
        """In each phase one of the coroutines (by number) runs up to its next step of a kind, or to its end if that is "";
        who cannot go on is passed over.
        """
        first = len(self.recorder.contexts)

        def over(number: int, kind: str) -> Callable[[], bool]:
            begun: list[int] = []

            def seen() -> bool:
                events = self.recorder.contexts[first + number].events
                begun[:] = begun or [len(events)]
                return any(e.kind == kind for e in events[begun[0] :])

            return seen

        return self.together(*bodies, order=InPhases([(number, over(number, kind)) for number, kind in phases]))

    def elsewhere(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine now, alone, on another CPU than :meth:`do`, with translations of its own."""

        async def nothing() -> None:
            pass

        return self.together(nothing(), body)[1]

    @contextmanager
    def without(self, what: str) -> Iterator[None]:
        """For a `with` block in which there is no memory for things of that kind."""
        self.machine.strategy = Failing(what)
        yield
        self.machine.strategy = None

    def area(self, pid: int, address: int) -> Vma:
        """The area that contains the address; there must be one."""
        vma = self.mm(pid).area_at(address)
        assert vma is not None, f"nothing is mapped at {address:#x}"
        return vma

    def kind(self, pid: int, address: int) -> str | None:
        """What kind of entry is there: "present", "swap", ..., or None."""
        entry = hardware_entry(self.mm(pid), address // self.page_size)[1]
        return None if entry is None else entry.kind

    def page(self, pid: int, address: int) -> Page:
        """The page that is mapped there; it must be."""
        page = self.machine.page_at(pid, address)
        assert page is not None, f"no page is mapped at {address:#x}"
        return page

    def written(self, length: int = 1, value: int = 7, **kwargs: Any) -> tuple[int, int]:
        """A process with an anonymous mapping whose pages it has written: pid and address."""
        pid = self.spawn()
        address = self.do("mmap", pid, length, **kwargs)
        for number in range(length):
            self.do("write", pid, address + number * self.page_size, value + number)
        return pid, address

    def mapped_file(self, length: int = 1, *, size: int = 0, count: int = 1, **kwargs: Any) -> tuple[int, list[tuple[int, int]]]:
        """A file of `size` pages (`length` if that is 0) that `count` processes share: its number, and pid and address of each."""
        file = self.machine.create_file(size or length)
        pids = [self.spawn() for _ in range(count)]
        return file, [(pid, self.do("mmap", pid, length, file=file, shared=True, **kwargs)) for pid in pids]

    def with_page(self, page: Page, body: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """What `body` returns for the page, with the page locked and a reference to it."""

        async def locked() -> Any:
            get_page(page)
            await page.lock.lock()
            result = await body(page, *args)
            page.lock.unlock()
            await put_page(page)
            return result

        return self.run(locked())

    def idle(self, pid: int, address: int) -> Page:
        """The page that is mapped there, which nobody has used since."""
        page = self.page(pid, address)
        self.run(page_referenced(page, False))
        return page

    def reclaim(self, pid: int, address: int) -> None:
        """Reclaim comes to the page that is mapped there, which nobody has used for long."""
        for _ in range(2):
            if self.kind(pid, address) == "present":
                self.idle(pid, address)
                self.do("reclaim", pid, address)

    def demand(self, id_: str, holds: object, **values: Any) -> None:
        """What the script itself can see of an invariant, see :func:`mmconformance.demands.demand`."""
        demands.demand(id_, holds, **values)

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
        self.demand("LOCK-ORD-019", not run.stuck, stuck=run.stuck, because=run.stuck_because)
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
        self.machine.run(clear_away(self.machine))

    def baseline(self) -> Any:
        found = {}
        for id_, left in leftovers(self.system):
            self.demand(id_, not any(left.values()), **left)
            found[id_] = {what: len(things) for what, things in left.items()}
        return found
