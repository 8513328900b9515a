"""powerpc64, Book3S with the hash MMU: base pages of 64 KiB, huge pages of 16 MiB."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, PteBits, TableLevel

POWERPC64 = Architecture(
    name="powerpc64",
    family="powerpc",
    word_bits=64,
    page_shift=16,
    levels=(TableLevel("pgd", 8), TableLevel("pud", 10), TableLevel("pmd", 10), TableLevel("pte", 8)),
    huge_page_size=16 << 20,
    huge_page_sizes=(16 << 20, 16 << 30),
    huge_level="pmd",
    mmap_base=1 << 47,
    user_end=1 << 49,
    pte=PteBits(valid=1 << 63, write=1 << 1, dirty=1 << 7, young=1 << 8, huge=1 << 62, pfn_shift=16),
    dirty_young=DirtyYoung.SOFTWARE,
    flush=Flush.BROADCAST,
    flush_instruction="tlbie, and removal of the hash entry",
    irq_off_holds_off_collapse=True,
    features=frozenset({"hugetlb", "thp", "migration", "ksm", "hwpoison", "mmu_notifier"}),
    facts={
        "levels": "arch/powerpc/include/asm/book3s/64/hash-64k.h (8, 10, 10 and 8 index bits)",
        "entry bits": "arch/powerpc/include/asm/book3s/64/pgtable.h",
        "collapse": "serialize_against_pte_lookup sends an IPI and waits, arch/powerpc/mm/book3s64/pgtable.c",
        "size": "in 2008 huge pages had directories of their own (hugepd); here they are entered in the PMD",
    },
)
