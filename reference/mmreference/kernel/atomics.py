"""Atomic counters: each operation is one step that others can come before or after."""

from __future__ import annotations

from typing import Any

from mmreference.kernel.scheduler import Access


class Atomic:
    """An `atomic_t` in the field `field` of `owner`; the value is stored there, so that stores are watched."""

    __slots__ = ("owner", "field")

    def __init__(self, owner: Any, field: str) -> None:
        self.owner = owner
        self.field = field

    @property
    def location(self) -> tuple[str, str]:
        return (self.owner.name, self.field)

    @property
    def now(self) -> int:
        """The value, for those who hold a lock that keeps it still, and for printing."""
        return int(getattr(self.owner, self.field))

    def _access(self, verb: str, *, write: bool) -> Access:
        return Access(self.location, f"{verb} {self.owner.name}.{self.field}", write=write)

    async def read(self) -> int:
        """atomic_read"""
        await self._access("atomic_read", write=False)
        return self.now

    async def add_return(self, amount: int) -> int:
        """atomic_add_return: add, and return the new value."""
        await self._access("atomic_add", write=True)
        setattr(self.owner, self.field, self.now + amount)
        return self.now

    async def inc(self) -> None:
        """atomic_inc"""
        await self.add_return(1)

    async def dec_and_test(self) -> bool:
        """atomic_dec_and_test: subtract one; whether that made it 0."""
        return await self.add_return(-1) == 0

    async def inc_and_test(self) -> bool:
        """atomic_inc_and_test: add one; whether that made it 0."""
        return await self.add_return(1) == 0

    async def inc_not_zero(self) -> bool:
        """atomic_inc_not_zero: add one unless it is 0; whether it was added."""
        await self._access("atomic_inc_not_zero", write=True)
        if self.now == 0:
            return False
        setattr(self.owner, self.field, self.now + 1)
        return True

    async def cmpxchg(self, expected: int, new: int) -> int:
        """atomic_cmpxchg: store `new` if the value is `expected`; the value before."""
        await self._access("atomic_cmpxchg", write=True)
        before = self.now
        if before == expected:
            setattr(self.owner, self.field, new)
        return before
