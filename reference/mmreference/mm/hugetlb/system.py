"""The machine: one pool, one file system, its processes and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.lockdep import LockOrder
from mmreference.kernel.locks import Mutex
from mmreference.kernel.memory import is_freed
from mmreference.kernel.scheduler import Scheduler
from mmreference.mm.hugetlb.tlb import Tlbs
from mmspec.arch import Architecture
from mmspec.config import HUGETLB, SYSTEMS
from mmspec.errors import UsageError
from mmspec.invariant import Over
from mmspec.state import Setup

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.file import Inode
    from mmreference.mm.hugetlb.page import Page
    from mmreference.mm.hugetlb.resv_map import ResvMap
    from mmreference.mm.hugetlb.vma import Mm, Vma


class System:
    """Everything that the kernel keeps in global variables."""

    over = Over.WORLD

    def __init__(self, arch: Architecture, variant: str, setup: Setup | None = None, nodes: int = 1) -> None:
        from mmreference.mm.hugetlb.pool import HugePagePool
        from mmreference.mm.hugetlb.quota import SuperBlock

        if variant not in SYSTEMS[HUGETLB]:
            raise UsageError(f"no locking variant is called {variant!r}; known are {', '.join(SYSTEMS[HUGETLB])}")
        setup = setup or Setup()
        self.arch = arch
        self.variant = variant
        self.setup = setup
        self.nodes = nodes
        self.order = LockOrder()
        self.hugetlb_instantiation_mutex = Mutex("instantiation_mutex", None, self.order, "hugetlb_instantiation_mutex")
        self._names: dict[tuple[str, str], int] = {}
        self._maps: dict[int, ResvMap] = {}
        self.mms: dict[Mm, None] = {}
        self.inodes: dict[Inode, None] = {}
        self.tlbs = Tlbs()
        self.pool = HugePagePool(self, nodes, setup.overcommit, self.order)
        self.super = SuperBlock("hugetlbfs", setup.quota, self)
        self._boot_pool(setup.pool)

    def __repr__(self) -> str:
        return f"<{self.arch.name} {self.variant} {self.pool.counters()}>"

    def _boot_pool(self, count: int) -> None:
        from mmreference.mm.hugetlb.page import Page
        from mmreference.mm.hugetlb.pool import enqueue_huge_page

        self.pool.born = False
        for number in range(count):
            page = Page(f"page{number}", self.pool, number % self.nodes)
            page.prep_compound_page()
            self.pool.nr_huge_pages += 1
            self.pool.all_pages[page] = None
            enqueue_huge_page(self.pool, page)
        self.pool.born = True

    # -- sizes ---------------------------------------------------------------------------------------------------------

    @property
    def base_pages_per_huge_page(self) -> int:
        """Base pages in a huge page."""
        return self.arch.huge_page_size // self.arch.page_size

    @property
    def first_vpn(self) -> int:
        """Huge page number of the lowest address that mmap gives out."""
        return -(-self.arch.mmap_base // self.arch.huge_page_size)

    @property
    def mmap_end(self) -> int:
        """First address (bytes) that mmap does not give out."""
        return self.arch.user_end

    @property
    def entries_per_table(self) -> int:
        """Huge-page entries in one page table."""
        return self.arch.huge_entries_per_table

    # -- objects -------------------------------------------------------------------------------------------------------

    def new_name(self, what: str) -> str:
        """A name that does not depend on what other tasks do."""
        scheduler = Scheduler.current
        racing = scheduler is not None and len(scheduler.tasks) > 1 and scheduler.running is not None
        by = f".{scheduler.running.name}." if racing else ""  # type: ignore[union-attr]
        key = (what, by)
        number = self._names.get(key, 0)
        self._names[key] = number + 1
        return f"{what}{by}{number}" if not (what == "page" and not by) else f"fresh{number}"

    def new_mm(self) -> Mm:
        """An empty address space."""
        from mmreference.mm.hugetlb.vma import Mm

        mm = Mm(self.new_name("mm"), self)
        self.mms[mm] = None
        return mm

    def forget_mm(self, mm: Mm) -> None:
        """The address space is gone."""
        self.mms.pop(mm, None)
        self.tlbs.flush_tlb_mm(mm)

    def new_inode(self, size: int = 0, *, open_files: int = 1) -> Inode:
        """A file of `size` huge pages."""
        from mmreference.mm.hugetlb.file import Inode

        inode = Inode(self.new_name("file"), self, self.super, size, self.new_resv_map(private=False))
        inode.open_files = open_files
        self.inodes[inode] = None
        self.pool.books.open(inode)
        return inode

    def forget_inode(self, inode: Inode) -> None:
        """The file is gone."""
        self.inodes.pop(inode, None)
        self.pool.books.forget(inode)

    def new_resv_map(self, *, private: bool) -> ResvMap:
        """A map at an address of its own; the address of a freed map is not used again."""
        from mmreference.mm.hugetlb.resv_map import ResvMap

        address = 16 * (len(self._maps) + 1)
        resv_map = ResvMap(self.new_name("resv_map"), address, self, private=private)
        self._maps[address] = resv_map
        return resv_map

    def resv_map_at(self, address: int) -> ResvMap | None:
        """The map that a pointer points to, freed or not; None for a null pointer."""
        return self._maps.get(address)

    # -- views for the specification -----------------------------------------------------------------------------------

    @property
    def vmas(self) -> list[Vma]:
        """All linked VMAs."""
        return [vma for mm in self.mms for vma in mm.vmas]

    @property
    def maps(self) -> list[ResvMap]:
        """All maps that are not freed."""
        return [m for m in self._maps.values() if not is_freed(m)]

    @property
    def pages(self) -> list[Page]:
        """All pages that the pool owns."""
        return list(self.pool.all_pages)
