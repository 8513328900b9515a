"""Huge-page faults.

Two locking variants, both complete. With the *instantiation mutex* (2008) one fault at a time decides in the whole
system. In the *tentative* variant (2006) faults run in parallel, also while they clear their pages; the pool counts
the pages whose fate is open, and a fault that finds it empty repeats unless that is known to be in vain.
"""

from __future__ import annotations

import errno

from mmreference.kernel.locks import might_sleep
from mmreference.kernel.scheduler import Pause, may_fail, touched
from mmreference.mm.hugetlb.file import Inode, add_to_page_cache, find_lock_page, i_size_read
from mmreference.mm.hugetlb.page import Page, get_page, put_page
from mmreference.mm.hugetlb.pagetable import (
    huge_page_number,
    huge_pte_alloc,
    huge_ptep_clear_flush,
    huge_ptep_get,
    pte_same,
    replace_huge_pte,
    set_huge_pte_at,
    set_huge_ptep_writable,
)
from mmreference.mm.hugetlb.pool import (
    alloc_huge_page,
    fault_result,
    hugetlb_acct_memory,
    keep_huge_page,
    sample_generation,
)
from mmreference.mm.hugetlb.quota import hugetlb_get_quota, hugetlb_put_quota
from mmreference.mm.hugetlb.region import covered
from mmreference.mm.hugetlb.resv_map import (
    HPAGE_RESV_OWNER,
    HPAGE_RESV_UNMAPPED,
    is_vma_resv_set,
    reservations_of,
    set_vma_resv_flags,
    vma_needs_reservation,
)
from mmreference.mm.hugetlb.vma import VM_WRITE, Mm, Pte, Vma
from mmspec.config import INSTANTIATION_MUTEX
from mmspec.contracts import operation
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, VmFault
from mmspec.invariants.hugetlb.views import fault_view
from mmspec.trace import emit, note


@operation(view=fault_view)
async def hugetlb_fault(mm: Mm, vma: Vma, address: int, write: bool) -> VmFault:
    """Handle a fault at the address (bytes), with `mmap_sem` held for read.

    VM_FAULT_MINOR: the access is to be repeated; it will succeed, or fault again where a race was lost.
    VM_FAULT_SIGBUS: beyond the end of the file, or no quota. VM_FAULT_OOM: no page, and none to hope for.
    """
    idx = vma.index(address)
    note(idx=idx)
    if not await huge_pte_alloc(mm, address):
        return VM_FAULT_OOM
    # Truncation must see the whole of an instantiation or nothing of it.
    async with vma.vm_file.fault_sem.read():
        if mm.system.variant != INSTANTIATION_MUTEX:
            return await _handle_entry(mm, vma, address, idx, write)
        async with mm.system.hugetlb_instantiation_mutex:
            return await _handle_entry(mm, vma, address, idx, write)


async def _handle_entry(mm: Mm, vma: Vma, address: int, idx: int, write: bool) -> VmFault:
    seen_gen = await sample_generation(vma.pool)
    vpn = huge_page_number(mm, address)
    entry = await huge_ptep_get(mm, vpn)
    if entry is None:
        result = await hugetlb_no_page(mm, vma, vpn, idx, write, seen_gen)
    else:
        result = await _protection_fault(mm, vma, vpn, idx, entry, write, seen_gen)
    reservations = reservations_of(vma)
    if reservations is not None:
        reservations.forget_preparations()
    return result


async def _protection_fault(
    mm: Mm, vma: Vma, vpn: int, idx: int, entry: Pte, write: bool, seen_gen: int
) -> VmFault:
    if not write or entry.writable:
        return VM_FAULT_MINOR
    charge = 0
    if not vma.is_shared:
        # Copying may need memory for the region list, which cannot be had under the spinlock.
        charge = await vma_needs_reservation(vma, idx)
        if charge < 0:
            return VM_FAULT_OOM
    async with mm.page_table_lock:
        if not pte_same(mm, vpn, entry):
            return VM_FAULT_MINOR
        if vma.is_shared:
            # Write-protected by mprotect; nothing to copy.
            set_huge_ptep_writable(mm, vma, vpn)
            return VM_FAULT_MINOR
        return await hugetlb_cow(mm, vma, vpn, idx, entry, charge, seen_gen)


@operation()
async def hugetlb_no_page(mm: Mm, vma: Vma, vpn: int, idx: int, write: bool, seen_gen: int) -> VmFault:
    """Fill an empty entry from the page cache or with a new page.

    `seen_gen` is the pool's generation before the entry was found empty.
    """
    inode = vma.vm_file
    if is_vma_resv_set(vma, HPAGE_RESV_UNMAPPED):
        # The owner of the reservation has taken this process's page; zeros in its place would be a lie.
        emit("unmapped_for_owner", vma=vma)
        return VM_FAULT_SIGBUS
    while True:
        page = await find_lock_page(inode, idx)
        # The size is tested with an existing page locked, and before a missing one is allocated: beyond the end of
        # the file the answer is SIGBUS, however empty the pool.
        if idx >= await i_size_read(inode, idx):
            if page is not None:
                page.lock.unlock()
                await put_page(page)
            return VM_FAULT_SIGBUS
        charge = 0
        if page is None or (write and not vma.is_shared):
            charge = await vma_needs_reservation(vma, idx)
            if charge < 0:
                if page is not None:
                    page.lock.unlock()
                    await put_page(page)
                return VM_FAULT_OOM
        if page is not None:
            return await _map_page(mm, vma, vpn, idx, page, write, charge, seen_gen, new=False)
        new = await _new_page(vma, idx, charge, seen_gen)
        if isinstance(new, VmFault):
            return new
        if not vma.is_shared:
            if await may_fail("anon_vma"):
                emit("anon_vma_failed", vma=vma)
                await put_page(new)
                return VM_FAULT_OOM
            await new.lock.lock()
            return await _map_page(mm, vma, vpn, idx, new, write, charge, seen_gen, new=True)
        error, superseded = await _insert_page(new, inode, idx)
        if error == 0:
            # Settled with the page still locked, so that truncation never meets a page in flight.
            await keep_huge_page(new, vma, idx)
            if superseded:
                await hugetlb_acct_memory(vma.pool, -1)
                await hugetlb_put_quota(inode.sb, 1)
            return await _map_page(mm, vma, vpn, idx, new, write, charge, seen_gen, new=False)
        emit("insert_failed", inode=inode, idx=idx, error=error)
        await put_page(new)
        if error != -errno.EEXIST:
            return VM_FAULT_SIGBUS
        seen_gen = await sample_generation(vma.pool)


async def _insert_page(page: Page, inode: Inode, idx: int) -> tuple[int, bool]:
    """Make the page the file's; whether that makes a reservation idle, made since the page was allocated without."""
    if page.drawn_from is not None:
        return await add_to_page_cache(page, inode, idx), False
    async with inode.resv_map.lock:
        error = await add_to_page_cache(page, inode, idx)
        superseded = error == 0 and covered(inode.resv_map.regions, idx)
        if superseded:
            inode.system.pool.books.withdraw(1)
    return error, superseded


async def _new_page(vma: Vma, idx: int, charge: int, seen_gen: int) -> Page | VmFault:
    """Quota, page, zeros; or the fault's answer where one of them is not to be had."""
    blocked = await _get_fault_quota(vma, charge, seen_gen)
    if blocked is not None:
        return blocked
    page = await alloc_huge_page(vma, idx, charge, seen_gen)
    if isinstance(page, int):
        await _put_fault_quota(vma, charge, page)
        return fault_result(page)
    await _return_double_charge(vma, charge, page)
    await clear_huge_page(page)
    return page


async def _get_fault_quota(vma: Vma, charge: int, seen_gen: int) -> VmFault | None:
    """Take a block for an allocation that no reservation has paid for; None if that worked."""
    if not charge:
        return None
    error = await hugetlb_get_quota(vma.vm_file.sb, charge, in_flight=True)
    if error == 0:
        return None
    if vma.pool.counts_in_flight and (error == -errno.EAGAIN or await sample_generation(vma.pool) != seen_gen):
        # The block that is missing was taken for a page in flight, perhaps the very page that this fault wants.
        return VM_FAULT_MINOR
    emit("quota_exhausted", sb=vma.vm_file.sb, seen_gen=seen_gen, gen=vma.pool.gen)
    return VM_FAULT_SIGBUS


async def _put_fault_quota(vma: Vma, charge: int, error: int) -> None:
    if charge:
        await hugetlb_put_quota(vma.vm_file.sb, charge, in_flight=True, news=error != -errno.EAGAIN)


async def _return_double_charge(vma: Vma, charge: int, page: Page) -> None:
    """Since the prepare step somebody has reserved the offset, and the page was drawn from that reservation."""
    if charge and page.drawn_from is not None:
        await hugetlb_put_quota(vma.vm_file.sb, charge, in_flight=True)


async def clear_huge_page(page: Page) -> None:
    """Zero a page that nobody else can see; takes long."""
    might_sleep("clear_huge_page")
    emit("clear_huge_page", page=page)
    await Pause(f"clear {page.name}")
    page.content = {}
    emit("cleared", page=page)


async def copy_huge_page(new: Page, old: Page) -> None:
    """Copy a page; takes long."""
    might_sleep("copy_huge_page")
    emit("copy", new=new, old=old)
    await Pause(f"copy {old.name} to {new.name}")
    touched((old.name, "content"))
    new.content = old.content
    emit("copied", new=new, old=old, before=old.content, after=new.content)


async def _map_page(
    mm: Mm, vma: Vma, vpn: int, idx: int, page: Page, write: bool, charge: int, seen_gen: int, *, new: bool
) -> VmFault:
    """Map a locked page, to which the caller has a reference, unless somebody has filled the entry meanwhile."""
    result = VM_FAULT_MINOR
    await mm.page_table_lock.lock()
    if not pte_same(mm, vpn, None):
        mm.page_table_lock.unlock()
        page.lock.unlock()
        await put_page(page)
        return result
    entry = Pte(page, writable=bool(vma.vm_flags & VM_WRITE) and vma.is_shared)
    set_huge_pte_at(mm, vma, vpn, entry)
    if new:
        await keep_huge_page(page, vma, idx)
    if write and not vma.is_shared:
        # Spares the second fault of a private write.
        result = await hugetlb_cow(mm, vma, vpn, idx, entry, charge, seen_gen)
    mm.page_table_lock.unlock()
    page.lock.unlock()
    return result


@operation()
async def hugetlb_cow(
    mm: Mm, vma: Vma, vpn: int, idx: int, entry: Pte, charge: int, seen_gen: int
) -> VmFault:
    """Make a present, read-only entry of a private mapping writable, by a copy unless the page is ours alone.

    Entered and left with `page_table_lock` held and the entry just checked; drops the lock for the copy.
    """
    old = entry.page
    if await old.count.read() == 1:
        emit("sole_user", page=old, count=old._count)
        set_huge_ptep_writable(mm, vma, vpn)
        return VM_FAULT_MINOR
    blocked = await _get_fault_quota(vma, charge, seen_gen)
    if blocked is not None:
        return blocked
    new = await alloc_huge_page(vma, idx, charge, seen_gen)
    if isinstance(new, int):
        await _put_fault_quota(vma, charge, new)
        if is_vma_resv_set(vma, HPAGE_RESV_OWNER) and mm.system.variant == INSTANTIATION_MUTEX:
            return await _take_page_from_others(mm, vma, vpn, idx, entry)
        return fault_result(new)
    await _return_double_charge(vma, charge, new)
    get_page(old)
    mm.page_table_lock.unlock()
    await copy_huge_page(new, old)
    await mm.page_table_lock.lock()
    if pte_same(mm, vpn, entry):
        replace_huge_pte(mm, vma, vpn, Pte(new, writable=True))
        # A competitor in another address space decides by the old page's count: it must not find the pool empty,
        # nothing in flight, and our references still there.
        await put_page(old)
        await put_page(old)
        emit("old_page_refs_dropped", page=old)
        await keep_huge_page(new, vma, idx)
    else:
        emit("cow_lost", page=new)
        await put_page(old)
        await put_page(new)
    return VM_FAULT_MINOR


async def _take_page_from_others(mm: Mm, vma: Vma, vpn: int, idx: int, entry: Pte) -> VmFault:
    """The process that called mmap was promised its pages: take the page from those that inherited it."""
    mm.page_table_lock.unlock()
    await unmap_ref_private(vma, entry.page, idx)
    await mm.page_table_lock.lock()
    if not pte_same(mm, vpn, entry):
        return VM_FAULT_MINOR
    if await entry.page.count.read() != 1:
        return VM_FAULT_OOM
    set_huge_ptep_writable(mm, vma, vpn)
    return VM_FAULT_MINOR


@operation()
async def unmap_ref_private(vma: Vma, page: Page, idx: int) -> None:
    """Unmap the page from all VMAs that are not its reservation's owner, and mark those."""
    async with vma.vm_file.i_mmap_lock:
        for other in vma.vm_file.i_mmap:
            if other is vma or other.is_shared or is_vma_resv_set(other, HPAGE_RESV_OWNER):
                continue
            if not other.lo <= idx < other.hi:
                continue
            dropped = None
            async with other.mm.page_table_lock:
                vpn = huge_page_number(other.mm, other.address(idx))
                present = other.mm.ptes.get(vpn)
                if present is not None and present.page is page:
                    # The flag comes first: a fault that finds the entry empty finds it as well.
                    set_vma_resv_flags(other, HPAGE_RESV_UNMAPPED)
                    dropped = huge_ptep_clear_flush(other.mm, other, vpn)
            if dropped is not None:
                await put_page(dropped)
