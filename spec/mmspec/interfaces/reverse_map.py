"""Reverse mapping at the level of its functions: who maps a page, and how that is found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import icontract


class ReverseMap(icontract.DBC):
    """The anon_vma and rmap functions alone, without page tables, faults, locks and reclaim.

    Areas, address spaces, files and pages are small numbers that the caller hands out; none is used again. An anon_vma is
    a number of the implementation's own, which may mean another one when the first is gone. Addresses, offsets, indices
    and lengths are in *base pages*; ranges are half open. An instance is made without arguments and starts empty.

    The caller is the rest of the kernel, and is right: it removes the mappings of an area before the area goes, prepares
    an area before an anonymous page is mapped in it, and adds no mapping where there is one. It calls one function after
    the other. Functions that may need memory answer 0, or `-errno.ENOMEM` with nothing changed.

    How the areas of a page are found is the implementation's business: through chains of anon_vmas, one list for each
    family of processes, or a list for each page. What only some have is named in :attr:`capabilities`, and else never
    called.
    """

    #: Names of the optional members that this implementation has: `page_move_anon_rmap`, `anon_vma`, `chain`, `areas`,
    #: `root`, `refcount`, `live_anon_vmas`, `page_anon_vma`, `statistics`.
    capabilities: frozenset[str] = frozenset()

    # -- areas -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def new_area(
        self, vma: int, mm: int, start: int, end: int, pgoff: int, file: int | None = None, shared: bool = False
    ) -> None:
        """The area `[start, end)` of the address space `mm` is there, with nothing mapped.

        `pgoff` is the index of its first page in the object: the file, or for anonymous memory (`file` None) the address.
        Areas with `shared` map a file, and never get anonymous pages.
        """

    @abstractmethod
    def anon_vma_prepare(self, vma: int) -> int:
        """Make sure that anonymous pages can be mapped in the area; called again for each page. 0 or `-ENOMEM`."""

    @abstractmethod
    def anon_vma_fork(self, vma: int, pvma: int) -> int:
        """fork copies the area `pvma` to `vma`, which :meth:`new_area` has just announced; 0 or `-ENOMEM`.

        What is mapped follows, entry by entry, by :meth:`page_dup_rmap`.
        """

    @abstractmethod
    def split_vma(self, vma: int, new: int, at: int) -> int:
        """Cut the area at the address `at`: the part from there on is the area `new`, with what is mapped there; 0 or `-ENOMEM`."""

    @abstractmethod
    def vma_merge(self, vma: int, next: int) -> int:  # noqa: A002 - the kernel's name
        """The area `next`, which follows `vma`, becomes a part of it, with what is mapped there; 0 or `-ENOMEM`.

        Both map one stretch of one object, and one of them has never been prepared while the other one's address space made
        it, or both were one area or share an anon_vma.
        """

    @abstractmethod
    def unlink_anon_vmas(self, vma: int) -> None:
        """The area, in which nothing is mapped any more, goes for good: off all lists, also those of its file."""

    # -- pages -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def new_page(self, page: int, file: int | None = None, index: int = 0) -> None:
        """A page that nothing maps: the one at `index` in the file, or (`file` None) one that is going to be anonymous."""

    @abstractmethod
    def free_page(self, page: int) -> None:
        """The page, which nothing maps any more, is gone."""

    @abstractmethod
    def page_add_new_anon_rmap(self, page: int, vma: int, address: int) -> None:
        """The first mapping of a new page; nobody else can have seen it."""

    @abstractmethod
    def page_add_anon_rmap(self, page: int, vma: int, address: int, exclusive: bool) -> None:
        """A mapping of an anonymous page that was swapped out, or read in from swap.

        `exclusive` says that no other entry refers to its content. Without it, any area to which fork may have brought
        an entry for the same content may map the page next.
        """

    @abstractmethod
    def page_add_file_rmap(self, page: int, vma: int, address: int) -> None:
        """A mapping of a page of a file."""

    @abstractmethod
    def page_dup_rmap(self, page: int, vma: int, address: int) -> None:
        """fork has copied an entry for the page to the area `vma` of the child, at the same address."""

    @abstractmethod
    def page_remove_rmap(self, page: int, vma: int, address: int) -> None:
        """A mapping goes. A page that nothing maps may be mapped again, until it is freed."""

    @abstractmethod
    def page_mapcount(self, page: int) -> int:
        """How many entries map the page."""

    @abstractmethod
    def page_address_in_vma(self, page: int, vma: int) -> int:
        """Where the area would map the (mapped) page, or `-errno.EFAULT` if it cannot: of another tree or file, or outside."""

    @abstractmethod
    def rmap_areas(self, page: int) -> Sequence[int]:
        """The areas that a walk for the (mapped) page looks at, in order; all that map it, and perhaps others."""

    # -- optional ------------------------------------------------------------------------------------------------------------

    def page_move_anon_rmap(self, page: int, vma: int, address: int) -> None:
        """A write has found nobody else at the page: from here on it is the area's own (optional)."""
        raise NotImplementedError

    def anon_vma(self, vma: int) -> int | None:
        """The anon_vma that new pages of the area belong to; None before it is prepared (optional)."""
        raise NotImplementedError

    def chain(self, vma: int) -> Sequence[int]:
        """The anon_vmas of the area, newest first (optional)."""
        raise NotImplementedError

    def areas(self, anon_vma: int) -> Sequence[int]:
        """The areas on the list of the anon_vma, in order (optional)."""
        raise NotImplementedError

    def root(self, anon_vma: int) -> int:
        """The root of the tree to which the anon_vma belongs; a root is its own (optional)."""
        raise NotImplementedError

    def refcount(self, anon_vma: int) -> int:
        """References to the anon_vma: one of its list if that is not empty, one of each other whose root it is (optional)."""
        raise NotImplementedError

    def live_anon_vmas(self) -> Sequence[int]:
        """All anon_vmas that have not been freed (optional)."""
        raise NotImplementedError

    def page_anon_vma(self, page: int) -> int | None:
        """The anon_vma that owns an anonymous page, mapped or not; None for one of a file, or not mapped yet (optional)."""
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """`NR_ANON_PAGES` and `NR_FILE_MAPPED`: how many pages of each kind something maps (optional)."""
        raise NotImplementedError
