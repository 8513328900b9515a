"""The small concurrent programs that are explored exhaustively."""

from __future__ import annotations

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.anon_vma import (
    anon_vma_fork,
    anon_vma_prepare,
    page_lock_anon_vma,
    page_unlock_anon_vma,
    unlink_anon_vmas,
)
from mmreference.mm.mm_struct import Vma
from mmreference.mm.mmap import vma_copy
from mmreference.mm.page import Page
from mmreference.mm.rmap.address import vma_address
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import add_to_swap
from mmspec.trace import emit

# -- the lookup ---------------------------------------------------------------------------------------------------------


async def _lookup(page: Page) -> str:
    """Find and lock the page's anon_vma, look at each area on its list, and unlock."""
    anon_vma = await page_lock_anon_vma(page)
    if anon_vma is None:
        return "none"
    for vma in anon_vma.list:
        emit("visit", page=page, vma=vma)
        vma_address(page, vma)
    page_unlock_anon_vma(anon_vma)
    return "walked"


async def _unmap_and_fork(stage: Stage, pid: int, address: int, parent: Vma) -> int:
    """The last area of a tree goes; its anon_vma's memory is that of a child in another tree at once."""
    error = int(await stage.machine.munmap(pid, address, 1))
    copy = await vma_copy(parent, stage.system.new_mm())
    assert copy is not None
    error = error or await anon_vma_fork(copy, parent)
    await unlink_anon_vmas(copy)
    stage.system.forget_mm(copy.mm)
    return error


def _one_page_and_another_tree(stage: Stage) -> tuple[int, int, Page, Vma]:
    pid, address = stage.written()
    other, elsewhere = stage.written()
    stage.drain()
    return pid, address, stage.hold(pid, address), stage.machine.vma_at(other, elsewhere)


def lookup_against_free_and_reuse(stage: Stage) -> None:
    """Two lookups of a page's anon_vma contend for its lock, while the last area that maps the page goes and the
    anon_vma's memory becomes a child in another tree.
    """
    pid, address, page, parent = _one_page_and_another_tree(stage)
    stage.race_body("lookup0", lambda: _lookup(page), alike="lookup")
    stage.race_body("lookup1", lambda: _lookup(page), alike="lookup")
    stage.race_body("unmap", lambda: _unmap_and_fork(stage, pid, address, parent))


def prepare_twice(stage: Stage) -> None:
    """Two threads fault in an area that has no anon_vma yet."""
    pid = stage.spawn()
    vma = stage.machine.vma_at(pid, stage.do("mmap", pid, 1))
    for number in range(2):
        stage.race_body(f"T{number}", lambda: _prepare(vma), alike="T")


async def _prepare(vma: Vma) -> int:
    async with vma.mm.mmap_sem.read():
        return await anon_vma_prepare(vma)


# -- fork, migration, reclaim -------------------------------------------------------------------------------------------


@conditions(features=("MIGRATION",))
def fork_against_migration(stage: Stage) -> None:
    """A process forks while one of its pages is moved to another frame."""
    pid, address = stage.written()
    stage.drain()
    stage.race("fork", "fork", pid)
    stage.race("migrate", "migrate", pid, address)


@conditions(features=("SWAP",))
def fork_against_reclaim(stage: Stage) -> None:
    """A process forks while one of its pages is taken away to swap."""
    pid, address = stage.written()
    stage.drain()
    stage.do("reclaim", pid, address)
    stage.race("fork", "fork", pid)
    stage.race("reclaim", "reclaim", pid, address)


def unmap_against_referenced(stage: Stage) -> None:
    """The only mapping of a page goes while reclaim asks whether the page was used."""
    pid, address = stage.written()
    stage.drain()
    page = stage.hold(pid, address)
    stage.race("unmap", "munmap", pid, address, 1)
    stage.race_body("referenced", lambda: page_referenced(page, False))


@conditions(features=("SWAP",))
def reclaim_against_cow(stage: Stage) -> None:
    """Reclaim takes a page that parent and child share while the child writes to it."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    stage.do("reclaim", pid, address)
    stage.race("reclaim", "reclaim", pid, address)
    stage.race("write", "write", child, address, 9)


@conditions(features=("SWAP",))
def munlock_against_reclaim(stage: Stage) -> None:
    """An area that keeps its page in memory is unlocked while reclaim looks at the page."""
    pid, address = stage.written()
    stage.drain()
    stage.do("mlock", pid, address, 1)
    page = stage.hold(pid, address)
    stage.race("munlock", "munlock", pid, address, 1)
    stage.race_body("reclaim", lambda: _try_to_unmap(page))


async def _try_to_unmap(page: Page) -> str:
    """What reclaim does with a page that it has locked."""
    if not page.lock.trylock():
        return "locked"
    result: object = "not in swap"
    if page.PG_swapcache or await add_to_swap(page):
        result = await try_to_unmap(page, TTU_UNMAP | TTU_IGNORE_ACCESS)
    page.lock.unlock()
    return str(result)


@conditions(features=("MIGRATION",))
def mremap_against_migration(stage: Stage) -> None:
    """A mapping is moved to another address while its page is moved to another frame."""
    pid, address = stage.written()
    stage.drain()
    stage.race("mremap", "mremap", pid, address, 1, address + 16 * stage.page_size)
    stage.race("migrate", "migrate", pid, address)


@conditions(features=("MIGRATION",))
def unmap_against_migration(stage: Stage) -> None:
    """The last area of a tree goes, and its anon_vma's memory is that of a child in another tree at once, while its page is
    about to be moved to another frame.
    """
    pid, address, _, parent = _one_page_and_another_tree(stage)
    stage.race("migrate", "migrate", pid, address)
    stage.race_body("unmap", lambda: _unmap_and_fork(stage, pid, address, parent))


@conditions(features=("MIGRATION",))
def split_against_migration(stage: Stage) -> None:
    """An area is split while one of its pages is moved to another frame: it may be restored by an area that has it no more."""
    pid, address = stage.written(2)
    stage.drain()
    stage.race("migrate", "migrate", pid, address + stage.page_size)
    stage.race("mprotect", "mprotect", pid, address + stage.page_size, 1, write=False)


@conditions(features=("MIGRATION",))
def exec_against_migration(stage: Stage) -> None:
    """exec moves the stack that it has filled while one of its pages is moved to another frame."""
    pid = stage.spawn()
    address = stage.do("stack", pid, 1)
    stage.do("write", pid, address, 7)
    stage.drain()
    stage.race("exec", "exec_stack", pid, 2)
    stage.race("migrate", "migrate", pid, address)


# -- files --------------------------------------------------------------------------------------------------------------


def truncate_against_fault(stage: Stage) -> None:
    """A file is truncated while a page beyond its new end is faulted in."""
    pid, file = stage.spawn(), stage.machine.create_file(1)
    address = stage.do("mmap", pid, 1, file=file, shared=True)
    stage.race("truncate", "truncate", file, 0)
    stage.race("fault", "read", pid, address)


def mkclean_against_stale_writer(stage: Stage) -> None:
    """A page is written out while another CPU, which remembers that it may write, writes to it."""
    pid, file = stage.spawn(), stage.machine.create_file(1)
    address = stage.do("mmap", pid, 1, file=file, shared=True)
    stage.race("writer", "write_twice", pid, address, 8)
    stage.race("writeback", "writeback", file)


# -- features -----------------------------------------------------------------------------------------------------------


@conditions(features=("MMU_NOTIFIER",))
def invalidate_against_secondary_fault(stage: Stage) -> None:
    """A mapping goes while a secondary MMU wants a translation for it."""
    pid, address = stage.written()
    stage.do("attach_mmu", pid)
    stage.race("munmap", "munmap", pid, address, 1)
    stage.race("secondary", "secondary_access", pid, address, write=True)


@conditions(features=("KSM",))
def merge_against_unmap(stage: Stage) -> None:
    """Two equal pages are merged while one of them is unmapped."""
    one, address = stage.written()
    two, elsewhere = stage.written()
    for pid, where in ((one, address), (two, elsewhere)):
        stage.do("madvise", pid, where, 1, "mergeable")
    stage.drain()
    stage.race("merge", "merge", one, address, two, elsewhere)
    stage.race("munmap", "munmap", two, elsewhere, 1)


@conditions(features=("TRANSPARENT_HUGEPAGE",))
def split_against_referenced(stage: Stage) -> None:
    """A trans-huge page is split while reclaim asks whether it was used."""
    pid = stage.spawn()
    address = stage.do("mmap", pid, stage.system.hpage_pmd_nr)
    stage.do("write", pid, address, 7)
    stage.drain()
    page = stage.hold(pid, address)
    stage.race("split", "split", pid, address)
    stage.race_body("referenced", lambda: page_referenced(page, False))


@conditions(features=("SWAP",))
def swap_in_by_parent_and_child(stage: Stage) -> None:
    """After fork and reclaim parent and child read their page back; then the child is gone and the page is looked for."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    page = stage.page(pid, address)
    stage.do("evict", page)
    stage.race("parent", "read", pid, address)
    stage.race_body("child", lambda: _read_and_exit(stage, child, address))


async def _read_and_exit(stage: Stage, pid: int, address: int) -> int:
    value = await stage.machine.read(pid, address)
    await stage.machine.exit(pid)
    return int(value)
