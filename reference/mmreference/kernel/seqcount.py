"""Sequence counts: readers that never wait, and repeat if a writer came by."""

from __future__ import annotations

from mmreference.kernel.bug import bug_on
from mmreference.kernel.locks import SpinLock
from mmreference.kernel.scheduler import Access, Retry


class SeqCount:
    """`seqcount_t`: odd while a write is under way. Writers exclude each other by a lock of the caller's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sequence = 0

    def _access(self, verb: str, *, write: bool) -> Access:
        return Access((self.name, "sequence"), f"{verb} {self.name}", write=write)

    async def write_begin(self) -> None:
        """Readers that begin now see that they have to repeat."""
        await self._access("write_seqcount_begin", write=True)
        bug_on(self.sequence % 2, f"two writers in {self.name}")
        self.sequence += 1

    async def write_end(self) -> None:
        """The data is consistent again."""
        await self._access("write_seqcount_end", write=True)
        bug_on(self.sequence % 2 == 0, f"write_seqcount_end without begin in {self.name}")
        self.sequence += 1

    async def raw_read(self) -> int:
        """The count as it is, odd or even, for readers that give up rather than wait."""
        await self._access("raw_read_seqcount", write=False)
        return self.sequence

    async def read_begin(self) -> int:
        """The count at the start of a read; waits for a write that is under way."""
        while True:
            seen = await self.raw_read()
            if seen % 2 == 0:
                return seen
            await Retry(f"wait for the writer of {self.name}")

    async def read_retry(self, seen: int) -> bool:
        """Whether a writer came by since `seen`, so that what was read must be thrown away."""
        await self._access("read_seqcount_retry", write=False)
        return self.sequence != seen


class SeqLock(SeqCount):
    """A sequence count with the lock that its writers need."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lock = SpinLock("seqlock", None, None, f"{name}.lock")

    async def write_lock(self) -> None:
        """Exclude other writers and begin."""
        await self.lock.lock()
        await self.write_begin()

    async def write_unlock(self) -> None:
        """End and let other writers in."""
        await self.write_end()
        self.lock.unlock()
