"""`struct page` for huge pages: compound structure, references, the page lock.

A huge page is a compound page: the head stands for all of it, and the count word of the first tail page, which nobody
else uses, stores the *tag* of a page in flight (0 settled, 1 taken from the unreserved part, 2 from the reserve).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmreference.kernel.atomics import Atomic
from mmreference.kernel.locks import BitLock
from mmreference.kernel.memory import KernelObject, watched
from mmspec.invariant import Over
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.file import Inode
    from mmreference.mm.hugetlb.pool import HugePagePool
    from mmreference.mm.hugetlb.quota import SuperBlock
    from mmreference.mm.hugetlb.resv_map import ResvMap


@watched("_count", "tag", "where", "mapping", "private", "content", "temp_refs")
class Page(KernelObject):
    """The head of a huge page."""

    over = Over.PAGE

    def __init__(self, name: str, pool: HugePagePool, node: int) -> None:
        super().__init__(name)
        self.pool = pool
        self.node = node
        self._count = 0
        """References: page cache, page-table entries, temporary ones."""
        self.tag = 0
        """The word `page[1]._count`; read and written under `hugetlb_lock` only."""
        self.mapping: Inode | None = None
        self.index = 0
        self.private: SuperBlock | None = None
        """The file system whose quota block this page carries."""
        self.dtor: Any = None
        self.compound = False
        self.count = Atomic(self, "_count")
        self.lock = BitLock("page_lock", self, pool.order, f"{name}.PG_locked")
        self.unsettled_block = False
        """While in flight: the quota block that `private` stands for was taken by the fault itself."""
        self.drawn_from: tuple[ResvMap, int] | None = None
        """While in flight: the reservation that this page was drawn for; private to the faulting thread."""
        # Ghosts: the specification knows them, no code decides by them.
        self.where = "buddy"
        self.content: dict[int, int] = {}
        """Offset in bytes to the value stored there; elsewhere the page reads as zeros."""
        self.ptes: dict[tuple[str, int], Any] = {}
        self.temp_refs = 0
        self.pins = 0
        """References that user pinning holds through tail pages."""
        self.be_born()

    @property
    def head(self) -> Page:
        """The head page of the compound page."""
        return self

    @property
    def locked(self) -> bool:
        """PG_locked"""
        return self.lock.writer is not None

    def prep_compound_page(self) -> None:
        """Make it a huge page: head, tails, destructor."""
        self.compound = True
        self.dtor = "free_huge_page"


def get_page(page: Page) -> None:
    """Take a temporary reference, under a lock or a reference that keeps the page alive."""
    page.temp_refs += 1
    page._count += 1
    emit("get_page", page=page)


async def put_page(page: Page) -> None:
    """Drop a temporary reference; the last one sends the page to its destructor."""
    from mmreference.mm.hugetlb.pool import free_huge_page

    dropped = await _put(page)
    if dropped:
        await free_huge_page(page)


async def _put(page: Page) -> bool:
    last = await page.count.dec_and_test()
    page.temp_refs -= 1
    emit("put_page", page=page, last=last)
    return last


def hand_over(page: Page) -> None:
    """A temporary reference becomes that of a page-table entry or the page cache."""
    page.temp_refs -= 1


def take_over(page: Page) -> None:
    """The reference of a page-table entry or the page cache becomes a temporary one, to be put."""
    page.temp_refs += 1


def page_tentative(page: Page) -> int:
    """The tag of a page in flight, 0 for a settled one; under `hugetlb_lock`."""
    emit("tag_read", page=page)
    return page.tag


def set_page_tentative(page: Page, value: int) -> None:
    """Store the tag; under `hugetlb_lock`."""
    emit("tag_write", page=page, value=value)
    page.tag = value


def own_page(page: Page) -> None:
    """Ghost: the running thread has this page in flight."""
    note(own_page=page)
