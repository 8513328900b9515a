"""The reference of reverse mapping behind the interface :class:`~mmspec.interfaces.VirtualMemory`."""

from __future__ import annotations

from mmreference.machine import Machine
from mmreference.mm.memory import hardware_entry
from mmreference.mm.mm_struct import get_mm_hiwater_rss
from mmreference.mm.page import PageAnon, PageKsm
from mmreference.mm.pagetable import Present, SwapEntry
from mmspec.config import ALLYESCONFIG
from mmspec.interfaces import VirtualMemory
from mmspec.state import PageState, Resident


class ReferenceVirtualMemory(VirtualMemory):
    """A :class:`~mmreference.machine.Machine`, one call after the other."""

    capabilities = frozenset(
        {
            "protect_pages", "move_pages", "lock_pages", "advise_pages", "create_page_file", "write_back", "reclaim",
            "swap_off", "page_state", "resident", "peak", "statistics",
        }
    )  # fmt: skip

    def __init__(self, arch: str = "x86_64", variant: str = ALLYESCONFIG) -> None:
        self._arch, self._variant = arch, variant
        self._machine = Machine(arch, variant)

    @property
    def page_bytes(self) -> int:
        """See :attr:`VirtualMemory.page_bytes`."""
        return self._machine.page_size

    def start(self) -> None:
        """See :meth:`VirtualMemory.start`."""
        self._machine = Machine(self._arch, self._variant)

    def stop(self) -> None:
        """See :meth:`VirtualMemory.stop`."""

    def spawn(self) -> int:
        """See :meth:`VirtualMemory.spawn`."""
        return self._machine.spawn()

    def fork(self, pid: int) -> int:
        """See :meth:`VirtualMemory.fork`."""
        return int(self._machine.do("fork", pid))

    def exit(self, pid: int) -> int:
        """See :meth:`VirtualMemory.exit`."""
        return int(self._machine.do("exit", pid))

    def read(self, pid: int, address: int) -> int:
        """See :meth:`VirtualMemory.read`."""
        return int(self._machine.do("read", pid, address))

    def write(self, pid: int, address: int, value: int) -> int:
        """See :meth:`VirtualMemory.write`."""
        return int(self._machine.do("write", pid, address, value))

    def map_pages(
        self, pid: int, length: int, *, file: int | None = None, offset: int = 0, shared: bool = False, writable: bool = True
    ) -> int:
        """See :meth:`VirtualMemory.map_pages`."""
        return int(self._machine.do("mmap", pid, length, file=file, offset=offset, shared=shared, write=writable))

    def unmap_pages(self, pid: int, address: int, length: int) -> int:
        """See :meth:`VirtualMemory.unmap_pages`."""
        return int(self._machine.do("munmap", pid, address, length))

    def protect_pages(self, pid: int, address: int, length: int, writable: bool) -> int:
        """See :meth:`VirtualMemory.protect_pages`."""
        return int(self._machine.do("mprotect", pid, address, length, write=writable))

    def move_pages(self, pid: int, address: int, length: int) -> int:
        """See :meth:`VirtualMemory.move_pages`."""
        return int(self._machine.do("mremap", pid, address, length))

    def lock_pages(self, pid: int, address: int, length: int) -> int:
        """See :meth:`VirtualMemory.lock_pages`."""
        return int(self._machine.do("mlock", pid, address, length))

    def unlock_pages(self, pid: int, address: int, length: int) -> int:
        """See :meth:`VirtualMemory.unlock_pages`."""
        return int(self._machine.do("munlock", pid, address, length))

    def advise_pages(self, pid: int, address: int, length: int, advice: str) -> int:
        """See :meth:`VirtualMemory.advise_pages`."""
        return int(self._machine.do("madvise", pid, address, length, advice))

    def create_page_file(self, size: int) -> int:
        """See :meth:`VirtualMemory.create_page_file`."""
        return self._machine.create_file(size)

    def truncate_page_file(self, file: int, size: int) -> int:
        """See :meth:`VirtualMemory.truncate_page_file`."""
        return int(self._machine.do("truncate", file, size))

    def write_back(self, file: int) -> int:
        """See :meth:`VirtualMemory.write_back`."""
        return int(self._machine.do("writeback", file))

    def reclaim(self, pid: int, address: int) -> bool:
        """See :meth:`VirtualMemory.reclaim`."""
        return bool(self._machine.do("reclaim", pid, address))

    def swap_off(self) -> int:
        """See :meth:`VirtualMemory.swap_off`."""
        return int(self._machine.do("swapoff"))

    def page_state(self, pid: int, address: int) -> PageState | None:
        """See :meth:`VirtualMemory.page_state`."""
        mm = self._machine.processes[pid]
        level, entry = hardware_entry(mm, address // self.page_bytes)
        vma = mm.area_at(address)
        locked = vma is not None and vma.locked
        if isinstance(entry, SwapEntry):
            return PageState(0, swapped=True, locked=locked)
        if not isinstance(entry, Present):
            return None
        page = entry.page
        kind = "thp" if level == "pmd" else "ksm" if PageKsm(page) else "anon" if PageAnon(page) else "file"
        return PageState(page._mapcount + 1, kind, dirty=page.PG_dirty or entry.dirty, locked=locked)

    def resident(self, pid: int) -> Resident:
        """See :meth:`VirtualMemory.resident`."""
        mm = self._machine.processes[pid]
        return Resident(mm.rss_anon, mm.rss_file, mm.swapents)

    def statistics(self) -> dict[str, int]:
        """See :meth:`VirtualMemory.statistics`."""
        zone = self._machine.system.zone
        return {"NR_ANON_PAGES": zone.NR_ANON_PAGES, "NR_FILE_MAPPED": zone.NR_FILE_MAPPED}

    def peak(self, pid: int) -> int:
        """See :meth:`VirtualMemory.peak`."""
        return get_mm_hiwater_rss(self._machine.processes[pid])
