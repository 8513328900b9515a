"""s390x: huge pages of 1 MiB in segment tables, dirty and referenced state in storage keys."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, HugePage, PteBits, TableLevel

S390X = Architecture(
    name="s390x",
    family="s390",
    word_bits=64,
    page_shift=12,
    levels=(
        TableLevel("pgd", 0, True),
        TableLevel("p4d", 11),
        TableLevel("pud", 11),
        TableLevel("pmd", 11),
        TableLevel("pte", 8),
    ),
    huge_pages=(HugePage(1 << 20, "pmd"), HugePage(2 << 30, "pud")),
    huge_page_size=1 << 20,
    mmap_base=1 << 41,
    user_end=1 << 53,
    # A page-table entry: bit 0x400 says invalid, 0x200 protected.
    pte=PteBits(
        valid=0x400,
        write=0x200,
        dirty=0,
        young=0,
        pfn_shift=12,
        pfn_bits=52,
        valid_when_clear=True,
        write_when_clear=True,
    ),
    # A segment-table entry: bit 0x20 says invalid, 0x200 protected, 0x400 that it maps a large page.
    huge_pte=PteBits(
        valid=0x20,
        write=0x200,
        dirty=0,
        young=0,
        pfn_shift=12,
        pfn_bits=52,
        leaf_mask=0x400,
        leaf=0x400,
        valid_when_clear=True,
        write_when_clear=True,
    ),
    dirty_young=DirtyYoung.STORAGE_KEY,
    flush=Flush.BROADCAST,
    flush_instruction="ipte for a page, idte for a segment or an address space",
    pte_exchange="ipte invalidates and flushes at once; compare and swap without a flush",
    irq_off_holds_off_free=True,
    irq_off_holds_off_collapse=False,
    features=frozenset({"hugetlb", "thp", "migration", "ksm", "mmu_notifier"}),
    facts={
        "levels": "z/Architecture Principles of Operation, chapter 3: 2048 entries in region and segment tables, 256 "
        "in page tables; region-first tables are folded away here (in use since 4.13)",
        "entry bits": "z/Architecture Principles of Operation, chapter 3 (segment-table entry, page-table entry), and "
        "arch/s390/include/asm/pgtable.h",
        "dirty and young": "storage keys until 3.9 (dirty) and 3.12 (young); software bits since",
        "address space": "arch/s390/include/asm/processor.h: 2**53 bytes with four levels; TASK_UNMAPPED_BASE is 2**41 "
        "because a process starts with three levels",
        "TLB flush": "arch/s390/include/asm/tlbflush.h: IPTE and IDTE act on all processors",
        "interrupts disabled": "tables are freed after an RCU grace period (page_table_free_rcu in "
        "arch/s390/mm/pgalloc.c), which a walker with interrupts off holds off; a collapse sends no interrupt before "
        "6.2 (mm/khugepaged.c)",
    },
)
