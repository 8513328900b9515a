"""Address spaces and their VMAs: finding, splitting, and the huge-page index of an address."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.locks import RwSem, SpinLock
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import may_fail
from mmspec.contracts import operation
from mmspec.invariant import Over
from mmspec.invariants.hugetlb.views import split_view
from mmspec.trace import emit, note, wrote

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.file import Inode
    from mmreference.mm.hugetlb.page import Page
    from mmreference.mm.hugetlb.pool import HugePagePool
    from mmreference.mm.hugetlb.resv_map import ResvMap
    from mmreference.mm.hugetlb.system import System

VM_READ = 1 << 0
VM_WRITE = 1 << 1
VM_SHARED = 1 << 3
VM_MAYWRITE = 1 << 5
VM_MAYSHARE = 1 << 7
VM_NORESERVE = 1 << 21
VM_HUGETLB = 1 << 22


@attrs.frozen(slots=True)
class Pte:
    """A present huge-page table entry; an absent one is None."""

    page: Page
    writable: bool
    dirty: bool = False


@watched("file_rss", "users")
class Mm(KernelObject):
    """`struct mm_struct`"""

    over = Over.MM

    def __init__(self, name: str, system: System) -> None:
        super().__init__(name)
        self.system = system
        self.mmap_sem = RwSem("mmap_sem", self, system.order)
        self.page_table_lock = SpinLock("page_table_lock", self, system.order)
        self.vmas: list[Vma] = []
        self.ptes: dict[int, Pte] = {}
        """Huge page number of the address to its entry."""
        self.tables: dict[int, None] = {}
        self.file_rss = 0
        """Base pages that are mapped."""
        self.users = 1
        self.allowed_nodes = tuple(range(system.nodes))
        self.be_born()

    def find_vma(self, address: int) -> Vma | None:
        """The VMA that contains the address (in bytes), or None."""
        return next((v for v in self.vmas if v.vm_start <= address < v.vm_end), None)

    def link(self, vma: Vma) -> None:
        """Insert by address."""
        self.vmas.append(vma)
        self.vmas.sort(key=lambda v: v.vm_start)
        vma.linked = True
        wrote(self, "vmas", None, tuple(v.name for v in self.vmas))

    def unlink(self, vma: Vma) -> None:
        """Take out of the list."""
        self.vmas.remove(vma)
        vma.linked = False
        wrote(self, "vmas", None, tuple(v.name for v in self.vmas))


@watched("vm_start", "vm_end", "vm_pgoff", "vm_flags", "vm_private_data")
class Vma(KernelObject):
    """`struct vm_area_struct` of a huge-page mapping. Addresses are in bytes, `vm_pgoff` in base pages."""

    over = Over.VMA

    def __init__(self, name: str, mm: Mm, start: int, end: int, pgoff: int, flags: int, inode: Inode) -> None:
        super().__init__(name)
        self.mm = mm
        self.vm_start = start
        self.vm_end = end
        self.vm_pgoff = pgoff
        self.vm_flags = flags
        self.vm_file = inode
        self.vm_private_data = 0
        self.linked = False
        self.closes = 0
        self.be_born()

    @property
    def pool(self) -> HugePagePool:
        """The pool that serves this VMA (`hstate_vma`)."""
        return self.mm.system.pool

    @property
    def huge_page_size(self) -> int:
        """Bytes of a huge page."""
        return self.mm.system.arch.huge_page_size

    @property
    def is_shared(self) -> bool:
        """Mapped MAP_SHARED. The one predicate for the class of a mapping, wherever it matters."""
        return bool(self.vm_flags & VM_MAYSHARE)

    @property
    def lo(self) -> int:
        """Huge-page index of the first page in the mapping's file."""
        return self.vm_pgoff * self.mm.system.arch.page_size // self.huge_page_size

    @property
    def hi(self) -> int:
        """Huge-page index behind the last page."""
        return self.lo + (self.vm_end - self.vm_start) // self.huge_page_size

    def index(self, address: int) -> int:
        """`vma_pagecache_offset`: the huge-page index in the file of an address in this VMA."""
        return (address - self.vm_start) // self.huge_page_size + self.lo

    def address(self, idx: int) -> int:
        """The address of a huge-page index of the file."""
        return self.vm_start + (idx - self.lo) * self.huge_page_size

    @property
    def npages(self) -> int:
        """Length in huge pages."""
        return (self.vm_end - self.vm_start) // self.huge_page_size

    @property
    def map(self) -> ResvMap | None:
        """The private reservation map, as the specification sees it."""
        from mmreference.mm.hugetlb.resv_map import HPAGE_RESV_MASK

        return None if self.is_shared else self.mm.system.resv_map_at(self.vm_private_data & ~HPAGE_RESV_MASK)

    def outstanding(self) -> int:
        """Reservations that this VMA holds and has not consumed."""
        from mmreference.mm.hugetlb.region import region_count

        resv_map = self.map
        return 0 if resv_map is None else self.npages - region_count(resv_map.regions, self.lo, self.hi)

    def book_version(self) -> object:
        """Changes whenever :meth:`outstanding` may."""
        resv_map = self.map
        return (self.vm_start, self.vm_end, None if resv_map is None else resv_map.version)

    def copy(self, mm: Mm) -> Vma:
        """A new VMA with all fields alike."""
        system = mm.system
        vma = Vma(system.new_name("vma"), mm, self.vm_start, self.vm_end, self.vm_pgoff, self.vm_flags, self.vm_file)
        vma.vm_private_data = self.vm_private_data
        return vma


@operation(view=split_view)
async def split_vma(mm: Mm, vma: Vma, address: int, *, new_below: bool) -> int:
    """Cut the VMA at the address: 0, -EINVAL if that is no huge-page boundary, -ENOMEM.

    With `mmap_sem` held for write. `new_below` says which half is the new VMA.
    """
    if address % vma.huge_page_size:
        return -errno.EINVAL
    if await may_fail("vm_area_struct"):
        return -errno.ENOMEM
    new = vma.copy(mm)
    note(new_vma=new)
    grown = (address - vma.vm_start) // mm.system.arch.page_size
    if new_below:
        new.vm_end = address
    else:
        new.vm_start = address
        new.vm_pgoff += grown
    hugetlb_vm_op_open(new)
    # Truncation finds the file's mappings under this lock, and must find the halves together.
    async with vma.vm_file.i_mmap_lock:
        if new_below:
            vma.vm_start = address
            vma.vm_pgoff += grown
        else:
            vma.vm_end = address
        emit("split", vma=vma, new=new)
        if new.map is not None:
            mm.system.pool.books.split(new)
        vma.vm_file.i_mmap[new] = None
        mm.link(new)
    return 0


@operation()
def hugetlb_vm_op_open(vma: Vma) -> None:
    """A copy of a VMA begins its life: it refers to the same reservation map as the original."""
    from mmreference.mm.hugetlb.resv_map import resv_map_get, vma_resv_map

    emit("vm_op_open", vma=vma)
    reservations = vma_resv_map(vma)
    if reservations is not None:
        resv_map_get(reservations)
