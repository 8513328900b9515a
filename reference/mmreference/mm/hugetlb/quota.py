"""The file system's quota of huge pages (`hugetlbfs_sb_info`)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mmreference.kernel.locks import SpinLock
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import touched
from mmspec.contracts import operation
from mmspec.invariant import Over
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.system import System


NO_LIMIT = 1 << 30


@watched("free_blocks", "max_blocks", "quota_inflight")
class SuperBlock(KernelObject):
    """A hugetlbfs instance; blocks are huge pages."""

    over = Over.SUPER

    def __init__(self, name: str, blocks: int | None, system: System) -> None:
        super().__init__(name)
        self._changes = 0
        self.system = system
        self.max_blocks = NO_LIMIT if blocks is None else blocks
        self.free_blocks = self.max_blocks
        self.quota_inflight = 0
        """Blocks taken by faults that have not settled; a fault that finds no block while there are some retries."""
        self.stat_lock = SpinLock("stat_lock", self, system.order, f"{name}.stat_lock")
        self.be_born()

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_blocks != NO_LIMIT

    @property
    def changes(self) -> int:
        """Without a limit nobody's block can be missing, so the order of takers does not matter."""
        return self._changes if self.limited else 0

    @changes.setter
    def changes(self, value: int) -> None:
        self._changes = value


@operation()
async def hugetlb_get_quota(sb: SuperBlock, blocks: int, *, in_flight: bool = False) -> int:
    """Take `blocks` huge pages from the quota: 0, -ENOSPC, or -EAGAIN where a fault may give some back.

    `in_flight` says that the block is for a fault that has not decided yet.
    """
    async with sb.stat_lock:
        if sb.free_blocks < blocks:
            touched((sb.name, "quota_inflight"), write=False)
            emit("quota_failed", sb=sb, blocks=blocks, inflight=sb.quota_inflight)
            return -errno.EAGAIN if sb.quota_inflight > 0 else -errno.ENOSPC
        sb.free_blocks -= blocks
        if in_flight:
            sb.quota_inflight += blocks
        emit("quota_get", sb=sb, blocks=blocks)
    return 0


@operation()
async def hugetlb_put_quota(sb: SuperBlock, blocks: int, *, in_flight: bool = False, news: bool = True) -> None:
    """Give `blocks` huge pages back. `news` is False where a fault repeats that could not have kept them anyway."""
    async with sb.stat_lock:
        sb.free_blocks += blocks
        if in_flight:
            sb.quota_inflight -= blocks
        if news and sb.limited:
            touched((sb.name, "quota_inflight"))
        emit("quota_put", sb=sb, blocks=blocks)


async def quota_settled(sb: SuperBlock) -> None:
    """The block that a fault took is used: nobody can hope for it any more."""
    async with sb.stat_lock:
        sb.quota_inflight -= 1
        if sb.limited:
            touched((sb.name, "quota_inflight"))
