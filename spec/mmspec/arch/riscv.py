"""riscv64 with Sv39 and Sv48 translation."""

from mmspec.arch.profile import Architecture, DirtyYoung, Flush, PteBits, TableLevel


def _riscv(mode: str, levels: tuple[TableLevel, ...]) -> Architecture:
    bits = 12 + sum(level.bits for level in levels)
    return Architecture(
        name=f"riscv64-{mode}",
        family="riscv",
        word_bits=64,
        page_shift=12,
        levels=levels,
        huge_page_size=2 << 20,
        huge_page_sizes=(2 << 20, 1 << 30),
        huge_level="pmd",
        mmap_base=(1 << (bits - 1)) // 3 & ~((2 << 20) - 1),
        user_end=1 << (bits - 1),
        # An entry with any of R, W, X set is a leaf, whatever its level.
        pte=PteBits(valid=1 << 0, write=1 << 2, dirty=1 << 7, young=1 << 6, huge=1 << 1, pfn_shift=10),
        dirty_young=DirtyYoung.HARDWARE,
        flush=Flush.IPI,
        flush_instruction="sfence.vma, remotely by SBI or IPI",
        irq_off_holds_off_collapse=True,
        features=frozenset({"hugetlb", "thp", "migration", "ksm", "mmu_notifier"}),
        facts={
            "entry bits": "RISC-V Privileged Architecture, section on Sv39 and Sv48",
            "A and D": "set by hardware with Svadu, otherwise by a fault; Linux copes with both",
            "address space": "Documentation/arch/riscv/vm-layout.rst: user space is the lower half",
        },
    )


RISCV64_SV39 = _riscv("sv39", (TableLevel("pgd", 9), TableLevel("pmd", 9), TableLevel("pte", 9)))
RISCV64_SV48 = _riscv("sv48", (TableLevel("pgd", 9), TableLevel("pud", 9), TableLevel("pmd", 9), TableLevel("pte", 9)))
