"""Memory control groups: a page is charged once, however often it is mapped."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mmreference.kernel.scheduler import may_fail, touched
from mmreference.mm.page import Page, PageAnon, page_mapped
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Mm
    from mmreference.mm.system import MemCgroup


async def mem_cgroup_newpage_charge(page: Page, mm: Mm | None) -> int:
    """Charge a page that nobody maps and nobody is charged for to the group of the address space: 0 or -ENOMEM."""
    group = mm.memcg if mm is not None else page.system.root_memcg
    if group is None:
        return 0
    if await may_fail("memory control group charge"):
        return -errno.ENOMEM
    commit_charge(page, group)
    return 0


def commit_charge(page: Page, group: MemCgroup) -> None:
    """The group pays for the page from here on."""
    emit("charge", page=page, group=group, mapped=page._mapcount >= 0, charged=page.memcg is not None)
    page.memcg = group
    group.usage += page.nr_pages


async def mem_cgroup_uncharge_page(page: Page) -> None:
    """An anonymous page has lost its last mapping.

    One in the swap cache may be mapped again at this moment; it is charged for as long as it is there.
    """
    emit("uncharge_called", page=page)
    if not page.PG_swapcache:
        _uncharge(page, left_page_cache=False)


async def mem_cgroup_uncharge_swapcache(page: Page) -> None:
    """An anonymous page has left the swap cache; if nothing maps it, nobody uses it."""
    if not page_mapped(page):
        _uncharge(page, left_page_cache=False)


async def mem_cgroup_uncharge_cache_page(page: Page) -> None:
    """A page has left the page cache."""
    _uncharge(page, left_page_cache=True)


def _uncharge(page: Page, *, left_page_cache: bool) -> None:
    group = page.memcg
    if group is None or (page.cgroup_migration and not left_page_cache):
        return
    emit(
        "uncharge", page=page, group=group, anon=PageAnon(page), mapped=page._mapcount >= 0, left_page_cache=left_page_cache
    )
    page.memcg = None
    group.usage -= page.nr_pages


def mem_cgroup_file_mapped(page: Page, amount: int) -> None:
    """A page of a file was mapped for the first time (+1) or unmapped for the last (-1)."""
    group = page.memcg
    if group is not None:
        group.NR_FILE_MAPPED += amount
        emit("memcg_file_mapped", page=page, group=group, amount=amount)


def mm_match_cgroup(mm: Mm, group: MemCgroup | None) -> bool:
    """Whether the address space belongs to the group; every one does in a kernel without groups."""
    return mm.system.root_memcg is None or group is None or mm.memcg is group


def mem_cgroup_prepare_migration(page: Page) -> None:
    """The locked page is about to lose its mappings only for a while: it stays charged meanwhile."""
    page.cgroup_migration = page.memcg is not None


def mem_cgroup_replace_page(page: Page, newpage: Page) -> None:
    """The new page takes over the charge of the one that it replaces."""
    if page.memcg is None:
        return
    emit("memcg_replace", page=page, newpage=newpage, group=page.memcg)
    newpage.memcg, newpage.cgroup_migration = page.memcg, page.cgroup_migration
    page.memcg, page.cgroup_migration = None, False


async def mem_cgroup_end_migration(page: Page) -> None:
    """`page`, the new one or the old, is in use from here on; an anonymous one whose mappings have gone is uncharged."""
    if not page.cgroup_migration:
        return
    page.cgroup_migration = False
    touched((page.name, "_mapcount"), write=False)
    if PageAnon(page) and page._mapcount < 0:
        await mem_cgroup_uncharge_page(page)
