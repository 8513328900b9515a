"""What an architecture profile says."""

from __future__ import annotations

from enum import Enum

import attrs
import deal


@attrs.frozen(slots=True)
class TableLevel:
    """One level of page tables: its kernel name, the address bits that index it, and whether it is folded away."""

    name: str
    bits: int
    folded: bool = False


class DirtyYoung(Enum):
    """Where the machine notes that a page was written or used."""

    HARDWARE = "bits of the entry, set by the processor"
    SOFTWARE = "bits of the entry, set by fault handlers"
    STORAGE_KEY = "storage key of the physical page"


class Flush(Enum):
    """How one processor makes the others forget a translation."""

    IPI = "interrupt to each processor that uses the address space"
    BROADCAST = "one instruction that all processors obey"


@attrs.frozen(slots=True)
class PteBits:
    """The bits of a huge-page entry, as masks; 0 where the architecture has no such bit there.

    `pfn_shift` is where the page frame number (in base pages) begins. `valid_when_clear` tells that the valid mask
    means "invalid" when set, `write_when_clear` that the write mask means "read-only" when set.
    """

    valid: int
    write: int
    dirty: int
    young: int
    huge: int
    pfn_shift: int
    valid_when_clear: bool = False
    write_when_clear: bool = False


@attrs.frozen(slots=True)
class PteValue:
    """A decoded huge-page entry; `pfn` in base pages."""

    pfn: int
    present: bool
    writable: bool
    dirty: bool
    young: bool


@attrs.frozen
class Architecture:
    """One profile. Sizes and addresses are in bytes."""

    name: str
    family: str
    word_bits: int
    page_shift: int
    levels: tuple[TableLevel, ...]
    """From the topmost level down to the one whose entries map base pages."""
    huge_page_size: int
    """The default size of a hugetlb page."""
    huge_page_sizes: tuple[int, ...]
    huge_level: str
    """The level whose entry maps a huge page of the default size."""
    mmap_base: int
    """Where mmap starts to look for room, bottom up."""
    user_end: int
    """First address that no process can map."""
    pte: PteBits
    dirty_young: DirtyYoung
    flush: Flush
    flush_instruction: str
    irq_off_holds_off_collapse: bool
    """Whether a processor with interrupts disabled keeps page tables from being freed under its feet."""
    stack_grows_down: bool = True
    features: frozenset[str] = frozenset({"hugetlb"})
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
    def huge_entries_per_table(self) -> int:
        """Entries in one table of the level that maps huge pages."""
        return 1 << next(level.bits for level in self.levels if level.name == self.huge_level)

    @property
    def bytes_per_huge_entry(self) -> int:
        """Bytes that one entry of the huge level spans, by the geometry of the tables."""
        names = [level.name for level in self.levels]
        below = self.levels[names.index(self.huge_level) + 1 :]
        return 1 << (self.page_shift + sum(level.bits for level in below))

    @deal.pure
    def encode(self, value: PteValue) -> int:
        """The entry that maps a huge page; dirty and young are lost where the entry has no bits for them."""
        bits = self.pte
        entry = value.pfn << bits.pfn_shift | bits.huge
        entry |= bits.valid if value.present != bits.valid_when_clear else 0
        entry |= bits.write if value.writable != bits.write_when_clear else 0
        entry |= bits.dirty if value.dirty else 0
        entry |= bits.young if value.young else 0
        return entry

    @deal.pure
    def decode(self, entry: int) -> PteValue:
        """What an entry says."""
        bits = self.pte
        frame_bits = 20 if self.word_bits == 32 else min(40, 52 - self.page_shift)
        return PteValue(
            pfn=entry >> bits.pfn_shift & ((1 << frame_bits) - 1),
            present=bool(entry & bits.valid) != bits.valid_when_clear,
            writable=bool(entry & bits.write) != bits.write_when_clear,
            dirty=bool(entry & bits.dirty),
            young=bool(entry & bits.young),
        )
