"""mlock: areas whose pages stay in memory, and the flag of the pages that keeps reclaim away."""

from __future__ import annotations

import errno

from mmreference.kernel.scheduler import touched
from mmreference.mm.lru import isolate_lru_page, putback_lru_page
from mmreference.mm.mm_struct import VM_HUGETLB, VM_LOCKED, VM_WRITE, Mm, Vma
from mmreference.mm.page import Page, PageTransHuge, page_mapcount, put_page
from mmspec.contracts import operation
from mmspec.errors import SWAP_MLOCK
from mmspec.trace import emit, note


def set_mlocked(page: Page, vma: Vma | None) -> None:
    """Mark the locked page as being in an area that is locked in memory."""
    emit("set_mlocked", page=page, vma=vma)
    touched((page.name, "PG_mlocked"))
    page.PG_mlocked = True
    page.system.zone.NR_MLOCK += 1


def mlocked_vma_newpage(vma: Vma, page: Page) -> bool:
    """Whether a new page comes into a locked area; it is marked then, as nobody else can have seen it."""
    if not vma.locked:
        return False
    if not page.PG_mlocked:
        page.PG_mlocked = True
        page.system.zone.NR_MLOCK += 1
        emit("mlocked_newpage", page=page, vma=vma)
    return True


@operation()
async def mlock_vma_page(page: Page, vma: Vma | None = None) -> None:
    """Mark a locked page and move it to the unevictable list."""
    emit("mlock_vma_page", page=page, vma=vma, locked=page.locked)
    if not page.PG_mlocked:
        set_mlocked(page, vma)
        if await isolate_lru_page(page):
            await putback_lru_page(page)


@operation()
async def munlock_vma_page(page: Page) -> None:
    """An area that locked the page does so no more: take the mark off, unless another area is found that wants it."""
    from mmreference.mm.rmap.unmap import try_to_munlock

    touched((page.name, "PG_mlocked"))
    note(was_mlocked=page.PG_mlocked)
    if not page.PG_mlocked:
        return
    page.PG_mlocked = False
    page.system.zone.NR_MLOCK -= 1
    if not await isolate_lru_page(page):
        # Reclaim, or whoever has it off the list, puts it back where it belongs.
        note(isolated=False)
        return
    note(isolated=True)
    # If we have the only mapping there is nobody to ask.
    if page_mapcount(page) > 1:
        result = await try_to_munlock(page)
        note(munlock=result)
        emit("munlock_result", page=page, again=result is SWAP_MLOCK)
    await putback_lru_page(page)


@operation()
async def clear_page_mlock(page: Page) -> None:
    """A locked page leaves its file: nobody locks it any more."""
    touched((page.name, "PG_mlocked"))
    if not page.PG_mlocked:
        return
    page.PG_mlocked = False
    page.system.zone.NR_MLOCK -= 1
    if await isolate_lru_page(page):
        await putback_lru_page(page)


@operation()
async def munlock_vma_pages_range(vma: Vma, start: int, end: int) -> None:
    """Munlock what is present of `[start, end)` (bytes); `mmap_sem` is held for write, so no walk finds the area locked.

    Permissions do not matter: an area without any may have been locked before it lost them.
    """
    from mmreference.mm.gup import follow_page
    from mmreference.mm.huge_memory import split_huge_page

    touched((vma.name, "vm_flags"))
    vma.vm_flags &= ~VM_LOCKED
    system = vma.mm.system
    for address in range(start, end, system.page_size):
        page = await follow_page(vma, address)
        if page is None:
            continue
        if PageTransHuge(page) and not page.huge:
            await split_huge_page(page)
        await page.lock.lock()
        # A file's page may have been truncated meanwhile.
        if page.mapping is not None:
            await munlock_vma_page(page)
        page.lock.unlock()
        await put_page(page)


@operation()
async def mlock_vma_pages_range(vma: Vma, start: int, end: int) -> int:
    """Bring in and mark `[start, end)` (bytes) of a locked area: 0 or the error of the first fault."""
    from mmreference.mm.gup import get_user_page
    from mmreference.mm.huge_memory import split_huge_page

    if vma.vm_flags & VM_HUGETLB:
        return 0
    for address in range(start, end, vma.mm.system.page_size):
        page = await get_user_page(vma.mm, address, write=bool(vma.vm_flags & VM_WRITE) and vma.is_cow)
        if not isinstance(page, Page):
            return -errno.EAGAIN
        if PageTransHuge(page) and not page.huge:
            await split_huge_page(page)
        await page.lock.lock()
        if page.mapping is not None:
            await mlock_vma_page(page, vma)
        page.lock.unlock()
        await put_page(page)
    return 0


@operation()
async def do_mlock(mm: Mm, start: int, end: int, *, on: bool) -> int:
    """mlock or munlock `[start, end)` (bytes): 0, -ENOMEM for a hole or without memory, -EAGAIN if pages do not come."""
    from mmreference.mm.mmap import split_to

    error = 0
    async with mm.mmap_sem.write():
        vmas = await split_to(mm, start, end)
        if isinstance(vmas, int):
            return vmas
        for vma in vmas:
            if on and not vma.locked and not vma.vm_flags & VM_HUGETLB:
                touched((vma.name, "vm_flags"))
                vma.vm_flags |= VM_LOCKED
                emit("vma_mlock", vma=vma)
            elif not on and vma.locked:
                await munlock_vma_pages_range(vma, vma.vm_start, vma.vm_end)
        covered = sum(v.vm_end - v.vm_start for v in vmas) == end - start
    if not covered:
        return -errno.ENOMEM
    if on:
        async with mm.mmap_sem.read():
            for vma in [v for v in mm.vmas if v.vm_start < end and start < v.vm_end and v.locked]:
                error = await mlock_vma_pages_range(vma, max(start, vma.vm_start), min(end, vma.vm_end))
                if error:
                    break
    return error
