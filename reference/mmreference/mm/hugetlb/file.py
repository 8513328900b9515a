"""Files: the inode with its size, its page cache and its reservation map."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mmreference.kernel.locks import Mutex, RwSem, SpinLock
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.hugetlb.page import Page, get_page, hand_over, put_page, take_over
from mmreference.mm.hugetlb.resv_map import ResvMap
from mmspec.contracts import operation
from mmspec.invariant import Over
from mmspec.trace import emit, wrote

if TYPE_CHECKING:
    from mmreference.mm.hugetlb.quota import SuperBlock
    from mmreference.mm.hugetlb.system import System
    from mmreference.mm.hugetlb.vma import Vma


@watched("i_size")
class Inode(KernelObject):
    """A file on hugetlbfs and its address space. Sizes and indices are in huge pages."""

    over = Over.FILE

    def __init__(self, name: str, system: System, sb: SuperBlock, size: int, resv_map: ResvMap) -> None:
        super().__init__(name)
        order = system.order
        self.system = system
        self.sb = sb
        self.i_size = size
        self.pages: dict[int, Page] = {}
        """The page cache."""
        self.resv_map = resv_map
        self.i_mmap: dict[Vma, None] = {}
        self.i_mutex = Mutex("i_mutex", self, order)
        self.fault_sem = RwSem("fault_sem", self, order)
        """Held for read by faults that instantiate pages, for write by truncation: neither sees the other half done."""
        self.i_mmap_lock = SpinLock("i_mmap_lock", self, order)
        self.tree_lock = SpinLock("tree_lock", self, order)
        self.open_files = 1
        self.cache_version = 0
        self.truncating: int | None = None
        """Ghost: the new end while a truncation moves reservations beyond it."""
        self.be_born()

    def outstanding(self) -> int:
        """Reservations of this file that wait for their pages: covered, but not cached."""
        end = self.truncating
        return sum(
            1
            for rg in self.resv_map.regions
            for idx in range(rg.frm, rg.to)
            if idx not in self.pages and (end is None or idx < end)
        )

    def book_version(self) -> object:
        """Changes whenever :meth:`outstanding` may."""
        return (self.resv_map.version, self.cache_version, self.truncating)


async def i_size_read(inode: Inode, idx: int) -> int:
    """The size of the file, in huge pages; `idx` is what the caller is going to compare it with."""
    await Access((inode.name, "i_size"), f"i_size_read {inode.name}")
    emit("size_test", inode=inode, idx=idx, size=inode.i_size)
    return inode.i_size


def i_size_write(inode: Inode, size: int) -> None:
    """Set the size, with `i_mutex` held."""
    emit("size_write", inode=inode, size=size)
    touched((inode.name, "i_size"))
    inode.i_size = size


async def find_lock_page(inode: Inode, idx: int) -> Page | None:
    """The cached page of the index, locked and with a reference, or None."""
    while True:
        await Access((inode.name, "pages", idx), f"look up {inode.name}[{idx}]")
        page = inode.pages.get(idx)
        emit("cache_lookup", inode=inode, idx=idx, page=page)
        if page is None:
            return None
        get_page(page)
        await page.lock.lock()
        # It may have been truncated while we slept.
        if page.mapping is inode and page.index == idx:
            return page
        page.lock.unlock()
        await put_page(page)


@operation()
async def add_to_page_cache(page: Page, inode: Inode, idx: int) -> int:
    """Make the page the one of the index, locked: 0, -EEXIST if there is one already, -ENOMEM."""
    if await may_fail("page cache node"):
        return -errno.ENOMEM
    async with inode.tree_lock:
        if idx in inode.pages:
            touched((inode.name, "pages", idx), write=False)
            return -errno.EEXIST
        if not page.lock.trylock():
            raise AssertionError("a page that nobody else has seen is locked")
        page.mapping = inode
        page.index = idx
        get_page(page)
        hand_over(page)
        _set_cached(inode, idx, page)
        emit("cache_insert", inode=inode, idx=idx, page=page)
    return 0


async def remove_from_page_cache(page: Page) -> None:
    """Take a locked page out of the cache; the cache's reference becomes the caller's."""
    inode = page.mapping
    assert inode is not None
    async with inode.tree_lock:
        emit("cache_remove", inode=inode, idx=page.index, page=page)
        _set_cached(inode, page.index, None)
        page.mapping = None
        take_over(page)


def _set_cached(inode: Inode, idx: int, page: Page | None) -> None:
    before = inode.pages.get(idx)
    if page is None:
        del inode.pages[idx]
    else:
        inode.pages[idx] = page
    inode.cache_version += 1
    inode.changes += 1
    touched((inode.name, "pages", idx))
    wrote(inode, f"pages[{idx}]", before, page)


def covered_beyond(inode: Inode, end: int) -> int:
    """Outstanding reservations at and above `end`."""
    return sum(
        1 for rg in inode.resv_map.regions for i in range(max(rg.frm, end), rg.to) if i not in inode.pages
    )
