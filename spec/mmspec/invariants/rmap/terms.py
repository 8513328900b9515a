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


def entered_with(op: Any, cls: str, of: object = None) -> bool:
    """Whether the thread held a lock of class `cls` (as :meth:`mmspec.trace.Event.holds`) when it called the function."""
    return any(h.matches(cls, of) for h in op.held_at_entry)


def roots(vma: Any) -> list[Any]:
    """The roots of the trees that an area belongs to, each once; there is one, or none."""
    return list(dict.fromkeys(anon_vma.root for anon_vma in chain(vma)))


def area_of(slot: Any) -> Any:
    """The area that a slot of the page tables lies in, as it is now; None if there is none."""
    system = slot.mm.system
    vpn = slot.vpn * system.ptrs_per_pte if slot.level == "pmd" else slot.vpn
    return slot.mm.area_at(vpn * system.page_size)


def locked_areas(page: Any) -> list[Any]:
    """The linear areas that map the page and are locked in memory."""
    vmas = dict.fromkeys(area_of(slot) for slot in page.slots)
    return [v for v in vmas if v is not None and v.vm_flags & VM_LOCKED and not v.vm_flags & VM_NONLINEAR]


def is_temporary_stack(vma: Any) -> bool:
    """Whether exec still moves the area: it may grow, and both bits of the marker are set."""
    grows = vma.vm_flags & (VM_GROWSDOWN | VM_GROWSUP)
    return bool(grows) and vma.vm_flags & VM_STACK_INCOMPLETE_SETUP == VM_STACK_INCOMPLETE_SETUP


def removed(op: Any) -> list[Any]:
    """The steps of an operation that have emptied a slot that mapped a page."""
    return [e for e in op.all("ptep_clear") if e.entry is not None and e.entry.kind == "present"]


#: The classes of the lock of a slot: that of its table, or that of the address space.
PTL = ("ptl", "page_table_lock")


def linked_chain(vma: Any) -> list[Any]:
    """The anon_vmas of an area on whose lists it stands, newest first; unlinking leaves others on the chain for a while."""
    return [avc.anon_vma for avc in vma.anon_vma_chain if avc in avc.anon_vma.head]


def walkers(anon_vma: Any) -> list[str]:
    """The threads that work on the anon_vma's list after a successful lookup."""
    return [holder.removeprefix("walk ") for holder in anon_vma.pins if holder.startswith("walk ")]


def under_ptl(event: Any, mm: Any = None) -> bool:
    """Whether the thread holds the lock of some slots (of that address space)."""
    return any(
        h.cls in PTL and (mm is None or h.owner is mm or getattr(h.owner, "mm", None) is mm) for h in event.held
    )


#: The classes of the locks that protect slots: that of one table, and that of the address space.
PTL_CLASSES = ("ptl", "page_table_lock")


def lock_of(mm: Any, vpn: int, level: str) -> Any:
    """The object whose lock protects a slot: its table where page-table locks are split, else the address space."""
    table = mm.tables.get(vpn // mm.system.ptrs_per_pte)
    return table if level == "pte" and mm.system.split_ptlocks and table is not None else mm


def maps_at(page: Any, mm: Any, vpn: int, level: str = "pte") -> bool:
    """Whether the slot maps the page, as it is now."""
    return (mm, vpn // mm.system.ptrs_per_pte if level == "pmd" else vpn, level) in page.slots


def own_writes(op: Any, *fields: str, of: Any = None) -> list[Any]:
    """The stores of an operation to these fields (of that object), in order."""
    return [e for e in op.all("write") if e.field in fields and (of is None or e.obj is of)]


def first_mapping(op: Any) -> bool:
    """Whether the operation has made the page a mapped one: its own store took the map count from -1."""
    return any(e.old == -1 and e.new >= 0 for e in own_writes(op, "_mapcount", of=op.page))


def last_mapping(op: Any) -> bool:
    """Whether the operation has taken the last mapping of its page."""
    return any(e.new == -1 for e in own_writes(op, "_mapcount", of=op.page))


def zone_counter(page: Any) -> str:
    """Which of :data:`MAP_COUNTERS` a mapped page of this kind is counted in."""
    if not is_anon(page):
        return "NR_FILE_MAPPED"
    return "NR_ANON_TRANSPARENT_HUGEPAGES" if is_trans_huge(page) else "NR_ANON_PAGES"


def zone_change(op: Any) -> dict[str, int]:
    """By how much the operation has changed the zone counters of mapped pages; those that it left alone are left out."""
    changes = {name: op.delta(name, op.page.system.zone) for name in MAP_COUNTERS}
    return {name: change for name, change in changes.items() if change}


def step_index(op: Any, wanted: Any) -> int | None:
    """The place among the operation's steps of the first one for which `wanted` is true."""
    return next((i for i, e in enumerate(op.events) if wanted(e)), None)


def in_this_order(op: Any, *wanted: Any) -> bool:
    """Whether for each of these conditions there is a step of the operation, each after the one before."""
    at = -1
    events = op.events
    for condition in wanted:
        found = next((i for i in range(at + 1, len(events)) if condition(events[i])), None)
        if found is None:
            return False
        at = found
    return True


def dirty_somewhere(page: Any) -> bool:
    """Whether anything says that the page was written: its flag, an entry that maps it, or the storage key."""
    return page.PG_dirty or page.key_dirty or any(entry.dirty for entry in page.slots.values())


def in_cache(page: Any) -> bool:
    """Whether the page is in the swap cache or in the page cache of its file."""
    if page.PG_swapcache:
        return True
    mapping = page.mapping
    return mapping is not None and mapping.bits == 0 and mapping.pointer.pages.get(page.index) is page
