"""fork and exit: copying an address space and taking one down."""

from __future__ import annotations

import errno

from mmreference.mm.address_space import vma_link_file
from mmreference.mm.anon_vma import anon_vma_fork
from mmreference.mm.memory import copy_page_range
from mmreference.mm.mm_struct import VM_DONTCOPY, VM_LOCKED, Mm, update_hiwater_rss
from mmreference.mm.mmap import unmap_region, vma_copy
from mmspec.contracts import operation
from mmspec.trace import emit, note


@operation()
async def dup_mm(oldmm: Mm) -> Mm | int:
    """A copy of the address space, or -ENOMEM and no trace of the attempt."""
    system = oldmm.system
    mm = system.new_mm()
    mm.memcg = oldmm.memcg
    note(child=mm)
    error = 0
    async with oldmm.mmap_sem.write():
        await mm.mmap_sem.lock(nested=True)
        for vma in list(oldmm.vmas):
            if vma.vm_flags & VM_DONTCOPY:
                continue
            copy = await vma_copy(vma, mm)
            if copy is None:
                error = -errno.ENOMEM
                break
            copy.forked_from = vma
            # The child does not keep in memory what its parent does.
            copy.vm_flags &= ~VM_LOCKED
            if await anon_vma_fork(copy, vma):
                copy.free()
                error = -errno.ENOMEM
                break
            # Before the first entry is copied, everybody who looks for the child's entries must find its areas.
            if copy.vm_file is not None:
                async with copy.vm_file.i_mmap_mutex:
                    vma_link_file(copy)
            mm.link(copy)
            copy.published = True
            mm.total_vm += copy.npages
            emit("fork_linked", vma=copy, parent=vma)
            error = await copy_page_range(mm, oldmm, copy, vma)
            if error:
                break
        mm.mmap_sem.unlock()
        if not error:
            mm.true_peak_vm = mm.total_vm
    if error:
        await mmput(mm)
        return error
    return mm


@operation()
async def mmput(mm: Mm) -> None:
    """The last user is gone: everything is unmapped. Nobody else can take `mmap_sem` of it but walkers who try."""
    from mmreference.mm.ksm import ksm_exit
    from mmreference.mm.mlock import munlock_vma_pages_range

    system = mm.system
    for notifier in list(mm.notifiers):
        from mmreference.mm.mmu_notifier import mmu_notifier_unregister

        await mmu_notifier_unregister(notifier)
    update_hiwater_rss(mm)
    async with mm.mmap_sem.write():
        for vma in mm.vmas:
            if vma.locked:
                await munlock_vma_pages_range(vma, vma.vm_start, vma.vm_end)
        vmas = list(mm.vmas)
        for vma in vmas:
            mm.unlink(vma)
        await unmap_region(mm, vmas)
        for vma in vmas:
            mm.total_vm -= vma.npages
            vma.free()
    if mm.on_mmlist:
        async with system.mmlist_lock:
            mm.on_mmlist = False
            emit("mmlist_del", mm=mm)
    emit("exit_mmap", mm=mm, rss_anon=mm.rss_anon, rss_file=mm.rss_file, swapents=mm.swapents)
    system.forget_mm(mm)
    await ksm_exit(mm)
