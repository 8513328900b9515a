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
from mmreference.mm.rmap.unmap import is_vma_temporary_stack
from mmreference.mm.system import System
from mmspec.contracts import operation
from mmspec.trace import emit, note

VM_STACK_FLAGS = VM_GROWSDOWN | VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE


@operation()
async def setup_temporary_stack(mm: Mm, length: int) -> int:
    """A stack of `length` bytes at a temporary place, as far up as possible: its address, or -ENOMEM."""
    system = mm.system
    async with mm.mmap_sem.write():
        top = system.arch.user_end // system.pmd_size * system.pmd_size
        for vma in reversed(mm.vmas):
            if vma.vm_end > top - length - system.pmd_size:
                top = vma.vm_start // system.pmd_size * system.pmd_size - system.pmd_size
        address = top - length
        flags = VM_STACK_FLAGS | VM_STACK_INCOMPLETE_SETUP
        new = await vma_alloc(mm, address, top, flags, address // system.page_size, None)
        if new is None:
            return -errno.ENOMEM
        await vma_link(new)
        mm.total_vm += new.npages
        mm.true_peak_vm = max(mm.true_peak_vm, mm.total_vm)
    return address


def temporary_stack(mm: Mm) -> Vma | None:
    """The stack that is still being set up, or None."""
    return next((v for v in mm.vmas if is_vma_temporary_stack(v)), None)


@operation()
async def copy_strings(mm: Mm, address: int, values: Sequence[int]) -> int:
    """Put one word on each page of the temporary stack at the address (bytes): 0 or -E2BIG."""
    size = mm.system.page_size
    async with mm.mmap_sem.read():
        for number, value in enumerate(values):
            page = await get_user_page(mm, address + number * size, write=True)
            if not isinstance(page, Page):
                return -errno.E2BIG
            touched((page.name, "content"))
            page.content = value
            await put_page(page)
    return 0


@operation()
async def shift_arg_pages(vma: Vma, shift: int) -> int:
    """Move the stack down by `shift` bytes: 0, -EFAULT if something is in the way, -ENOMEM.

    After -ENOMEM it is where it was. (3.2 leaves entries at either place then, for the process is going to end.)
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
    moved = await move_page_tables(vma, old_start, vma, new_start, length)
    if moved < length:
        # Backwards, as the places may overlap.
        for offset in reversed(range(0, moved, system.page_size)):
            await move_page_tables(vma, new_start + offset, vma, old_start + offset, system.page_size)
        error = await vma_adjust(vma, old_start, old_end, vma.vm_pgoff)
        bug_on(error, "an area that shrinks needs no memory")
        _free_tables(mm, new_start, old_start)
        return -errno.ENOMEM
    emit("stack_moved", vma=vma, old=old_start, new=new_start, length=length)
    await lru_add_drain(system)
    error = await vma_adjust(vma, new_start, new_end, vma.vm_pgoff)
    bug_on(error, "an area that shrinks needs no memory")
    _free_tables(mm, new_end, old_end)
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
async def setup_arg_pages(mm: Mm, shift: int) -> int:
    """Make the temporary stack the final one, `shift` bytes further down: 0, -EINVAL without one, or why it cannot move."""
    async with mm.mmap_sem.write():
        vma = temporary_stack(mm)
        if vma is None or shift < 0 or shift % mm.system.page_size or shift > vma.vm_start:
            return -errno.EINVAL
        if shift:
            error = await shift_arg_pages(vma, shift)
            if error:
                return error
        touched((vma.name, "vm_flags"))
        vma.vm_flags &= ~VM_STACK_INCOMPLETE_SETUP
    return 0


@operation()
async def do_execve(system: System, values: Sequence[int], shift: int) -> Mm | int:
    """A new address space with a stack that holds one word per page, moved down by `shift` bytes; or -E2BIG or -ENOMEM."""
    from mmreference.mm.fork import mmput

    mm = system.new_mm()
    note(child=mm)
    address = await setup_temporary_stack(mm, len(values) * system.page_size)
    error = address if address < 0 else await copy_strings(mm, address, values) or await setup_arg_pages(mm, shift)
    if error:
        await mmput(mm)
        return error
    return mm
