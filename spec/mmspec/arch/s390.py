"""s390x: huge pages of 1 MiB in segment tables, dirty and referenced state in storage keys."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, PteBits, TableLevel

S390X = Architecture(
    name="s390x",
    family="s390",
    word_bits=64,
    page_shift=12,
    levels=(TableLevel("p4d", 11), TableLevel("pud", 11), TableLevel("pmd", 11), TableLevel("pte", 8)),
    huge_page_size=1 << 20,
    huge_page_sizes=(1 << 20, 2 << 30),
    huge_level="pmd",
    mmap_base=1 << 52,
    user_end=1 << 53,
    # A segment-table entry: bit 0x20 says invalid, 0x200 protected, 0x400 that it maps a large page.
    pte=PteBits(
        valid=0x20,
        write=0x200,
        dirty=0,
        young=0,
        huge=0x400,
        pfn_shift=12,
        valid_when_clear=True,
        write_when_clear=True,
    ),
    dirty_young=DirtyYoung.STORAGE_KEY,
    flush=Flush.BROADCAST,
    flush_instruction="idte",
    irq_off_holds_off_collapse=False,
    features=frozenset({"hugetlb", "thp", "migration", "ksm", "mmu_notifier"}),
    facts={
        "entry bits": "z/Architecture Principles of Operation, chapter 3 (segment-table entry), and "
        "arch/s390/include/asm/pgtable.h",
        "dirty and young": "storage keys until 3.9 (dirty) and 3.12 (young); software bits since",
        "TLB flush": "arch/s390/include/asm/tlbflush.h: IPTE and IDTE act on all processors",
    },
)
