"""The reference of reverse mapping as a machine with processes: system calls, accesses, memory pressure.

Lengths, offsets and file sizes are in base pages, addresses in bytes. Every call is a coroutine for a scheduler
(:meth:`Machine.call`); :meth:`Machine.run` runs one alone.
"""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any

from mmreference.kernel.scheduler import Scheduler, Strategy, touched
from mmreference.mm import exec as mm_exec
from mmreference.mm.address_space import AddressSpace
from mmreference.mm.filemap import vmtruncate
from mmreference.mm.fork import dup_mm, mmput
from mmreference.mm.fremap import remap_file_pages
from mmreference.mm.huge_memory import collapse_huge_page, split_huge_page
from mmreference.mm.ksm import ksm_merge, madvise_mergeable
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.memory import access, zap_page_range
from mmreference.mm.memory_failure import memory_failure
from mmreference.mm.migrate import migrate_page
from mmreference.mm.mlock import do_mlock
from mmreference.mm.mm_struct import VM_HUGEPAGE, VM_HUGETLB, VM_LOCKED, VM_SEQ_READ, Mm
from mmreference.mm.mmap import do_mmap, do_munmap, split_to, vm_flags_of
from mmreference.mm.mmu_notifier import MmuNotifier, mmu_notifier_register, mmu_notifier_unregister, secondary_fault
from mmreference.mm.mprotect import do_mprotect
from mmreference.mm.mremap import do_mremap
from mmreference.mm.page import Page, get_page, put_page
from mmreference.mm.pagetable import Present
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import add_to_swap, swapoff
from mmreference.mm.system import System
from mmreference.mm.vmscan import reclaim_page, shrink_lists
from mmreference.mm.writeback import filemap_fdatawrite
from mmspec.arch import architecture
from mmspec.config import ALLYESCONFIG
from mmspec.errors import SWAP_SUCCESS
from mmspec.trace import Recorder

#: What madvise can say: name to the flag that it sets.
ADVICE = {"sequential": VM_SEQ_READ, "hugepage": VM_HUGEPAGE}


class Machine:
    """A booted kernel with processes, files and secondary MMUs, by number."""

    def __init__(self, arch: str = "x86_64", variant: str = ALLYESCONFIG, config: frozenset[str] | None = None) -> None:
        self.system = System(architecture(arch), variant, config)
        self.strategy: Strategy | None = None
        self.processes: dict[int, Mm] = {}
        self.files: list[AddressSpace] = []
        self.notifiers: dict[int, MmuNotifier] = {}
        """Process to its secondary MMU."""
        self._next_pid = 1

    @property
    def page_size(self) -> int:
        """Bytes of a base page."""
        return self.system.page_size

    def run(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine alone, now."""
        scheduler = Scheduler(self.strategy, Recorder.active)
        task = scheduler.spawn("syscall", body)
        scheduler.run()
        return task.result

    def call(self, name: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """The coroutine of a call, to be spawned together with others."""
        body: Coroutine[Any, Any, Any] = getattr(self, name)(*args, **kwargs)
        return body

    def do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a call, alone."""
        return self.run(self.call(name, *args, **kwargs))

    def spawn(self) -> int:
        """A process with no mapping; its pid."""
        return self._enter(self.system.new_mm())

    def _enter(self, mm: Mm) -> int:
        pid = self._next_pid
        self._next_pid += 1
        self.processes[pid] = mm
        return pid

    def create_file(self, size: int) -> int:
        """A file of `size` base pages; its number."""
        self.files.append(self.system.new_file(size))
        return len(self.files) - 1

    def page_at(self, pid: int, address: int) -> Page | None:
        """The page that the process maps at the address, or None."""
        from mmreference.mm.memory import hardware_entry

        mm = self.processes[pid]
        vpn = address // self.page_size
        touched((mm.name, "pte", vpn), write=False)
        touched((mm.name, "pmd", vpn // self.system.ptrs_per_pte), write=False)
        level, entry = hardware_entry(mm, vpn)
        if not isinstance(entry, Present):
            return None
        if level != "pmd":
            return entry.page
        # One that is being split has its frames no more, and its entry still.
        return entry.page.subpages[vpn % self.system.ptrs_per_pte] if entry.page.subpages else None

    def head_at(self, pid: int, address: int) -> Page | None:
        """The page that the process maps at the address, or the head of the compound page that it is a part of."""
        page = self.page_at(pid, address)
        return None if page is None else page.first_page or page

    def vma_at(self, pid: int, address: int) -> Any:
        """The area that contains the address, or None."""
        return self.processes[pid].area_at(address)

    # -- system calls --------------------------------------------------------------------------------------------------

    async def mmap(
        self,
        pid: int,
        length: int,
        *,
        file: int | None = None,
        offset: int = 0,
        shared: bool = False,
        write: bool = True,
        huge: bool = False,
        address: int | None = None,
    ) -> int:
        """Map `length` pages: the address, or a negative errno. `huge` maps hugetlb pages (anonymous, private)."""
        flags = vm_flags_of(write=write, shared=shared)
        if huge:
            flags |= VM_HUGETLB
        mapping = None if file is None else self.files[file]
        if mapping is None and shared:
            # Memory that processes share without a file has one that nobody can name.
            mapping = self.system.new_file(length)
            offset = 0
        return int(await do_mmap(self.processes[pid], length * self.page_size, flags, mapping, offset, address))

    async def munmap(self, pid: int, address: int, length: int) -> int:
        """Unmap `length` pages."""
        return int(await do_munmap(self.processes[pid], address, length * self.page_size))

    async def mprotect(self, pid: int, address: int, length: int, *, write: bool, read: bool = True) -> int:
        """Set the rights of `length` pages."""
        return int(await do_mprotect(self.processes[pid], address, length * self.page_size, write=write, read=read))

    async def mremap(self, pid: int, address: int, length: int, new: int | None = None) -> int:
        """Move `length` pages to `new`: the new address or a negative errno."""
        return int(await do_mremap(self.processes[pid], address, length * self.page_size, new))

    async def mlock(self, pid: int, address: int, length: int) -> int:
        """Lock `length` pages in memory."""
        return int(await do_mlock(self.processes[pid], address, address + length * self.page_size, on=True))

    async def munlock(self, pid: int, address: int, length: int) -> int:
        """Take that back."""
        return int(await do_mlock(self.processes[pid], address, address + length * self.page_size, on=False))

    async def madvise(self, pid: int, address: int, length: int, advice: str) -> int:
        """`dontneed`, `mergeable`, `unmergeable`, or one of :data:`ADVICE`, for `length` pages: 0 or a negative errno."""
        mm = self.processes[pid]
        end = address + length * self.page_size
        if advice == "dontneed":
            async with mm.mmap_sem.read():
                for vma in [v for v in mm.vmas if v.vm_start < end and address < v.vm_end]:
                    if vma.vm_flags & (VM_LOCKED | VM_HUGETLB):
                        return -errno.EINVAL
                    await zap_page_range(vma, max(address, vma.vm_start), min(end, vma.vm_end))
            return 0
        if advice in ("mergeable", "unmergeable"):
            return int(await madvise_mergeable(mm, address, end, on=advice == "mergeable"))
        async with mm.mmap_sem.write():
            vmas = await split_to(mm, address, end)
            if isinstance(vmas, int):
                return vmas
            for vma in vmas:
                vma.vm_flags |= ADVICE[advice]
        return 0

    async def remap_file_pages(self, pid: int, address: int, length: int, offset: int) -> int:
        """Map the file's pages from `offset` on at `length` pages of a shared area, out of line."""
        return int(await remap_file_pages(self.processes[pid], address, length * self.page_size, offset))

    async def fork(self, pid: int) -> int:
        """Copy the process: the child's pid or -ENOMEM."""
        child = await dup_mm(self.processes[pid])
        return child if isinstance(child, int) else self._enter(child)

    async def exit(self, pid: int) -> int:
        """End the process."""
        self.notifiers.pop(pid, None)
        await mmput(self.processes.pop(pid))
        return 0

    async def stack(self, pid: int, length: int) -> int:
        """An area of `length` pages for the arguments of a new program, as exec sets it up: its address."""
        return int(await mm_exec.setup_temporary_stack(self.processes[pid], length * self.page_size))

    async def exec_stack(self, pid: int, shift: int) -> int:
        """What exec does with the stack that it has filled: move it down by `shift` pages: 0 or a negative errno."""
        return int(await mm_exec.setup_arg_pages(self.processes[pid], shift * self.page_size))

    async def read(self, pid: int, address: int) -> int:
        """The word at the address, or a `Signal`."""
        return await access(self.processes[pid], address, None)

    async def write(self, pid: int, address: int, value: int) -> int:
        """Store a word: 0 or a `Signal`."""
        return await access(self.processes[pid], address, value)

    async def write_twice(self, pid: int, address: int, value: int) -> int:
        """Store a word, and the next one at the same place: what the second store ended with."""
        await self.write(pid, address, value)
        return await self.write(pid, address, value + 1)

    async def truncate(self, file: int, size: int) -> int:
        """Set the size of a file."""
        return int(await vmtruncate(self.files[file], size))

    async def writeback(self, file: int) -> int:
        """Write the dirty pages of a file out."""
        await filemap_fdatawrite(self.files[file])
        return 0

    # -- what the kernel does by itself ----------------------------------------------------------------------------------

    async def reclaim(self, pid: int, address: int) -> bool:
        """Try to reclaim the page that the process maps there: whether it is free now."""
        await lru_add_drain_all(self.system)
        page = self.head_at(pid, address)
        return page is not None and await reclaim_page(page)

    async def evict(self, page: Page) -> bool:
        """Unmap a page of anonymous memory so that its entries refer to swap, and leave it in the swap cache."""
        await page.lock.lock()
        done = (page.PG_swapcache or await add_to_swap(page)) and await try_to_unmap(
            page, TTU_UNMAP | TTU_IGNORE_ACCESS
        ) is SWAP_SUCCESS
        page.lock.unlock()
        return done

    async def shrink(self) -> int:
        """One pass of reclaim over all lists: how many pages were freed."""
        return int(await shrink_lists(self.system))

    async def swapoff(self) -> int:
        """Bring everything back from swap: 0 or -ENOMEM; -EINVAL without swap."""
        return -errno.EINVAL if self.system.swap is None else int(await swapoff(self.system))

    async def migrate(self, pid: int, address: int) -> bool:
        """Move the page that the process maps there to another frame: whether that was done."""
        await lru_add_drain_all(self.system)
        page = self.head_at(pid, address)
        if page is None or not self.system.has("MIGRATION"):
            return False
        return bool(await migrate_page(page))

    async def merge(self, pid: int, address: int, other: int, other_address: int) -> bool:
        """Let KSM look at two addresses: whether they have one page now."""
        if not self.system.has("KSM"):
            return False
        return bool(await ksm_merge(self.processes[pid], address, self.processes[other], other_address))

    async def split(self, pid: int, address: int) -> bool:
        """Split the trans-huge page there: whether there was one."""
        head = self.head_at(pid, address)
        if head is None or not head.order or head.huge:
            return False
        # Who asks for it has a reference.
        get_page(head)
        error = await split_huge_page(head)
        await put_page(head)
        return bool(error == 0)

    async def collapse(self, pid: int, address: int) -> bool:
        """Let khugepaged look at the address: whether a trans-huge page is there now."""
        if not self.system.has("TRANSPARENT_HUGEPAGE"):
            return False
        await lru_add_drain_all(self.system)
        return bool(await collapse_huge_page(self.processes[pid], address))

    async def fail_memory(self, pid: int, address: int) -> bool:
        """The memory of the page there has failed: whether the kernel could isolate it."""
        await lru_add_drain_all(self.system)
        page = self.head_at(pid, address)
        if page is None or not self.system.has("MEMORY_FAILURE"):
            return False
        return bool(await memory_failure(page) == 0)

    async def attach_mmu(self, pid: int) -> int:
        """Give the process a secondary MMU: 0 or a negative errno."""
        if not self.system.has("MMU_NOTIFIER") or pid in self.notifiers:
            return -errno.EINVAL
        notifier = await mmu_notifier_register(self.processes[pid])
        if isinstance(notifier, int):
            return notifier
        self.notifiers[pid] = notifier
        return 0

    async def detach_mmu(self, pid: int) -> int:
        """Take the secondary MMU away."""
        if pid not in self.notifiers:
            return -errno.EINVAL
        await mmu_notifier_unregister(self.notifiers.pop(pid))
        return 0

    async def secondary_access(self, pid: int, address: int, *, write: bool) -> bool:
        """The secondary MMU wants the page: whether it has it now."""
        notifier = self.notifiers.get(pid)
        return notifier is not None and bool(await secondary_fault(notifier, address // self.page_size, write=write))
