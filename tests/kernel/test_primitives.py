"""The coroutine kernel: what each primitive promises, under every schedule of small programs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mmconformance.engines.execution import TaskProgram
from mmconformance.engines.exhaustive import Exploration, explore
from mmreference.kernel.bug import KernelBug
from mmreference.kernel.irq import Irqs
from mmreference.kernel.lockdep import LockOrder, LockOrderViolation
from mmreference.kernel.locks import LockMisuse, Mutex, RwSem, SleepInAtomic, SpinLock
from mmreference.kernel.memory import KernelObject, UseAfterFree
from mmreference.kernel.rcu import Rcu
from mmreference.kernel.scheduler import Access, Pause, Retry, Scheduler, Stuck, run_alone, touched
from mmreference.kernel.seqcount import SeqCount, SeqLock
from mmreference.kernel.slab import KmemCache, TypeStableCache
from mmspec.invariant import Over
from mmspec.trace import Recorder, recording

Body = Callable[[], Coroutine[Any, Any, Any]]


def outcomes(make: Callable[[], tuple[list[Body], Callable[[], str]]], failures: int = 0) -> Exploration:
    """Every outcome of a program: `make` gives the bodies of its tasks and what to look at in the end."""

    def build(scheduler: Scheduler, recorder: Recorder) -> Callable[[Any], str]:
        bodies, look = make()
        for number, body in enumerate(bodies):
            scheduler.spawn(f"T{number}", body())
        return lambda run: f"{look()}{' ' + run.stuck_because if run.stuck else ''}"

    found = explore(TaskProgram("test", build), failures=failures)
    assert found.complete
    return found


def test_deadlock_is_found() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        a, b = Mutex("a"), Mutex("b")

        async def one(first: Mutex, second: Mutex) -> None:
            async with first:
                async with second:
                    pass

        return [lambda: one(a, b), lambda: one(b, a)], lambda: "end"

    assert set(outcomes(make).outcomes) == {"end", "end deadlock"}


def test_lock_order_prints_the_whole_cycle() -> None:
    order = LockOrder()
    order.acquire(("a",), "b", "first")
    order.acquire(("b",), "c", "second")
    with pytest.raises(LockOrderViolation) as caught:
        order.acquire(("c",), "a", "third")
    assert caught.value.cycle == ["c", "a", "b", "c"]
    assert all(name in str(caught.value) for name in ("first", "second", "third"))


def test_sleeping_under_a_spinlock_is_refused() -> None:
    async def body() -> None:
        async with SpinLock("spin"):
            async with Mutex("sleeps"):
                pass

    with recording(Recorder()) as recorder, pytest.raises(SleepInAtomic, match="spin"):
        run_alone(body(), recorder)


def test_unlock_of_somebody_elses_lock_is_refused() -> None:
    async def body() -> None:
        await Pause("start")
        Mutex("m").unlock()

    with pytest.raises(LockMisuse):
        run_alone(body())


def test_readers_share_and_writers_do_not() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        sem, inside, seen = RwSem("sem"), [], []

        async def reader(name: str) -> None:
            async with sem.read():
                inside.append(name)
                seen.append(tuple(sorted(inside)))
                touched("inside")
                await Access("inside", "read", write=True)
                inside.remove(name)

        async def writer() -> None:
            async with sem.write():
                inside.append("w")
                seen.append(tuple(sorted(inside)))
                touched("inside")
                await Pause("write")
                inside.remove("w")

        return [lambda: reader("r"), lambda: reader("s"), writer], lambda: str(sorted(set(seen)))

    found = outcomes(make).outcomes
    assert any("('r', 's')" in outcome for outcome in found)
    assert not any("'w')" in outcome.replace("('w',)", "") for outcome in found)


def test_endless_retry_is_told_from_deadlock() -> None:
    async def body() -> None:
        await Access("flag", "read flag")
        await Retry("wait for nobody")

    with pytest.raises(Stuck) as caught:
        run_alone(body())
    assert caught.value.why == "endless retry"


class Thing(KernelObject):
    """Something to be freed."""

    over = Over.PAGE

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.value = 1


def test_freed_object_says_who_freed_it() -> None:
    thing = Thing("thing")
    with recording(Recorder()) as recorder:
        recorder.switch(recorder.context("culprit"))
        thing.free()
    with pytest.raises(UseAfterFree, match="culprit"):
        thing.value += 1


def test_seqcount_reader_never_keeps_half_a_write() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        count, data, seen = SeqLock("seq"), [0, 0], []

        async def writer() -> None:
            await count.write_lock()
            for place in (0, 1):
                await Access(("data", place), "store", write=True)
                data[place] = 1
            await count.write_unlock()

        async def reader() -> None:
            while True:
                began = await count.read_begin()
                values = []
                for place in (0, 1):
                    await Access(("data", place), "load")
                    values.append(data[place])
                if not await count.read_retry(began):
                    seen.append(tuple(values))
                    return

        return [writer, reader], lambda: str(seen)

    assert set(outcomes(make).outcomes) == {"[(0, 0)]", "[(1, 1)]"}


def test_two_writers_of_a_bare_seqcount_are_a_bug() -> None:
    count = SeqCount("seq")

    async def body() -> None:
        await count.write_begin()
        await count.write_begin()

    with pytest.raises(KernelBug):
        run_alone(body())


def test_grace_period_waits_for_readers_from_before() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        rcu, pointer, seen = Rcu(), ["old"], []
        freed: list[str] = []

        async def reader() -> None:
            async with rcu.read():
                await Access("pointer", "load pointer")
                mine = pointer[0]
                await Access("object", "use object")
                seen.append(f"{mine}{' freed' if mine in freed else ''}")

        async def writer() -> None:
            await Access("pointer", "store pointer", write=True)
            pointer[0] = "new"
            await rcu.synchronize()
            await Access("object", "free", write=True)
            freed.append("old")

        return [reader, writer], lambda: str(seen)

    assert set(outcomes(make).outcomes) == {"['old']", "['new']"}


def test_without_grace_period_the_reader_uses_freed_memory() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        pointer, seen, freed = ["old"], [], []

        async def reader() -> None:
            await Access("pointer", "load pointer")
            mine = pointer[0]
            await Access("object", "use object")
            seen.append(f"{mine}{' freed' if mine in freed else ''}")

        async def writer() -> None:
            await Access("pointer", "store pointer", write=True)
            pointer[0] = "new"
            await Access("object", "free", write=True)
            freed.append("old")

        return [reader, writer], lambda: str(seen)

    assert "['old freed']" in outcomes(make).outcomes


def test_ipi_waits_for_interrupts() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        irqs, log = Irqs(), []

        async def walker() -> None:
            async with irqs.off():
                await Access("log", "walk", write=True)
                log.append("walk begins")
                await Access("log", "walk", write=True)
                log.append("walk ends")

        def handler(cpu: int) -> None:
            touched("log")
            log.append("IPI")

        async def flusher() -> None:
            await irqs.on_each_cpu([0], handler)

        return [walker, flusher], lambda: str(log)

    assert set(outcomes(make).outcomes) == {
        "['IPI', 'walk begins', 'walk ends']",
        "['walk begins', 'walk ends', 'IPI']",
    }


def test_allocation_failure_is_a_choice() -> None:
    def make() -> tuple[list[Body], Callable[[], str]]:
        cache, got = KmemCache("thing", Thing), []

        async def body() -> None:
            await Pause("start")
            got.append(await cache.alloc())

        return [body], lambda: "none" if got[0] is None else "object"

    assert set(outcomes(make, failures=1).outcomes) == {"none", "object"}


def test_type_stable_memory_becomes_somebody_else() -> None:
    cache = TypeStableCache("thing", Thing, lambda thing: setattr(thing, "value", 0))

    async def body() -> tuple[bool, int, int]:
        first = await cache.alloc()
        assert first is not None
        before = cache.generation(first)
        cache.free(first)
        second = await cache.alloc()
        return second is first, cache.generation(first) - before, first.value

    assert run_alone(body()) == (True, 1, 0)
    assert cache.live == 1
