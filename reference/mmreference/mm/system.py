"""The machine: what the kernel keeps in global variables.

The real number of entries in a page table is scaled down to :data:`PTRS_PER_PTE`, and with it the size of a
trans-huge page, so that small programs reach table borders; no relation in the specification depends on the number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mmreference.kernel.lockdep import LockOrder
from mmreference.kernel.locks import Mutex, RwLock, SpinLock
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.rcu import Rcu
from mmreference.kernel.scheduler import Scheduler, may_fail
from mmreference.kernel.slab import KmemCache, TypeStableCache
from mmreference.mm.tlb import Tlbs
from mmspec.arch import Architecture, DirtyYoung
from mmspec.config import RMAP, SYSTEMS, features
from mmspec.errors import UsageError
from mmspec.invariant import Over
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace
    from mmreference.mm.anon_vma import AnonVma, AnonVmaChain
    from mmreference.mm.ksm import RmapItem, StableNode
    from mmreference.mm.mm_struct import Mm, Vma
    from mmreference.mm.page import Page

#: Entries of a page table in the model.
PTRS_PER_PTE: Final = 8

#: Base-2 logarithm of the base pages in a hugetlb page of the model.
HUGE_PAGE_ORDER: Final = 3

#: Zone counters of mapped pages; in base pages, trans-huge ones in huge pages.
MAP_COUNTERS: Final = ("NR_ANON_PAGES", "NR_FILE_MAPPED", "NR_ANON_TRANSPARENT_HUGEPAGES")


@watched(*MAP_COUNTERS, "NR_MLOCK")
class Zone(KernelObject):
    """`struct zone`: its counters, and its LRU lists with their lock."""

    over = Over.ZONE

    def __init__(self, system: System) -> None:
        super().__init__("zone")
        self.system = system
        self.NR_ANON_PAGES = 0
        self.NR_FILE_MAPPED = 0
        self.NR_ANON_TRANSPARENT_HUGEPAGES = 0
        self.NR_MLOCK = 0
        self.lru_lock = SpinLock("lru_lock", self, system.order)
        self.lists: dict[str, list[Page]] = {
            name: [] for name in ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
        }
        self.be_born()


@watched("NR_FILE_MAPPED", "usage")
class MemCgroup(KernelObject):
    """A memory control group; `usage` is in base pages."""

    over = Over.MEMCG

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.NR_FILE_MAPPED = 0
        self.usage = 0
        self.be_born()


def _leave_as_it_is(anon_vma: AnonVma) -> None:
    """A constructor runs once per slab object; what is given out again is what was given back."""


class System:
    """One booted kernel of a configuration on an architecture."""

    over = Over.WORLD

    def __init__(self, arch: Architecture, variant: str, config: frozenset[str] | None = None) -> None:
        from mmreference.mm.address_space import AddressSpace
        from mmreference.mm.anon_vma import AnonVmaChain
        from mmreference.mm.swapfile import SwapDevice

        if variant not in SYSTEMS[RMAP]:
            raise UsageError(f"no kernel configuration is called {variant!r}; known are {', '.join(SYSTEMS[RMAP])}")
        self.arch = arch
        self.variant = variant
        self.config = features(arch, variant) if config is None else config
        """The features that this kernel has, by names of :data:`mmspec.config.FEATURES`."""
        self.order = LockOrder()
        self.page_size = arch.page_size
        self.ptrs_per_pte = PTRS_PER_PTE
        self.huge_page_order = HUGE_PAGE_ORDER
        self.split_ptlocks = self.has("SPLIT_PTLOCKS")
        self.storage_keys = arch.dirty_young is DirtyYoung.STORAGE_KEY
        self.software_dirty_young = arch.dirty_young is DirtyYoung.SOFTWARE
        self.transient_set_pte = arch.family == "powerpc"
        """Whether changing an entry leaves its slot empty for a moment."""
        self.first_pmd = -(-arch.mmap_base // (arch.page_size * PTRS_PER_PTE))
        self._names: dict[tuple[str, str], int] = {}
        self.rcu = Rcu()
        self.tlbs = Tlbs()
        self.zone = Zone(self)
        self.root_memcg = MemCgroup("root_memcg") if self.has("CGROUP_MEM_RES_CTLR") else None
        self.memcgs = [self.root_memcg] if self.root_memcg is not None else []
        self.anon_vmas: TypeStableCache[AnonVma] = TypeStableCache("anon_vma", self._construct_anon_vma, _leave_as_it_is)
        self.anon_vma_chains: KmemCache[AnonVmaChain] = KmemCache("anon_vma_chain", AnonVmaChain)
        self.live_anon_vmas: dict[AnonVma, None] = {}
        self.live_chains: dict[AnonVmaChain, None] = {}
        self.mms: dict[Mm, None] = {}
        self.files: dict[AddressSpace, None] = {}
        self.pages: dict[Page, None] = {}
        """All allocated page frames."""
        self.mmlist_lock = SpinLock("mmlist_lock", None, self.order, "mmlist_lock")
        self.tasklist_lock = RwLock("tasklist_lock", None, self.order, "tasklist_lock")
        self.swap_lock = SpinLock("swap_lock", None, self.order, "swap_lock")
        self.swap = SwapDevice(self, 32) if self.has("SWAP") else None
        self.swapper_space = AddressSpace("swapper_space", self, 0)
        self.pagevecs: dict[int, list[tuple[Page, str]]] = {}
        """CPU to the pages that it is going to add to the LRU, and to which list."""
        self.swap_token: Mm | None = None
        self.current: dict[int, Mm] = {}
        """CPU to the address space that it works for."""
        self.stable_tree: dict[int, StableNode] = {}
        """Content to the node of the merged page."""
        self.rmap_items: dict[tuple[Mm, int], RmapItem] = {}
        """Address space and address (bytes) to the place's item in the stable tree."""
        self.ksm_mms: dict[Mm, None] = {}
        """The address spaces that the scanner knows."""
        self.ksm_thread_mutex = Mutex("ksm_thread_mutex", None, self.order, "ksm_thread_mutex")
        self.thp_enabled = "always" if self.has("TRANSPARENT_HUGEPAGE") else "never"

    def __repr__(self) -> str:
        return f"<{self.arch.name} {self.variant}>"

    def _construct_anon_vma(self, name: str) -> AnonVma:
        from mmreference.mm.anon_vma import AnonVma

        return AnonVma(name, self)

    def has(self, feature: str) -> bool:
        """Whether this kernel is configured with the feature."""
        return feature in self.config

    # -- sizes ---------------------------------------------------------------------------------------------------------

    @property
    def pmd_size(self) -> int:
        """Bytes that one pmd entry spans, which are those of a trans-huge page."""
        return self.page_size * self.ptrs_per_pte

    @property
    def hpage_pmd_nr(self) -> int:
        """HPAGE_PMD_NR: base pages in a trans-huge page."""
        return self.ptrs_per_pte

    @property
    def cluster_size(self) -> int:
        """CLUSTER_SIZE in bytes: how much of a nonlinear area is scanned at once, never more than one page table."""
        return min(32 * self.page_size, self.pmd_size)

    @property
    def first_vpn(self) -> int:
        """Base page number of the lowest address that mmap gives out."""
        return self.first_pmd * self.ptrs_per_pte

    # -- objects -------------------------------------------------------------------------------------------------------

    def new_name(self, what: str) -> str:
        """A name that does not depend on what other tasks do."""
        scheduler = Scheduler.current
        racing = scheduler is not None and len(scheduler.tasks) > 1 and scheduler.running is not None
        by = f".{scheduler.running.name}." if racing else ""  # type: ignore[union-attr]
        number = self._names.get((what, by), 0)
        self._names[what, by] = number + 1
        return f"{what}{by}{number}"

    async def alloc_page(self, what: str = "page", *, may_reclaim: bool = True) -> Page | None:
        """A page frame with one reference and zeroed, or None without memory."""
        return await self.alloc_pages(0, what, may_reclaim=may_reclaim)

    async def alloc_pages(self, order: int, what: str, *, may_reclaim: bool = True, huge: bool = False) -> Page | None:
        """A page of `2**order` base pages, or None without memory."""
        from mmreference.kernel.locks import might_sleep
        from mmreference.mm.page import Page

        if may_reclaim:
            might_sleep(f"allocating a {what}")
        emit("alloc", what=what, may_reclaim=may_reclaim)
        if await may_fail(what):
            return None
        page = Page(self.new_name("page"), self, order=order, huge=huge)
        self.pages[page] = None
        if order and not huge:
            page.subpages = [page]
            for number in range(1, 1 << order):
                tail = Page(f"{page.name}+{number}", self)
                tail._count = 0
                tail.first_page = page
                page.subpages.append(tail)
        emit("page_allocated", page=page)
        return page

    def forget_page(self, page: Page) -> None:
        """The frame is free."""
        self.pages.pop(page, None)

    def new_mm(self) -> Mm:
        """An empty address space."""
        from mmreference.mm.mm_struct import Mm

        mm = Mm(self.new_name("mm"), self)
        self.mms[mm] = None
        return mm

    def forget_mm(self, mm: Mm) -> None:
        """The address space is gone."""
        self.mms.pop(mm, None)
        self.tlbs.forget_mm(mm)
        self.current = {cpu: other for cpu, other in self.current.items() if other is not mm}
        if self.swap_token is mm:
            self.swap_token = None

    def new_file(self, size: int) -> AddressSpace:
        """A file of `size` base pages."""
        from mmreference.mm.address_space import AddressSpace

        mapping = AddressSpace(self.new_name("file"), self, size)
        self.files[mapping] = None
        return mapping

    def new_memcg(self) -> MemCgroup | None:
        """Another memory control group, or None in a kernel without them."""
        if self.root_memcg is None:
            return None
        group = MemCgroup(self.new_name("memcg"))
        self.memcgs.append(group)
        return group

    def current_mm(self) -> Mm | None:
        """The address space that the running task works for; None for a kernel thread."""
        return self.current.get(self.tlbs.this_cpu())

    @property
    def vmas(self) -> list[Vma]:
        """All areas that are linked into an address space."""
        return [vma for mm in self.mms for vma in mm.vmas]
