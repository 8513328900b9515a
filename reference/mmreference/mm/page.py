"""`struct page`: map count, references, the tagged `mapping`, flags, and the life of a page frame.

A trans-huge page is a compound page: `subpages` of the head lists all of its frames, head included. A hugetlb page is
one object whatever its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mmreference.kernel.atomics import Atomic
from mmreference.kernel.bug import bug_on
from mmreference.kernel.locks import BitLock, SpinLock
from mmreference.kernel.memory import KernelObject, shared, watched
from mmreference.kernel.scheduler import Access, touched
from mmspec.invariant import Over
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.anon_vma import AnonVma
    from mmreference.mm.mm_struct import Mm
    from mmreference.mm.pagetable import Present
    from mmreference.mm.system import MemCgroup, System

#: The low bits of `page->mapping`: 0 is a file, ANON an anon_vma, ANON and KSM a node of the stable tree.
PAGE_MAPPING_ANON: Final = 1
PAGE_MAPPING_KSM: Final = 2
PAGE_MAPPING_FLAGS: Final = PAGE_MAPPING_ANON | PAGE_MAPPING_KSM

#: The flags of a page that are plain bits.
FLAGS: Final = (
    "PG_dirty",
    "PG_uptodate",
    "PG_referenced",
    "PG_active",
    "PG_lru",
    "PG_unevictable",
    "PG_swapbacked",
    "PG_swapcache",
    "PG_mlocked",
    "PG_hwpoison",
    "PG_writeback",
)


class Tagged(NamedTuple):
    """A pointer with what its two low bits say about it."""

    pointer: Any
    bits: int

    def __repr__(self) -> str:
        return f"{self.pointer!r}+{self.bits}" if self.bits else repr(self.pointer)


class Slot(NamedTuple):
    """A place in the page tables of an address space; `vpn` is the address in base pages, `level` pte, pmd or huge."""

    mm: Mm
    vpn: int
    level: str


@watched("_count", "_mapcount", "content")
@shared("mapping", "index", "private", "memcg", "key_dirty", "key_young", *FLAGS)
class Page(KernelObject):
    """One page frame, or the head of a compound page. `index` is in base pages (of a hugetlb page in huge pages)."""

    over = Over.PAGE

    PG_dirty: bool
    PG_uptodate: bool
    PG_referenced: bool
    PG_active: bool
    PG_lru: bool
    PG_unevictable: bool
    PG_swapbacked: bool
    PG_swapcache: bool
    PG_mlocked: bool
    PG_hwpoison: bool
    PG_writeback: bool

    def __init__(self, name: str, system: System, *, order: int = 0, huge: bool = False) -> None:
        super().__init__(name)
        self.system = system
        self.order = order
        """Base-2 logarithm of the number of base pages."""
        self.huge = huge
        """Whether it is a hugetlb page."""
        self._count = 1
        self._mapcount = -1
        self.count = Atomic(self, "_count")
        self.mapcount = Atomic(self, "_mapcount")
        self.mapping: Tagged | None = None
        self.index = 0
        self.private: Any = None
        """In the swap cache: the swap slot."""
        self.memcg: MemCgroup | None = None
        """The group that is charged for it."""
        self.cgroup_migration = False
        """PCG_MIGRATION: it stays charged though nothing maps it for now."""
        self.lock = BitLock("page_lock", self, system.order, f"{name}.PG_locked")
        self.compound_lock = SpinLock("compound_lock", self, system.order)
        for flag in FLAGS:
            setattr(self, flag, False)
        self.key_dirty = False
        """The storage key's dirty bit, on architectures that have one."""
        self.key_young = False
        self.first_page: Page | None = None
        """Of a tail page: the head."""
        self.subpages: list[Page] = []
        """Of a trans-huge head: all of its frames, itself first."""
        self.content = 0
        # Ghosts: the specification knows them, no code decides by them.
        self.slots: dict[Slot, Present] = {}
        """The present entries that refer to this page."""
        self.counted = ""
        """The zone's counter that it is counted in as a mapped page."""
        self.lists: list[str] = []
        """The LRU lists that it is on."""
        self.anon_generation = 0
        """Which incarnation of the anon_vma `mapping` named when it was set."""
        self.isolated = False
        """Taken off the LRU by somebody who works on it."""
        self.migrating = False
        """Entries for it may be migration entries at this moment."""
        self.be_born()

    @property
    def locked(self) -> bool:
        """PG_locked"""
        return self.lock.writer is not None

    @property
    def nr_pages(self) -> int:
        """Base pages in it."""
        return 1 << self.order


def PageAnon(page: Page) -> bool:  # noqa: N802 - the kernel's name
    """Whether `mapping` says that the page is anonymous."""
    return page.mapping is not None and bool(page.mapping.bits & PAGE_MAPPING_ANON)


def PageKsm(page: Page) -> bool:  # noqa: N802
    """Whether the page is a merged one."""
    return page.mapping is not None and page.mapping.bits == PAGE_MAPPING_FLAGS


def PageHuge(page: Page) -> bool:  # noqa: N802
    """Whether it is a hugetlb page."""
    return page.huge


def PageTransHuge(page: Page) -> bool:  # noqa: N802
    """Whether it is the head of a compound page, as hugetlb pages and trans-huge pages are."""
    return page.order > 0


def page_mapped(page: Page) -> bool:
    """Whether any entry maps the page, as it is now; see :func:`page_mapped_now` for who holds nothing."""
    touched((page.name, "_mapcount"), write=False)
    return page._mapcount >= 0


async def page_mapped_now(page: Page) -> bool:
    """Whether any entry maps the page, asked by somebody who keeps nobody from changing that."""
    mapped = await page.mapcount.read() >= 0
    emit("mapcount_read", page=page, mapped=mapped)
    return mapped


def page_mapcount(page: Page) -> int:
    """How many entries map the page."""
    touched((page.name, "_mapcount"), write=False)
    return page._mapcount + 1


def page_count(page: Page) -> int:
    """How many references there are to the page."""
    touched((page.name, "_count"), write=False)
    return page._count


def page_anon_vma(page: Page) -> AnonVma | None:
    """The anon_vma of an anonymous page that is not merged, or None."""
    mapping = page.mapping
    if mapping is None or mapping.bits != PAGE_MAPPING_ANON:
        return None
    anon_vma: AnonVma = mapping.pointer
    return anon_vma


def page_mapping(page: Page) -> Any:
    """The address space: that of the swap cache, of the file, or None for an anonymous page."""
    if page.PG_swapcache:
        return page.system.swapper_space
    return None if PageAnon(page) or page.mapping is None else page.mapping.pointer


def page_rmapping(page: Page) -> Any:
    """What `mapping` points to, whatever that is, or None."""
    return None if page.mapping is None else page.mapping.pointer


async def set_page_mapping(page: Page, pointer: Any, bits: int) -> None:
    """Store `mapping`; readers without a lock may come before or after."""
    await Access((page.name, "mapping"), f"{page.name}.mapping = {pointer}+{bits}", write=True)
    page.mapping = Tagged(pointer, bits)


def get_page(page: Page) -> None:
    """Take a reference, under a lock or a reference that keeps the page alive."""
    if page.first_page is not None:
        get_huge_page_tail(page)
        return
    touched((page.name, "_count"))
    bug_on(page._count <= 0, f"reference to {page.name}, which has none")
    page._count += 1
    emit("get_page", page=page)


def get_huge_page_tail(page: Page) -> None:
    """Take a reference to a tail, with the lock of an entry held that maps its head: the head gets one with it.

    (3.2 counts the references of a tail in its `_mapcount`.)
    """
    head = page.first_page
    assert head is not None
    touched((head.name, "_count"))
    touched((page.name, "_count"))
    bug_on(head._count <= 0, f"reference to {page.name}, whose head has none")
    head._count += 1
    page._count += 1
    emit("get_page", page=head)
    emit("get_tail", page=page, head=head)


async def get_page_unless_zero(page: Page) -> bool:
    """Take a reference to a page that may be on its way to the free lists; whether that was possible."""
    return await page.count.inc_not_zero()


async def put_page(page: Page) -> None:
    """Drop a reference; the last one frees the page."""
    if page.first_page is not None:
        from mmreference.mm.huge_memory import put_compound_page

        await put_compound_page(page)
        return
    emit("put_page", page=page)
    if await page.count.dec_and_test():
        await free_page(page)


async def free_page(page: Page) -> None:
    """The last reference is gone: off the LRU, out of the books, back to the free lists."""
    from mmreference.mm.lru import lru_del_free

    system = page.system
    bug_on(page._mapcount != -1, f"{page.name} is freed while it is mapped")
    bug_on(page.PG_swapcache, f"{page.name} is freed while it is in the swap cache")
    await lru_del_free(page)
    if page.PG_mlocked:
        page.PG_mlocked = False
        system.zone.NR_MLOCK -= 1
    page.mapping = None
    emit("free_page", page=page)
    system.forget_page(page)
    for tail in page.subpages[1:]:
        tail.free()
    page.free()
