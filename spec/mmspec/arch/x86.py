"""x86: 64-bit with four and five levels, 32-bit with two levels and with PAE."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, HugePage, PteBits, TableLevel


def _pte(pfn_bits: int) -> PteBits:
    return PteBits(valid=1 << 0, write=1 << 1, dirty=1 << 6, young=1 << 5, pfn_shift=12, pfn_bits=pfn_bits)


def _huge_pte(pfn_bits: int) -> PteBits:
    # Bit 7 says in a directory entry that it maps a page; in an entry of the last level it is part of the memory type.
    page_size = 1 << 7
    return PteBits(
        valid=1 << 0,
        write=1 << 1,
        dirty=1 << 6,
        young=1 << 5,
        pfn_shift=12,
        pfn_bits=pfn_bits,
        leaf_mask=page_size,
        leaf=page_size,
    )


_FLUSH = "invlpg after an IPI"
_FACTS = {
    "entry bits": "Intel SDM volume 3A, chapter on paging (tables of entry formats), and "
    "arch/x86/include/asm/pgtable_types.h",
    "dirty and young": "Intel SDM volume 3A, section on accessed and dirty flags: set by the processor, never "
    "cleared by it",
    "TLB flush": "arch/x86/mm/tlb.c: flush_tlb_others sends an IPI to the mm's cpumask and waits",
    "interrupts disabled": "arch/x86/mm/gup.c until 5.2, comments in it: walkers with interrupts off hold off the IPI "
    "of the flush, which comes before a table is freed or collapsed; not so under a hypervisor that flushes by itself",
}
_FEATURES_32 = frozenset({"hugetlb", "thp", "migration", "ksm", "mmu_notifier"})
_FEATURES_64 = _FEATURES_32 | {"hwpoison", "pmd_share", "speculative_fault"}
_HUGE_64 = (HugePage(2 << 20, "pmd"), HugePage(1 << 30, "pud"))
_MMAP_BASE_64 = 0x2AAA_AAAA_B000
"""A third of 2**47 bytes less a page, rounded up to base pages."""

X86_64 = Architecture(
    name="x86_64",
    family="x86",
    word_bits=64,
    page_shift=12,
    levels=(TableLevel("pgd", 9), TableLevel("pud", 9), TableLevel("pmd", 9), TableLevel("pte", 9)),
    huge_pages=_HUGE_64,
    huge_page_size=2 << 20,
    mmap_base=_MMAP_BASE_64,
    user_end=(1 << 47) - 4096,
    pte=_pte(40),
    huge_pte=_huge_pte(40),
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction=_FLUSH,
    pte_exchange="xchg",
    irq_off_holds_off_free=True,
    irq_off_holds_off_collapse=True,
    features=_FEATURES_64,
    facts={
        **_FACTS,
        "address space": "Documentation/arch/x86/x86_64/mm.rst; TASK_SIZE_MAX leaves out the last page, "
        "TASK_UNMAPPED_BASE is a third, arch/x86/include/asm/processor.h",
    },
)

X86_64_LA57 = Architecture(
    name="x86_64-la57",
    family="x86",
    word_bits=64,
    page_shift=12,
    levels=(
        TableLevel("pgd", 9),
        TableLevel("p4d", 9),
        TableLevel("pud", 9),
        TableLevel("pmd", 9),
        TableLevel("pte", 9),
    ),
    huge_pages=_HUGE_64,
    huge_page_size=2 << 20,
    mmap_base=_MMAP_BASE_64,
    user_end=(1 << 56) - 4096,
    pte=_pte(40),
    huge_pte=_huge_pte(40),
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction=_FLUSH,
    pte_exchange="xchg",
    irq_off_holds_off_free=True,
    irq_off_holds_off_collapse=True,
    features=_FEATURES_64,
    facts={
        **_FACTS,
        "address space": "Documentation/arch/x86/x86_64/5level-paging.rst: addresses from 2**47 on only for a hint "
        "there, so mmap begins where it does with four levels",
    },
)

I386 = Architecture(
    name="i386",
    family="x86",
    word_bits=32,
    page_shift=12,
    levels=(TableLevel("pgd", 10), TableLevel("pud", 0, True), TableLevel("pmd", 0, True), TableLevel("pte", 10)),
    huge_pages=(HugePage(4 << 20, "pgd"),),
    huge_page_size=4 << 20,
    mmap_base=0x4000_0000,
    user_end=0xC000_0000,
    pte=_pte(20),
    huge_pte=_huge_pte(20),
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction=_FLUSH,
    pte_exchange="xchg",
    irq_off_holds_off_free=True,
    irq_off_holds_off_collapse=True,
    entry_bits=32,
    features=_FEATURES_32,
    facts={
        **_FACTS,
        "levels": "arch/x86/include/asm/pgtable-2level_types.h; PUD and PMD are folded, huge pages stand in the PGD",
        "address space": "PAGE_OFFSET of 3 GiB (the default split); TASK_UNMAPPED_BASE is a third of it",
    },
)

I386_PAE = Architecture(
    name="i386-pae",
    family="x86",
    word_bits=32,
    page_shift=12,
    levels=(TableLevel("pgd", 2), TableLevel("pud", 0, True), TableLevel("pmd", 9), TableLevel("pte", 9)),
    huge_pages=(HugePage(2 << 20, "pmd"),),
    huge_page_size=2 << 20,
    mmap_base=0x4000_0000,
    user_end=0xC000_0000,
    pte=_pte(40),
    huge_pte=_huge_pte(40),
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction=_FLUSH,
    pte_exchange="xchg of the low word, which makes the entry absent, then the high word",
    irq_off_holds_off_free=True,
    irq_off_holds_off_collapse=True,
    entry_bits=64,
    features=_FEATURES_32,
    facts={
        **_FACTS,
        "levels": "arch/x86/include/asm/pgtable-3level_types.h",
        "entries of two words": "arch/x86/include/asm/pgtable-3level.h: the high word is written first, the low word "
        "(with the present bit) last",
        "address space": "PAGE_OFFSET of 3 GiB (the default split); TASK_UNMAPPED_BASE is a third of it",
    },
)
