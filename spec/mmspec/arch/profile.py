"""What an architecture profile says."""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs
import deal

#: What a machine may offer beside demand paging, to the kernel configuration that says so.
FEATURES: Final = {
    "hugetlb": "ARCH_SUPPORTS_HUGETLBFS: pages of a huge size, reserved in a pool",
    "thp": "HAVE_ARCH_TRANSPARENT_HUGEPAGE: huge pages that are assembled and split behind the back of user space",
    "migration": "MIGRATION: entries that point to a page on its way to another frame",
    "ksm": "KSM: equal anonymous pages merged into one",
    "hwpoison": "ARCH_SUPPORTS_MEMORY_FAILURE: entries that point to a frame which has failed",
    "mmu_notifier": "MMU_NOTIFIER: secondary translations that follow the page tables",
    "pmd_share": "ARCH_WANT_HUGE_PMD_SHARE: tables of huge-page entries that several processes use",
    "speculative_fault": "ARCH_SUPPORTS_SPECULATIVE_PAGE_FAULT: faults handled without mmap_sem (series of 2019)",
}


@attrs.frozen(slots=True)
class TableLevel:
    """One level of page tables: its kernel name, the address bits that index it, and whether it is folded away."""

    name: str
    bits: int
    folded: bool = False


@attrs.frozen(slots=True)
class HugePage:
    """A huge page size in bytes, the level that enters it, and how many neighbouring entries do so together."""

    size: int
    level: str
    entries: int = 1


class DirtyYoung(Enum):
    """Where the machine notes that a page was written or used."""

    HARDWARE = "bits of the entry, set by the processor"
    SOFTWARE = "bits of the entry, set by fault handlers"
    STORAGE_KEY = "storage key of the physical page"


class Flush(Enum):
    """How one processor makes the others forget a translation."""

    IPI = "interrupt to each processor that uses the address space"
    BROADCAST = "one instruction that all processors obey"
    FIRMWARE = "call of the firmware, which interrupts the other processors whatever they have disabled"


@attrs.frozen(slots=True)
class PteBits:
    """The bits of an entry that maps memory, as masks; 0 where the architecture has no such bit there.

    `pfn_shift` is where the page frame number (in base pages) begins, `pfn_bits` how many bits it has.
    `valid_when_clear` tells that the valid mask means "invalid" when set, `write_when_clear` that the write mask means
    "read-only" when set. An entry maps memory, rather than to point to a table, if its `leaf_mask` bits are `leaf`.
    """

    valid: int
    write: int
    dirty: int
    young: int
    pfn_shift: int
    pfn_bits: int
    leaf_mask: int = 0
    leaf: int = 0
    valid_when_clear: bool = False
    write_when_clear: bool = False


@attrs.frozen(slots=True)
class PteValue:
    """A decoded entry; `pfn` in base pages, `huge` if it maps a huge page of the default size."""

    pfn: int
    present: bool
    writable: bool
    dirty: bool = False
    young: bool = False
    huge: bool = False


@attrs.frozen
class Architecture:
    """One profile. Sizes and addresses are in bytes."""

    name: str
    family: str
    word_bits: int
    page_shift: int
    levels: tuple[TableLevel, ...]
    """From the topmost level down to the one whose entries map base pages."""
    huge_pages: tuple[HugePage, ...]
    """What hugetlb offers, in ascending order of size."""
    huge_page_size: int
    """The default size of a hugetlb page."""
    mmap_base: int
    """Where mmap starts to look for room, bottom up."""
    user_end: int
    """First address that no process can map; the range of user addresses begins at 0."""
    pte: PteBits
    """An entry of the last level, which maps a base page."""
    huge_pte: PteBits
    """An entry that maps a huge page of the default size."""
    dirty_young: DirtyYoung
    flush: Flush
    flush_instruction: str
    pte_exchange: str
    """How an entry is read and replaced in one go, so that no dirty bit gets lost in between."""
    irq_off_holds_off_free: bool
    """Whether a processor with interrupts disabled keeps page tables from being freed under its feet."""
    irq_off_holds_off_collapse: bool
    """Whether it also keeps a table from being replaced by a huge page while it walks it."""
    entry_bits: int = 64
    """Bits of one page-table entry."""
    stack_grows_down: bool = True
    features: frozenset[str] = frozenset({"hugetlb"})
    """Names from :data:`FEATURES`."""
    facts: dict[str, str] = attrs.field(factory=dict, hash=False, repr=False)
    """What is said here, to where it is said."""

    @property
    def page_size(self) -> int:
        """Bytes of a base page."""
        return 1 << self.page_shift

    @property
    def va_bits(self) -> int:
        """Bits of a virtual address that the page tables translate."""
        return self.page_shift + sum(level.bits for level in self.levels)

    @property
    def huge_page_sizes(self) -> tuple[int, ...]:
        """All sizes of hugetlb pages."""
        return tuple(huge.size for huge in self.huge_pages)

    @property
    def huge_level(self) -> str:
        """The level whose entry maps a huge page of the default size."""
        return next(huge.level for huge in self.huge_pages if huge.size == self.huge_page_size)

    @property
    def huge_entries_per_table(self) -> int:
        """Entries in one table of the level that maps huge pages of the default size."""
        return 1 << self.levels[self._position(self.huge_level)].bits

    @property
    def bytes_per_huge_entry(self) -> int:
        """Bytes that one entry of that level spans, by the geometry of the tables."""
        return self.bytes_per_entry(self.huge_level)

    @property
    def torn_entries(self) -> bool:
        """Whether an entry is wider than a machine word, so that a plain store or load of it is not one access."""
        return self.entry_bits > self.word_bits

    def has(self, feature: str) -> bool:
        """Whether the machine offers one of :data:`FEATURES`."""
        return feature in self.features

    @deal.pure
    def bytes_per_entry(self, level: str) -> int:
        """Bytes that one entry of the level spans, by the geometry of the tables."""
        return 1 << (self.page_shift + sum(below.bits for below in self.levels[self._position(level) + 1 :]))

    @deal.pure
    def encode(self, value: PteValue) -> int:
        """The entry that says `value`; dirty and young are lost where the entry has no bits for them.

        `pfn` has at most `pfn_bits` bits; for a huge page it is a multiple of the base pages in it.
        """
        bits = self.huge_pte if value.huge else self.pte
        entry = value.pfn << bits.pfn_shift | bits.leaf
        entry |= bits.valid if value.present != bits.valid_when_clear else 0
        entry |= bits.write if value.writable != bits.write_when_clear else 0
        entry |= bits.dirty if value.dirty else 0
        entry |= bits.young if value.young else 0
        return entry

    @deal.pure
    def decode(self, entry: int, *, huge: bool = False) -> PteValue:
        """What an entry that maps memory says; `huge` if it stands at the level of huge pages."""
        bits = self.huge_pte if huge else self.pte
        return PteValue(
            pfn=entry >> bits.pfn_shift & ((1 << bits.pfn_bits) - 1),
            present=bool(entry & bits.valid) != bits.valid_when_clear,
            writable=bool(entry & bits.write) != bits.write_when_clear,
            dirty=bool(entry & bits.dirty),
            young=bool(entry & bits.young),
            huge=huge,
        )

    @deal.pure
    def maps_huge_page(self, entry: int) -> bool:
        """Whether an entry at the level of huge pages maps one, rather than to be empty or to point to a table."""
        bits = self.huge_pte
        valid = bool(entry & bits.valid) != bits.valid_when_clear
        return valid and entry & bits.leaf_mask == bits.leaf

    def _position(self, level: str) -> int:
        return [known.name for known in self.levels].index(level)
