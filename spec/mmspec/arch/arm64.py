"""arm64 with granules of 4 KiB, 16 KiB and 64 KiB."""

import attrs

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, HugePage, PteBits, TableLevel

_FACTS = {
    "entry bits": "Arm ARM, chapter on the AArch64 virtual memory system (VMSAv8-64 descriptor formats), and "
    "arch/arm64/include/asm/pgtable-hwdef.h; physical addresses of 48 bits",
    "dirty": "hardware update of dirty state needs FEAT_HAFDBS; otherwise faults set the software bit 55 "
    "(arch/arm64/include/asm/pgtable-prot.h)",
    "contiguous entries": "CONT_PTES and CONT_PMDS in arch/arm64/include/asm/pgtable-hwdef.h; hugetlb sizes of them "
    "since 4.5",
    "address space": "arch/arm64/include/asm/processor.h: TASK_SIZE is the whole lower range, TASK_UNMAPPED_BASE a "
    "quarter of it",
    "TLB flush": "arch/arm64/include/asm/tlbflush.h: TLBI ... IS is broadcast to the inner shareable domain",
    "interrupts disabled": "tables are freed after an RCU grace period (HAVE_RCU_TABLE_FREE, since 3.18), which a "
    "walker with interrupts off holds off; a collapse sends no interrupt before 6.2 (mm/khugepaged.c)",
}


def _arm64(
    granule: str, shift: int, levels: tuple[TableLevel, ...], default: int, sizes: tuple[HugePage, ...], share: bool
) -> Architecture:
    bits = shift + sum(level.bits for level in levels)
    # Bit 1 is set in a page descriptor and clear in a block descriptor. AP[2] (bit 7) says read-only.
    page = PteBits(
        valid=1 << 0,
        write=1 << 7,
        dirty=1 << 55,
        young=1 << 10,
        pfn_shift=shift,
        pfn_bits=48 - shift,
        leaf_mask=1 << 1,
        leaf=1 << 1,
        write_when_clear=True,
    )
    features = {"hugetlb", "thp", "migration", "ksm", "hwpoison", "mmu_notifier", "speculative_fault"}
    return Architecture(
        name=f"arm64-{granule}",
        family="arm64",
        word_bits=64,
        page_shift=shift,
        levels=levels,
        huge_pages=sizes,
        huge_page_size=default,
        mmap_base=1 << (bits - 2),
        user_end=1 << bits,
        pte=page,
        huge_pte=attrs.evolve(page, leaf=0),
        dirty_young=DirtyYoung.SOFTWARE,
        flush=Flush.BROADCAST,
        flush_instruction="tlbi vale1is",
        pte_exchange="ldxr and stxr, or swp",
        irq_off_holds_off_free=True,
        irq_off_holds_off_collapse=False,
        features=frozenset(features | {"pmd_share"} if share else features),
        facts=_FACTS,
    )


ARM64_4K = _arm64(
    "4k",
    12,
    (TableLevel("pgd", 9), TableLevel("pud", 9), TableLevel("pmd", 9), TableLevel("pte", 9)),
    2 << 20,
    (HugePage(64 << 10, "pte", 16), HugePage(2 << 20, "pmd"), HugePage(32 << 20, "pmd", 16), HugePage(1 << 30, "pud")),
    share=True,
)
ARM64_16K = _arm64(
    "16k",
    14,
    (TableLevel("pgd", 11), TableLevel("pud", 0, True), TableLevel("pmd", 11), TableLevel("pte", 11)),
    32 << 20,
    (HugePage(2 << 20, "pte", 128), HugePage(32 << 20, "pmd"), HugePage(1 << 30, "pmd", 32)),
    share=True,
)
ARM64_64K = _arm64(
    "64k",
    16,
    (TableLevel("pgd", 6), TableLevel("pud", 0, True), TableLevel("pmd", 13), TableLevel("pte", 13)),
    512 << 20,
    (HugePage(2 << 20, "pte", 32), HugePage(512 << 20, "pmd"), HugePage(16 << 30, "pmd", 32)),
    share=False,
)
