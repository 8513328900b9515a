"""Terms that several predicates use, each defined on what an implementation shows, never on how it decides.

:func:`census` counts everything anew from the page tables, and from them only: what maps which page, which entries
refer to which swap slot, what each address space has. It is what counters, lists and flags are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import attrs

PAGE_MAPPING_ANON = 1
PAGE_MAPPING_KSM = 2

VM_WRITE = 0x2
VM_SHARED = 0x8
VM_MAYWRITE = 0x20
VM_GROWSDOWN = 0x100
VM_GROWSUP = 0x200
VM_LOCKED = 0x2000
VM_SEQ_READ = 0x8000
VM_RAND_READ = 0x10000
VM_HUGETLB = 0x400000
VM_NONLINEAR = 0x800000
VM_STACK_INCOMPLETE_SETUP = VM_RAND_READ | VM_SEQ_READ

#: Zone counters of mapped pages.
MAP_COUNTERS = ("NR_ANON_PAGES", "NR_FILE_MAPPED", "NR_ANON_TRANSPARENT_HUGEPAGES")

#: What try_to_unmap can be asked to do.
TTU_UNMAP, TTU_MIGRATION, TTU_MUNLOCK = 0, 1, 2
TTU_ACTION_MASK = 0xFF
TTU_IGNORE_MLOCK, TTU_IGNORE_ACCESS, TTU_IGNORE_HWPOISON = 1 << 8, 1 << 9, 1 << 10


class Place(NamedTuple):
    """One slot that is not empty: `vpn` is its address in base pages, `level` pte, pmd or huge."""

    mm: Any
    vma: Any
    vpn: int
    level: str
    entry: Any


@attrs.define
class Census:
    """Everything that page tables hold, counted from the tables."""

    places: list[Place] = attrs.field(factory=list)
    maps: dict[Any, list[Place]] = attrs.field(factory=dict)
    """Page to the present entries that map it."""
    swap: dict[int, list[Place]] = attrs.field(factory=dict)
    """Swap slot to the entries that refer to it."""
    migration: list[Place] = attrs.field(factory=list)
    hwpoison: list[Place] = attrs.field(factory=list)
    file: list[Place] = attrs.field(factory=list)

    def of(self, page: Any) -> list[Place]:
        """The present entries that map the page."""
        return self.maps.get(page, [])


def places_of(mm: Any) -> Iterator[Place]:
    """All slots of an address space that are not empty, in order of address."""

    def area(vpn: int) -> Any:
        address = vpn * mm.system.page_size
        return next((v for v in mm.vmas if v.vm_start <= address < v.vm_end), None)

    for index, entry in sorted(mm.pmds.items()):
        vpn = index * mm.system.ptrs_per_pte
        yield Place(mm, area(vpn), vpn, "pmd", entry)
    for _, table in sorted(mm.tables.items()):
        for vpn, entry in sorted(table.entries.items()):
            yield Place(mm, area(vpn), vpn, "pte", entry)
    for vpn, entry in sorted(mm.huge.items()):
        yield Place(mm, area(vpn), vpn, "huge", entry)


def census(world: Any) -> Census:
    """Count the whole machine; once for all predicates that ask at the same moment."""
    moment = getattr(world, "moment", None)
    cached = getattr(world, "_census", None)
    if cached is not None and moment is not None and cached[0] == moment:
        found: Census = cached[1]
        return found
    counted = Census()
    for mm in world.mms:
        for place in places_of(mm):
            counted.places.append(place)
            kind = place.entry.kind
            if kind == "present":
                counted.maps.setdefault(place.entry.page, []).append(place)
            elif kind == "swap":
                counted.swap.setdefault(place.entry.slot, []).append(place)
            else:
                getattr(counted, kind).append(place)
    if moment is not None:
        world._census = (moment, counted)
    return counted


def entries_in(vma: Any) -> Iterator[tuple[int, Any]]:
    """Base page number and entry of all slots of an area that are not empty."""
    for place in places_of(vma.mm):
        if vma.vm_start <= place.vpn * vma.mm.system.page_size < vma.vm_end:
            yield place.vpn, place.entry


def chain(vma: Any) -> list[Any]:
    """The anon_vmas of an area, newest first."""
    return [avc.anon_vma for avc in vma.anon_vma_chain]


def areas(anon_vma: Any) -> list[Any]:
    """The areas on an anon_vma's list, in order."""
    return [avc.vma for avc in anon_vma.head]


def is_anon(page: Any) -> bool:
    """Whether `mapping` says that the page is anonymous."""
    return page.mapping is not None and bool(page.mapping.bits & PAGE_MAPPING_ANON)


def is_ksm(page: Any) -> bool:
    """Whether the page is a merged one."""
    return page.mapping is not None and page.mapping.bits == PAGE_MAPPING_ANON | PAGE_MAPPING_KSM


def pav(page: Any) -> Any:
    """The anon_vma that owns an anonymous page, or None for others and merged ones."""
    return page.mapping.pointer if page.mapping is not None and page.mapping.bits == PAGE_MAPPING_ANON else None


def is_trans_huge(page: Any) -> bool:
    """Whether it is the head of a trans-huge page."""
    return page.order > 0 and not page.huge


def mapped(page: Any) -> bool:
    """Whether the map count says that something maps the page."""
    return bool(page._mapcount >= 0)


def heads(world: Any) -> list[Any]:
    """All allocated pages that are no tails."""
    return [p for p in world.pages if p.first_page is None]


def linear_page_index(vma: Any, vpn: int) -> int:
    """The index in the area's object of a base page number; hugetlb counts in huge pages."""
    system = vma.mm.system
    pgoff = int(vpn - vma.vm_start // system.page_size + vma.vm_pgoff)
    return pgoff >> system.huge_page_order if vma.vm_flags & VM_HUGETLB else pgoff
