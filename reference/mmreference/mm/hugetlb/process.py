"""Processes: fork, exit, and memory accesses with the faults that they cause."""

from __future__ import annotations

import errno

from mmreference.kernel.scheduler import Access, Retry, may_fail, touched
from mmreference.mm.hugetlb.fault import hugetlb_fault
from mmreference.mm.hugetlb.mmap import remove_vma
from mmreference.mm.hugetlb.page import Page, get_page, put_page
from mmreference.mm.hugetlb.pagetable import (
    flush_tlb_page,
    huge_page_number,
    huge_pte_alloc,
    huge_ptep_set_wrprotect,
    set_huge_pte_at,
    unmap_hugepage_range,
)
from mmreference.mm.hugetlb.resv_map import reset_vma_resv_huge_pages
from mmreference.mm.hugetlb.system import System
from mmreference.mm.hugetlb.vma import VM_WRITE, Mm, Pte, Vma, hugetlb_vm_op_open
from mmspec.contracts import operation
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, Signal
from mmspec.invariants.hugetlb.views import access_view, fork_view
from mmspec.trace import emit, note


@operation(view=fork_view)
async def dup_mm(oldmm: Mm) -> Mm | int:
    """fork: a copy of the address space without the reservations, or -ENOMEM and no trace of the attempt."""
    system = oldmm.system
    child = system.new_mm()
    note(child=child)
    error = 0
    async with oldmm.mmap_sem.write():
        for vma in list(oldmm.vmas):
            if await may_fail("vm_area_struct"):
                error = -errno.ENOMEM
                break
            copy = vma.copy(child)
            # Before the copy can be seen, and before open would take a reference for it.
            reset_vma_resv_huge_pages(copy)
            async with vma.vm_file.i_mmap_lock:
                vma.vm_file.i_mmap[copy] = None
            child.link(copy)
            error = await copy_hugetlb_page_range(child, oldmm, vma, copy)
            hugetlb_vm_op_open(copy)
            if error:
                break
    if error:
        await mmput(child)
        return error
    return child


@operation()
async def copy_hugetlb_page_range(dst: Mm, src: Mm, vma: Vma, copy: Vma) -> int:
    """Copy all present entries of the VMA, write-protecting private ones on both sides: 0 or -ENOMEM."""
    for address in range(vma.vm_start, vma.vm_end, vma.huge_page_size):
        vpn = huge_page_number(src, address)
        if vpn not in src.ptes:
            continue
        if not await huge_pte_alloc(dst, address):
            return -errno.ENOMEM
        async with dst.page_table_lock:
            await src.page_table_lock.lock(nested=True)
            entry = src.ptes.get(vpn)
            if entry is not None:
                if not vma.is_shared and entry.writable:
                    huge_ptep_set_wrprotect(src, vma, vpn)
                    flush_tlb_page(src, vpn)
                get_page(entry.page)
                set_huge_pte_at(dst, copy, vpn, Pte(entry.page, writable=entry.writable and vma.is_shared))
            src.page_table_lock.unlock()
    return 0


@operation()
async def mmput(mm: Mm) -> None:
    """exit: the last user is gone; everything is unmapped and closed. Needs no `mmap_sem`."""
    mm.users -= 1
    for vma in list(mm.vmas):
        await unmap_hugepage_range(vma, vma.vm_start, vma.vm_end)
    for vma in list(mm.vmas):
        mm.unlink(vma)
        await remove_vma(vma)
    mm.system.forget_mm(mm)


@operation(view=access_view)
async def access(mm: Mm, address: int, value: int | None) -> int:
    """Read (`value` None) or write memory at the address in bytes: the value read, 0, or a `Signal`."""
    write = value is not None
    vpn = huge_page_number(mm, address)
    while True:
        done = await _try_access(mm, address, value)
        if done is not None:
            return done
        signal = await _user_fault(mm, address, write)
        if signal is not None:
            return signal
        done = await _try_access(mm, address, value)
        if done is not None:
            return done
        await Retry(f"repeat access to {mm.name}[{vpn - mm.system.first_vpn}]")


@operation()
async def get_user_pages(mm: Mm, address: int, *, write: bool) -> Page | Signal:
    """Pin the huge page at the address through one of its tail pages: the page, to be released by :func:`unpin`.

    Repeats the fault inside the kernel until the page is there.
    """
    vpn = huge_page_number(mm, address)
    while True:
        async with mm.page_table_lock:
            entry = mm.ptes.get(vpn)
            touched((mm.name, "pte", vpn), write=False)
            if entry is not None and (entry.writable or not write):
                page = entry.page.head
                page.pins += 1
                page._count += 1
                emit("pin", page=page)
                return page
        signal = await _user_fault(mm, address, write)
        if signal is not None:
            return signal
        if vpn not in mm.ptes:
            await Retry(f"repeat pinning of {mm.name}[{vpn - mm.system.first_vpn}]")


async def unpin(page: Page) -> None:
    """Release a pinned page."""
    page.pins -= 1
    page.temp_refs += 1
    await put_page(page)


async def _try_access(mm: Mm, address: int, value: int | None) -> int | None:
    """What the CPU does: translate and access, or None for a fault."""
    vpn = huge_page_number(mm, address)
    offset = address % mm.system.arch.huge_page_size
    await Access((mm.name, "pte", vpn), f"translate {mm.name}[{vpn - mm.system.first_vpn}]")
    entry = mm.system.tlbs.translate(mm, vpn, value is not None)
    if entry is None:
        return None
    page = entry.page
    # Who copies or clears the page meanwhile is at all of its words.
    touched((page.name, "content"), write=False)
    touched((page.name, "content", offset), write=value is not None)
    if value is None:
        content = page.content.get(offset, 0)
        emit("load", mm=mm, vpn=vpn, page=page, content=content)
        return content
    emit("store", mm=mm, vpn=vpn, page=page, value=value)
    page.content = {**page.content, offset: value}
    return 0


async def _user_fault(mm: Mm, address: int, write: bool) -> Signal | None:
    async with mm.mmap_sem.read():
        vma = mm.find_vma(address)
        if vma is None or (write and not vma.vm_flags & VM_WRITE):
            return Signal.SIGSEGV
        result = await hugetlb_fault(mm, vma, address, write)
    if result is VM_FAULT_MINOR:
        return None
    return Signal.SIGKILL if result is VM_FAULT_OOM else Signal.SIGBUS


__all__ = ["System", "access", "copy_hugetlb_page_range", "dup_mm", "mmput"]
