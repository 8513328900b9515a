"""Object caches: allocation that may fail, poison on free, and type-stable reuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mmreference.kernel.memory import KernelObject
from mmreference.kernel.scheduler import may_fail

T = TypeVar("T", bound=KernelObject)


class KmemCache(Generic[T]):
    """`struct kmem_cache`. `construct` makes an object from a name."""

    def __init__(self, name: str, construct: Callable[[str], T]) -> None:
        self.name = name
        self.construct = construct
        self.made = 0
        self.live = 0
        """Objects that are allocated; 0 at the end unless something leaked."""

    async def alloc(self) -> T | None:
        """An object, or None without memory."""
        if await may_fail(f"kmem_cache_alloc {self.name}"):
            return None
        self.made += 1
        self.live += 1
        return self.construct(f"{self.name}{self.made}")

    def free(self, obj: T) -> None:
        """Give an object back; whoever touches it from now on is told who freed it."""
        self.live -= 1
        obj.free()


class TypeStableCache(KmemCache[T]):
    """SLAB_DESTROY_BY_RCU: the memory of a freed object stays one of its type, and may be somebody else's at once.

    So there is no poison. `generation` tells the specification whether it is still the same object; no code of the
    kernel can know.
    """

    def __init__(self, name: str, construct: Callable[[str], T], reset: Callable[[T], None]) -> None:
        super().__init__(name, construct)
        self.reset = reset
        self.unused: list[T] = []
        self.generations: dict[str, int] = {}

    async def alloc(self) -> T | None:
        """The object that was freed last, or a new one, or None without memory."""
        if not self.unused:
            return await super().alloc()
        if await may_fail(f"kmem_cache_alloc {self.name}"):
            return None
        self.live += 1
        obj = self.unused.pop()
        self.generations[obj.name] = self.generation(obj) + 1
        self.reset(obj)
        return obj

    def free(self, obj: T) -> None:
        """The object's memory may be used again by the next allocation."""
        self.live -= 1
        self.unused.append(obj)

    def generation(self, obj: T) -> int:
        """How often the object's memory has been given out anew."""
        return self.generations.get(obj.name, 0)
