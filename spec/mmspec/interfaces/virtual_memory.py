"""The system-call level in base pages: processes, mappings, accesses, and memory pressure."""

from __future__ import annotations

from abc import abstractmethod

import icontract

from mmspec.state import PageState, Resident


class VirtualMemory(icontract.DBC):
    """A machine with processes whose memory comes in base pages.

    Lengths, offsets and file sizes are in *base pages*; addresses are in *bytes* and multiples of :attr:`page_bytes`.
    Results are those of :class:`~mmspec.interfaces.memory_manager.MemoryManager`: not negative, or a negative `errno` for a
    system call, or a :class:`~mmspec.errors.Signal` for an access. It stands beside that interface, which is about the pool of huge
    pages, and shares the names of what both have; a class may provide both.

    What only some have is named in :attr:`capabilities`, and else never called.
    """

    #: Names of the optional members that this implementation has: `protect_pages`, `move_pages`, `lock_pages` (with
    #: `unlock_pages`), `advise_pages`, `create_page_file` (with `truncate_page_file`), `write_back`, `reclaim`,
    #: `swap_off`, `page_state`, `resident`, `peak`, `statistics`.
    capabilities: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def page_bytes(self) -> int:
        """The size of a base page in bytes; a power of two."""

    @abstractmethod
    def start(self) -> None:
        """Become a fresh machine: no process, no file. May be called again and again."""

    @abstractmethod
    def stop(self) -> None:
        """Give everything back; only `start` may follow. Called also after a failed operation."""

    @abstractmethod
    def spawn(self) -> int:
        """Start a process with no mapping; its pid (positive, never used again before `start`)."""

    @abstractmethod
    def fork(self, pid: int) -> int:
        """Copy the process; the child's pid, or `-ENOMEM`."""

    @abstractmethod
    def exit(self, pid: int) -> int:
        """End the process; 0."""

    @abstractmethod
    def read(self, pid: int, address: int) -> int:
        """The value stored in the page at `address` (0 in one never written), or a `Signal`."""

    @abstractmethod
    def write(self, pid: int, address: int, value: int) -> int:
        """Store `value` (1 to 255) in the page at `address`; 0 or a `Signal`."""

    @abstractmethod
    def map_pages(
        self, pid: int, length: int, *, file: int | None = None, offset: int = 0, shared: bool = False, writable: bool = True
    ) -> int:
        """Map `length` (at least 1) pages of a file, or anonymous memory (`file` None); the address, or a negative errno."""

    @abstractmethod
    def unmap_pages(self, pid: int, address: int, length: int) -> int:
        """Unmap `length` pages, parts of mappings included; 0 or a negative errno."""

    def protect_pages(self, pid: int, address: int, length: int, writable: bool) -> int:
        """Change the right to write; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def move_pages(self, pid: int, address: int, length: int) -> int:
        """`mremap` to wherever there is room; the new address or a negative errno (optional)."""
        raise NotImplementedError

    def lock_pages(self, pid: int, address: int, length: int) -> int:
        """`mlock`; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def unlock_pages(self, pid: int, address: int, length: int) -> int:
        """`munlock`; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def advise_pages(self, pid: int, address: int, length: int, advice: str) -> int:
        """`madvise`: `dontneed`, `sequential`, `mergeable` or `hugepage`; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def create_page_file(self, size: int) -> int:
        """Create an empty file of `size` pages; its number, 0, 1, ... in order of creation (optional)."""
        raise NotImplementedError

    def truncate_page_file(self, file: int, size: int) -> int:
        """Set the file's size; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def write_back(self, file: int) -> int:
        """Write the dirty pages of the file out; 0 (optional)."""
        raise NotImplementedError

    def reclaim(self, pid: int, address: int) -> bool:
        """Try to take the page away that is mapped there, as under memory pressure: whether it is free now (optional)."""
        raise NotImplementedError

    def swap_off(self) -> int:
        """Bring everything back from swap; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def page_state(self, pid: int, address: int) -> PageState | None:
        """What is at the address; None where there is nothing, not even in swap (optional)."""
        raise NotImplementedError

    def resident(self, pid: int) -> Resident:
        """What the process has, in base pages (optional)."""
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """`NR_ANON_PAGES` and `NR_FILE_MAPPED` of the machine, trans-huge pages left out, in base pages (optional)."""
        raise NotImplementedError

    def peak(self, pid: int) -> int:
        """The largest resident set so far, in base pages, as `VmHWM` tells it (optional)."""
        raise NotImplementedError
