"""The vocabulary in which an implementation shows its state, in the kernel's field names.

A field that an implementation offers no view of is left out; reading it raises
:class:`~mmspec.errors.NotObservable`, which turns the verdict of whoever asked into "not observable".
"""

from __future__ import annotations

from typing import Any

import attrs

from mmspec.errors import NotObservable


class _Unseen:
    """Stands in a field that the implementation does not show."""

    def __repr__(self) -> str:
        return "-"


UNSEEN: Any = _Unseen()


@attrs.frozen(slots=True)
class PoolCounters:
    """The counters of one huge-page pool, in huge pages, at one instant.

    `nr_huge_pages` counts all pages that the pool owns, `free_huge_pages` those on its free lists,
    `resv_huge_pages` those of the free ones that are promised, `surplus_huge_pages` those beyond the persistent size,
    `tentative_huge_pages` those taken by faults that have not decided yet (no kernel shows it).
    """

    nr_huge_pages: int
    free_huge_pages: int
    resv_huge_pages: int
    surplus_huge_pages: int = 0
    _tentative_huge_pages: Any = attrs.field(default=UNSEEN, alias="tentative_huge_pages")

    @property
    def tentative_huge_pages(self) -> int:
        """Pages in flight.

        :raises NotObservable: where the implementation does not show them.
        """
        if self._tentative_huge_pages is UNSEEN:
            raise NotObservable("tentative_huge_pages")
        return int(self._tentative_huge_pages)

    @staticmethod
    def names() -> tuple[str, ...]:
        """The names of all counters."""
        return (
            "nr_huge_pages",
            "free_huge_pages",
            "resv_huge_pages",
            "surplus_huge_pages",
            "tentative_huge_pages",
        )

    def minus(self, other: PoolCounters) -> dict[str, int]:
        """The visible counters that differ from `other`, with the difference."""
        seen = (
            self.names()
            if UNSEEN not in (self._tentative_huge_pages, other._tentative_huge_pages)
            else (self.names()[:4])
        )
        return {n: getattr(self, n) - getattr(other, n) for n in seen if getattr(self, n) != getattr(other, n)}


@attrs.frozen(slots=True)
class Mapping:
    """One virtual memory area of a process, as `/proc/<pid>/maps` would tell it.

    `start` is an address in bytes; `length` and `offset` (into the file) are in huge pages. `file` is the number that
    `create_file` returned, None for a mapping that has no file of its own.
    """

    start: int
    length: int
    offset: int
    shared: bool
    file: int | None = None


@attrs.frozen(slots=True)
class Setup:
    """How a fresh machine starts.

    `pool` is the persistent size of the huge-page pool, `overcommit` how many surplus pages it may gain beyond that,
    `quota` the number of blocks of the file system that holds the files; all in huge pages. None is "no limit".
    """

    pool: int = 4
    overcommit: int = 0
    quota: int | None = None


@attrs.frozen(slots=True)
class PageState:
    """What a process has at an address, in base pages.

    `mapcount` is how many entries map the page, 0 if it is `swapped`; `kind` is `anon`, `file`, `ksm` or `thp`; `locked` says
    whether the mapping is locked in memory.
    """

    mapcount: int
    kind: str = "anon"
    swapped: bool = False
    dirty: bool = False
    locked: bool = False


@attrs.frozen(slots=True)
class Resident:
    """The resident set of a process, and its entries in swap; all in base pages."""

    anon: int
    file: int
    swap: int
