"""`mm_struct` and `vm_area_struct`: an address space, its areas, and where an address lies in its area's object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mmreference.kernel.locks import RwSem, SpinLock
from mmreference.kernel.memory import KernelObject, shared, watched
from mmreference.kernel.scheduler import Scheduler, touched
from mmspec.invariant import Over
from mmspec.trace import emit, wrote

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace
    from mmreference.mm.anon_vma import AnonVma, AnonVmaChain
    from mmreference.mm.mmu_notifier import MmuNotifier
    from mmreference.mm.pagetable import Entry, Present, PteTable
    from mmreference.mm.system import MemCgroup, System

VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_GROWSUP: Final = 0x200
VM_LOCKED: Final = 0x2000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x10000
VM_DONTCOPY: Final = 0x20000
VM_HUGETLB: Final = 0x400000
VM_NONLINEAR: Final = 0x800000
VM_HUGEPAGE: Final = 0x1000000
VM_MERGEABLE: Final = 0x80000000
#: Marks the stack that exec is still moving; both bits together mean nothing else.
VM_STACK_INCOMPLETE_SETUP: Final = VM_RAND_READ | VM_SEQ_READ

#: The counters that together are the resident set, and that of swap entries; in base pages.
RSS: Final = ("rss_anon", "rss_file")
MM_COUNTERS: Final = (*RSS, "swapents")


@watched(*MM_COUNTERS, "hiwater_rss", "hiwater_vm", "total_vm", "on_mmlist")
class Mm(KernelObject):
    """`struct mm_struct`; all counters are in base pages."""

    over = Over.MM

    def __init__(self, name: str, system: System) -> None:
        super().__init__(name)
        self.system = system
        self.mmap_sem = RwSem("mmap_sem", self, system.order)
        self.page_table_lock = SpinLock("page_table_lock", self, system.order)
        self.vmas: list[Vma] = []
        self.tables: dict[int, PteTable] = {}
        """Index of the pmd entry to the table of ptes that it points to."""
        self.pmds: dict[int, Present] = {}
        """Index of the pmd entry to the trans-huge page that it maps."""
        self.pmd_huge_pte: dict[int, PteTable] = {}
        """Index of a pmd entry that maps a trans-huge page to the table that is kept for its split."""
        self.huge_tables: dict[int, None] = {}
        """Base page numbers of hugetlb entries for which there is a table."""
        self.huge: dict[int, Entry] = {}
        """Base page number of a hugetlb mapping to its entry."""
        self.rss_anon = 0
        self.rss_file = 0
        self.swapents = 0
        self.hiwater_rss = 0
        self.hiwater_vm = 0
        self.total_vm = 0
        self.on_mmlist = False
        """Member of the list that swapoff scans."""
        self.memcg: MemCgroup | None = system.root_memcg
        self.notifiers: list[MmuNotifier] = []
        self.users = 1
        self.true_peak_rss = 0
        """Ghost: the largest resident set so far."""
        self.raced = False
        """Ghost: whether a peak may have been missed because threads raised and lowered the resident set at once."""
        self.true_peak_vm = 0
        """Ghost: the largest `total_vm` between system calls so far."""
        self.be_born()

    def find_vma(self, address: int) -> Vma | None:
        """The first area that ends beyond the address (bytes), or None."""
        touched((self.name, "vmas"), write=False)
        return next((v for v in self.vmas if address < v.vm_end), None)

    def area_at(self, address: int) -> Vma | None:
        """The area that contains the address (bytes), or None."""
        vma = self.find_vma(address)
        return vma if vma is not None and vma.vm_start <= address else None

    def link(self, vma: Vma) -> None:
        """Insert an area by its address."""
        touched((self.name, "vmas"))
        self.vmas.append(vma)
        self.vmas.sort(key=lambda v: v.vm_start)
        wrote(self, "vmas", None, vma)

    def unlink(self, vma: Vma) -> None:
        """Take an area out of the list."""
        touched((self.name, "vmas"))
        self.vmas.remove(vma)
        wrote(self, "vmas", vma, None)


@shared("vm_start", "vm_end", "vm_pgoff", "vm_flags", "anon_vma")
class Vma(KernelObject):
    """`struct vm_area_struct`. Addresses are in bytes, `vm_pgoff` in base pages."""

    over = Over.VMA

    def __init__(
        self, name: str, mm: Mm, start: int, end: int, flags: int, pgoff: int, mapping: AddressSpace | None = None
    ) -> None:
        super().__init__(name)
        self.mm = mm
        self.vm_start = start
        self.vm_end = end
        self.vm_flags = flags
        self.vm_pgoff = pgoff
        self.vm_file = mapping
        """The address space of the file that it maps (`vm_file->f_mapping`), or None."""
        self.anon_vma: AnonVma | None = None
        self.anon_vma_chain: list[AnonVmaChain] = []
        """The `same_vma` list: newest anon_vma first."""
        self.vm_private_data = 0
        """Of a nonlinear area: where the scan of :func:`try_to_unmap_cluster` goes on, in bytes from `vm_start`."""
        self.published = False
        """Whether others can find it."""
        self.forked_from: Vma | None = None
        """Ghost: the area that fork copied it from."""
        self.be_born()

    @property
    def npages(self) -> int:
        """Length in base pages."""
        return (self.vm_end - self.vm_start) // self.mm.system.page_size

    @property
    def vpns(self) -> range:
        """The base page numbers of its addresses."""
        size = self.mm.system.page_size
        return range(self.vm_start // size, self.vm_end // size)

    @property
    def nonlinear(self) -> bool:
        """VM_NONLINEAR"""
        return bool(self.vm_flags & VM_NONLINEAR)

    @property
    def locked(self) -> bool:
        """VM_LOCKED"""
        return bool(self.vm_flags & VM_LOCKED)

    @property
    def is_cow(self) -> bool:
        """Whether a write to a page of it makes a private copy."""
        return self.vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE

    def covers(self, address: int) -> bool:
        """Whether the address (bytes) lies inside."""
        return self.vm_start <= address < self.vm_end


def linear_page_index(vma: Vma, address: int) -> int:
    """The index (base pages) in the area's object of an address (bytes); hugetlb counts in huge pages."""
    system = vma.mm.system
    pgoff = (address - vma.vm_start) // system.page_size + vma.vm_pgoff
    return pgoff >> system.huge_page_order if vma.vm_flags & VM_HUGETLB else pgoff


def update_hiwater_rss(mm: Mm) -> None:
    """Note the peak before the resident set shrinks; needs no lock, a race makes it inexact."""
    emit("update_hiwater_rss", mm=mm)
    rss = mm.rss_anon + mm.rss_file
    if mm.hiwater_rss < rss:
        mm.hiwater_rss = rss


def update_hiwater_vm(mm: Mm) -> None:
    """Note the peak before `total_vm` shrinks."""
    emit("update_hiwater_vm", mm=mm)
    if mm.hiwater_vm < mm.total_vm:
        mm.hiwater_vm = mm.total_vm


def get_mm_rss(mm: Mm) -> int:
    """The resident set in base pages."""
    return mm.rss_anon + mm.rss_file


def get_mm_hiwater_rss(mm: Mm) -> int:
    """The peak of the resident set, as a reader reports it."""
    return max(mm.hiwater_rss, get_mm_rss(mm))


def get_mm_hiwater_vm(mm: Mm) -> int:
    """The peak of `total_vm`, as a reader reports it."""
    return max(mm.hiwater_vm, mm.total_vm)


def add_mm_counter(mm: Mm, field: str, amount: int) -> None:
    """Change one of :data:`MM_COUNTERS`, with the page-table lock held."""
    scheduler = Scheduler.current
    if amount < 0 and field in RSS and get_mm_rss(mm) > mm.hiwater_rss and scheduler is not None and len(scheduler.tasks) > 1:
        mm.raced = True
    setattr(mm, field, getattr(mm, field) + amount)
    mm.true_peak_rss = max(mm.true_peak_rss, get_mm_rss(mm))


def rss_counter(page: Any) -> str:
    """Which counter a mapping of the page belongs to."""
    from mmreference.mm.page import PageAnon

    return "rss_anon" if PageAnon(page) else "rss_file"


def vpn_range(mm: Mm, start: int, end: int) -> range:
    """The base page numbers of `[start, end)` (bytes)."""
    return range(start // mm.system.page_size, -(-end // mm.system.page_size))
