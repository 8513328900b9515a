"""Page tables: entries, the locks that protect them, and the operations that change them.

A slot is empty (None) or holds one of the entries below; only a present one maps. Who reads an entry without its lock
may use what it saw to choose a path, no more. Where the architecture sets an entry in two steps, the first of them
leaves the slot empty for a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from mmreference.kernel.locks import SpinLock
from mmreference.kernel.memory import KernelObject
from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.mm_struct import VM_READ, VM_WRITE
from mmreference.mm.page import Page, Slot
from mmspec.invariant import Over
from mmspec.trace import Recorder, emit

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Mm, Vma


@attrs.frozen(slots=True)
class Present:
    """Maps a page. `splitting` is a trans-huge entry that is being split; `none` says that no access is allowed."""

    page: Page
    write: bool = False
    young: bool = False
    dirty: bool = False
    splitting: bool = False
    none: bool = False
    kind: ClassVar[str] = "present"


@attrs.frozen(slots=True)
class SwapEntry:
    """The page is in a swap slot."""

    slot: int
    kind: ClassVar[str] = "swap"


@attrs.frozen(slots=True)
class MigrationEntry:
    """The page is on its way to another frame."""

    page: Page
    write: bool
    kind: ClassVar[str] = "migration"


@attrs.frozen(slots=True)
class HwPoisonEntry:
    """The page's memory has failed."""

    page: Page
    kind: ClassVar[str] = "hwpoison"


@attrs.frozen(slots=True)
class FileEntry:
    """Of a nonlinear area: the index (base pages) of the file's page that belongs here."""

    pgoff: int
    kind: ClassVar[str] = "file"


Entry = Present | SwapEntry | MigrationEntry | HwPoisonEntry | FileEntry


class PteTable(KernelObject):
    """One page of ptes, with its lock where page-table locks are split."""

    over = Over.MM
    identity = ("name", "over", "mm")

    def __init__(self, name: str, mm: Mm, index: int) -> None:
        super().__init__(name)
        self.mm = mm
        self.index = index
        """Which pmd entry points here."""
        self.entries: dict[int, Entry] = {}
        """Base page number to entry; empty slots are left out."""
        self.ptl = SpinLock("ptl", self, mm.system.order)
        self.be_born()


def prot_none(vma: Vma) -> bool:
    """Whether the area allows no access at all; its pages are there nevertheless."""
    return not vma.vm_flags & (VM_READ | VM_WRITE)


def vpn_of(mm: Mm, address: int) -> int:
    """The base page number of an address (bytes)."""
    return address // mm.system.page_size


def pmd_index(mm: Mm, vpn: int) -> int:
    """Which pmd entry serves a base page number."""
    return vpn // mm.system.ptrs_per_pte


def pte_lockptr(mm: Mm, vpn: int) -> SpinLock:
    """The lock of the table that serves a base page number: its own, or that of the address space."""
    table = mm.tables.get(pmd_index(mm, vpn))
    return table.ptl if mm.system.split_ptlocks and table is not None else mm.page_table_lock


def slot_lock(mm: Mm, vpn: int, level: str) -> SpinLock:
    """The lock that protects a slot."""
    return pte_lockptr(mm, vpn) if level == "pte" else mm.page_table_lock


def read_entry(mm: Mm, vpn: int, level: str = "pte") -> Entry | None:
    """The entry as it is now; for those who hold its lock, and for the specification."""
    if level == "huge":
        return mm.huge.get(vpn)
    if level == "pmd":
        return mm.pmds.get(pmd_index(mm, vpn))
    table = mm.tables.get(pmd_index(mm, vpn))
    return None if table is None else table.entries.get(vpn)


def location(mm: Mm, vpn: int, level: str = "pte") -> tuple[str, str, int]:
    """What footprints call the slot."""
    return (mm.name, level, pmd_index(mm, vpn) if level == "pmd" else vpn)


async def probe_entry(mm: Mm, vpn: int, level: str = "pte") -> Entry | None:
    """The entry, read without its lock."""
    await Access(location(mm, vpn, level), f"read {level} {mm.name}[{vpn - mm.system.first_vpn}]")
    entry = read_entry(mm, vpn, level)
    emit("pte_probe", mm=mm, vpn=vpn, entry=entry)
    return entry


def entry_under_lock(mm: Mm, vpn: int, level: str = "pte") -> Entry | None:
    """The entry, read with its lock held."""
    touched(location(mm, vpn, level), write=False)
    return read_entry(mm, vpn, level)


async def pte_alloc(mm: Mm, vpn: int) -> PteTable | None:
    """Make sure that there is a table for the base page number: the table, or None without memory."""
    index = pmd_index(mm, vpn)
    if index not in mm.tables:
        emit("alloc", what="page table", may_reclaim=True)
        if await may_fail("page table"):
            return None
        async with mm.page_table_lock:
            # Somebody else may have been faster, with a table or with a trans-huge page.
            if index not in mm.tables and index not in mm.pmds:
                touched((mm.name, "pmd", index))
                mm.tables[index] = PteTable(f"{mm.name}.table{index - mm.system.first_pmd}", mm, index)
                emit("pmd_populate", mm=mm, index=index)
    return mm.tables.get(index)


def _table_of(mm: Mm, vpn: int, level: str) -> tuple[dict[int, Any], int]:
    """Where the slot is kept, and under which key."""
    if level == "pmd":
        return mm.pmds, pmd_index(mm, vpn)
    return mm.huge if level == "huge" else mm.tables[pmd_index(mm, vpn)].entries, vpn


def store(mm: Mm, vma: Vma | None, vpn: int, entry: Entry | None, level: str = "pte") -> Entry | None:
    """Change a slot, with its lock held; the entry before."""
    before = read_entry(mm, vpn, level)
    touched(location(mm, vpn, level))
    slots, key = _table_of(mm, vpn, level)
    if entry is None:
        slots.pop(key, None)
    else:
        slots[key] = entry
    slot = Slot(mm, key, level)
    mm.changes += 1
    if isinstance(before, Present):
        before.page.slots.pop(slot, None)
        _touch(before.page)
    if isinstance(entry, Present):
        entry.page.slots[slot] = entry
        _touch(entry.page)
    emit("set_pte", mm=mm, vma=vma, vpn=vpn, level=level, old=before, new=entry, lock=slot_lock(mm, vpn, level))
    _touch(mm)
    return before


def _touch(obj: KernelObject) -> None:
    if Recorder.active is not None:
        Recorder.active.touch(obj)


async def set_pte_at(mm: Mm, vma: Vma, vpn: int, entry: Entry | None, level: str = "pte") -> None:
    """Fill a slot, with its lock held."""
    if mm.system.transient_set_pte and read_entry(mm, vpn, level) is not None:
        slots, key = _table_of(mm, vpn, level)
        before = slots.pop(key)
        touched(location(mm, vpn, level))
        await Access(location(mm, vpn, level), f"set pte {mm.name}[{vpn - mm.system.first_vpn}]", write=True)
        slots[key] = before
    store(mm, vma, vpn, entry, level)


def flush_cache_page(vma: Vma, vpn: int, level: str = "pte") -> None:
    """Write back what a virtually indexed cache holds of the page, while its translation is still there."""
    emit("flush_cache_page", mm=vma.mm, vpn=vpn, valid=isinstance(read_entry(vma.mm, vpn, level), Present))


async def ptep_clear_flush(vma: Vma, vpn: int, level: str = "pte") -> Entry | None:
    """Empty the slot in one go and make all CPUs forget it; what was in it at that instant."""
    mm = vma.mm
    before = store(mm, vma, vpn, None, level)
    emit("ptep_clear", mm=mm, vma=vma, vpn=vpn, level=level, entry=before)
    await flush_slot(mm, vpn, level)
    return before


async def flush_slot(mm: Mm, vpn: int, level: str) -> None:
    """All CPUs forget what the slot maps."""
    system = mm.system
    if level != "pte":
        order = system.huge_page_order if level == "huge" else system.ptrs_per_pte.bit_length() - 1
        first = vpn >> order << order
        for one in range(first, first + (1 << order)):
            await system.tlbs.flush_tlb_page(mm, one)
    else:
        await system.tlbs.flush_tlb_page(mm, vpn)


async def ptep_clear_flush_notify(vma: Vma, vpn: int, level: str = "pte") -> Entry | None:
    """:func:`ptep_clear_flush`, and secondary MMUs forget it too."""
    from mmreference.mm.mmu_notifier import mmu_notifier_invalidate_page

    before = await ptep_clear_flush(vma, vpn, level)
    await mmu_notifier_invalidate_page(vma.mm, vpn)
    emit("ptep_clear_flush_notify", mm=vma.mm, vma=vma, vpn=vpn, level=level, entry=before)
    return before


async def ptep_clear_flush_young_notify(vma: Vma, vpn: int, level: str = "pte") -> bool:
    """Clear the young bit here and in secondary MMUs; whether any of them was set."""
    from mmreference.mm.mmu_notifier import mmu_notifier_clear_flush_young

    mm = vma.mm
    entry = entry_under_lock(mm, vpn, level)
    assert isinstance(entry, Present)
    young = entry.young
    if young:
        store(mm, vma, vpn, attrs.evolve(entry, young=False), level)
        await flush_slot(mm, vpn, level)
    young |= await mmu_notifier_clear_flush_young(mm, vpn)
    emit("clear_young", mm=mm, vma=vma, vpn=vpn, level=level, young=young)
    return young
