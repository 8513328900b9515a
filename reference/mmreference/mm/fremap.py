"""remap_file_pages: pages of a file in another order than the file's, within one area.

Correction to the code of 3.2: walks do not look for migration entries in nonlinear areas, so an area becomes one only
when there is none in it (upstream 7e09e738afd2 makes the walk look for them instead).
"""

from __future__ import annotations

import errno

from mmreference.kernel.scheduler import touched
from mmreference.mm.address_space import vma_link_file, vma_unlink_file
from mmreference.mm.memory import unmap_page_range
from mmreference.mm.migrate import migration_entry_wait
from mmreference.mm.mm_struct import VM_HUGETLB, VM_NONLINEAR, VM_SHARED, Mm, Vma, linear_page_index
from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from mmreference.mm.pagetable import FileEntry, MigrationEntry, entry_under_lock, pmd_index, pte_alloc, pte_lockptr, store
from mmspec.contracts import operation
from mmspec.trace import emit, note


@operation()
async def make_nonlinear(vma: Vma) -> None:
    """Take the area from the file's tree to its list, with `mmap_sem` held for write; entries stay where they are.

    With `i_mmap_mutex` held nobody can put migration entries in; those that are there are waited for without it, as the
    page locks come first.
    """
    mapping = vma.vm_file
    assert mapping is not None
    waited = 0
    while True:
        async with mapping.i_mmap_mutex:
            moving = [vpn for vpn in vma.vpns if await _is_moving(vma.mm, vpn)]
            if not moving:
                vma_unlink_file(vma)
                touched((vma.name, "vm_flags"))
                vma.vm_flags |= VM_NONLINEAR
                vma_link_file(vma)
                emit("made_nonlinear", vma=vma)
                note(waited=waited)
                return
        for vpn in moving:
            waited += 1
            await migration_entry_wait(vma.mm, vpn)


async def _is_moving(mm: Mm, vpn: int) -> bool:
    if pmd_index(mm, vpn) not in mm.tables:
        return False
    async with pte_lockptr(mm, vpn):
        return isinstance(entry_under_lock(mm, vpn), MigrationEntry)


@operation()
async def install_file_pte(vma: Vma, vpn: int, pgoff: int) -> int:
    """Note in the slot which index (base pages) of the file belongs there, whatever was mapped before: 0 or -ENOMEM."""
    mm, size = vma.mm, vma.mm.system.page_size
    if await pte_alloc(mm, vpn) is None:
        return -errno.ENOMEM
    while True:
        await unmap_page_range(vma, vpn * size, (vpn + 1) * size)
        async with pte_lockptr(mm, vpn):
            # A fault may have come in between.
            if entry_under_lock(mm, vpn) is None:
                store(mm, vma, vpn, FileEntry(pgoff))
                return 0


@operation()
async def remap_file_pages(mm: Mm, address: int, size: int, pgoff: int) -> int:
    """Map `size` bytes of the file from the index `pgoff` (base pages) on at the address (bytes) of a shared mapping.

    0, -EINVAL, or -ENOMEM. The pages are brought in as far as that is possible.
    """
    from mmreference.mm.gup import get_user_page
    from mmreference.mm.mlock import mlock_vma_pages_range, munlock_vma_pages_range
    from mmreference.mm.page import Page, put_page

    system = mm.system
    if address % system.page_size or size <= 0 or size % system.page_size or pgoff < 0:
        return -errno.EINVAL
    # 3.2 takes it for read where the area is nonlinear already.
    async with mm.mmap_sem.write():
        touched((mm.name, "vmas"), write=False)
        vma = mm.area_at(address)
        if (
            vma is None
            or vma.vm_file is None
            or not vma.vm_flags & VM_SHARED
            or vma.vm_flags & VM_HUGETLB
            or address + size > vma.vm_end
        ):
            return -errno.EINVAL
        if not vma.nonlinear:
            if pgoff == linear_page_index(vma, address):
                return 0
            await make_nonlinear(vma)
        flags = vma.vm_flags
        if vma.locked:
            # What is mapped now is not going to be.
            await munlock_vma_pages_range(vma, address, address + size)
            vma.vm_flags = flags
        await mmu_notifier_invalidate_range_start(mm, address, address + size)
        error = 0
        for number in range(size // system.page_size):
            error = await install_file_pte(vma, address // system.page_size + number, pgoff + number)
            if error:
                break
        await mmu_notifier_invalidate_range_end(mm, address, address + size)
        if error:
            return error
        if vma.locked:
            await mlock_vma_pages_range(vma, address, address + size)
            return 0
        for place in range(address, address + size, system.page_size):
            page = await get_user_page(mm, place, write=False)
            if not isinstance(page, Page):
                break
            await put_page(page)
    return 0
