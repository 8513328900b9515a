"""The reference's anon_vma and rmap functions behind the interface :class:`~mmspec.interfaces.ReverseMap`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from mmreference.kernel.scheduler import run_alone
from mmreference.mm.address_space import AddressSpace, vma_unlink_file
from mmreference.mm.anon_vma import AnonVma, anon_vma_fork, anon_vma_prepare, chain, unlink_anon_vmas
from mmreference.mm.filemap import add_to_page_cache, delete_from_page_cache
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.mm_struct import Mm, Vma
from mmreference.mm.mmap import split_vma, vm_flags_of, vma_adjust, vma_alloc, vma_link
from mmreference.mm.page import Page, page_anon_vma, page_mapcount, put_page
from mmreference.mm.rmap.address import page_address_in_vma
from mmreference.mm.rmap.mapcount import (
    do_page_add_anon_rmap,
    page_add_file_rmap,
    page_add_new_anon_rmap,
    page_dup_rmap,
    page_move_anon_rmap,
    page_remove_rmap,
)
from mmreference.mm.system import System
from mmspec.arch import architecture
from mmspec.config import ALLYESCONFIG
from mmspec.interfaces import ReverseMap

#: Base pages of each file; nobody looks beyond.
FILE_SIZE = 1 << 10


class ReferenceReverseMap(ReverseMap):
    """Each call runs alone, with what its caller in the kernel would have locked."""

    capabilities = frozenset(
        {
            "page_move_anon_rmap", "anon_vma", "chain", "areas", "root", "refcount", "live_anon_vmas", "page_anon_vma",
            "statistics",
        }
    )  # fmt: skip

    def __init__(self, arch: str = "x86_64", variant: str = ALLYESCONFIG) -> None:
        self._system = System(architecture(arch), variant)
        self._mms: dict[int, Mm] = {}
        self._files: dict[int, AddressSpace] = {}
        self._vmas: dict[int, Vma] = {}
        self._numbers: dict[Vma, int] = {}
        self._pages: dict[int, Page] = {}

    def _bytes(self, pages: int) -> int:
        # The lowest addresses belong to nobody.
        return (self._system.first_vpn + pages) * self._system.page_size

    def _enter(self, number: int, vma: Vma) -> None:
        self._vmas[number] = vma
        self._numbers[vma] = number

    def _file(self, number: int) -> AddressSpace:
        if number not in self._files:
            self._files[number] = self._system.new_file(FILE_SIZE)
        return self._files[number]

    # -- areas -------------------------------------------------------------------------------------------------------------

    def new_area(
        self, vma: int, mm: int, start: int, end: int, pgoff: int, file: int | None = None, shared: bool = False
    ) -> None:
        """See :meth:`ReverseMap.new_area`."""
        if mm not in self._mms:
            self._mms[mm] = self._system.new_mm()
        mapping = None if file is None else self._file(file)
        first = self._bytes(pgoff) // self._system.page_size if file is None else pgoff

        async def enter() -> Vma:
            made = await vma_alloc(
                self._mms[mm], self._bytes(start), self._bytes(end), vm_flags_of(shared=shared), first, mapping
            )
            assert made is not None
            await vma_link(made)
            return made

        self._enter(vma, run_alone(enter()))

    def anon_vma_prepare(self, vma: int) -> int:
        """See :meth:`ReverseMap.anon_vma_prepare`."""
        return int(run_alone(anon_vma_prepare(self._vmas[vma])))

    def anon_vma_fork(self, vma: int, pvma: int) -> int:
        """See :meth:`ReverseMap.anon_vma_fork`."""
        return int(run_alone(anon_vma_fork(self._vmas[vma], self._vmas[pvma])))

    def split_vma(self, vma: int, new: int, at: int) -> int:
        """See :meth:`ReverseMap.split_vma`."""
        old = self._vmas[vma]
        before = list(old.mm.vmas)
        error = int(run_alone(split_vma(old.mm, old, self._bytes(at), new_below=False)))
        for made in [v for v in old.mm.vmas if v not in before]:
            self._enter(new, made)
        return error

    def vma_merge(self, vma: int, next: int) -> int:  # noqa: A002 - the kernel's name
        """See :meth:`ReverseMap.vma_merge`."""
        stays, goes = self._vmas[vma], self._vmas[next]
        error = int(run_alone(vma_adjust(stays, stays.vm_start, goes.vm_end, stays.vm_pgoff)))
        if not error:
            self._forget(next)
        return error

    def _forget(self, vma: int) -> None:
        # The area may be freed already, and cannot be looked up any more.
        del self._vmas[vma]
        self._numbers = {v: number for v, number in self._numbers.items() if number != vma}

    def unlink_anon_vmas(self, vma: int) -> None:
        """See :meth:`ReverseMap.unlink_anon_vmas`."""
        area = self._vmas[vma]
        area.mm.unlink(area)
        run_alone(unlink_anon_vmas(area))
        if area.vm_file is not None:
            vma_unlink_file(area)
        self._forget(vma)
        area.free()

    # -- pages -------------------------------------------------------------------------------------------------------------

    def new_page(self, page: int, file: int | None = None, index: int = 0) -> None:
        """See :meth:`ReverseMap.new_page`."""

        async def make() -> Page:
            made = await self._system.alloc_page()
            assert made is not None
            if file is not None:
                await add_to_page_cache(made, self._file(file), index, None)
                made.lock.unlock()
            return made

        self._pages[page] = run_alone(make())

    def free_page(self, page: int) -> None:
        """See :meth:`ReverseMap.free_page`."""
        gone = self._pages.pop(page)

        async def free() -> None:
            await lru_add_drain_all(self._system)
            if gone.mapping is not None and not gone.mapping.bits:
                await gone.lock.lock()
                await delete_from_page_cache(gone)
                gone.lock.unlock()
            await put_page(gone)

        run_alone(free())

    def page_add_new_anon_rmap(self, page: int, vma: int, address: int) -> None:
        """See :meth:`ReverseMap.page_add_new_anon_rmap`."""
        run_alone(page_add_new_anon_rmap(self._pages[page], self._vmas[vma], self._bytes(address)))

    def page_add_anon_rmap(self, page: int, vma: int, address: int, exclusive: bool) -> None:
        """See :meth:`ReverseMap.page_add_anon_rmap`."""
        area, at = self._vmas[vma], self._bytes(address)
        mapped = self._pages[page]
        self._locked(mapped, do_page_add_anon_rmap(mapped, area, at, exclusive=exclusive))

    @staticmethod
    def _locked(page: Page, body: Coroutine[Any, Any, None]) -> None:
        async def locked() -> None:
            await page.lock.lock()
            await body
            page.lock.unlock()

        run_alone(locked())

    def page_add_file_rmap(self, page: int, vma: int, address: int) -> None:
        """See :meth:`ReverseMap.page_add_file_rmap`."""
        run_alone(page_add_file_rmap(self._pages[page]))

    def page_dup_rmap(self, page: int, vma: int, address: int) -> None:
        """See :meth:`ReverseMap.page_dup_rmap`."""
        run_alone(page_dup_rmap(self._pages[page]))

    def page_remove_rmap(self, page: int, vma: int, address: int) -> None:
        """See :meth:`ReverseMap.page_remove_rmap`."""
        run_alone(page_remove_rmap(self._pages[page]))

    def page_move_anon_rmap(self, page: int, vma: int, address: int) -> None:
        """See :meth:`ReverseMap.page_move_anon_rmap`."""
        moved = self._pages[page]
        self._locked(moved, page_move_anon_rmap(moved, self._vmas[vma], self._bytes(address)))

    def page_mapcount(self, page: int) -> int:
        """See :meth:`ReverseMap.page_mapcount`."""
        return page_mapcount(self._pages[page])

    def page_address_in_vma(self, page: int, vma: int) -> int:
        """See :meth:`ReverseMap.page_address_in_vma`."""
        found = int(page_address_in_vma(self._pages[page], self._vmas[vma]))
        return found if found < 0 else found // self._system.page_size - self._system.first_vpn

    def rmap_areas(self, page: int) -> list[int]:
        """See :meth:`ReverseMap.rmap_areas`."""
        walked = self._pages[page]
        anon_vma = page_anon_vma(walked)
        if anon_vma is not None:
            found = anon_vma.list
        else:
            found = [] if walked.mapping is None else walked.mapping.pointer.prio_tree(walked.index)
        return [self._numbers[vma] for vma in found]

    # -- what is inside ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _id(anon_vma: AnonVma) -> int:
        return int("".join(c for c in anon_vma.name if c.isdigit()))

    def _anon_vma(self, number: int) -> AnonVma:
        return next(a for a in self._system.live_anon_vmas if self._id(a) == number)

    def anon_vma(self, vma: int) -> int | None:
        """See :meth:`ReverseMap.anon_vma`."""
        own = self._vmas[vma].anon_vma
        return None if own is None else self._id(own)

    def chain(self, vma: int) -> list[int]:
        """See :meth:`ReverseMap.chain`."""
        return [self._id(a) for a in chain(self._vmas[vma])]

    def areas(self, anon_vma: int) -> list[int]:
        """See :meth:`ReverseMap.areas`."""
        return [self._numbers[vma] for vma in self._anon_vma(anon_vma).list]

    def root(self, anon_vma: int) -> int:
        """See :meth:`ReverseMap.root`."""
        return self._id(self._anon_vma(anon_vma).root)

    def refcount(self, anon_vma: int) -> int:
        """See :meth:`ReverseMap.refcount`."""
        return int(self._anon_vma(anon_vma).refcount)

    def live_anon_vmas(self) -> list[int]:
        """See :meth:`ReverseMap.live_anon_vmas`."""
        return [self._id(a) for a in self._system.live_anon_vmas]

    def page_anon_vma(self, page: int) -> int | None:
        """See :meth:`ReverseMap.page_anon_vma`."""
        owner = page_anon_vma(self._pages[page])
        return None if owner is None else self._id(owner)

    def statistics(self) -> dict[str, int]:
        """See :meth:`ReverseMap.statistics`."""
        zone = self._system.zone
        return {"NR_ANON_PAGES": zone.NR_ANON_PAGES, "NR_FILE_MAPPED": zone.NR_FILE_MAPPED}
