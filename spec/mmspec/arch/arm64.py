"""arm64 with granules of 4 KiB, 16 KiB and 64 KiB."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, PteBits, TableLevel

_FACTS = {
    "entry bits": "Arm ARM, section D8.3 (block descriptors), and arch/arm64/include/asm/pgtable-hwdef.h",
    "dirty": "hardware update of dirty state needs FEAT_HAFDBS; otherwise faults set the software bit 55",
    "TLB flush": "arch/arm64/include/asm/tlbflush.h: TLBI ... IS is broadcast to the inner shareable domain",
}


def _arm64(granule: str, shift: int, levels: tuple[TableLevel, ...], huge: int, sizes: tuple[int, ...]) -> Architecture:
    bits = shift + sum(level.bits for level in levels)
    return Architecture(
        name=f"arm64-{granule}",
        family="arm64",
        word_bits=64,
        page_shift=shift,
        levels=levels,
        huge_page_size=huge,
        huge_page_sizes=sizes,
        huge_level="pmd",
        mmap_base=1 << (bits - 2),
        user_end=1 << bits,
        # A block descriptor has the type 01: bit 0 set and bit 1 clear. AP[2] (bit 7) says read-only.
        pte=PteBits(
            valid=1 << 0, write=1 << 7, dirty=1 << 55, young=1 << 10, huge=0, pfn_shift=shift, write_when_clear=True
        ),
        dirty_young=DirtyYoung.SOFTWARE,
        flush=Flush.BROADCAST,
        flush_instruction="tlbi vale1is",
        irq_off_holds_off_collapse=False,
        features=frozenset({"hugetlb", "thp", "migration", "ksm", "hwpoison", "mmu_notifier"}),
        facts=_FACTS,
    )


ARM64_4K = _arm64(
    "4k", 12, (TableLevel("pgd", 9), TableLevel("pud", 9), TableLevel("pmd", 9), TableLevel("pte", 9)), 2 << 20,
    (64 << 10, 2 << 20, 32 << 20, 1 << 30),
)  # fmt: skip
ARM64_16K = _arm64(
    "16k", 14, (TableLevel("pgd", 11), TableLevel("pud", 0, True), TableLevel("pmd", 11), TableLevel("pte", 11)),
    32 << 20, (2 << 20, 32 << 20, 1 << 30),
)  # fmt: skip
ARM64_64K = _arm64(
    "64k", 16, (TableLevel("pgd", 6), TableLevel("pud", 0, True), TableLevel("pmd", 13), TableLevel("pte", 13)),
    512 << 20, (2 << 20, 512 << 20, 16 << 30),
)  # fmt: skip
