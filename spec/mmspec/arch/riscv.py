"""riscv64 with Sv39 and Sv48 translation."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, HugePage, PteBits, TableLevel

# An entry with any of R (bit 1), W and X set is a leaf, whatever its level. W without R is reserved; pages that can
# only be executed are left out.
_PTE = PteBits(
    valid=1 << 0,
    write=1 << 2,
    dirty=1 << 7,
    young=1 << 6,
    pfn_shift=10,
    pfn_bits=44,
    leaf_mask=1 << 1,
    leaf=1 << 1,
)


def _riscv(mode: str, levels: tuple[TableLevel, ...]) -> Architecture:
    bits = 12 + sum(level.bits for level in levels)
    user_end = 1 << (bits - 1)
    return Architecture(
        name=f"riscv64-{mode}",
        family="riscv",
        word_bits=64,
        page_shift=12,
        levels=levels,
        huge_pages=(HugePage(2 << 20, "pmd"), HugePage(1 << 30, "pgd" if mode == "sv39" else "pud")),
        huge_page_size=2 << 20,
        mmap_base=-(-(user_end // 3) >> 12 << 12),
        user_end=user_end,
        pte=_PTE,
        huge_pte=_PTE,
        dirty_young=DirtyYoung.HARDWARE,
        flush=Flush.FIRMWARE,
        flush_instruction="sfence.vma, remotely by the SBI extension RFENCE",
        pte_exchange="amoswap.d",
        irq_off_holds_off_free=False,
        irq_off_holds_off_collapse=False,
        features=frozenset({"hugetlb", "thp", "migration", "ksm", "mmu_notifier", "pmd_share"}),
        facts={
            "entry bits": "RISC-V Privileged Architecture, section on Sv39 and Sv48",
            "A and D": "set by hardware with Svadu, otherwise by a fault; Linux copes with both",
            "address space": "Documentation/arch/riscv/vm-layout.rst: user space is the lower half; TASK_UNMAPPED_BASE "
            "is a third of it, arch/riscv/include/asm/processor.h",
            "TLB flush": "arch/riscv/mm/tlbflush.c and the SBI specification; by IPI only where the kernel drives the "
            "interrupt controller of each hart (since 6.4)",
            "interrupts disabled": "a remote fence through the SBI reaches harts with interrupts off, so these hold "
            "off nothing; tables are freed after an RCU grace period since 2024 (arch/riscv/include/asm/tlb.h)",
        },
    )


RISCV64_SV39 = _riscv(
    "sv39", (TableLevel("pgd", 9), TableLevel("pud", 0, True), TableLevel("pmd", 9), TableLevel("pte", 9))
)
RISCV64_SV48 = _riscv("sv48", (TableLevel("pgd", 9), TableLevel("pud", 9), TableLevel("pmd", 9), TableLevel("pte", 9)))
