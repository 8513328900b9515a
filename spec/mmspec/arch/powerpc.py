"""powerpc64, Book3S with the hash MMU: base pages of 64 KiB, huge pages of 16 MiB."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, HugePage, PteBits, TableLevel

# Bit 62 tells entries from pointers to tables, at each level.
_PTE = PteBits(
    valid=1 << 63,
    write=1 << 1,
    dirty=1 << 7,
    young=1 << 8,
    pfn_shift=16,
    pfn_bits=37,
    leaf_mask=1 << 62,
    leaf=1 << 62,
)

POWERPC64 = Architecture(
    name="powerpc64",
    family="powerpc",
    word_bits=64,
    page_shift=16,
    levels=(TableLevel("pgd", 8), TableLevel("pud", 10), TableLevel("pmd", 10), TableLevel("pte", 8)),
    huge_pages=(HugePage(16 << 20, "pmd"), HugePage(16 << 30, "pud")),
    huge_page_size=16 << 20,
    mmap_base=1 << 45,
    user_end=1 << 49,
    pte=_PTE,
    huge_pte=_PTE,
    dirty_young=DirtyYoung.SOFTWARE,
    flush=Flush.BROADCAST,
    flush_instruction="tlbie, and removal of the hash entry",
    pte_exchange="ldarx and stdcx.",
    irq_off_holds_off_free=True,
    irq_off_holds_off_collapse=True,
    features=frozenset({"hugetlb", "thp", "migration", "ksm", "hwpoison", "mmu_notifier", "speculative_fault"}),
    facts={
        "levels": "arch/powerpc/include/asm/book3s/64/hash-64k.h (8, 10, 10 and 8 index bits, since 5.2)",
        "entry bits": "arch/powerpc/include/asm/book3s/64/pgtable.h; physical addresses of 53 bits (_PAGE_PA_MAX)",
        "dirty and young": "R and C of the hash entry are not read back; the fault that inserts it sets both bits "
        "(arch/powerpc/mm/book3s64/hash_64k.c)",
        "address space": "arch/powerpc/include/asm/task_size_64.h: 512 TiB; mmap begins at a quarter of the window of "
        "128 TiB that is used without a hint beyond it",
        "interrupts disabled": "tables are freed after an RCU grace period; before a collapse, "
        "serialize_against_pte_lookup sends an IPI and waits (arch/powerpc/mm/book3s64/pgtable.c)",
        "size": "in 2008 huge pages had directories of their own (hugepd); here they are entered in the PMD",
    },
)
