"""Trans-huge pages: one entry maps what a whole table of ptes would; they come by faults and by collapsing, and are split
at any time.

A trans-huge page is anonymous and as large as one pmd entry spans. With each such entry a table of ptes is put aside, so
that splitting needs no memory.

Correction to the code of 3.2: a page whose last mapping goes between the look-up and the freezing of a split is in no
statistics any more, so the split leaves them alone.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.bug import bug_on
from mmreference.kernel.memory import is_freed
from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.anon_vma import anon_vma_prepare, page_lock_anon_vma, page_unlock_anon_vma
from mmreference.mm.lru import isolate_lru_page, lru_add_drain_all, lru_add_page_tail, putback_lru_page
from mmreference.mm.memcontrol import mem_cgroup_newpage_charge, mem_cgroup_uncharge_page
from mmreference.mm.mm_struct import (
    VM_HUGEPAGE,
    VM_WRITE,
    Mm,
    Vma,
    add_mm_counter,
    update_hiwater_rss,
)
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.page import (
    Page,
    PageAnon,
    PageHuge,
    Slot,
    free_page,
    get_page,
    page_count,
    page_mapcount,
    put_page,
)
from mmreference.mm.pagetable import (
    Present,
    PteTable,
    entry_under_lock,
    flush_slot,
    pmd_index,
    prot_none,
    ptep_clear_flush,
    read_entry,
    store,
    vpn_of,
)
from mmreference.mm.rmap.address import vma_address
from mmreference.mm.rmap.mapcount import mod_zone_page_state, page_add_new_anon_rmap, page_dup_rmap, page_remove_rmap
from mmreference.mm.rmap.unmap import is_vma_temporary_stack
from mmspec.contracts import operation
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VmFault
from mmspec.trace import emit, note, wrote

if TYPE_CHECKING:
    from mmreference.mm.anon_vma import AnonVma


def transparent_hugepage_enabled(vma: Vma) -> bool:
    """Whether faults in the area may take trans-huge pages, by the policy of the system and of the area."""
    system = vma.mm.system
    if not system.has("TRANSPARENT_HUGEPAGE") or is_vma_temporary_stack(vma):
        return False
    policy = system.thp_enabled
    return policy == "always" or (policy == "madvise" and bool(vma.vm_flags & VM_HUGEPAGE))


def hpage_range(mm: Mm, vpn: int) -> range:
    """The base page numbers that the pmd entry of one of them spans."""
    first = pmd_index(mm, vpn) * mm.system.ptrs_per_pte
    return range(first, first + mm.system.ptrs_per_pte)


def _inside(vma: Vma, vpns: range) -> bool:
    size = vma.mm.system.page_size
    return vma.vm_start <= vpns.start * size and vpns.stop * size <= vma.vm_end


async def alloc_hugepage(vma: Vma) -> Page | None:
    """A trans-huge page, or None without memory."""
    system = vma.mm.system
    emit("huge_alloc", vma=vma, policy=system.thp_enabled, advised=bool(vma.vm_flags & VM_HUGEPAGE))
    page = await system.alloc_pages(system.hpage_pmd_nr.bit_length() - 1, "trans-huge page")
    if page is None:
        emit("huge_fallback", vma=vma)
    return page


async def pte_alloc_one(mm: Mm, index: int) -> PteTable | None:
    """A table of ptes that is not in use yet, or None without memory."""
    emit("alloc", what="page table", may_reclaim=True)
    if await may_fail("page table"):
        return None
    return PteTable(f"{mm.name}.table{index - mm.system.first_pmd}", mm, index)


async def pmdp_clear_flush_notify(vma: Vma, vpn: int) -> Present:
    """Empty the entry of a trans-huge page, on all CPUs and in secondary MMUs; what was in it."""
    mm, vpns = vma.mm, hpage_range(vma.mm, vpn)
    size = mm.system.page_size
    await mmu_notifier_invalidate_range_start(mm, vpns.start * size, vpns.stop * size)
    before = await ptep_clear_flush(vma, vpns.start, "pmd")
    await mmu_notifier_invalidate_range_end(mm, vpns.start * size, vpns.stop * size)
    assert isinstance(before, Present)
    emit("ptep_clear_flush_notify", mm=mm, vma=vma, vpn=vpns.start, level="pmd", entry=before)
    return before


# -- faults -------------------------------------------------------------------------------------------------------------


@operation()
async def do_huge_pmd_anonymous_page(mm: Mm, vma: Vma, vpn: int, write: bool) -> VmFault | None:
    """The first access to what a pmd entry spans: map a trans-huge page; None if base pages have to do."""
    vpns = hpage_range(mm, vpn)
    if not transparent_hugepage_enabled(vma) or not _inside(vma, vpns):
        return None
    if await anon_vma_prepare(vma):
        return VM_FAULT_OOM
    page = await alloc_hugepage(vma)
    if page is None:
        note(huge_failed=True)
        return None
    if await mem_cgroup_newpage_charge(page, mm):
        await put_page(page)
        emit("huge_fallback", vma=vma)
        note(huge_failed=True)
        return None
    table = await pte_alloc_one(mm, pmd_index(mm, vpn))
    if table is None:
        await _discard(page)
        return VM_FAULT_OOM
    page.PG_uptodate = True
    async with mm.page_table_lock:
        if not await _map_new_page(vma, vpns, page, table, write=write):
            table.free()
            table = None
    if table is None:
        await _discard(page)
    return VM_FAULT_MINOR


async def _map_new_page(vma: Vma, vpns: range, page: Page, table: PteTable, *, write: bool) -> bool:
    """Map a new trans-huge page and put the table aside, if nobody was faster; with the page-table lock held."""
    mm = vma.mm
    index = pmd_index(mm, vpns.start)
    touched((mm.name, "pmd", index), write=False)
    if index in mm.pmds or index in mm.tables:
        return False
    await page_add_new_anon_rmap(page, vma, vpns.start * mm.system.page_size)
    writable = bool(vma.vm_flags & VM_WRITE)
    store(mm, vma, vpns.start, Present(page, write=writable, young=True, dirty=write), "pmd")
    prepare_pmd_huge_pte(mm, table)
    touched((mm.name, "rss_anon"))
    add_mm_counter(mm, "rss_anon", len(vpns))
    return True


def prepare_pmd_huge_pte(mm: Mm, table: PteTable) -> None:
    """Put a table aside for the split of a trans-huge page, with the page-table lock held."""
    touched((mm.name, "pmd_huge_pte"))
    mm.pmd_huge_pte[table.index] = table
    emit("pgtable_deposit", mm=mm, index=table.index)


def get_pmd_huge_pte(mm: Mm, index: int) -> PteTable:
    """Take the table that was put aside, with the page-table lock held."""
    touched((mm.name, "pmd_huge_pte"))
    emit("pgtable_withdraw", mm=mm, index=index)
    return mm.pmd_huge_pte.pop(index)


async def _discard(page: Page) -> None:
    """A charged page that is not going to be used."""
    await mem_cgroup_uncharge_page(page)
    await put_page(page)


@operation()
async def do_huge_pmd_wp_page(mm: Mm, vma: Vma, vpn: int) -> VmFault:
    """A write to a trans-huge page that is mapped read-only: let it be written if nobody else maps it, or copy it.

    If there is no memory for a copy of that size, the page is split, and the fault goes on with a base page. (3.2 copies
    all of it to base pages then.)
    """
    from mmreference.mm.memory import handle_pte_fault

    vpns = hpage_range(mm, vpn)
    await mm.page_table_lock.lock()
    orig = entry_under_lock(mm, vpn, "pmd")
    if not isinstance(orig, Present) or orig.splitting or orig.write:
        mm.page_table_lock.unlock()
        return VM_FAULT_MINOR
    page = orig.page
    if page_mapcount(page) == 1:
        writable = bool(vma.vm_flags & VM_WRITE)
        store(mm, vma, vpns.start, attrs.evolve(orig, write=writable, young=True, dirty=True), "pmd")
        mm.page_table_lock.unlock()
        await flush_slot(mm, vpns.start, "pmd")
        return VM_FAULT_MINOR
    get_page(page)
    mm.page_table_lock.unlock()
    new = await alloc_hugepage(vma) if transparent_hugepage_enabled(vma) else None
    if new is not None and await mem_cgroup_newpage_charge(new, mm):
        await put_page(new)
        new = None
    if new is None:
        note(huge_failed=True)
        whole = await split_huge_page(page)
        await put_page(page)
        return VM_FAULT_MINOR if whole else await handle_pte_fault(mm, vma, vpn, write=True)
    copy_huge_page(new, page)
    await mm.page_table_lock.lock()
    same = _same(entry_under_lock(mm, vpn, "pmd"), orig)
    if same:
        await pmdp_clear_flush_notify(vma, vpn)
        await page_add_new_anon_rmap(new, vma, vpns.start * mm.system.page_size)
        store(mm, vma, vpns.start, Present(new, write=bool(vma.vm_flags & VM_WRITE), young=True, dirty=True), "pmd")
        await page_remove_rmap(page)
    mm.page_table_lock.unlock()
    if same:
        await put_page(page)
    else:
        await _discard(new)
    await put_page(page)
    return VM_FAULT_MINOR


def _same(entry: object, orig: Present) -> bool:
    """Whether an entry is what it was, but for what hardware notes."""
    return isinstance(entry, Present) and attrs.evolve(entry, young=orig.young, dirty=orig.dirty) == orig


def copy_huge_page(new: Page, old: Page) -> None:
    """Copy the content of a trans-huge page that nobody can write to."""
    for to, source in zip(new.subpages, old.subpages, strict=True):
        touched((source.name, "content"), write=False)
        to.content = source.content
    new.PG_uptodate = True


# -- fork and unmapping -------------------------------------------------------------------------------------------------


@operation()
async def copy_huge_pmd(dst: Mm, src: Mm, copy_vma: Vma, vma: Vma, vpn: int) -> int:
    """fork: both sides map the trans-huge page read-only: 0, -ENOMEM, or -EAGAIN if it is none any more."""
    vpns = hpage_range(src, vpn)
    table = await pte_alloc_one(dst, pmd_index(dst, vpn))
    if table is None:
        return -errno.ENOMEM
    await dst.page_table_lock.lock()
    await src.page_table_lock.lock(nested=True)
    entry = entry_under_lock(src, vpn, "pmd")
    copied = isinstance(entry, Present) and not entry.splitting
    if isinstance(entry, Present) and not entry.splitting:
        get_page(entry.page)
        await page_dup_rmap(entry.page)
        touched((dst.name, "rss_anon"))
        add_mm_counter(dst, "rss_anon", len(vpns))
        if entry.write:
            store(src, vma, vpns.start, attrs.evolve(entry, write=False), "pmd")
        store(dst, copy_vma, vpns.start, attrs.evolve(entry, write=False, young=False), "pmd")
        prepare_pmd_huge_pte(dst, table)
        emit("pmd_copied", src=src, dst=dst, vpn=vpns.start, entry=entry)
    src.page_table_lock.unlock()
    dst.page_table_lock.unlock()
    if copied:
        await flush_slot(src, vpns.start, "pmd")
        return 0
    table.free()
    if isinstance(entry, Present):
        await wait_split_huge_page(vma, vpn)
    return -errno.EAGAIN


async def wait_split_huge_page(vma: Vma, vpn: int) -> None:
    """Wait until the page at the base page number has been split; whoever splits it holds the mutex of its tree."""
    assert vma.anon_vma is not None
    root = vma.anon_vma.root
    emit("lock_root", root=root)
    async with root.mutex:
        pass
    bug_on(read_entry(vma.mm, vpn, "pmd") is not None, f"{vma.mm.name} has a trans-huge page that was being split")


@operation()
async def zap_huge_pmd(vma: Vma, vpn: int) -> bool:
    """Unmap the trans-huge page at the base page number; False if it is none any more."""
    mm, vpns = vma.mm, hpage_range(vma.mm, vpn)
    index = pmd_index(mm, vpn)
    await mm.page_table_lock.lock()
    entry = entry_under_lock(mm, vpn, "pmd")
    if not isinstance(entry, Present) or entry.splitting:
        mm.page_table_lock.unlock()
        if isinstance(entry, Present):
            await wait_split_huge_page(vma, vpn)
        return False
    await ptep_clear_flush(vma, vpns.start, "pmd")
    update_hiwater_rss(mm)
    emit("dec_rss", mm=mm, field="rss_anon")
    touched((mm.name, "rss_anon"))
    add_mm_counter(mm, "rss_anon", -len(vpns))
    await page_remove_rmap(entry.page)
    get_pmd_huge_pte(mm, index).free()
    mm.page_table_lock.unlock()
    await put_page(entry.page)
    return True


# -- splitting ----------------------------------------------------------------------------------------------------------


@operation()
async def split_huge_page(page: Page) -> int:
    """Make base pages of a trans-huge page, and of all entries that map it: 0, or 1 if nothing maps it.

    Needs no memory. Nobody can be kept from mapping it anew but by the mutex of its tree.
    """
    bug_on(not PageAnon(page), f"{page.name} is not anonymous", "THP-SCOPE-001")
    note(mapcount=page_mapcount(page), was_mapped=page_mapcount(page) > 0, was_huge=page.order > 0)
    anon_vma = await page_lock_anon_vma(page)
    if anon_vma is None:
        note(unmapped=True)
        return 1
    touched((page.name, "order"), write=False)
    # Somebody else may have been faster.
    if page.order:
        await __split_huge_page(page, anon_vma)
    page_unlock_anon_vma(anon_vma)
    return 0


@operation()
async def __split_huge_page(page: Page, anon_vma: AnonVma) -> None:
    """Freeze all entries, split the page, then replace the entries. Both walks must find the same ones.

    An area that fork links meanwhile comes to the tail: its parent's entry is frozen, or copied and frozen after.
    """
    frozen = 0
    for vma in anon_vma.list:
        bug_on(is_vma_temporary_stack(vma), f"{vma.name} is a stack that is being moved")
        address = vma_address(page, vma)
        if address != -errno.EFAULT:
            frozen += await __split_huge_page_splitting(page, vma, address)
    mapcount = page_mapcount(page)
    note(frozen=frozen, mapcount=mapcount)
    bug_on(frozen != mapcount, f"{frozen} of {mapcount} mappings of {page.name} were found", "THP-SPLIT-004")
    subpages = await __split_huge_page_refcount(page)
    remapped = 0
    for vma in anon_vma.list:
        address = vma_address(page, vma)
        if address != -errno.EFAULT:
            remapped += await __split_huge_page_map(page, subpages, vma, address)
    note(remapped=remapped)
    emit("thp_split", page=page, pages=subpages, mapcount=mapcount, frozen=frozen, remapped=remapped)
    bug_on(frozen != remapped, f"{remapped} of {frozen} mappings of {page.name} were found again", "THP-SPLIT-004")


def _check_address_pmd(page: Page, mm: Mm, vpn: int, *, splitting: bool) -> Present | None:
    """The entry that maps the page, with the page-table lock held, if it is in that state."""
    entry = entry_under_lock(mm, vpn, "pmd")
    if not isinstance(entry, Present) or entry.page is not page or vpn % mm.system.ptrs_per_pte:
        return None
    return entry if entry.splitting == splitting else None


@operation()
async def __split_huge_page_splitting(page: Page, vma: Vma, address: int) -> int:
    """Freeze the entry at the address (bytes), if there is one: 1 or 0. CPUs and secondary MMUs forget it."""
    mm, vpn = vma.mm, vpn_of(vma.mm, address)
    size = mm.system.page_size
    async with mm.page_table_lock:
        entry = _check_address_pmd(page, mm, vpn, splitting=False)
        if entry is None:
            return 0
        vpns = hpage_range(mm, vpn)
        await mmu_notifier_invalidate_range_start(mm, vpns.start * size, vpns.stop * size)
        # Hardware may have noted use meanwhile.
        now = entry_under_lock(mm, vpn, "pmd")
        assert isinstance(now, Present)
        store(mm, vma, vpn, attrs.evolve(now, splitting=True), "pmd")
        await flush_slot(mm, vpn, "pmd")
        await mmu_notifier_invalidate_range_end(mm, vpns.start * size, vpns.stop * size)
        emit("pmd_splitting", mm=mm, vma=vma, vpn=vpn, page=page)
    return 1


@operation()
async def __split_huge_page_refcount(page: Page) -> list[Page]:
    """Make pages of their own of the tails, head included in the answer; mappings of the page are frozen.

    Who drops a reference to a tail at this moment waits for the compound lock, and finds a page of its own then.
    """
    system, zone = page.system, page.system.zone
    subpages = list(page.subpages)
    note(mapcount=page._mapcount, count=page._count, pins=sum(t._count for t in subpages[1:]))
    async with zone.lru_lock:
        async with page.compound_lock:
            pins = 0
            for number, tail in enumerate(subpages[1:], 1):
                touched((tail.name, "_count"))
                pins += tail._count
                # One for each mapping, and one until we are through.
                tail._count += page_mapcount(page) + 1
                tail.PG_referenced, tail.PG_swapbacked = page.PG_referenced, page.PG_swapbacked
                tail.PG_uptodate, tail.PG_dirty = page.PG_uptodate, True
                tail.key_dirty, tail.key_young = tail.key_dirty or page.key_dirty, tail.key_young or page.key_young
                if page.PG_mlocked:
                    tail.PG_mlocked = True
                    zone.NR_MLOCK += 1
                touched((tail.name, "_mapcount"))
                tail._mapcount = page._mapcount
                touched((tail.name, "mapping"))
                tail.mapping, tail.anon_generation = page.mapping, page.anon_generation
                tail.index = page.index + number
                tail.memcg = page.memcg
                tail.counted = "NR_ANON_PAGES" if page.counted else ""
                touched((tail.name, "first_page"))
                tail.first_page = None
                system.pages[tail] = None
                lru_add_page_tail(page, tail)
            touched((page.name, "_count"))
            page._count -= pins
            if page_mapcount(page):
                mod_zone_page_state(page, "NR_ANON_TRANSPARENT_HUGEPAGES", -1)
                mod_zone_page_state(page, "NR_ANON_PAGES", len(subpages))
            touched((page.name, "order"))
            page.order, page.subpages = 0, []
            wrote(page, "order", len(subpages).bit_length() - 1, 0)
            emit("split_refcount", page=page, subpages=subpages, pins=pins)
    for tail in subpages[1:]:
        await put_page(tail)
    return subpages


@operation()
async def __split_huge_page_map(page: Page, subpages: list[Page], vma: Vma, address: int) -> int:
    """Replace the frozen entry at the address (bytes), if there is one, by the table that was put aside: 1 or 0."""
    mm, vpn = vma.mm, vpn_of(vma.mm, address)
    async with mm.page_table_lock:
        entry = _check_address_pmd(page, mm, vpn, splitting=True)
        if entry is None:
            return 0
        bug_on(entry.write and page_mapcount(page) != 1, f"{page.name} is writable in one of several places")
        table = get_pmd_huge_pte(mm, pmd_index(mm, vpn))
        if mm.system.split_ptlocks:
            await table.ptl.lock()
        store(mm, vma, vpn, None, "pmd")
        mm.tables[table.index] = table
        emit("pmd_populate", mm=mm, index=table.index)
        for number, subpage in enumerate(subpages):
            store(mm, vma, vpn + number, Present(subpage, write=entry.write, young=entry.young, dirty=True, none=entry.none))
        emit("pmd_remapped", mm=mm, vma=vma, vpn=vpn, page=page)
        if mm.system.split_ptlocks:
            table.ptl.unlock()
    return 1


@operation()
async def split_huge_page_pmd(mm: Mm, vpn: int) -> None:
    """If a trans-huge page is mapped at the base page number, split it; with `mmap_sem` or the list mutex held.

    Where that is held for read only, a thread may write meanwhile and get another trans-huge page for its own, which is split
    as well. (3.2 asserts that there is none.)
    """
    while True:
        async with mm.page_table_lock:
            entry = entry_under_lock(mm, vpn, "pmd")
            if not isinstance(entry, Present):
                return
            page = entry.page
            get_page(page)
        await split_huge_page(page)
        await put_page(page)


async def split_huge_page_pmd_range(vma: Vma, start: int, end: int) -> None:
    """Split all trans-huge pages that `[start, end)` (bytes) of the area reaches into."""
    mm = vma.mm
    for index in range(start // mm.system.pmd_size, -(-end // mm.system.pmd_size)):
        touched((mm.name, "pmd", index), write=False)
        if index in mm.pmds:
            await split_huge_page_pmd(mm, index * mm.system.ptrs_per_pte)


@operation()
async def put_compound_page(page: Page) -> None:
    """Drop a reference to what was a tail when the caller looked, and the reference to its head that goes with it.

    Only with the lock of the head, verified to be alive, does the page stay what it is.
    """
    await Access((page.name, "first_page"), f"read {page.name}.first_page")
    head = page.first_page
    if head is None or is_freed(head) or not await _get_head(head):
        # Split, and the head was freed since.
        bug_on(page.first_page is not None, f"{page.name} has lost its head", "THP-PUT-001")
        await put_page(page)
        return
    await head.compound_lock.lock()
    touched((page.name, "first_page"), write=False)
    if page.first_page is None:
        # The split has come before us, and taken our part of the head's references away.
        head.compound_lock.unlock()
        await put_page(head)
        await put_page(page)
        return
    touched((head.name, "_count"))
    touched((page.name, "_count"))
    bug_on(page._count <= 0, f"{page.name} has no reference to drop", "THP-PUT-001")
    # Ours from above; the split waits for the lock.
    head._count -= 1
    page._count -= 1
    emit("put_tail", page=page, head=head)
    head.compound_lock.unlock()
    emit("put_page", page=head)
    if await head.count.dec_and_test():
        await free_page(head)


async def _get_head(head: Page) -> bool:
    """A reference to what may be a head no more, or no page at all."""
    await Access((head.name, "_count"), f"get_page_unless_zero {head.name}", write=True)
    if is_freed(head) or head._count == 0:
        return False
    get_page(head)
    return True


# -- collapsing ---------------------------------------------------------------------------------------------------------


@operation()
async def collapse_huge_page(mm: Mm, address: int) -> bool:
    """Replace the base pages around the address (bytes) by a trans-huge page: whether that could be done.

    Each of them must be used by this mapping only. Nothing is promised; the next round of the scanner tries again.
    """
    system = mm.system
    vpns, index = hpage_range(mm, vpn_of(mm, address)), pmd_index(mm, vpn_of(mm, address))
    await lru_add_drain_all(system)
    vma = mm.area_at(vpns.start * system.page_size)
    if vma is None:
        return False
    new = await alloc_hugepage(vma)
    if new is None:
        return False
    if await mem_cgroup_newpage_charge(new, mm):
        await put_page(new)
        return False
    collapsed = False
    async with mm.mmap_sem.write():
        # All may have changed.
        vma = mm.area_at(vpns.start * system.page_size)
        touched((mm.name, "vmas"), write=False)
        if vma is not None and _collapsible(vma, vpns) and index in mm.tables and index not in mm.pmds:
            collapsed = await _collapse(vma, vpns, new)
    if not collapsed:
        await _discard(new)
    return collapsed


def _collapsible(vma: Vma, vpns: range) -> bool:
    return (
        transparent_hugepage_enabled(vma)
        and _inside(vma, vpns)
        and vma.anon_vma is not None
        and vma.vm_file is None
        and not is_vma_temporary_stack(vma)
    )


async def _collapse(vma: Vma, vpns: range, new: Page) -> bool:
    mm, system = vma.mm, vma.mm.system
    index = pmd_index(mm, vpns.start)
    assert vma.anon_vma is not None
    root = vma.anon_vma.root
    start, end = vpns.start * system.page_size, vpns.stop * system.page_size
    emit("lock_root", root=root)
    async with root.mutex:
        await mmu_notifier_invalidate_range_start(mm, start, end)
        async with mm.page_table_lock:
            # From here on no CPU finds the table, and after the flush none remembers what is in it.
            touched((mm.name, "pmd", index))
            table = mm.tables.pop(index)
            mm.changes += 1
            emit("pmd_clear", mm=mm, index=index)
            for vpn in vpns:
                await system.tlbs.flush_tlb_page(mm, vpn)
        await mmu_notifier_invalidate_range_end(mm, start, end)
        ptl = table.ptl if system.split_ptlocks else mm.page_table_lock
        async with ptl:
            isolated = await __collapse_huge_page_isolate(vma, table)
        if isolated is None:
            async with mm.page_table_lock:
                touched((mm.name, "pmd", index))
                mm.tables[index] = table
                emit("pmd_populate", mm=mm, index=index)
            return False
    # All pages are locked, so that no walk does more than look at them.
    emit("collapse", mm=mm, vma=vma, pages=list(isolated.values()))
    for number, vpn in enumerate(vpns):
        page = isolated.get(vpn)
        if page is None:
            async with ptl:
                touched((mm.name, "rss_anon"))
                add_mm_counter(mm, "rss_anon", 1)
            continue
        touched((page.name, "content"), write=False)
        new.subpages[number].content = page.content
        async with ptl:
            _clear_detached(vma, table, vpn)
            await page_remove_rmap(page)
        page.lock.unlock()
        await putback_lru_page(page)
        await put_page(page)
    new.PG_uptodate = True
    async with mm.page_table_lock:
        bug_on(index in mm.pmds or index in mm.tables, f"{mm.name} has got another table")
        await page_add_new_anon_rmap(new, vma, start)
        writable = bool(vma.vm_flags & VM_WRITE)
        entry = Present(new, write=writable, young=True, dirty=True, none=prot_none(vma))
        store(mm, vma, vpns.start, entry, "pmd")
        prepare_pmd_huge_pte(mm, table)
    return True


def _clear_detached(vma: Vma, table: PteTable, vpn: int) -> None:
    """Empty a slot of a table that only we know."""
    mm = vma.mm
    entry = table.entries.pop(vpn)
    assert isinstance(entry, Present)
    entry.page.slots.pop(Slot(mm, vpn, "pte"), None)
    mm.changes += 1
    lock = table.ptl if mm.system.split_ptlocks else mm.page_table_lock
    emit("set_pte", mm=mm, vma=vma, vpn=vpn, level="pte", old=entry, new=None, lock=lock)


@operation()
async def __collapse_huge_page_isolate(vma: Vma, table: PteTable) -> dict[int, Page] | None:
    """Lock and isolate all pages of the table: base page number to page; None, and nothing held, if one cannot be had."""
    mm = vma.mm
    isolated: dict[int, Page] = {}
    for vpn, entry in sorted(table.entries.items()):
        if isinstance(entry, Present) and entry.write:
            page = entry.page
            count, mapcount = page_count(page), page_mapcount(page)
            # Somebody who pins it, or the swap cache, would be left with the old page.
            if PageAnon(page) and not PageHuge(page) and count == mapcount == 1 and page.lock.trylock():
                emit("collapse_isolate", mm=mm, page=page, count=count, mapcount=mapcount, locked=page.locked)
                if await isolate_lru_page(page):
                    isolated[vpn] = page
                    continue
                page.lock.unlock()
        for taken in isolated.values():
            taken.lock.unlock()
            await putback_lru_page(taken)
        return None
    return isolated or None
