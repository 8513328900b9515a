"""exec: the stack is filled at a temporary place, then moved to where it belongs.

Moving changes the area first and the entries later. Until they are there, walks look for pages at addresses to which
the entries have not come yet; migration leaves such a stack alone, for an entry that it puts in might not be found again.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from mmreference.kernel.bug import bug_on
from mmreference.kernel.scheduler import touched
from mmreference.mm.gup import get_user_page
from mmreference.mm.lru import lru_add_drain
from mmreference.mm.mm_struct import (
    VM_GROWSDOWN,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_STACK_INCOMPLETE_SETUP,
    VM_WRITE,
    Mm,
    Vma,
)
from mmreference.mm.mmap import _in_use, vma_adjust, vma_alloc, vma_link
from mmreference.mm.mremap import move_page_tables
from mmreference.mm.page import Page, put_page
from mmreference.mm.pagetable import pmd_index
from mmreference.mm.system import System
from mmspec.contracts import operation
from mmspec.trace import emit, note

VM_STACK_FLAGS = VM_GROWSDOWN | VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE


@operation()
async def bprm_mm_init(mm: Mm, address: int, pages: int) -> Vma | None:
    """The temporary stack of `pages` base pages from the address (bytes) on; None without memory."""
    system = mm.system
    async with mm.mmap_sem.write():
        end = address + pages * system.page_size
        flags = VM_STACK_FLAGS | VM_STACK_INCOMPLETE_SETUP
        vma = await vma_alloc(mm, address, end, flags, address // system.page_size, None)
        if vma is None:
            return None
        await vma_link(vma)
        mm.total_vm += pages
        mm.true_peak_vm = max(mm.true_peak_vm, mm.total_vm)
    return vma


@operation()
async def copy_strings(mm: Mm, vma: Vma, values: Sequence[int]) -> int:
    """Put one word on each page of the temporary stack: 0 or -E2BIG."""
    size = mm.system.page_size
    async with mm.mmap_sem.read():
        for number, value in enumerate(values):
            page = await get_user_page(mm, vma.vm_start + number * size, write=True)
            if not isinstance(page, Page):
                return -errno.E2BIG
            touched((page.name, "content"))
            page.content = value
            await put_page(page)
    return 0


@operation()
async def shift_arg_pages(vma: Vma, shift: int) -> int:
    """Move the stack down by `shift` bytes: 0, -EFAULT if something is in the way, -ENOMEM.

    After -ENOMEM entries may be at either place, which the area covers both; the process is going to be torn down.
    """
    mm, system = vma.mm, vma.mm.system
    old_start, old_end = vma.vm_start, vma.vm_end
    new_start, new_end = old_start - shift, old_end - shift
    length = old_end - old_start
    bug_on(new_start > new_end or shift <= 0, "a stack is moved downwards")
    if mm.find_vma(new_start) is not vma:
        return -errno.EFAULT
    # Both places, so that nothing else comes there; from here on addresses are those of the new place.
    if await vma_adjust(vma, new_start, old_end, vma.vm_pgoff):
        return -errno.ENOMEM
    emit("stack_adjusted", vma=vma, old=old_start, new=new_start, length=length)
    if await move_page_tables(vma, old_start, vma, new_start, length) != length:
        return -errno.ENOMEM
    emit("stack_moved", vma=vma, old=old_start, new=new_start, length=length)
    await lru_add_drain(system)
    error = await vma_adjust(vma, new_start, new_end, vma.vm_pgoff)
    bug_on(error, "an area that shrinks needs no memory")
    _free_tables(mm, max(new_end, old_start), old_end)
    return 0


def _free_tables(mm: Mm, start: int, end: int) -> None:
    """Free the tables of a range (bytes) that no area reaches into any more."""
    size = mm.system.page_size
    for index in range(pmd_index(mm, start // size), pmd_index(mm, (end - 1) // size) + 1):
        if index in mm.tables and not _in_use(mm, index):
            touched((mm.name, "pmd", index))
            table = mm.tables.pop(index)
            bug_on(table.entries, f"{table.name} is freed with entries", "AVMA-UNLINK-004")
            emit("free_table", mm=mm, index=index)
            table.free()


@operation()
async def setup_arg_pages(mm: Mm, vma: Vma, shift: int) -> int:
    """Make the temporary stack the final one, `shift` bytes further down: 0 or the error of moving it."""
    async with mm.mmap_sem.write():
        bug_on(
            vma.vm_flags & VM_STACK_INCOMPLETE_SETUP != VM_STACK_INCOMPLETE_SETUP,
            f"{vma.name} is not a stack that is being set up",
            "MIGR-STACK-001",
        )
        if shift:
            mm.system.is_temporary_move[vma] = None
            error = await shift_arg_pages(vma, shift)
            mm.system.is_temporary_move.pop(vma)
            if error:
                return error
        touched((vma.name, "vm_flags"))
        vma.vm_flags &= ~VM_STACK_INCOMPLETE_SETUP
        mm.total_vm = sum(v.npages for v in mm.vmas)
    return 0


@operation()
async def do_execve(system: System, values: Sequence[int], shift: int, mm: Mm | None = None) -> Mm | int:
    """A new address space with a stack that holds one word per page, moved down by `shift` bytes: or -E2BIG or -ENOMEM.

    `mm` may be given by somebody who wants to watch it; it is empty then, and taken down after an error.
    """
    from mmreference.mm.fork import mmput

    mm = mm if mm is not None else system.new_mm()
    note(child=mm)
    top = (system.first_pmd + 4) * system.pmd_size
    error = -errno.ENOMEM
    vma = await bprm_mm_init(mm, top - len(values) * system.page_size, len(values))
    if vma is not None:
        error = await copy_strings(mm, vma, values) or await setup_arg_pages(mm, vma, shift)
    if error:
        await mmput(mm)
        return error
    return mm
