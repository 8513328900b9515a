"""The mutants of huge-page reservations, each with its story."""

from __future__ import annotations

from mmconformance.bugs.mutant import Edit, Mutant
from mmspec.config import INSTANTIATION_MUTEX, TENTATIVE

GIBSON = 'David Gibson, "hugepage: Smarter handling of in-flight allocations", 18 October 2006'
WHITCROFT = 'Andy Whitcroft, "fix hugetlb MAP_PRIVATE reservations across vma splits V2", 23 June 2008'

ALL = (
    Mutant(
        "C-01", "chunked mmap overcommits the pool",
        "Each request was compared with the free pages alone, so two mappings that fit one by one, and do not fit "
        "together, were both granted; the faults of the second one ended in the out-of-memory killer.",
        "tightening hugetlb strict accounting (2006); libhugetlbfs test chunk-overcommit",
        (Edit("mm.hugetlb.pool", "needed = h.resv_huge_pages + delta - h.free_huge_pages - len(gathered)",
              "needed = delta - h.free_huge_pages - len(gathered)"),),
        ("HTLB-RSV-006", "HTLB-RSV-002"),
    ),
    Mutant(
        "C-02", "out of memory instead of SIGBUS beyond the end",
        "With the size tested after the allocation, a fault beyond the end of a file fails on the empty pool first, "
        "and the process is killed where SIGBUS was due.",
        GIBSON,
        (Edit("mm.hugetlb.fault", "        if idx >= await i_size_read(inode, idx):",
              "        if page is not None and idx >= await i_size_read(inode, idx):"),),
        ("HTLB-FLT-007", "HTLB-FLT-008", "HTLB-ERR-002"),
    ),
    Mutant(
        "C-03", "reserve used up by a fault beyond the end",
        "A page was drawn from the reserve before the fault noticed that it was beyond the end, and went back to the "
        "general pool: HugePages_Rsvd became absurd after truncation.",
        "hugetlb: fix absurd HugePages_Rsvd (2006); libhugetlbfs test truncate_reserve_wraparound",
        (Edit("mm.hugetlb.pool", "        if drawn is not None:\n            restore_reservation(h, page)\n",
              "        if drawn is not None:\n            page.drawn_from = None\n"),),
        ("HTLB-RSV-015", "HTLB-RSV-017", "HTLB-RSV-004", "HTLB-RSV-005", "HTLB-ALC-014"),
    ),
    Mutant(
        "C-04", "VMA split duplicates the reservation",
        "What was left of the reservation lived in the VMA and was copied with it; both halves gave it back, and "
        "resv_huge_pages ran below zero.",
        WHITCROFT,
        (Edit("mm.hugetlb.mmap", "    reserve = vma.npages - await map_region_count(reservations, vma.lo, vma.hi)",
              "    reserve = reservations.hi - reservations.lo - await map_region_count(reservations, 0, 1 << 40)"),),
        ("HTLB-RSV-008", "HTLB-VMA-004", "HTLB-RSV-009"),
    ),
    Mutant(
        "C-05", "close credits the whole map",
        "Each part of a split mapping must count the consumed offsets within its own span; counting those of the "
        "whole map gives back too little here and too much there.",
        WHITCROFT,
        (Edit("mm.hugetlb.mmap", "map_region_count(reservations, vma.lo, vma.hi)", "map_region_count(reservations, 0, 1 << 40)"),),
        ("HTLB-RSV-008", "HTLB-VMA-004"),
    ),
    Mutant(
        "C-06", "map shared after a split without a reference",
        "Without a reference taken in open, the first half to go frees the map that the other half still uses.",
        WHITCROFT,
        (Edit("mm.hugetlb.vma", "        resv_map_get(reservations)\n", "        pass\n"),),
        ("HTLB-VMA-002", "HTLB-VMA-008", "HTLB-MAP-001"),
    ),
    Mutant(
        "C-07", "close drops its reference before counting",
        "The last put empties the map; what is counted afterwards are freed regions, and consumed pages are credited "
        "once more.",
        WHITCROFT,
        (Edit("mm.hugetlb.mmap", "    reserve = vma.npages - await",
              "    resv_map_put(reservations)\n    reserve = vma.npages - await"),
         Edit("mm.hugetlb.mmap", "    # Counting comes before the reference goes: the last one takes the regions along.\n    "
              "resv_map_put(reservations)\n", "")),
        ("HTLB-MAP-006", "HTLB-MAP-002"),
    ),
    Mutant(
        "C-08", "child inherits the owner flag",
        "Without the reset at fork, a child takes its parent's reservations and gives them back at its exit.",
        WHITCROFT,
        (Edit("mm.hugetlb.process", "            reset_vma_resv_huge_pages(copy)\n", ""),),
        ("HTLB-VMA-001", "HTLB-RSV-021", "HTLB-MAP-013"),
    ),
    Mutant(
        "C-12", "copy optimisation writes into the page cache",
        "A private mapping took a page with one mapping for its own, although the page cache held it as well: a "
        "private write changed the file.",
        "mm, hugetlb: do not use a page in page cache for cow optimization (2013); libhugetlbfs corrupt-by-cow-opt",
        (Edit("mm.hugetlb.fault", "    if await old.count.read() == 1:\n        emit(",
              "    await old.count.read()\n    if len(old.ptes) == 1:\n        emit("),),
        ("HTLB-COW-002", "HTLB-COW-016", "HTLB-FLT-006"),
    ),
    Mutant(
        "C-16", "SIGBUS path returns quota that it never took",
        "The early exit beyond the end put a block back that no fault had taken; each such access raised the limit "
        "by one.",
        GIBSON,
        (Edit("mm.hugetlb.fault", "                await put_page(page)\n            return VM_FAULT_SIGBUS\n        charge = 0",
              "                await put_page(page)\n            await hugetlb_put_quota(inode.sb, 1)\n"
              "            return VM_FAULT_SIGBUS\n        charge = 0"),),
        ("HTLB-QTA-002", "HTLB-FLT-011", "HTLB-QTA-001"),
    ),
    Mutant(
        "C-17", "region arithmetic truncated to int",
        "The overlap was computed in 32 bits; beyond offset 2^31 it came out negative.",
        WHITCROFT,
        (Edit("mm.hugetlb.region", "    return sum(max(0, min(rg.to, t) - max(rg.frm, f)) for rg in regions)",
              "    return sum(_int(min(rg.to, t)) - _int(max(rg.frm, f)) for rg in regions if rg.to > f and rg.frm < t)"
              "\n\n\ndef _int(x: int) -> int:\n    return (x + (1 << 31)) % (1 << 32) - (1 << 31)"),),
        ("HTLB-REG-004", "HTLB-REG-008"),
    ),
    Mutant(
        "C-19", "truncation walks the mappings in the wrong unit",
        "The list of mappings is kept in base pages and was searched in huge pages, so other offsets than those "
        "truncated were unmapped.",
        "hugetlb: fix prio_tree unit (2006); hugetlbfs: fix bugs in hugetlb_vmtruncate_list (2016)",
        (Edit("mm.hugetlb.truncate", "vma.address(max(vma.lo, size)), vma.vm_end)",
              "min(vma.vm_end, vma.vm_start + size * vma.huge_page_size), vma.vm_end)"),),
        ("HTLB-TRN-002", "HTLB-FLT-013"),
    ),
    Mutant(
        "C-21", "child gets zeros after losing its page",
        "A child whose page was taken for its parent's sake faulted in a fresh page and read zeros where its data had "
        "been.",
        "hugetlb: guarantee that COW faults ... will succeed (2008), HPAGE_RESV_UNMAPPED",
        (Edit("mm.hugetlb.fault", "                    set_vma_resv_flags(other, HPAGE_RESV_UNMAPPED)\n", ""),),
        ("HTLB-COW-014", "HTLB-FLT-027"), (INSTANTIATION_MUTEX,),
    ),
    Mutant(
        "C-22", "failed allocation returns quota that was not taken",
        "The error path gave a block back whatever the charge had been.",
        "mm, hugetlb: fix subpool accounting handling (2014)",
        (Edit("mm.hugetlb.fault", "    if charge:\n        await hugetlb_put_quota(vma.vm_file.sb, charge, in_flight=True, "
              "news=error != -errno.EAGAIN)",
              "    await hugetlb_put_quota(vma.vm_file.sb, 1, in_flight=True, news=error != -errno.EAGAIN)"),),
        ("HTLB-QTA-002", "HTLB-QTA-005"),
    ),
    Mutant(
        "C-29", "failed accounting keeps surplus pages",
        "When not all of the surplus pages that a request needed could be had, those that were had stayed.",
        "hugetlb_acct_memory error path (history)",
        (Edit("mm.hugetlb.pool", "    spare = len(gathered) if short else min(len(gathered), -needed)",
              "    spare = 0 if short else min(len(gathered), -needed)"),),
        ("HTLB-RSV-007", "HTLB-ERR-004"),
    ),
    Mutant(
        "C-30", "reserve decremented when already used up",
        "Several threads faulted one reserved offset and each took a page from the reserve: the counter wrapped.",
        GIBSON,
        (Edit("mm.hugetlb.pool", "        backed = reserved_at(vma, idx)\n",
              "        backed = charge == 0\n"),),
        ("HTLB-ALC-009", "HTLB-RSV-011", "HTLB-RSV-001"),
    ),
    Mutant(
        "C-31", "page in flight not counted",
        "One thread holds the last page between the pool and the page cache; another one that wants that very page "
        "finds the pool empty and is killed.",
        GIBSON,
        (Edit("mm.hugetlb.pool", "    if h.counts_in_flight:\n        h.tentative_huge_pages += 1\n"
              "    set_page_tentative(page, tag)",
              "    set_page_tentative(page, tag)"),
         Edit("mm.hugetlb.pool", "    if h.counts_in_flight:\n        h.tentative_huge_pages -= 1\n"
              "    set_page_tentative(page, 0)",
              "    set_page_tentative(page, 0)")),
        ("HTLB-INF-001", "HTLB-INF-004"), (TENTATIVE,),
    ),
    Mutant(
        "C-32", "in-flight count leaks on backout",
        "A fault that returns its page forgets the count; from then on every true shortage is an endless retry.",
        GIBSON + ", review point 4",
        (Edit("mm.hugetlb.pool", "        if tag:\n            _landed(h, page)\n"
              "            emit(\"pool_return\", page=page, tag=tag)",
              "        if tag:\n            _landed(h, page)\n            h.tentative_huge_pages += 1\n"
              "            emit(\"pool_return\", page=page, tag=tag)"),),
        ("HTLB-INF-001", "HTLB-INF-022", "HTLB-RSV-015", "HTLB-RSV-016"), (TENTATIVE,),
    ),
    Mutant(
        "C-35", "shared fault without reservation hits an assertion",
        "The allocator took it for granted that a shared fault has a reservation or somebody in flight. After "
        "truncation and extension neither is so, and the kernel stops.",
        GIBSON + "; the author reports an Oops",
        (Edit("mm.hugetlb.pool", "        if not backed and h.free_huge_pages <= h.resv_huge_pages:",
              "        if vma.is_shared and not backed:\n"
              "            from mmreference.kernel.bug import bug_on\n\n"
              "            bug_on(h.tentative_huge_pages == 0, \"shared fault, nothing reserved, nothing in flight\")\n"
              "        if not backed and h.free_huge_pages <= h.resv_huge_pages:"),),
        ("HTLB-ERR-007",),
    ),
    Mutant(
        "C-37", "error path of a private mapping leaks the reservation",
        "The page went back and the counter was raised, but the map still said that the offset was consumed, so the "
        "exit did not give it back.",
        "mm/hugetlb: fix huge page reservation leak in private mapping error paths (2016)",
        (Edit("mm.hugetlb.pool", "    h.resv_huge_pages += 1\n    del resv_map.drawn[offset]\n",
              "    h.resv_huge_pages += 1\n    if not resv_map.private:\n        del resv_map.drawn[offset]\n"),),
        ("HTLB-ALC-014",),
    ),
    Mutant(
        "C-39", "settled before the page can be found",
        "Between the settle and the insertion the page is neither in flight nor findable, and a competitor is told "
        "that there is no memory.",
        GIBSON,
        (Edit("mm.hugetlb.fault", "    set_huge_pte_at(mm, vma, vpn, entry)\n    if new:\n"
              "        await keep_huge_page(page, vma, idx)\n",
              "    if new:\n        await keep_huge_page(page, vma, idx)\n    set_huge_pte_at(mm, vma, vpn, entry)\n"),),
        ("HTLB-INF-006",), (TENTATIVE,),
    ),
    Mutant(
        "C-40", "unneeded reserved page returned to the general pool",
        "The loser of a race gave its page back without raising the reserve; anybody could take it, and a promise was "
        "broken.",
        GIBSON,
        (Edit("mm.hugetlb.pool", "    h.resv_huge_pages += 1\n    del resv_map.drawn[offset]\n",
              "    del resv_map.drawn[offset]\n"),),
        ("HTLB-RSV-015", "HTLB-RSV-017", "HTLB-RSV-004", "HTLB-RSV-005", "HTLB-ALC-014"),
    ),
    Mutant(
        "C-41", "size tested before the page lock",
        "A fault that has tested the size and then waits for the page lock maps a page that truncation is removing.",
        GIBSON,
        (Edit("mm.hugetlb.fault", "        page = await find_lock_page(inode, idx)\n",
              "        size = await i_size_read(inode, idx)\n        page = await find_lock_page(inode, idx)\n"),
         Edit("mm.hugetlb.fault", "        if idx >= await i_size_read(inode, idx):", "        if idx >= size:")),
        ("HTLB-FLT-009", "HTLB-ERR-005"),
    ),
    Mutant(
        "C-45", "in-flight count read outside the lock",
        "The pool was found empty under the lock and the count read after it: in between, the page that was in flight "
        "has become the very page that the fault wants.",
        GIBSON + ", review point 1",
        (Edit("mm.hugetlb.pool", "        if not backed and h.free_huge_pages <= h.resv_huge_pages:\n"
              "            return shortage(h, seen_gen)",
              "        if not backed and h.free_huge_pages <= h.resv_huge_pages:\n            return 0"),
         Edit("mm.hugetlb.pool", "    if isinstance(result, int):\n        if result",
              "    if result == 0:\n        await Access((h.name, \"gen\"), \"read tentative_huge_pages\")\n"
              "        emit(\"late_tentative_read\", pool=h)\n"
              "        result = -errno.EAGAIN if h.tentative_huge_pages else -errno.ENOMEM\n"
              "    if isinstance(result, int):\n        if result")),
        ("HTLB-INF-011", "HTLB-INF-012", "HTLB-INF-014"), (TENTATIVE,),
    ),
    Mutant(
        "C-46", "promise made after the lock was dropped",
        "Surplus pages were counted, the lock dropped to free the spare ones, and the promise made afterwards; "
        "somebody else had taken the pages meanwhile.",
        "hugetlb: Close a difficult to trigger reservation race (2008)",
        (Edit("mm.hugetlb.pool", "    if error == 0:\n        h.resv_huge_pages += delta\n",
              "    if error == 0 and delta > 0:\n        h.hugetlb_lock.unlock()\n        await h.hugetlb_lock.lock()\n"
              "    if error == 0:\n        h.resv_huge_pages += delta\n"),),
        ("HTLB-RSV-002", "HTLB-RSV-006"),
    ),
    Mutant(
        "C-47", "charge and coverage differ",
        "Between the estimate and the commit of a shared reservation a fault had covered an offset; the request paid "
        "for it all the same.",
        "mm/hugetlb: handle races in alloc_huge_page and hugetlb_reserve_pages (2015)",
        (Edit("mm.hugetlb.mmap", "    if added < charge:\n", "    if added > charge:\n"),),
        ("HTLB-RSV-024", "HTLB-REG-024"),
    ),
    Mutant(
        "C-48", "fault and truncation overlap",
        "A fault that had passed the size test inserted its page after truncation had passed by: a page beyond the "
        "end, and a reserve that is off by one.",
        "hugetlbfs: Use i_mmap_rwsem to address page fault/truncate race (2020)",
        (Edit("mm.hugetlb.fault", "    async with vma.vm_file.fault_sem.read():\n", "    if True:\n"),),
        ("HTLB-FLT-010", "HTLB-TRN-004"),
    ),
    Mutant(
        "C-49", "old page not pinned during the copy",
        "The fault copied a page to which it had no reference of its own; the last other one went meanwhile.",
        "hugetlb: fix race condition in hugetlb_fault() (2012)",
        (Edit("mm.hugetlb.fault", "    get_page(old)\n    mm.page_table_lock.unlock()\n", "    mm.page_table_lock.unlock()\n"),
         Edit("mm.hugetlb.fault", "        await put_page(old)\n        await put_page(old)\n", "        await put_page(old)\n"),
         Edit("mm.hugetlb.fault", "        emit(\"cow_lost\", page=new)\n        await put_page(old)\n",
              "        emit(\"cow_lost\", page=new)\n")),
        ("HTLB-COW-003",),
    ),
    Mutant(
        "POSTED-2006-LOOKUP", "stale lookup, as posted",
        "The posted protocol tells a shortage from a lost race by the in-flight count alone. One preemption between "
        "the look at the slot and the allocation, and a fault is killed for want of the page that is already mapped.",
        GIBSON + ", the kill under test that the author reports",
        (Edit("mm.hugetlb.pool", "h.tentative_huge_pages > 0 or h.gen != seen_gen", "h.tentative_huge_pages > 0"),),
        ("HTLB-INF-014",), (TENTATIVE,),
    ),
    Mutant(
        "POSTED-2006-COW", "copy settled before the old page is dropped, as posted",
        "The posted copy-on-write settles the new page while the old one still has its references; a child that looks "
        "then finds the page shared, the pool empty and nothing in flight.",
        GIBSON,
        (Edit("mm.hugetlb.fault", "        await put_page(old)\n        await put_page(old)\n"
              "        emit(\"old_page_refs_dropped\", page=old)\n        await keep_huge_page(new, vma, idx)\n",
              "        await keep_huge_page(new, vma, idx)\n        await put_page(old)\n        await put_page(old)\n"),),
        ("HTLB-INF-023",), (TENTATIVE,),
    ),
    Mutant(
        "POSTED-2006-TAG", "tag survives on free pages, as posted",
        "The posted free path evaluates the tag and leaves it in place.",
        GIBSON,
        (Edit("mm.hugetlb.pool", "        h.tentative_huge_pages -= 1\n    set_page_tentative(page, 0)\n"
              "    h.inflight.pop(page, None)",
              "        h.tentative_huge_pages -= 1\n    if page._count:\n        set_page_tentative(page, 0)\n"
              "    h.inflight.pop(page, None)"),),
        ("HTLB-POOL-005",), (TENTATIVE,),
    ),
)
