"""The system-call level: processes, mappings, accesses, and the pool counters that anybody can read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence

import icontract

from mmspec.state import Mapping, PoolCounters, Setup


class MemoryManager(icontract.DBC):
    """A machine with processes that use huge pages.

    Lengths, offsets and file sizes are in *huge pages*; addresses are in *bytes* and multiples of
    :attr:`huge_page_bytes`. Operations answer as the kernel does: a result that is not negative, or a negative
    `errno` (`-errno.ENOMEM`) for a system call, or a :class:`~mmspec.errors.Signal` (also negative) for an access. A
    signal is only reported; the process lives on and may try again.

    An optional operation that an implementation lacks is left out of :attr:`capabilities` and is never called.
    """

    #: Names of the optional operations that this implementation has: `dontneed`, `punch_hole`, `fallocate`,
    #: `set_overcommit`, `mprotect`, `page_at`, `mappings`, `quota_free`. Without the last no quota is set.
    capabilities: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def huge_page_bytes(self) -> int:
        """The size of a huge page in bytes; a power of two."""

    @abstractmethod
    def start(self, setup: Setup) -> None:
        """Become a fresh machine: no process, no file, the pool as `setup` says. May be called again and again."""

    @abstractmethod
    def stop(self) -> None:
        """Give everything back; only `start` may follow. Called also after a failed operation."""

    @abstractmethod
    def counters(self) -> PoolCounters:
        """The pool's counters now, in huge pages."""

    @abstractmethod
    def spawn(self) -> int:
        """Start a process with no mapping; its pid (positive, never used again before `start`)."""

    @abstractmethod
    def create_file(self, size: int) -> int:
        """Create an empty file of `size` huge pages; its number (0, 1, ... in order of creation)."""

    @abstractmethod
    def mmap(
        self,
        pid: int,
        length: int,
        *,
        file: int | None = None,
        offset: int = 0,
        shared: bool = False,
        noreserve: bool = False,
        writable: bool = True,
    ) -> int:
        """Map `length` (at least 1) huge pages; the address, or `-ENOMEM`, `-ENOSPC` (quota), `-EINVAL`.

        `file` None is an anonymous mapping (shared ones are inherited over fork). A writable mapping beyond the end
        of the file extends the file. Unless `noreserve`, success promises a page for each offset.
        """

    @abstractmethod
    def munmap(self, pid: int, address: int, length: int) -> int:
        """Unmap `length` huge pages from `address`, parts of mappings included; 0 or `-EINVAL`."""

    @abstractmethod
    def fork(self, pid: int) -> int:
        """Copy the process; the child's pid, or `-ENOMEM`."""

    @abstractmethod
    def exit(self, pid: int) -> int:
        """End the process; 0. The pid is not used again."""

    @abstractmethod
    def read(self, pid: int, address: int) -> int:
        """Read the value stored in the huge page at `address` (0 in one never written), or a `Signal`."""

    @abstractmethod
    def write(self, pid: int, address: int, value: int) -> int:
        """Store `value` (1 to 255) in the huge page at `address`; 0 or a `Signal`."""

    @abstractmethod
    def truncate(self, file: int, size: int) -> int:
        """Set the file's size (0 or more huge pages), dropping pages and promises beyond; 0 or a negative errno."""

    @abstractmethod
    def close_file(self, file: int) -> int:
        """Drop the file's name and the last handle on it; it goes with its last mapping. 0."""

    @abstractmethod
    def set_nr_hugepages(self, count: int) -> int:
        """Ask for a persistent pool of `count` huge pages; the `nr_huge_pages` that was reached."""

    @abstractmethod
    def set_quota(self, blocks: int | None) -> int:
        """Limit the file system to `blocks` huge pages (None: no limit); 0, or `-EBUSY` if more are in use."""

    def quota_free(self) -> int | None:
        """Blocks of the file system that are not used, in huge pages; None without a limit."""
        raise NotImplementedError

    def mappings(self, pid: int) -> Sequence[Mapping]:
        """The process's mappings in order of address (optional)."""
        raise NotImplementedError

    def page_at(self, pid: int, address: int) -> Hashable | None:
        """What tells the page mapped at `address` from all others, None where nothing is mapped (optional)."""
        raise NotImplementedError

    def dontneed(self, pid: int, address: int, length: int) -> int:
        """`madvise(MADV_DONTNEED)` on huge pages; 0 or `-EINVAL` (optional)."""
        raise NotImplementedError

    def punch_hole(self, file: int, offset: int, length: int) -> int:
        """Drop the pages and promises of a range of the file, size unchanged; 0 (optional)."""
        raise NotImplementedError

    def fallocate(self, file: int, offset: int, length: int) -> int:
        """Instantiate pages in a range of the file, in order; 0, `-ENOMEM` or `-ENOSPC` (optional).

        Success makes a shorter file reach to the end of the range. An error keeps the pages that were had before it.
        """
        raise NotImplementedError

    def mprotect(self, pid: int, address: int, length: int, writable: bool) -> int:
        """Change the right to write; 0 or a negative errno (optional)."""
        raise NotImplementedError

    def set_overcommit(self, count: int) -> int:
        """Allow `count` surplus huge pages; 0 (optional)."""
        raise NotImplementedError
