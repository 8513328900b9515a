"""x86: 64-bit with four and five levels, 32-bit with two levels and with PAE."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, PteBits, TableLevel

_BITS = PteBits(valid=1 << 0, write=1 << 1, dirty=1 << 6, young=1 << 5, huge=1 << 7, pfn_shift=12)
_FACTS = {
    "entry bits": "Intel SDM volume 3A, section 4.5, and arch/x86/include/asm/pgtable_types.h",
    "TLB flush": "arch/x86/mm/tlb.c: flush_tlb_others sends an IPI to the mm's cpumask",
}
_FEATURES = frozenset({"hugetlb", "thp", "migration", "ksm", "hwpoison", "mmu_notifier"})

X86_64 = Architecture(
    name="x86_64",
    family="x86",
    word_bits=64,
    page_shift=12,
    levels=(TableLevel("pgd", 9), TableLevel("pud", 9), TableLevel("pmd", 9), TableLevel("pte", 9)),
    huge_page_size=2 << 20,
    huge_page_sizes=(2 << 20, 1 << 30),
    huge_level="pmd",
    mmap_base=0x2AAA_AAA0_0000,
    user_end=(1 << 47) - 4096,
    pte=_BITS,
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction="invlpg after an IPI",
    irq_off_holds_off_collapse=True,
    features=_FEATURES,
    facts={**_FACTS, "address space": "Documentation/arch/x86/x86_64/mm.rst"},
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
    huge_page_size=2 << 20,
    huge_page_sizes=(2 << 20, 1 << 30),
    huge_level="pmd",
    mmap_base=0x2AAA_AAA0_0000,
    user_end=(1 << 56) - 4096,
    pte=_BITS,
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction="invlpg after an IPI",
    irq_off_holds_off_collapse=True,
    features=_FEATURES,
    facts={**_FACTS, "address space": "Documentation/arch/x86/x86_64/5level-paging.rst"},
)

I386 = Architecture(
    name="i386",
    family="x86",
    word_bits=32,
    page_shift=12,
    levels=(TableLevel("pgd", 10), TableLevel("pud", 0, True), TableLevel("pmd", 0, True), TableLevel("pte", 10)),
    huge_page_size=4 << 20,
    huge_page_sizes=(4 << 20,),
    huge_level="pgd",
    mmap_base=0x4000_0000,
    user_end=0xC000_0000,
    pte=_BITS,
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction="invlpg after an IPI",
    irq_off_holds_off_collapse=True,
    facts={**_FACTS, "levels": "arch/x86/include/asm/pgtable-2level_types.h; PUD and PMD are folded"},
)

I386_PAE = Architecture(
    name="i386-pae",
    family="x86",
    word_bits=32,
    page_shift=12,
    levels=(TableLevel("pgd", 2), TableLevel("pud", 0, True), TableLevel("pmd", 9), TableLevel("pte", 9)),
    huge_page_size=2 << 20,
    huge_page_sizes=(2 << 20,),
    huge_level="pmd",
    mmap_base=0x4000_0000,
    user_end=0xC000_0000,
    pte=_BITS,
    dirty_young=DirtyYoung.HARDWARE,
    flush=Flush.IPI,
    flush_instruction="invlpg after an IPI",
    irq_off_holds_off_collapse=True,
    features=frozenset({"hugetlb", "thp", "migration", "ksm"}),
    facts={**_FACTS, "levels": "arch/x86/include/asm/pgtable-3level_types.h; entries have 64 bits"},
)
