"""KSM: pages of equal content become one page, mapped read-only wherever they were.

A merged page has no anon_vma but a node of the stable tree, with one item for each place where it was merged; an item
pins the anon_vma of its place, and finds the places of later forks through it. The page lock keeps the node as it is.

Correction to the code of 3.2: who takes a page from the tree locks it once, so that a migration is either over or sees
the reference (upstream 4146d2d673e8).
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import attrs

from mmreference.kernel.bug import bug_on
from mmreference.kernel.memory import KernelObject, is_freed
from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.anon_vma import AnonVma, get_anon_vma, pin, put_anon_vma, unpin
from mmreference.mm.lru import lru_add_drain_all, mark_page_accessed
from mmreference.mm.memcontrol import commit_charge
from mmreference.mm.mm_struct import (
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_MERGEABLE,
    VM_NONLINEAR,
    VM_SHARED,
    Mm,
    Vma,
    linear_page_index,
)
from mmreference.mm.page import (
    PAGE_MAPPING_FLAGS,
    Page,
    PageAnon,
    PageKsm,
    PageTransHuge,
    get_page,
    page_anon_vma,
    page_count,
    page_mapcount,
    page_mapped,
    put_page,
    set_page_mapping,
)
from mmreference.mm.pagetable import (
    Present,
    entry_under_lock,
    flush_cache_page,
    pmd_index,
    prot_none,
    pte_lockptr,
    ptep_clear_flush_notify,
    set_pte_at,
)
from mmreference.mm.rmap.address import page_address_in_vma, page_check_address
from mmreference.mm.rmap.mapcount import page_add_anon_rmap, page_remove_rmap
from mmreference.mm.rmap.referenced import Walk, page_referenced_one
from mmreference.mm.rmap.unmap import try_to_unmap_one
from mmreference.mm.rmap.walk import Visitor
from mmreference.mm.swapfile import try_to_free_swap
from mmreference.mm.writeback import set_page_dirty
from mmspec.contracts import operation
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, VM_FAULT_OOM, SwapResult
from mmspec.invariant import Over
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.system import MemCgroup, System

#: Areas in which nothing is merged, whatever is advised.
UNMERGEABLE: Final = VM_SHARED | VM_MAYSHARE | VM_HUGETLB | VM_NONLINEAR


@attrs.define(eq=False)
class RmapItem:
    """One place where a merged page was merged: an address (bytes) of an address space."""

    mm: Mm
    address: int
    anon_vma: AnonVma | None = None
    """The area's, pinned."""
    node: StableNode | None = None
    """The node that it belongs to; None for one that is only on its way there."""

    @property
    def stable(self) -> bool:
        """Whether it is in the stable tree."""
        return self.node is not None

    @property
    def holder(self) -> str:
        """Who pins the anon_vma."""
        return f"ksm {self.mm.name}+{self.address // self.mm.system.page_size - self.mm.system.first_vpn}"


class StableNode(KernelObject):
    """`struct stable_node`: what the `mapping` of a merged page points to."""

    over = Over.CHAIN

    def __init__(self, name: str, page: Page) -> None:
        super().__init__(name)
        self.system = page.system
        self.page = page
        """The merged page, without a reference: the node does not keep it."""
        self.content = page.content
        self.items: list[RmapItem] = []
        self.be_born()

    @property
    def address(self) -> int:
        """Where it lies in memory; slab objects are aligned to a machine word."""
        return (int("".join(c for c in self.name if c.isdigit()) or 0) + 1) * 64


def page_stable_node(page: Page) -> StableNode | None:
    """The node of a merged page; None if it is none, or one that is not in the tree yet."""
    if not PageKsm(page):
        return None
    assert page.mapping is not None
    node: StableNode | None = page.mapping.pointer
    return node


def _take_pin(item: RmapItem, anon_vma: AnonVma) -> None:
    item.anon_vma = anon_vma
    get_anon_vma(anon_vma)
    pin(anon_vma, item.holder)


async def _drop_pin(item: RmapItem) -> None:
    anon_vma, item.anon_vma = item.anon_vma, None
    if anon_vma is not None:
        unpin(anon_vma, item.holder)
        await put_anon_vma(anon_vma)


# -- the stable tree, with `ksm_thread_mutex` held ----------------------------------------------------------------------


@operation()
async def get_ksm_page(node: StableNode) -> Page | None:
    """The page of a node with a reference; None if it is gone, and the node with it."""
    while True:
        await Access((node.name, "page"), f"read {node.name}.page")
        page = node.page
        await Access((page.name, "_count"), f"get_page_unless_zero {page.name}", write=True)
        touched((page.name, "mapping"), write=False)
        if not is_freed(page) and page._count > 0 and page_stable_node(page) is node:
            get_page(page)
            # It may be about to move. Once we had its lock, either it has, or it will not: we are seen.
            await page.lock.lock()
            still = page_stable_node(page) is node
            page.lock.unlock()
            if still:
                return page
            await put_page(page)
        touched((node.name, "page"), write=False)
        if node.page is page:
            await remove_node_from_stable_tree(node)
            return None


@operation()
async def remove_node_from_stable_tree(node: StableNode) -> None:
    """The node's page is gone: drop the node, and what its items hold."""
    system = node.system
    for item in list(node.items):
        touched((node.name, "items"))
        node.items.remove(item)
        item.node = None
        system.rmap_items.pop((item.mm, item.address), None)
        await _drop_pin(item)
    touched(("stable_tree", node.content))
    emit("stable_node_free", node=node)
    if system.stable_tree.get(node.content) is node:
        del system.stable_tree[node.content]
    node.free()


@operation()
async def stable_tree_search(page: Page) -> Page | None:
    """The merged page of the same content, with a reference; a page that came here by fork is its own."""
    node = page_stable_node(page)
    if node is not None:
        get_page(page)
        return page
    touched((page.name, "content"), write=False)
    touched(("stable_tree", page.content), write=False)
    found = page.system.stable_tree.get(page.content)
    return await get_ksm_page(found) if found is not None else None


@operation()
async def stable_tree_insert(kpage: Page) -> StableNode | None:
    """Give a locked page that was just merged its node: the node, or None without memory, or beside another one."""
    system = kpage.system
    emit("alloc", what="stable_node", may_reclaim=False)
    if await may_fail("stable_node"):
        return None
    touched(("stable_tree", kpage.content))
    if kpage.content in system.stable_tree:
        return None
    node = StableNode(system.new_name("stable_node"), kpage)
    system.stable_tree[kpage.content] = node
    await set_page_mapping(kpage, node, PAGE_MAPPING_FLAGS)
    return node


def stable_tree_append(item: RmapItem, node: StableNode) -> None:
    """The place of the item maps the node's page, which is locked."""
    touched((node.name, "items"))
    bug_on(not node.page.locked, f"{node.page.name} is not locked", "KSM-002")
    item.node = node
    node.items.append(item)
    item.mm.system.rmap_items[item.mm, item.address] = item
    emit("stable_tree_append", item=item, node=node, page=node.page, anon_vma=item.anon_vma)


@operation()
async def remove_rmap_item_from_tree(item: RmapItem) -> None:
    """The place of the item is not one of the merged page's any more."""
    node, system = item.node, item.mm.system
    if node is None:
        return
    page = await get_ksm_page(node)
    # Without its page the node went, and the item with it.
    if page is None:
        return
    await page.lock.lock()
    touched((node.name, "items"))
    node.items.remove(item)
    item.node = None
    system.rmap_items.pop((item.mm, item.address), None)
    page.lock.unlock()
    await put_page(page)
    await _drop_pin(item)


# -- merging ------------------------------------------------------------------------------------------------------------


@operation()
async def write_protect_page(vma: Vma, page: Page) -> Present | None:
    """Take away the right to write to a locked page: the entry as it is now, or None if somebody might write directly."""
    address = page_address_in_vma(page, vma)
    if address < 0:
        return None
    bug_on(PageTransHuge(page), f"{page.name} has not been split")
    found = await page_check_address(page, vma.mm, address)
    if found is None:
        return None
    entry = found.entry
    if entry.write or entry.dirty:
        swapped = page.PG_swapcache
        flush_cache_page(vma, found.vpn)
        # Before the count is looked at: who pins the page without a lock looks at the entry again after.
        cleared = await ptep_clear_flush_notify(vma, found.vpn)
        assert isinstance(cleared, Present)
        expected, count = page_mapcount(page) + 1 + swapped, page_count(page)
        note(expected=expected, count=count)
        if count != expected:
            await set_pte_at(vma.mm, vma, found.vpn, cleared)
            found.ptl.unlock()
            return None
        if cleared.dirty:
            await set_page_dirty(page)
        entry = attrs.evolve(cleared, write=False, dirty=False)
        await set_pte_at(vma.mm, vma, found.vpn, entry)
    found.ptl.unlock()
    return entry


@operation()
async def replace_page(vma: Vma, page: Page, kpage: Page, orig: Present) -> int:
    """Map the merged page instead of the locked page of equal content, if the entry is still `orig`: 0 or -EFAULT."""
    mm = vma.mm
    address = page_address_in_vma(page, vma)
    if address < 0:
        return -errno.EFAULT
    vpn = address // mm.system.page_size
    if pmd_index(mm, vpn) not in mm.tables:
        return -errno.EFAULT
    async with pte_lockptr(mm, vpn):
        entry = entry_under_lock(mm, vpn)
        # Hardware may have noted use meanwhile, which does not matter.
        if not isinstance(entry, Present) or attrs.evolve(entry, young=orig.young) != orig:
            return -errno.EFAULT
        get_page(kpage)
        await page_add_anon_rmap(kpage, vma, address)
        # It may have lost its last mapping, to swap, and its charge with it.
        if kpage.memcg is None and mm.memcg is not None:
            commit_charge(kpage, mm.memcg)
        flush_cache_page(vma, vpn)
        await ptep_clear_flush_notify(vma, vpn)
        await set_pte_at(mm, vma, vpn, Present(kpage, young=True, none=prot_none(vma)))
        emit("ksm_replaced", mm=mm, vma=vma, vpn=vpn, page=page, kpage=kpage)
        await page_remove_rmap(page)
        if not page_mapped(page):
            await try_to_free_swap(page)
        await put_page(page)
    return 0


@operation()
async def try_to_merge_one_page(vma: Vma, page: Page, kpage: Page | None) -> int:
    """Merge the page, for which there is a reference, into `kpage`, or make it a merged one if that is None.

    0, or -EFAULT if it cannot be merged now.
    """
    from mmreference.mm.huge_memory import split_huge_page
    from mmreference.mm.mlock import mlock_vma_page, munlock_vma_page

    if page is kpage:
        return 0
    if not vma.vm_flags & VM_MERGEABLE:
        return -errno.EFAULT
    bug_on(vma.nonlinear, f"merging in {vma.name}, which is nonlinear", "KSM-005")
    if PageTransHuge(page):
        await split_huge_page(page)
    if not PageAnon(page):
        return -errno.EFAULT
    # There are more pages; this one may be had in the next round.
    if not page.lock.trylock():
        return -errno.EFAULT
    error, locked = -errno.EFAULT, page
    entry = await write_protect_page(vma, page)
    if entry is not None:
        if kpage is None:
            # The lock is ours, so nobody looks for the page by its anon_vma now.
            await set_page_mapping(page, None, PAGE_MAPPING_FLAGS)
            await mark_page_accessed(page)
            error = 0
        else:
            touched((page.name, "content"), write=False)
            if page.content == kpage.content:
                error = await replace_page(vma, page, kpage, entry)
    if vma.locked and kpage is not None and not error:
        await munlock_vma_page(page)
        if not kpage.PG_mlocked:
            page.lock.unlock()
            await kpage.lock.lock()
            await mlock_vma_page(kpage, vma)
            locked = kpage
    locked.lock.unlock()
    return error


@operation()
async def try_to_merge_with_ksm_page(item: RmapItem, page: Page, kpage: Page | None) -> int:
    """As :func:`try_to_merge_one_page`, at the place of the item, which pins the place's anon_vma then."""
    mm = item.mm
    async with mm.mmap_sem.read():
        vma = mm.area_at(item.address)
        if vma is None:
            return -errno.EFAULT
        error = await try_to_merge_one_page(vma, page, kpage)
        if error:
            return error
        # As long as the area is there, so is its anon_vma.
        assert vma.anon_vma is not None
        _take_pin(item, vma.anon_vma)
    return 0


@operation()
async def try_to_merge_two_pages(item: RmapItem, page: Page, other: RmapItem, other_page: Page) -> Page | None:
    """Make a merged page of two pages: the page, which has no node yet; None if they could not be merged."""
    if await try_to_merge_with_ksm_page(item, page, None):
        return None
    if await try_to_merge_with_ksm_page(other, other_page, page):
        # A merged page that is mapped once.
        await break_cow(item)
        return None
    return page


@operation()
async def break_ksm(vma: Vma, address: int) -> int:
    """If a merged page is mapped at the address (bytes), replace it by a private copy: 0 or -ENOMEM."""
    from mmreference.mm.gup import follow_page
    from mmreference.mm.memory import handle_mm_fault

    while True:
        page = await follow_page(vma, address)
        if page is None:
            return 0
        merged = PageKsm(page)
        result = await handle_mm_fault(vma.mm, vma, address, write=True) if merged else None
        await put_page(page)
        if result is VM_FAULT_OOM:
            return -errno.ENOMEM
        if not merged:
            return 0


async def break_cow(item: RmapItem) -> None:
    """Merging came to nothing: the place of the item gets a page of its own again, and its anon_vma loses the pin."""
    mm = item.mm
    await _drop_pin(item)
    async with mm.mmap_sem.read():
        vma = mm.area_at(item.address)
        if vma is not None and vma.vm_flags & VM_MERGEABLE and vma.anon_vma is not None:
            await break_ksm(vma, item.address)


@operation()
async def cmp_and_merge_page(page: Page, item: RmapItem, unstable: dict[int, RmapItem]) -> None:
    """Merge the page at the item's place with one of equal content, in the stable tree or of those seen in this round.

    `unstable` maps a content to the place where it was seen.
    """
    await remove_rmap_item_from_tree(item)
    kpage = await stable_tree_search(page)
    if kpage is not None:
        if not await try_to_merge_with_ksm_page(item, page, kpage):
            await kpage.lock.lock()
            node = page_stable_node(kpage)
            bug_on(node is None, f"{kpage.name} has lost its node", "KSM-002")
            assert node is not None
            stable_tree_append(item, node)
            kpage.lock.unlock()
        await put_page(kpage)
        return
    touched((page.name, "content"), write=False)
    content = page.content
    other = unstable.get(content)
    other_page = await _mergeable_page(other) if other is not None else None
    if other is None or other_page is None or other_page is page:
        unstable[content] = item
        if other_page is not None:
            await put_page(other_page)
        return
    merged = await try_to_merge_two_pages(item, page, other, other_page)
    await put_page(other_page)
    if merged is None:
        return
    del unstable[content]
    await merged.lock.lock()
    node = await stable_tree_insert(merged)
    if node is not None:
        stable_tree_append(other, node)
        stable_tree_append(item, node)
    merged.lock.unlock()
    if node is None:
        await break_cow(other)
        await break_cow(item)


async def _mergeable_page(item: RmapItem) -> Page | None:
    """The anonymous page at the item's place with a reference, if its area may be merged."""
    from mmreference.mm.gup import follow_page

    mm = item.mm
    async with mm.mmap_sem.read():
        touched((mm.name, "vmas"), write=False)
        vma = mm.area_at(item.address)
        if vma is None or not vma.vm_flags & VM_MERGEABLE or vma.anon_vma is None or vma.nonlinear:
            return None
        page = await follow_page(vma, item.address)
        if page is not None and PageTransHuge(page):
            from mmreference.mm.huge_memory import split_huge_page

            await split_huge_page(page)
            await put_page(page)
            page = await follow_page(vma, item.address)
    if page is not None and not PageAnon(page):
        await put_page(page)
        return None
    return page


@operation()
async def ksm_do_scan(system: System) -> None:
    """One round over all mergeable areas: merge what is equal, forget places that are gone."""
    if not system.has("KSM"):
        return
    async with system.ksm_thread_mutex:
        # Pages on their way to the LRU have a reference more, which nobody could tell from a pin.
        await lru_add_drain_all(system)
        unstable: dict[int, RmapItem] = {}
        for mm in list(system.mms):
            await _scan_mm(mm, unstable)
        for node in list(system.stable_tree.values()):
            page = await get_ksm_page(node)
            if page is not None:
                await put_page(page)


@operation()
async def ksm_merge(mm: Mm, address: int, other: Mm, other_address: int) -> bool:
    """Let the scanner look at two addresses (bytes) in mergeable areas: whether they have one page after."""
    system = mm.system
    async with system.ksm_thread_mutex:
        await lru_add_drain_all(system)
        unstable: dict[int, RmapItem] = {}
        for one, place in ((mm, address), (other, other_address)):
            touched((one.name, "ksm"))
            if one not in system.mms:
                continue
            system.ksm_mms[one] = None
            await _scan_place(one, place, unstable)
        items = [system.rmap_items.get((mm, address)), system.rmap_items.get((other, other_address))]
        return all(i is not None and i.node is not None for i in items) and items[0].node is items[1].node  # type: ignore[union-attr]


async def _scan_place(mm: Mm, address: int, unstable: dict[int, RmapItem]) -> bool:
    """Look at one place: whether there is a page that can be merged."""
    item = mm.system.rmap_items.get((mm, address)) or RmapItem(mm, address)
    page = await _mergeable_page(item)
    if page is None:
        return False
    if not (PageKsm(page) and item.stable):
        await cmp_and_merge_page(page, item, unstable)
    await put_page(page)
    return True


async def _scan_mm(mm: Mm, unstable: dict[int, RmapItem]) -> None:
    system = mm.system
    async with mm.mmap_sem.read():
        touched((mm.name, "vmas"), write=False)
        if mm not in system.mms:
            return
        vmas = [v for v in mm.vmas if v.vm_flags & VM_MERGEABLE and v.anon_vma is not None]
        addresses = [vpn * system.page_size for v in vmas for vpn in v.vpns]
        if vmas:
            touched((mm.name, "ksm"))
            system.ksm_mms[mm] = None
    seen: dict[int, None] = {}
    for address in addresses:
        if await _scan_place(mm, address, unstable):
            seen[address] = None
    for item in [i for (of, address), i in system.rmap_items.items() if of is mm and address not in seen]:
        await remove_rmap_item_from_tree(item)


# -- advice and exit ----------------------------------------------------------------------------------------------------


@operation()
async def unmerge_ksm_pages(vma: Vma, start: int, end: int) -> int:
    """Give `[start, end)` (bytes) of an area pages of its own instead of merged ones: 0 or -ENOMEM."""
    system = vma.mm.system
    if not system.has("KSM") or not vma.vm_flags & VM_MERGEABLE:
        return 0
    for address in range(start, end, system.page_size):
        error = await break_ksm(vma, address)
        if error:
            return error
    return 0


@operation()
async def madvise_mergeable(mm: Mm, start: int, end: int, *, on: bool) -> int:
    """Allow or forbid merging in `[start, end)` (bytes): 0, -EINVAL without KSM, or -ENOMEM."""
    from mmreference.mm.mmap import split_to, vma_merge_neighbours

    if not mm.system.has("KSM"):
        return -errno.EINVAL
    async with mm.mmap_sem.write():
        vmas = await split_to(mm, start, end)
        if isinstance(vmas, int):
            return vmas
        for vma in vmas:
            if on and not vma.vm_flags & UNMERGEABLE:
                touched((vma.name, "vm_flags"))
                vma.vm_flags |= VM_MERGEABLE
            elif not on and vma.vm_flags & VM_MERGEABLE:
                error = await unmerge_ksm_pages(vma, vma.vm_start, vma.vm_end)
                if error:
                    return error
                touched((vma.name, "vm_flags"))
                vma.vm_flags &= ~VM_MERGEABLE
        await vma_merge_neighbours(mm, start, end)
    return 0


@operation()
async def ksm_exit(mm: Mm) -> None:
    """The address space is gone, and with it its places of merged pages."""
    system = mm.system
    touched((mm.name, "ksm"))
    if mm not in system.ksm_mms:
        return
    async with system.ksm_thread_mutex:
        del system.ksm_mms[mm]
        for item in [i for (of, _), i in system.rmap_items.items() if of is mm]:
            await remove_rmap_item_from_tree(item)


# -- reverse mapping of merged pages ------------------------------------------------------------------------------------


async def _each_place(page: Page, visit: Callable[[Vma, int], Awaitable[bool]]) -> None:
    """Call `visit` for each area that may map the locked page, and the address (bytes) there, until it says True.

    First the places where the page was merged; then those of other address spaces that may have got it by fork.
    """
    node = page_stable_node(page)
    bug_on(not page.locked, f"{page.name} is not locked", "KSM-002")
    if node is None:
        return
    touched((node.name, "items"), write=False)
    for new_forks in (False, True):
        for item in list(node.items):
            anon_vma = item.anon_vma
            assert anon_vma is not None
            emit("lock_root", root=anon_vma.root)
            async with anon_vma.root.mutex:
                for vma in anon_vma.list:
                    if not vma.covers(item.address) or (item.mm is vma.mm) == new_forks:
                        continue
                    if await visit(vma, item.address):
                        return


@operation()
async def page_referenced_ksm(page: Page, memcg: MemCgroup | None) -> Walk:
    """How many uses of a merged page there were."""
    from mmreference.mm.memcontrol import mm_match_cgroup

    walk = Walk(page_mapcount(page))
    emit("sample_mapcount", page=page, mapcount=walk.mapcount)

    async def visit(vma: Vma, address: int) -> bool:
        if memcg is not None and not mm_match_cgroup(vma.mm, memcg):
            return False
        emit("visit", page=page, vma=vma)
        walk.referenced += await page_referenced_one(page, vma, address, walk)
        return walk.mapcount <= 0

    await _each_place(page, visit)
    return walk


@operation()
async def try_to_unmap_ksm(page: Page, flags: int) -> SwapResult:
    """Unmap a merged page; SWAP_FAIL if nobody knows yet where it is."""
    node = page_stable_node(page)
    note(node=node)
    if node is None:
        return SWAP_FAIL
    result: SwapResult = SWAP_AGAIN

    async def visit(vma: Vma, address: int) -> bool:
        nonlocal result
        emit("visit", page=page, vma=vma)
        result = await try_to_unmap_one(page, vma, address, flags)
        return result is not SWAP_AGAIN or not page_mapped(page)

    await _each_place(page, visit)
    return result


@operation()
async def rmap_walk_ksm(page: Page, visitor: Visitor) -> SwapResult:
    """Call `visitor` for each place where the merged page may be."""
    note(owner=page_stable_node(page))
    result: SwapResult = SWAP_AGAIN

    async def visit(vma: Vma, address: int) -> bool:
        nonlocal result
        emit("walk_call", page=page, vma=vma, address=address)
        result = await visitor(page, vma, address)
        emit("walk_result", result=result)
        return result is not SWAP_AGAIN

    await _each_place(page, visit)
    return result


async def ksm_migrate_page(newpage: Page, page: Page) -> None:
    """A merged page has moved: its node points to the new one. Both are locked."""
    node = page_stable_node(newpage)
    if node is not None:
        await Access((node.name, "page"), f"{node.name}.page = {newpage.name}", write=True)
        bug_on(node.page is not page, f"{node.name} is not the node of {page.name}", "KSM-002")
        node.page = newpage


# -- swap-in ------------------------------------------------------------------------------------------------------------


def ksm_does_need_to_copy(page: Page, vma: Vma, address: int) -> bool:
    """Whether a locked page of the swap cache cannot be mapped at the address (bytes): it is of another place.

    What was merged when it went out is an ordinary page when it comes back: it belongs to the first who asks for it,
    and others need a copy. One that is still merged fits everywhere. `vma` may be mergeable or not.
    """
    if not page.system.has("KSM"):
        return False
    anon_vma = page_anon_vma(page)
    if anon_vma is None:
        return False
    if vma.anon_vma is None or anon_vma.root is not vma.anon_vma.root:
        return True
    return page.index != linear_page_index(vma, address)


@operation()
async def ksm_might_need_to_copy(page: Page, vma: Vma, address: int) -> Page | None:
    """What to map for a locked page of the swap cache: itself, or a locked copy with a reference; None without memory."""
    must_copy = ksm_does_need_to_copy(page, vma, address)
    note(must_copy=must_copy, mergeable=bool(vma.vm_flags & VM_MERGEABLE))
    if not must_copy:
        return page
    copy = await page.system.alloc_page("copy of a page that was merged")
    if copy is None:
        return None
    touched((page.name, "content"), write=False)
    copy.content = page.content
    copy.PG_uptodate = True
    copy.PG_dirty = True
    copy.PG_swapbacked = True
    got = copy.lock.trylock()
    bug_on(not got, f"{copy.name} is somebody's already")
    emit("ksm_copied", page=page, copy=copy, vma=vma, address=address)
    return copy
