"""Page faults, copy on write, and the copying and emptying of page tables."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.scheduler import touched
from mmreference.mm.anon_vma import anon_vma_prepare
from mmreference.mm.filemap import read_mapping_page
from mmreference.mm.lru import mark_page_accessed
from mmreference.mm.memcontrol import commit_charge, mem_cgroup_newpage_charge, mem_cgroup_uncharge_page
from mmreference.mm.mm_struct import (
    VM_HUGETLB,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WRITE,
    Mm,
    Vma,
    add_mm_counter,
    linear_page_index,
    rss_counter,
    update_hiwater_rss,
)
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.page import (
    Page,
    PageAnon,
    PageKsm,
    get_page,
    put_page,
)
from mmreference.mm.pagetable import (
    Entry,
    FileEntry,
    HwPoisonEntry,
    MigrationEntry,
    Present,
    SwapEntry,
    entry_under_lock,
    flush_cache_page,
    pmd_index,
    probe_entry,
    pte_alloc,
    pte_lockptr,
    ptep_clear_flush,
    ptep_clear_flush_notify,
    set_pte_at,
    store,
    vpn_of,
)
from mmreference.mm.rmap.mapcount import (
    do_page_add_anon_rmap,
    page_add_file_rmap,
    page_add_new_anon_rmap,
    page_dup_rmap,
    page_move_anon_rmap,
    page_remove_rmap,
)
from mmreference.mm.storage_key import page_set_key
from mmreference.mm.swapfile import (
    free_page_and_swap_cache,
    free_swap_and_cache,
    read_swap_cache,
    reuse_swap_page,
    swap_duplicate,
    swap_free,
    try_to_free_swap,
)
from mmreference.mm.writeback import set_page_dirty
from mmspec.contracts import operation
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, Signal, VmFault
from mmspec.trace import emit, note

if TYPE_CHECKING:
    from mmreference.mm.address_space import AddressSpace


def fault_signal(result: VmFault) -> Signal | None:
    """How a process notices the result of a fault; None if it goes on."""
    if result is VM_FAULT_OOM:
        return Signal.SIGKILL
    return Signal.SIGBUS if result is VM_FAULT_SIGBUS else None


# -- faults -------------------------------------------------------------------------------------------------------------


@operation()
async def handle_mm_fault(mm: Mm, vma: Vma, address: int, *, write: bool) -> VmFault:
    """Bring in what belongs at the address (bytes); with `mmap_sem` held for read."""
    from mmreference.mm.huge_memory import do_huge_pmd_anonymous_page, do_huge_pmd_wp_page
    from mmreference.mm.hugetlb_anon import hugetlb_fault

    if vma.vm_flags & VM_HUGETLB:
        return await hugetlb_fault(mm, vma, address, write)
    vpn = vpn_of(mm, address)
    index = pmd_index(mm, vpn)
    if index not in mm.pmds and index not in mm.tables and vma.vm_file is None:
        result = await do_huge_pmd_anonymous_page(mm, vma, vpn, write)
        if result is not None:
            return result
    touched((mm.name, "pmd", index), write=False)
    huge = mm.pmds.get(index)
    if huge is not None:
        if write and not huge.write and not huge.splitting:
            return await do_huge_pmd_wp_page(mm, vma, vpn)
        await _touch_huge(mm, vma, vpn, write=write)
        return VM_FAULT_MINOR
    if await pte_alloc(mm, vpn) is None:
        # Or a trans-huge page has come here meanwhile.
        return VM_FAULT_OOM if index not in mm.pmds else VM_FAULT_MINOR
    return await handle_pte_fault(mm, vma, vpn, write=write)


async def _touch_huge(mm: Mm, vma: Vma, vpn: int, *, write: bool) -> None:
    async with mm.page_table_lock:
        entry = entry_under_lock(mm, vpn, "pmd")
        if isinstance(entry, Present) and not entry.splitting and (entry.write or not write):
            store(mm, vma, vpn, attrs.evolve(entry, young=True, dirty=entry.dirty or write), "pmd")


@operation()
async def handle_pte_fault(mm: Mm, vma: Vma, vpn: int, *, write: bool) -> VmFault:
    """Decide by what is in the slot, read without its lock; each handler looks again with it."""
    entry = await probe_entry(mm, vpn)
    if entry is None:
        if vma.vm_file is None:
            return await do_anonymous_page(mm, vma, vpn, write=write)
        return await __do_fault(mm, vma, vpn, linear_page_index(vma, vpn * mm.system.page_size), write=write, orig=entry)
    if isinstance(entry, FileEntry):
        return await __do_fault(mm, vma, vpn, entry.pgoff, write=write, orig=entry)
    if not isinstance(entry, Present):
        return await do_swap_page(mm, vma, vpn, write=write, orig=entry)
    if write and not entry.write:
        return await do_wp_page(mm, vma, vpn, orig=entry)
    # Another thread has been faster, or software keeps the bits that hardware does not.
    async with pte_lockptr(mm, vpn):
        now = entry_under_lock(mm, vpn)
        if isinstance(now, Present) and (now.write or not write):
            store(mm, vma, vpn, attrs.evolve(now, young=True, dirty=now.dirty or write))
    return VM_FAULT_MINOR


@operation()
async def do_anonymous_page(mm: Mm, vma: Vma, vpn: int, *, write: bool) -> VmFault:
    """The first access to a page of an area without a file: a zeroed page of its own."""
    address = vpn * mm.system.page_size
    if await anon_vma_prepare(vma):
        return VM_FAULT_OOM
    page = await mm.system.alloc_page("anonymous page")
    if page is None:
        return VM_FAULT_OOM
    page.PG_uptodate = True
    if await mem_cgroup_newpage_charge(page, mm):
        await put_page(page)
        return VM_FAULT_OOM
    ptl = pte_lockptr(mm, vpn)
    await ptl.lock()
    if entry_under_lock(mm, vpn) is not None or pmd_index(mm, vpn) in mm.pmds:
        ptl.unlock()
        await _discard(page)
        return VM_FAULT_MINOR
    add_mm_counter(mm, "rss_anon", 1)
    touched((mm.name, "rss_anon"))
    await page_add_new_anon_rmap(page, vma, address)
    writable = bool(vma.vm_flags & VM_WRITE)
    await set_pte_at(mm, vma, vpn, Present(page, write=writable, young=True, dirty=write))
    ptl.unlock()
    return VM_FAULT_MINOR


async def _discard(page: Page) -> None:
    """A charged page that is not going to be used."""
    await mem_cgroup_uncharge_page(page)
    await put_page(page)


@operation()
async def __do_fault(mm: Mm, vma: Vma, vpn: int, pgoff: int, *, write: bool, orig: Entry | None) -> VmFault:
    """A page of a file, or a private copy of it; `pgoff` is its index in base pages."""
    mapping = vma.vm_file
    assert mapping is not None
    cow = write and not vma.vm_flags & VM_SHARED
    copy = None
    if cow:
        if await anon_vma_prepare(vma):
            return VM_FAULT_OOM
        copy = await mm.system.alloc_page("copy of a file's page")
        if copy is None:
            return VM_FAULT_OOM
        if await mem_cgroup_newpage_charge(copy, mm):
            await put_page(copy)
            return VM_FAULT_OOM
    page = await _filemap_fault(mapping, pgoff, mm)
    if not isinstance(page, Page):
        if copy is not None:
            await _discard(copy)
        return page
    new = page
    if copy is not None:
        copy.content = page.content
        copy.PG_uptodate = True
        new = copy
    ptl = pte_lockptr(mm, vpn)
    await ptl.lock()
    if entry_under_lock(mm, vpn) == orig and pmd_index(mm, vpn) not in mm.pmds:
        await _map_file_page(mm, vma, vpn, new, anon=copy is not None, write=write)
        ptl.unlock()
        if copy is None and write:
            await set_page_dirty(page)
        if copy is None:
            get_page(page)
    else:
        ptl.unlock()
        if copy is not None:
            await _discard(copy)
    page.lock.unlock()
    await put_page(page)
    return VM_FAULT_MINOR


async def _map_file_page(mm: Mm, vma: Vma, vpn: int, page: Page, *, anon: bool, write: bool) -> None:
    """Fill the slot; the page of a shared area is writable only if this is a write, so that the first write is seen."""
    if anon:
        add_mm_counter(mm, "rss_anon", 1)
        touched((mm.name, "rss_anon"))
        await page_add_new_anon_rmap(page, vma, vpn * mm.system.page_size)
    else:
        add_mm_counter(mm, "rss_file", 1)
        touched((mm.name, "rss_file"))
        await page_add_file_rmap(page)
    writable = write and bool(vma.vm_flags & VM_WRITE)
    await set_pte_at(mm, vma, vpn, Present(page, write=writable, young=True, dirty=write))


async def _filemap_fault(mapping: AddressSpace, pgoff: int, mm: Mm) -> Page | VmFault:
    """The page of the index, locked and with a reference, or why there is none."""
    touched((mapping.name, "i_size"), write=False)
    if pgoff >= mapping.i_size:
        return VM_FAULT_SIGBUS
    page = await read_mapping_page(mapping, pgoff, mm)
    if page is None:
        return VM_FAULT_OOM
    # Truncation takes the size down before it locks the pages that it takes away.
    touched((mapping.name, "i_size"), write=False)
    if pgoff >= mapping.i_size:
        page.lock.unlock()
        await put_page(page)
        return VM_FAULT_SIGBUS
    if page.PG_hwpoison:
        page.lock.unlock()
        await put_page(page)
        return VM_FAULT_SIGBUS
    return page


@operation()
async def do_swap_page(mm: Mm, vma: Vma, vpn: int, *, write: bool, orig: Entry) -> VmFault:
    """The page is in swap, on its way to another frame, or lost."""
    from mmreference.mm.ksm import ksm_might_need_to_copy
    from mmreference.mm.migrate import migration_entry_wait

    system, address = mm.system, vpn * mm.system.page_size
    if isinstance(orig, MigrationEntry):
        note(waited=True)
        await migration_entry_wait(mm, vpn)
        return VM_FAULT_MINOR
    if isinstance(orig, HwPoisonEntry):
        return VM_FAULT_SIGBUS
    assert isinstance(orig, SwapEntry)
    page = await read_swap_cache(system, orig.slot)
    if page is None:
        now = await probe_entry(mm, vpn)
        return VM_FAULT_OOM if now == orig else VM_FAULT_MINOR
    if page.PG_hwpoison:
        await put_page(page)
        return VM_FAULT_SIGBUS
    await page.lock.lock()
    # It may have left the swap cache, and the slot may be somebody else's.
    if not page.PG_swapcache or page.private != orig.slot:
        page.lock.unlock()
        await put_page(page)
        return VM_FAULT_MINOR
    cached = page
    mapped = await ksm_might_need_to_copy(page, vma, address)
    if mapped is None:
        page.lock.unlock()
        await put_page(page)
        return VM_FAULT_OOM
    page = mapped
    charged = page.memcg is None
    if charged and await mem_cgroup_newpage_charge(page, mm):
        page.lock.unlock()
        await put_page(page)
        if page is not cached:
            cached.lock.unlock()
            await put_page(cached)
        return VM_FAULT_OOM
    ptl = pte_lockptr(mm, vpn)
    await ptl.lock()
    if entry_under_lock(mm, vpn) != orig:
        ptl.unlock()
        if charged and page._mapcount < 0:
            await mem_cgroup_uncharge_page(page)
        page.lock.unlock()
        await put_page(page)
        if page is not cached:
            cached.lock.unlock()
            await put_page(cached)
        return VM_FAULT_MINOR
    add_mm_counter(mm, "rss_anon", 1)
    touched((mm.name, "rss_anon"))
    mm.swapents -= 1
    exclusive = False
    writable = False
    if write and vma.vm_flags & VM_WRITE and (page is not cached or await reuse_swap_page(page)):
        writable = exclusive = True
    await set_pte_at(mm, vma, vpn, Present(page, write=writable, young=True, dirty=writable))
    if page.memcg is None and mm.memcg is not None:
        # It has left the swap cache just now, and its charge there.
        commit_charge(page, mm.memcg)
    if page is not cached:
        await page_add_new_anon_rmap(page, vma, address)
    else:
        await do_page_add_anon_rmap(page, vma, address, exclusive=exclusive)
    await swap_free(system, orig.slot)
    ptl.unlock()
    if page is cached and (vma.locked or page.PG_mlocked):
        await try_to_free_swap(page)
    page.lock.unlock()
    if page is not cached:
        cached.lock.unlock()
        await put_page(cached)
    if write and not writable:
        current = await probe_entry(mm, vpn)
        if isinstance(current, Present) and not current.write:
            return await do_wp_page(mm, vma, vpn, orig=current)
    return VM_FAULT_MINOR


@operation()
async def do_wp_page(mm: Mm, vma: Vma, vpn: int, *, orig: Present) -> VmFault:
    """A write to a page that is mapped read-only: let it be written if nobody else has it, or copy it."""
    address = vpn * mm.system.page_size
    ptl = pte_lockptr(mm, vpn)
    await ptl.lock()
    entry = entry_under_lock(mm, vpn)
    if entry != orig or not isinstance(entry, Present):
        ptl.unlock()
        return VM_FAULT_MINOR
    old = entry.page
    if PageAnon(old) and not PageKsm(old):
        if not old.lock.trylock():
            get_page(old)
            ptl.unlock()
            await old.lock.lock()
            await ptl.lock()
            if entry_under_lock(mm, vpn) != orig:
                old.lock.unlock()
                ptl.unlock()
                await put_page(old)
                return VM_FAULT_MINOR
            await put_page(old)
        if await reuse_swap_page(old):
            # All ours: no need to look for it in the parent any more.
            await page_move_anon_rmap(old, vma, address)
            old.lock.unlock()
            store(mm, vma, vpn, attrs.evolve(entry, write=True, dirty=True, young=True))
            ptl.unlock()
            await _flush_after_reuse(mm, vpn)
            return VM_FAULT_MINOR
        old.lock.unlock()
    elif vma.vm_flags & VM_SHARED:
        store(mm, vma, vpn, attrs.evolve(entry, write=True, dirty=True, young=True))
        get_page(old)
        ptl.unlock()
        await _flush_after_reuse(mm, vpn)
        await _dirty_shared(old)
        await put_page(old)
        return VM_FAULT_MINOR
    get_page(old)
    ptl.unlock()
    return await _wp_page_copy(mm, vma, vpn, orig, old)


async def _flush_after_reuse(mm: Mm, vpn: int) -> None:
    """The CPU's own translation said read-only."""
    await mm.system.tlbs.flush_tlb_page(mm, vpn)


async def _dirty_shared(page: Page) -> None:
    await page.lock.lock()
    if page.mapping is not None:
        await set_page_dirty(page)
    page.lock.unlock()


async def _wp_page_copy(mm: Mm, vma: Vma, vpn: int, orig: Present, old: Page) -> VmFault:
    """Copy the page, then put the copy in if the slot is still what it was."""
    address = vpn * mm.system.page_size
    new = None
    if not await anon_vma_prepare(vma):
        new = await mm.system.alloc_page("copy on write")
    if new is None:
        await put_page(old)
        return VM_FAULT_OOM
    touched((old.name, "content"), write=False)
    new.content = old.content
    new.PG_uptodate = True
    if await mem_cgroup_newpage_charge(new, mm):
        await put_page(new)
        await put_page(old)
        return VM_FAULT_OOM
    ptl = pte_lockptr(mm, vpn)
    await ptl.lock()
    copied = entry_under_lock(mm, vpn) == orig
    if copied:
        if not PageAnon(old):
            # One file page less, one anonymous page more: the sum is the same, so there is no peak to note.
            touched((mm.name, "rss_file"))
            mm.rss_file -= 1
            add_mm_counter(mm, "rss_anon", 1)
        flush_cache_page(vma, vpn)
        # Other CPUs must have forgotten the old page before anybody can see the new one.
        await ptep_clear_flush_notify(vma, vpn)
        await page_add_new_anon_rmap(new, vma, address)
        writable = bool(vma.vm_flags & VM_WRITE)
        await set_pte_at(mm, vma, vpn, Present(new, write=writable, young=True, dirty=True))
        await page_remove_rmap(old)
    ptl.unlock()
    if copied:
        await put_page(old)
    else:
        await _discard(new)
    if copied and vma.locked:
        await _munlock_copied(old)
    await put_page(old)
    return VM_FAULT_MINOR


async def _munlock_copied(old: Page) -> None:
    """The locked area has a page of its own now; the old one may be locked by nobody any more."""
    from mmreference.mm.mlock import munlock_vma_page

    await old.lock.lock()
    if old.mapping is not None:
        await munlock_vma_page(old)
    old.lock.unlock()


# -- access -------------------------------------------------------------------------------------------------------------


@operation()
async def access(mm: Mm, address: int, value: int | None) -> int:
    """Read (`value` None) or write the word at the address (bytes): the value read, 0, or a `Signal`."""
    from mmreference.kernel.scheduler import Retry

    write = value is not None
    system = mm.system
    cpu = system.tlbs.this_cpu()
    system.current[cpu] = mm
    while True:
        done = await try_access(mm, address, value)
        if done is not None:
            return done
        async with mm.mmap_sem.read():
            vma = mm.area_at(address)
            touched((mm.name, "vmas"), write=False)
            if vma is None or not vma.vm_flags & (VM_WRITE if write else VM_READ):
                return Signal.SIGSEGV
            signal = fault_signal(await handle_mm_fault(mm, vma, address, write=write))
        if signal is not None:
            return signal
        done = await try_access(mm, address, value)
        if done is not None:
            return done
        await Retry(f"repeat access to {mm.name}[{vpn_of(mm, address) - system.first_vpn}]")


async def try_access(mm: Mm, address: int, value: int | None) -> int | None:
    """What the CPU does: translate by what it remembers or by the tables, note use, and access; None is a fault.

    The tables are looked at again when a translation that was not remembered as dirty is written through.
    """
    from mmreference.kernel.scheduler import Access

    system, vpn, write = mm.system, vpn_of(mm, address), value is not None
    await Access((mm.name, "access", vpn), f"access {mm.name}[{vpn - system.first_vpn}]")
    known = system.tlbs.lookup(mm, vpn)
    if known is None or (write and not known.dirty):
        walked = _walk_hardware(mm, vpn, write=write)
        if walked is None:
            return None
        page, writable, dirty = walked
        system.tlbs.fill(mm, vpn, page, write=writable, dirty=dirty)
    else:
        page = known.page
        if write and not known.write:
            return None
    page_set_key(page, dirty=write)
    touched((page.name, "content"), write=write)
    if value is None:
        content = page.content
        emit("cpu_load", mm=mm, vpn=vpn, page=page, content=content)
        return content
    stale = known is not None and not _still_mapped(mm, vpn, page)
    emit("cpu_store", mm=mm, vpn=vpn, page=page, value=value, stale=stale)
    page.content = value
    return 0


def _still_mapped(mm: Mm, vpn: int, page: Page) -> bool:
    """Ghost: whether the tables say what the CPU remembers."""
    level, entry = hardware_entry(mm, vpn)
    return isinstance(entry, Present) and level is not None


def hardware_entry(mm: Mm, vpn: int) -> tuple[str | None, Entry | None]:
    """The entry that the hardware finds for a base page number, and its level."""
    order = mm.system.huge_page_order
    first = vpn >> order << order
    if first in mm.huge:
        return "huge", mm.huge[first]
    index = pmd_index(mm, vpn)
    if index in mm.pmds:
        return "pmd", mm.pmds[index]
    table = mm.tables.get(index)
    return "pte", table.entries.get(vpn) if table is not None else None


def _walk_hardware(mm: Mm, vpn: int, *, write: bool) -> tuple[Page, bool, bool] | None:
    """Walk the tables and set the young and dirty bits, in one go: page, writable, dirty; None is a fault."""
    system = mm.system
    level, entry = hardware_entry(mm, vpn)
    key = vpn if level == "pte" else pmd_index(mm, vpn)
    if level == "huge":
        key = vpn >> system.huge_page_order << system.huge_page_order
    touched((mm.name, level or "pte", key), write=False)
    if not isinstance(entry, Present) or (write and not entry.write) or entry.splitting or entry.none:
        return None
    if system.software_dirty_young and (not entry.young or (write and not entry.dirty)):
        return None
    if not system.storage_keys:
        noted = attrs.evolve(entry, young=True, dirty=entry.dirty or write)
        if noted != entry:
            store(mm, None, key * system.ptrs_per_pte if level == "pmd" else key, noted, level or "pte")
            entry = noted
    page = entry.page
    if level == "pmd":
        page = page.subpages[vpn % system.ptrs_per_pte]
    return page, entry.write, entry.dirty or system.storage_keys


# -- fork and unmapping -------------------------------------------------------------------------------------------------


@operation()
async def copy_page_range(dst: Mm, src: Mm, copy: Vma, vma: Vma) -> int:
    """Copy the entries of an area for fork; private ones lose their right to write on both sides: 0 or -ENOMEM."""
    from mmreference.mm.huge_memory import copy_huge_pmd
    from mmreference.mm.hugetlb_anon import copy_hugetlb_page_range

    if vma.vm_flags & VM_HUGETLB:
        return int(await copy_hugetlb_page_range(dst, src, copy, vma))
    # What a file has can be faulted in again; what is anonymous, or nonlinear, cannot.
    if not vma.nonlinear and vma.anon_vma is None:
        return 0
    cow = vma.is_cow
    if cow:
        await mmu_notifier_invalidate_range_start(src, vma.vm_start, vma.vm_end)
    error = 0
    vpn = vma.vpns.start
    while vpn < vma.vpns.stop and not error:
        if pmd_index(src, vpn) in src.pmds:
            error = await copy_huge_pmd(dst, src, copy, vma, vpn)
            if not error:
                vpn = (pmd_index(src, vpn) + 1) * src.system.ptrs_per_pte
            elif error == -errno.EAGAIN:
                error = 0
            continue
        if pmd_index(src, vpn) in src.tables:
            error = await _copy_pte(dst, src, copy, vma, vpn, cow=cow)
        vpn += 1
    if cow:
        await mmu_notifier_invalidate_range_end(src, vma.vm_start, vma.vm_end)
    return error


async def _copy_pte(dst: Mm, src: Mm, copy: Vma, vma: Vma, vpn: int, *, cow: bool) -> int:
    system = src.system
    if await pte_alloc(dst, vpn) is None:
        return -errno.ENOMEM
    ptl = pte_lockptr(dst, vpn)
    await ptl.lock()
    src_ptl = pte_lockptr(src, vpn)
    await src_ptl.lock(nested=True)
    entry = entry_under_lock(src, vpn)
    error = 0
    if isinstance(entry, SwapEntry):
        error = await swap_duplicate(system, entry.slot)
        if not error:
            if not dst.on_mmlist:
                async with system.mmlist_lock:
                    emit("mmlist_add", mm=dst)
                    dst.on_mmlist = True
            dst.swapents += 1
            store(dst, copy, vpn, entry)
    elif isinstance(entry, MigrationEntry):
        add_mm_counter(dst, rss_counter(entry.page), 1)
        if entry.write and cow:
            # Restored, it must not be writable on either side.
            entry = MigrationEntry(entry.page, write=False)
            store(src, vma, vpn, entry)
        store(dst, copy, vpn, entry)
    elif isinstance(entry, Present):
        page = entry.page
        if cow and entry.write:
            entry = attrs.evolve(entry, write=False)
            store(src, vma, vpn, entry)
        child = attrs.evolve(entry, young=False, dirty=entry.dirty and not vma.vm_flags & VM_SHARED)
        get_page(page)
        await page_dup_rmap(page)
        add_mm_counter(dst, rss_counter(page), 1)
        touched((dst.name, rss_counter(page)))
        store(dst, copy, vpn, child)
    elif entry is not None:
        store(dst, copy, vpn, entry)
    emit("pte_copied", src=src, dst=dst, vpn=vpn, entry=entry, cow=cow)
    src_ptl.unlock()
    ptl.unlock()
    if isinstance(entry, Present) and cow:
        await system.tlbs.flush_tlb_page(src, vpn)
    return error


@operation()
async def unmap_page_range(vma: Vma, start: int, end: int, *, keep_cows: bool = False, keep_order: bool = False) -> None:
    """Empty the slots of `[start, end)` (bytes) and drop what they held; after the flush, the references.

    `keep_cows` leaves private copies alone; `keep_order` leaves a nonlinear area's order of pages as it is.
    """
    from mmreference.mm.huge_memory import split_huge_page_pmd, zap_huge_pmd
    from mmreference.mm.hugetlb_anon import unmap_hugepage_range

    mm, system = vma.mm, vma.mm.system
    if vma.vm_flags & VM_HUGETLB:
        await unmap_hugepage_range(vma, start, end)
        return
    vpn, last = start // system.page_size, end // system.page_size
    while vpn < last:
        index = pmd_index(mm, vpn)
        touched((mm.name, "pmd", index), write=False)
        if index in mm.pmds:
            first = index * system.ptrs_per_pte
            if vpn != first or last < first + system.ptrs_per_pte:
                await split_huge_page_pmd(mm, vpn)
            elif await zap_huge_pmd(vma, vpn):
                vpn = first + system.ptrs_per_pte
                continue
        if index in mm.tables:
            await _zap_pte(vma, vpn, keep_cows=keep_cows, keep_order=keep_order)
        vpn += 1


async def _zap_pte(vma: Vma, vpn: int, *, keep_cows: bool, keep_order: bool) -> None:
    mm, system = vma.mm, vma.mm.system
    dropped: Page | None = None
    freed_slot = None
    async with pte_lockptr(mm, vpn):
        entry = entry_under_lock(mm, vpn)
        if isinstance(entry, Present):
            page = entry.page
            if keep_cows and PageAnon(page):
                return
            flush_cache_page(vma, vpn)
            cleared = await ptep_clear_flush(vma, vpn)
            assert isinstance(cleared, Present)
            if keep_order and page.index != linear_page_index(vma, vpn * system.page_size):
                await set_pte_at(mm, vma, vpn, FileEntry(page.index))
            if not PageAnon(page):
                if cleared.dirty:
                    await set_page_dirty(page)
                if cleared.young and not vma.vm_flags & VM_SEQ_READ:
                    await mark_page_accessed(page)
            update_hiwater_rss(mm)
            emit("dec_rss", mm=mm, field=rss_counter(page))
            touched((mm.name, rss_counter(page)))
            add_mm_counter(mm, rss_counter(page), -1)
            await page_remove_rmap(page)
            dropped = page
        elif isinstance(entry, SwapEntry):
            if keep_cows:
                return
            mm.swapents -= 1
            store(mm, vma, vpn, None)
            freed_slot = entry.slot
        elif isinstance(entry, MigrationEntry):
            if keep_cows and PageAnon(entry.page):
                return
            update_hiwater_rss(mm)
            emit("dec_rss", mm=mm, field=rss_counter(entry.page))
            add_mm_counter(mm, rss_counter(entry.page), -1)
            store(mm, vma, vpn, None)
        elif isinstance(entry, HwPoisonEntry) or (entry is not None and not keep_cows and not keep_order):
            store(mm, vma, vpn, None)
    if dropped is not None:
        await free_page_and_swap_cache(dropped)
    if freed_slot is not None:
        await free_swap_and_cache(system, freed_slot)


@operation()
async def zap_page_range(vma: Vma, start: int, end: int) -> None:
    """Empty `[start, end)` (bytes) of an area that stays, with `mmap_sem` held for read."""
    await mmu_notifier_invalidate_range_start(vma.mm, start, end)
    await unmap_page_range(vma, start, end, keep_order=vma.nonlinear)
    await mmu_notifier_invalidate_range_end(vma.mm, start, end)


@operation()
async def unmap_mapping_range(mapping: AddressSpace, start: int, end: int | None, *, even_cows: bool) -> None:
    """Unmap the indices `[start, end)` (base pages; None is no end) of a file from all areas that map it.

    `even_cows` takes private copies along, as truncation does.
    """
    system = mapping.system
    async with mapping.i_mmap_mutex:
        for vma in list(mapping.i_mmap):
            first = max(start, vma.vm_pgoff)
            last = vma.vm_pgoff + vma.npages if end is None else min(end, vma.vm_pgoff + vma.npages)
            if first >= last:
                continue
            begin = vma.vm_start + (first - vma.vm_pgoff) * system.page_size
            finish = vma.vm_start + (last - vma.vm_pgoff) * system.page_size
            await mmu_notifier_invalidate_range_start(vma.mm, begin, finish)
            await unmap_page_range(vma, begin, finish, keep_cows=not even_cows)
            await mmu_notifier_invalidate_range_end(vma.mm, begin, finish)
        for vma in list(mapping.i_mmap_nonlinear):
            await _unmap_nonlinear(vma, start, end)


async def _unmap_nonlinear(vma: Vma, start: int, end: int | None) -> None:
    """Where a page is in a nonlinear area nobody knows: look at every slot."""
    from mmreference.mm.pagetable import read_entry

    mm, size = vma.mm, vma.mm.system.page_size
    await mmu_notifier_invalidate_range_start(mm, vma.vm_start, vma.vm_end)
    for vpn in vma.vpns:
        entry = read_entry(mm, vpn)
        touched((mm.name, "pte", vpn), write=False)
        if isinstance(entry, Present) and start <= entry.page.index and (end is None or entry.page.index < end):
            # What belongs here is still that index of the file, which is gone; noted as the slot is emptied, for the area
            # may be going, too, and another page may have come here since.
            await unmap_page_range(vma, vpn * size, (vpn + 1) * size, keep_cows=True, keep_order=True)
    await mmu_notifier_invalidate_range_end(mm, vma.vm_start, vma.vm_end)


