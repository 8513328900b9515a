"""Reservation maps: which offsets of a file or of a private mapping have to do with the reserve, and how.

A *file's* map covers the offsets that were ever reserved; it is attached to the inode and goes with it. A *private*
map covers the offsets whose reservation is consumed; it is attached to the mapping, counted by the VMAs that refer to
it, and never shared between address spaces. The pointer to it shares its word in the VMA with two flags.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mmreference.kernel.locks import RwLock, might_sleep
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import current_task, may_fail, touched
from mmreference.mm.hugetlb import region
from mmspec.contracts import operation
from mmspec.invariant import Over
from mmspec.invariants.hugetlb.views import commit_view, flags_view, own_region_steps
from mmspec.trace import emit, wrote

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.page import Page
    from mmreference.mm.hugetlb.system import System
    from mmreference.mm.hugetlb.vma import Vma

HPAGE_RESV_OWNER = 1 << 0
"""This VMA belongs to the process that called mmap, so it has a reservation."""
HPAGE_RESV_UNMAPPED = 1 << 1
"""A page of this VMA was taken away for the owner's sake; a fault on an empty entry is fatal."""
HPAGE_RESV_MASK = HPAGE_RESV_OWNER | HPAGE_RESV_UNMAPPED


@watched("refs")
class ResvMap(KernelObject):
    """`struct resv_map`. Offsets are in huge pages."""

    over = Over.MAP
    identity = ("name", "over", "private")

    def __init__(self, name: str, address: int, system: System, *, private: bool) -> None:
        super().__init__(name)
        self.system = system
        self.address = address
        self.private = private
        self.refs = 1
        self.regions: region.Regions = []
        self.drawn: dict[int, Page] = {}
        """Offsets for which a page is in flight that was drawn from the reserve."""
        self.lock = RwLock("resv_map.lock", self, system.order)
        # Ghosts.
        self.version = 0
        self.lo = self.hi = 0
        self.preparing: dict[tuple[str, int, int], None] = {}
        """Who is between prepare and commit, and for which range."""
        self.be_born()

    @property
    def placeholders(self) -> int:
        """How many regions are empty."""
        return sum(rg.frm == rg.to for rg in self.regions)

    @property
    def prepared(self) -> list[tuple[int, int]]:
        """The ranges that are prepared and not committed."""
        return [(f, t) for _, f, t in self.preparing]

    def forget_preparations(self) -> None:
        """Ghost: the running thread has committed, or given up."""
        task = current_task().name
        self.preparing = {key: None for key in self.preparing if key[0] != task}

    def coverage(self) -> frozenset[int]:
        """The covered offsets as a set."""
        return frozenset(x for rg in self.regions for x in range(rg.frm, rg.to))

    def consumed_or_drawn(self, idx: int) -> bool:
        """Whether `idx` is covered, or about to be."""
        return region.covered(self.regions, idx) or idx in self.drawn

    def changed(self, before: frozenset[int]) -> None:
        """Record that the coverage was `before` and is another one now."""
        now = self.coverage()
        if now != before:
            self.version += 1
            self.changes += 1
            touched((self.name, "regions"))
        wrote(self, "regions", before, now)


@operation()
async def resv_map_alloc(system: System, *, private: bool) -> ResvMap | None:
    """A map with one reference and no region, or None without memory."""
    if await kmalloc("resv_map"):
        return None
    return system.new_resv_map(private=private)


async def kmalloc(what: str) -> bool:
    """Allocate a small object that may have to wait for memory; whether that failed."""
    might_sleep(f"kmalloc {what}")
    emit("kmalloc_may_sleep", what=what)
    return await may_fail(f"kmalloc {what}")


@operation()
def resv_map_get(resv_map: ResvMap) -> None:
    """kref_get: the caller knows that somebody else's reference keeps the map alive."""
    emit("ref_get", map=resv_map)
    resv_map.refs += 1


@operation()
def resv_map_put(resv_map: ResvMap) -> None:
    """kref_put: the last reference releases the map."""
    emit("ref_put", map=resv_map)
    resv_map.refs -= 1
    if resv_map.refs == 0:
        resv_map_release(resv_map)


@operation()
def resv_map_release(resv_map: ResvMap) -> None:
    """Drop all regions, then the map."""
    before = resv_map.coverage()
    region.region_truncate(resv_map.regions, 0)
    emit("region_truncate", map=resv_map, end=0)
    resv_map.changed(before)
    resv_map.free()


# -- the region list of a map, under its lock --------------------------------------------------------------------------


@operation(view=own_region_steps)
async def map_region_chg(resv_map: ResvMap, f: int, t: int) -> int:
    """Prepare `[f, t)`: how many of its offsets are not covered, or -ENOMEM with nothing changed."""
    async with resv_map.lock.read():
        touched((resv_map.name, "regions"), write=False)
        if not region.needs_placeholder(resv_map.regions, f, t):
            return _prepared(resv_map, f, t)
    # The placeholder is allocated without the lock, because that may sleep; then everything is looked at again.
    if await kmalloc("file_region"):
        return -errno.ENOMEM
    async with resv_map.lock:
        return _prepared(resv_map, f, t)


def _prepared(resv_map: ResvMap, f: int, t: int) -> int:
    if region.needs_placeholder(resv_map.regions, f, t):
        resv_map.changes += 1
        touched((resv_map.name, "regions"))
    chg = region.region_chg(resv_map.regions, f, t)
    resv_map.preparing[current_task().name, f, t] = None
    emit("prepare", map=resv_map, f=f, t=t, chg=chg)
    return chg


@operation()
def map_region_add(resv_map: ResvMap, f: int, t: int) -> int:
    """Commit `[f, t)`, under the map's lock: how many offsets are newly covered."""
    before = resv_map.coverage()
    emit("region_add", map=resv_map, f=f, t=t, regions=len(resv_map.regions))
    added = region.region_add(resv_map.regions, f, t)
    resv_map.changed(before)
    resv_map.forget_preparations()
    return added


@operation()
async def map_region_truncate(resv_map: ResvMap, end: int) -> int:
    """Drop all coverage at and above `end`: how many offsets that were."""
    async with resv_map.lock:
        before = resv_map.coverage()
        emit("region_truncate", map=resv_map, end=end)
        dropped = region.region_truncate(resv_map.regions, end)
        resv_map.changed(before)
    return dropped


@operation()
async def map_region_count(resv_map: ResvMap, f: int, t: int) -> int:
    """How many offsets of `[f, t)` are covered."""
    async with resv_map.lock.read():
        touched((resv_map.name, "regions"), write=False)
        emit("region_count", map=resv_map, f=f, t=t, regions=len(resv_map.regions))
        return region.region_count(resv_map.regions, f, t)


# -- what a VMA knows of its reservation -------------------------------------------------------------------------------


@operation()
def vma_resv_map(vma: Vma) -> ResvMap | None:
    """The private map of a VMA; None for shared ones and for those without a reservation."""
    if vma.is_shared:
        return None
    return vma.mm.system.resv_map_at(vma.vm_private_data & ~HPAGE_RESV_MASK)


@operation(view=flags_view)
def set_vma_resv_map(vma: Vma, resv_map: ResvMap) -> None:
    """Attach a map to a private VMA; the flags stay."""
    vma.vm_private_data = (vma.vm_private_data & HPAGE_RESV_MASK) | resv_map.address


@operation(view=flags_view)
def set_vma_resv_flags(vma: Vma, flags: int) -> None:
    """Set flags of a private VMA; the map stays."""
    vma.vm_private_data |= flags


def is_vma_resv_set(vma: Vma, flag: int) -> bool:
    """Whether the flag is set; never for a shared VMA."""
    return not vma.is_shared and bool(vma.vm_private_data & flag)


@operation(view=flags_view)
def reset_vma_resv_huge_pages(vma: Vma) -> None:
    """The copy of a private VMA in a forked child has no reservation."""
    emit("reset_vma_resv", vma=vma)
    if not vma.is_shared:
        vma.vm_private_data = 0


def reservations_of(vma: Vma) -> ResvMap | None:
    """The map that decides about faults in this VMA: the file's for shared ones, else the private one."""
    return vma.vm_file.resv_map if vma.is_shared else vma_resv_map(vma)


def reserved_at(vma: Vma, idx: int) -> bool:
    """Whether a reservation for the offset `idx` of this VMA is outstanding; under the map's lock.

    Shared: reserved once, not instantiated, and no page drawn for it is on its way. Owner: not consumed.
    """
    resv_map = reservations_of(vma)
    if resv_map is None:
        return False
    touched((resv_map.name, "regions"), write=False)
    if vma.is_shared:
        inode = vma.vm_file
        return region.covered(resv_map.regions, idx) and idx not in inode.pages and idx not in resv_map.drawn
    return not resv_map.consumed_or_drawn(idx)


@operation()
async def vma_needs_reservation(vma: Vma, idx: int) -> int:
    """Prepare an allocation for the offset `idx`: 0 if it is paid for by a reservation, 1 if not, or -ENOMEM.

    May sleep for memory. Giving up afterwards needs no undoing.
    """
    resv_map = reservations_of(vma)
    if resv_map is None:
        return 1
    chg = await map_region_chg(resv_map, idx, idx + 1)
    if chg < 0 or vma.is_shared:
        return chg
    # A private map covers what is consumed, so here an offset that it misses is the one that is paid for.
    return 1 - chg


@operation(view=commit_view)
def vma_commit_reservation(vma: Vma, idx: int) -> None:
    """Record that the offset has its page, under the map's lock; cannot fail."""
    emit("commit", vma=vma, idx=idx)
    resv_map = reservations_of(vma)
    if resv_map is not None:
        map_region_add(resv_map, idx, idx + 1)
