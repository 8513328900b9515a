"""The mutants of reverse mapping, each with its story."""

from __future__ import annotations

from mmconformance.bugs.mutant import Edit, Mutant
from mmspec.config import ALLYESCONFIG

FILE = "mm/rmap.c as of Linux 3.2"
FULL = (ALLYESCONFIG,)

ALL: tuple[Mutant, ...] = (
    # -- statistics, addresses, walks ------------------------------------------------------------------------------------
    Mutant(
        "A-01", "statistics move at every mapping",
        "NR_FILE_MAPPED counts pages that are mapped, not mappings. Raised for each of them and lowered for the last, it "
        "grew with every process that shared a page.",
        FILE + ", page_add_file_rmap and page_remove_rmap",
        (Edit("mm.rmap.mapcount", "    note(was_mapped=page._mapcount >= 0)\n    if await page.mapcount.inc_and_test():\n",
              "    note(was_mapped=page._mapcount >= 0)\n    if await page.mapcount.inc_and_test() or True:\n"),),
        ("ZSTAT-EDGE-001", "ZSTAT-KIND-001", "ZSTAT-FILE-001", "RMAP-ADDFILE-001", "MEMCG-FILEMAP-001"),
    ),
    Mutant(
        "A-02", "hugetlb pages in the statistics",
        "Hugetlb pages are counted nowhere when they are mapped. page_remove_rmap serves them too, and has to leave before "
        "it touches the counters; else each unmap takes them below zero.",
        FILE + ", page_remove_rmap (28 May 2010)",
        (Edit("mm.rmap.mapcount", "    if PageHuge(page):\n        return\n    mod_zone", "    mod_zone"),),
        ("RMAP-REMOVE-005", "ZSTAT-HTLB-001", "ZSTAT-ANON-001", "ZSTAT-THP-001", "ZSTAT-EDGE-001", "ZSTAT-KIND-001"),
        FULL,
    ),
    Mutant(
        "A-03", "uncharged at each unmap",
        "A page is charged once, to the first who maps it. Uncharged with each mapping that goes, it is nobody's while "
        "others still use it.",
        '"memcg: remove refcnt from page_cgroup", 25 July 2008',
        (Edit("mm.rmap.mapcount", "    note(last=last)\n    if not last:\n        return\n",
              "    note(last=last)\n    if PageAnon(page) and not PageHuge(page):\n"
              "        await mem_cgroup_uncharge_page(page)\n    if not last:\n        return\n"),),
        ("MEMCG-CHARGE-002", "RMAP-REMOVE-002", "RMAP-REMOVE-006"),
        FULL,
    ),
    Mutant(
        "A-04", "peak noted after the fall",
        "The peak of the resident set is noted only when it is about to shrink. Noted after the counter was lowered, the "
        "highest value is never seen.",
        '"mm: update_hiwaters just in time", Hugh Dickins, 30 October 2005',
        (Edit("mm.rmap.unmap", "    update_hiwater_rss(mm)\n    if not await _replace(page, vma, found, cleared, flags):\n"
              "        found.ptl.unlock()\n        return SWAP_FAIL\n",
              "    if not await _replace(page, vma, found, cleared, flags):\n"
              "        found.ptl.unlock()\n        return SWAP_FAIL\n    update_hiwater_rss(mm)\n"),),
        ("RSS-HIWATER-001", "RSS-HIWATER-003", "RMAP-UNMAP-008"),
    ),
    Mutant(
        "A-04-VM", "peak of a moved mapping stays too high",
        "While mremap moves an area both places are counted, and unmapping the old one noted that as the peak.",
        '"mm: update_hiwaters just in time", Hugh Dickins, 30 October 2005',
        (Edit("mm.mremap", "    error = await _do_munmap(mm, old, length)\n    mm.hiwater_vm = hiwater_vm\n",
              "    error = await _do_munmap(mm, old, length)\n"),),
        ("RSS-HIWATER-006",),
    ),
    Mutant(
        "A-05", "page_address_in_vma trusts the pointers",
        "An area that was never faulted in has no anon_vma, and one without a file no vm_file; looking behind either "
        "without asking is an oops.",
        '"unpaged: anon in VM_UNPAGED", 22 November 2005; "ksm: fix page_address_in_vma anon_vma oops", October 2010',
        (Edit("mm.rmap.address", "        if vma.anon_vma is None or anon_vma is None or vma.anon_vma.root is not anon_vma.root:\n",
              "        if vma.anon_vma is not None and anon_vma is not None and vma.anon_vma.root is not anon_vma.root:\n"),),
        ("RMAP-ADDR-006",),
    ),
    Mutant(
        "A-06", "one area for all pages",
        "Moving a range of pages used the first area for all of them: file pages of the next area hit an assertion, "
        "anonymous ones stayed where they were.",
        '"mbind.c: find correct vma in new_vma_page()", 15 November 2007',
        (Edit("mm.rmap.address", "    if not 0 <= pgoff - vma.vm_pgoff < vma.npages:\n        return -errno.EFAULT\n", ""),),
        ("RMAP-ADDR-002", "RMAP-ADDR-010"),
    ),
    Mutant(
        "A-07", "nonlinear place forgotten",
        "Where a nonlinear area maps a page out of line, the entry is the only record of it. Emptied by reclaim, the next "
        "fault brings in the page that would be there in line.",
        FILE + ", try_to_unmap_cluster",
        (Edit("mm.rmap.nonlinear", "    if page.index != linear_page_index(vma, vpn * mm.system.page_size):\n",
              "    if page.index != linear_page_index(vma, vpn * mm.system.page_size) and page.index < 0:\n"),),
        ("NLIN-CLUSTER-005", "RMAP-UNMAP-027"),
    ),
    Mutant(
        "A-08", "munlock does not ask the others",
        "There is no count of those who lock a page in memory. Whoever gives it up takes the mark off and has to look for "
        "another area that wants it.",
        '"mlock: mlocked pages are unevictable", 19 October 2008',
        (Edit("mm.mlock", "    if page_mapcount(page) > 1:\n        result", "    if page_mapcount(page) < 0:\n        result"),),
        ("MLOCK-013", "MLOCK-005"),
    ),
    Mutant(
        "A-09", "failed hugetlb page subtracted",
        "When the memory of a hugetlb page fails its mapping was subtracted from the resident set, in which it had never "
        "been counted; the process ended with a negative counter.",
        '"hwpoison, hugetlbfs: fix RSS-counter warning", 2012',
        (Edit("mm.rmap.unmap", "        if not PageHuge(page):\n            _dec_counter(mm, rss_counter(page))\n",
              "        _dec_counter(mm, rss_counter(page))\n"),),
        ("HTLB-005", "RSS-001", "LAT-005", "RMAP-UNMAP-020"),
        FULL,
    ),
    Mutant(
        "A-10", "anonymous page in a file mapping",
        "Whether an area has a file was told by whether it has a way to fault pages in; a shared mapping without one got zeroed "
        "anonymous pages, which no other process shared.",
        "CVE-2015-3288, mm: avoid setting up anonymous pages into file mapping",
        (Edit("mm.memory", "        if vma.vm_file is None:\n            return await do_anonymous_page(",
              "        if vma.vm_file is None or (not write and vma.vm_flags & VM_SHARED):\n"
              "            return await do_anonymous_page("),),
        ("RMAP-UNMAP-027", "RMAP-ANON-016", "DIRTY-001", "MLOCK-013"),
    ),
    Mutant(
        "A-11", "failed swap_duplicate ignored",
        "The count of a swap slot did not fit, nobody looked at the result, and the entry was set all the same: one "
        "reference less than entries, and the data is lost when the count says zero.",
        '"swap_info: swap count continuations", Hugh Dickins, 15 December 2009',
        (Edit("mm.rmap.unmap", "        if await swap_duplicate(system, page.private):\n",
              "        if await swap_duplicate(system, page.private) and page.index < 0:\n"),),
        ("RMAP-UNMAP-012", "RMAP-UNMAP-011", "SWAP-COUNT-001", "SWAP-COUNT-003"),
        FULL,
    ),
    Mutant(
        "A-13", "copied migration entry stays writable",
        "Fork has to take the right to write from an entry of a page on its way to another frame; a number was passed "
        "where a truth value was expected, and both sides could write to the page that they share.",
        '"Swapless page migration: add R/W migration entries", 23 June 2006',
        (Edit("mm.memory", "            entry = MigrationEntry(entry.page, write=False)\n",
              "            entry = MigrationEntry(entry.page, write=True)\n"),),
        ("MIGR-FORK-001", "RMAP-UNMAP-027"),
        FULL,
    ),
    Mutant(
        "A-14", "mlock without the page lock",
        "The scan of a nonlinear area marked all pages of the cluster, of which only one was locked.",
        "CVE-2014-3122, mm: try_to_unmap_cluster() should lock_page() before mlocking",
        (Edit("mm.rmap.nonlinear", "                elif page.lock.trylock():\n"
              "                    # Marking needs the page lock; one that is not to be had is somebody else's to deal with.\n"
              "                    await mlock_vma_page(page, vma)\n                    page.lock.unlock()\n",
              "                else:\n                    await mlock_vma_page(page, vma)\n"),),
        ("NLIN-MLOCK-003", "MLOCK-009", "LOCK-PROT-014", "LAT-003"),
    ),
    Mutant(
        "A-15", "storage key of a page that nobody maps",
        "The storage key of a page that is being read in is dirty from the reading. Taken for a write, garbage was "
        "written back.",
        "[S390] page_mkclean data corruption, April 2007",
        (Edit("mm.rmap.mkclean", "    if not page_mapped(page):\n        return 0\n    mapping",
              "    if not page_mapped(page):\n        return int(page_test_and_clear_dirty(page, mapped=False))\n    mapping"),),
        ("RMAP-MKCLEAN-008", "ARCH-S390-002"),
        arch="s390x",
    ),
    Mutant(
        "A-22", "areas that do not map the page have a say",
        "A child that has a copy of its own and locks that in memory made the parent's page look locked, because the flag "
        "was tested before the page table.",
        '"thp: fix page_referenced to modify mapcount/vm_flags only if page is found", March 2011',
        (Edit("mm.rmap.referenced", "        found = await page_check_address(page, mm, address)\n        if found is None:\n"
              "            return 0\n",
              "        found = await page_check_address(page, mm, address)\n        if vma.locked and found is None:\n"
              "            return _stop_for_mlock(vma, walk)\n        if found is None:\n            return 0\n"),),
        ("RMAP-REF-009", "RMAP-REF-008", "RMAP-REF-011", "RMAP-REF-012"),
    ),
    Mutant(
        "A-23", "storage key of a page in the swap cache skipped",
        "A page that is about to be freed need not be marked dirty; one in the swap cache is still wanted by whoever has "
        "an entry for its slot.",
        FILE + ", page_remove_rmap (22 September 2009)",
        (Edit("mm.rmap.mapcount", "    if (not PageAnon(page) or page.PG_swapcache) and page_test",
              "    if not PageAnon(page) and page_test"),),
        ("RMAP-REMOVE-003", "ARCH-S390-003", "DIRTY-001"),
        FULL, arch="s390x",
    ),
    Mutant(
        "A-25", "merged page mapped as it comes from swap",
        "A merged page that was in swap is an ordinary page of the first who reads it back. Mapped by another process, or "
        "at another place, its entry is found by nobody.",
        '"ksm: let shared pages be swappable", Hugh Dickins, 15 December 2009',
        (Edit("mm.memory", "    mapped = await ksm_might_need_to_copy(page, vma, address)\n", "    mapped = page\n"),),
        ("KSM-003", "RMAP-ADD-005", "RMAP-ANON-004", "RMAP-ANON-005", "RMAP-ANON-006", "RMAP-ANON-012"),
        FULL,
    ),
    Mutant(
        "A-27", "VM_LOCKED believed without mmap_sem",
        "Reclaim saw a locked area, let go of the page table and marked the page, while munlock was under way: the page "
        "stays unevictable with nobody who locks it.",
        FILE + ", try_to_unmap_one (15 December 2009)",
        (Edit("mm.rmap.unmap", "    if not vma.mm.mmap_sem.trylock(shared=True):\n"
              "        emit(\"mmap_sem_trylock\", mm=vma.mm, got=False)\n"
              "        return SWAP_AGAIN\n    emit(\"mmap_sem_trylock\", mm=vma.mm, got=True)\n    note(sem=True)\n"
              "    result = SWAP_AGAIN\n    if vma.locked:\n        await mlock_vma_page(page, vma)\n        result = SWAP_MLOCK\n"
              "    vma.mm.mmap_sem.up_read()\n    return result\n",
              "    await mlock_vma_page(page, vma)\n    return SWAP_MLOCK\n"),),
        ("MLOCK-009", "RMAP-UNMAP-022", "LOCK-PROT-014", "MLOCK-005"),
    ),
    Mutant(
        "A-28", "mapping cleared with the last mapping",
        "It would be tidy to forget the anon_vma when nobody maps the page any more; but a fault may have mapped it from "
        "the swap cache at this moment.",
        FILE + ", page_remove_rmap",
        (Edit("mm.rmap.mapcount", "    mod_zone_page_state(page, zone_counter(page), -1)\n    if PageAnon(page):\n"
              "        await mem_cgroup_uncharge_page(page)\n",
              "    mod_zone_page_state(page, zone_counter(page), -1)\n    if PageAnon(page):\n"
              "        await mem_cgroup_uncharge_page(page)\n        page.mapping = None\n"),),
        ("RMAP-ANON-007", "RMAP-ANON-014", "LOCK-PROT-001"),
    ),
    Mutant(
        "A-31", "mapping stored in two steps",
        "The pointer was stored first and the bit that says anon_vma after it; who looked in between took an anon_vma for "
        "a file.",
        "rmap: fix theoretical race between do_wp_page and shrink_active_list, 2015",
        (Edit("mm.page", "    page.mapping = Tagged(pointer, bits)\n",
              "    page.mapping = Tagged(pointer, 0)\n    page.mapping = Tagged(pointer, bits)\n"),),
        ("RMAP-ANON-001", "RMAP-ANON-014", "RMAP-ANON-011", "RMAP-ANON-016"),
    ),
    Mutant(
        "A-32", "a slot that is empty for a moment is believed",
        "page_mkclean looked at the entry without its lock. Where setting an entry leaves the slot empty for a moment, a "
        "writable, dirty mapping was overlooked.",
        '"mm: dirty page tracking race fix", Nick Piggin, 21 August 2008',
        (Edit("mm.rmap.address", "    if not sync:\n        probed", "    if True:\n        probed"),),
        ("RMAP-PCA-003", "RMAP-MKCLEAN-011", "RMAP-MKCLEAN-002", "RMAP-PCA-008", "RMAP-PCA-009", "RMAP-PCA-004"),
        arch="powerpc64",
    ),
    Mutant(
        "A-34", "migration looks into a stack that exec moves",
        "exec moves the area of the stack first and its entries later. A migration entry that was set in between is not "
        "where the walk that removes it looks.",
        FILE + ", try_to_unmap_anon (25 May 2010)",
        (Edit("mm.rmap.unmap", "        if skip_stacks and is_vma_temporary_stack(vma):\n",
              "        if skip_stacks and is_vma_temporary_stack(vma) and not vma.vm_flags:\n"),),
        ("MIGR-STACK-002", "RMAP-UNMAP-023", "MIGR-ORPHAN-001", "MIGR-ENTRY-001"),
        FULL,
    ),
    # -- anon_vma --------------------------------------------------------------------------------------------------------
    Mutant(
        "B-01", "child with a root of its own",
        "The mutex of a tree is that of its root. A child that is its own root is locked by a mutex that nobody else takes.",
        FILE + ", anon_vma_fork (10 August 2010)",
        (Edit("mm.anon_vma", "    anon_vma.root = root\n    anon_vma.parent", "    anon_vma.parent"),),
        ("AVMA-ROOT-002", "AVMA-ROOT-005", "AVMA-LOCKROOT-001", "AVMA-REF-003", "AVMA-FORK-005", "AVMA-PREP-006",
         "LOCK-PROT-008", "AVMA-ROOT-007"),
    ),
    Mutant(
        "B-02", "failed fork leaves its links",
        "If the child's own anon_vma could not be had, the links that were made before stayed, to an area that was freed.",
        "rmap: fix anon_vma_fork() memory leak, April 2010",
        (Edit("mm.anon_vma", "    if anon_vma is None or avc is None:\n        await unlink_anon_vmas(vma)\n"
              "        vma.anon_vma = None\n",
              "    if anon_vma is None or avc is None:\n        vma.anon_vma = None\n"),),
        ("AVMA-FORK-003", "AVMA-REF-008", "AVMA-CLONE-006", "AVMA-LIST-001"),
    ),
    Mutant(
        "B-03", "chain copied in the wrong order",
        "Elements are linked at the front, so copying forward turns the chain round, and the last is no longer the oldest.",
        "anon_vma: clone the anon_vma chain in the right order, April 2010",
        (Edit("mm.anon_vma", "    for pavc in reversed(src.anon_vma_chain):\n", "    for pavc in list(src.anon_vma_chain):\n"),),
        ("AVMA-CLONE-001", "AVMA-LIST-003", "AVMA-ROOT-007", "AVMA-LIST-009"),
    ),
    Mutant(
        "B-04", "root not held by its children",
        "A child may outlive all processes of its parent, but its lock lives in the root.",
        FILE + ", anon_vma_fork (10 August 2010)",
        (Edit("mm.anon_vma", "    get_anon_vma(root)\n    touched", "    touched"),),
        ("AVMA-FORK-005", "AVMA-REF-003", "AVMA-REF-001", "AVMA-ROOT-005", "AVMA-REF-002"),
    ),
    Mutant(
        "B-05", "anon_vma freed under its own lock",
        "Freeing waits for the mutex of the tree. With the last reference dropped inside the loop that holds it, unlinking "
        "waits for itself.",
        FILE + ", unlink_anon_vmas (17 June 2011)",
        (Edit("mm.anon_vma", "            anon_vma.emptied = True\n            empty.append(avc)\n            continue\n",
              "            anon_vma.emptied = True\n            await put_anon_vma(anon_vma)\n"),),
        ("AVMA-REF-012", "AVMA-UNLINK-003", "LOCK-ORD-025", "LOCK-ORD-019"),
    ),
    Mutant(
        "B-06", "allocation with reclaim under the lock",
        "Reclaim takes the mutex that the allocating thread holds.",
        "mm: avoid anon_vma_chain allocation under anon_vma lock, June 2011",
        (Edit("mm.anon_vma", "            unlock_anon_vma_root(root)\n            root = None\n            avc = await",
              "            avc = await"),),
        ("AVMA-CLONE-004", "LOCK-ORD-023"),
    ),
    Mutant(
        "B-09", "the loser of the race keeps its element",
        "Two threads fault in the same area; the one that comes second has no use for what it has allocated.",
        "rmap: anon_vma_prepare() can leak anon_vma_chain, April 2010",
        (Edit("mm.anon_vma", "    if avc is not None:\n        anon_vma_chain_free(system, avc)\n    return 0\n"
              "", "    return 0\n"),),
        ("AVMA-PREP-004", "AVMA-REF-008", "AVMA-LIST-012"),
    ),
    Mutant(
        "B-10", "shared page given to the newest anon_vma",
        "The child read a page back from swap and the page became its own; then the parent mapped it as well, the child "
        "was gone, and the page named memory that was free.",
        '"anonvma: when setting up page->mapping, we need to pick the _oldest_ anonvma", 12 April 2010',
        (Edit("mm.rmap.mapcount", "    if not exclusive:\n        anon_vma = anon_vma.root\n", ""),),
        ("RMAP-ANON-009", "RMAP-ANON-003", "RMAP-ANON-004", "HTLB-001"),
        FULL,
    ),
    Mutant(
        "B-11", "exclusive without asking swap",
        "A page is a process's own if one entry maps it and no entry refers to its slot in swap.",
        FILE + ", page_move_anon_rmap (6 March 2010)",
        (Edit("mm.swapfile", "        count += swap.count(page.private)\n", ""),),
        ("RMAP-ADD-008", "RMAP-MOVE-001", "RMAP-UNMAP-027", "RMAP-ANON-012"),
        FULL,
    ),
    Mutant(
        "B-12", "shared hugetlb page given to the newest anon_vma",
        "The hugetlb copy of the function that says whose a page is missed the correction of the original.",
        "hugetlb, rmap: always use anon_vma root pointer, September 2010",
        (Edit("mm.rmap.mapcount", "    if first:\n        await __hugepage_set_anon_rmap(page, vma, address, exclusive=False)\n",
              "    if first:\n        await __hugepage_set_anon_rmap(page, vma, address, exclusive=True)\n"),),
        ("HTLB-001",),
        FULL,
    ),
    Mutant(
        "B-14", "failed clone leaves the copied pointer",
        "After a failed clone the area has an anon_vma without being on its list.",
        "mm: fix anon_vma_clone() error treatment, 2014",
        (Edit("mm.anon_vma", "                # A copied pointer without a chain would be taken for a reference.\n"
              "                dst.anon_vma = None\n", ""),),
        ("AVMA-CLONE-006", "LAT-009"),
    ),
    Mutant(
        "B-15", "borders moved without the lock",
        "A walk that comes between the new start and the new offset of an area computes a place that is in neither.",
        '"mm: change anon_vma linking to fix multi-process server scalability issue", Rik van Riel, 6 March 2010',
        (Edit("mm.mmap", "        vma.vm_start, vma.vm_end, vma.vm_pgoff = start, end, pgoff\n",
              "        vma.vm_start = start\n        await Access((vma.name, \"bounds\"), \"between start and offset\", "
              "write=True)\n"
              "        vma.vm_end, vma.vm_pgoff = end, pgoff\n"),
         Edit("mm.mmap", "            await locks.enter_async_context(anon_vma.root.mutex)\n", "            pass\n")),
        ("HIST-003", "AVMA-RCU-013", "LOCK-PROT-008", "RMAP-ANON-006", "RMAP-PCA-003", "MIGR-ORPHAN-001", "MIGR-ENTRY-001"),
    ),
    Mutant(
        "B-16", "plain increment of a reference that may be gone",
        "Between reading `mapping` and taking the reference the last one may have been dropped; a plain increment brings a "
        "freed object back to life.",
        FILE + ", page_get_anon_vma (25 May 2011)",
        (Edit("mm.anon_vma", "    if not await anon_vma.ref.inc_not_zero():\n        system.rcu.read_unlock()\n"
              "        return None\n",
              "    await anon_vma.ref.inc()\n"),
         Edit("mm.anon_vma", "        if not await sampled.ref.inc_not_zero():\n            return None\n",
              "        await sampled.ref.inc()\n")),
        ("AVMA-REF-006", "AVMA-REF-002"),
    ),
    Mutant(
        "B-17", "last reference dropped under the lock",
        "Who slept for the mutex with a reference of his own may be the last; freeing takes the mutex that he holds.",
        FILE + ", page_lock_anon_vma (25 May 2011)",
        (Edit("mm.anon_vma", "        _lookup_unlocked(anon_vma, anon_vma.root)\n        anon_vma.root.mutex.unlock()\n"
              "        await __put_anon_vma(anon_vma)\n        return None\n",
              "        await __put_anon_vma(anon_vma)\n        _lookup_unlocked(anon_vma, anon_vma.root)\n"
              "        anon_vma.root.mutex.unlock()\n        return None\n"),),
        ("AVMA-REF-012", "AVMA-RCU-009", "HIST-033", "LOCK-ORD-025", "LOCK-ORD-019"),
    ),
    Mutant(
        "B-23", "new areas at the head of the list",
        "The walk that removes migration entries saw the child before fork had copied the entry, then the parent: the "
        "child's stayed for ever.",
        '"Swapless page migration: add R/W migration entries", 23 June 2006',
        (Edit("mm.anon_vma", "    anon_vma.head.append(avc)\n    avc.linked = True\n",
              "    anon_vma.head.insert(0, avc)\n    avc.linked = True\n"),),
        ("AVMA-LIST-005", "AVMA-LIST-006", "MIGR-ORPHAN-001"),
    ),
    Mutant(
        "B-24", "lookup without a second look",
        "After the lock was taken nobody asked again whether the page is mapped: what is locked may be another anon_vma by "
        "now.",
        FILE + ", page_lock_anon_vma (26 August 2010)",
        (Edit("mm.anon_vma", "        if not await page_mapped_now(page):\n            _lookup_unlocked(anon_vma, root)\n"
              "            root.mutex.unlock()\n            anon_vma = None\n", ""),
         Edit("mm.anon_vma", "    still_mapped = await page_mapped_now(page)\n    system.rcu.read_unlock()\n",
              "    still_mapped = True\n    system.rcu.read_unlock()\n")),
        ("AVMA-RCU-004", "AVMA-RCU-005", "AVMA-RCU-006", "AVMA-RCU-013"),
    ),
    Mutant(
        "B-25", "unlock through a root that has changed",
        "The memory of the anon_vma had become a child in another tree when the lookup unlocked its root: another mutex "
        "than it had locked, which stayed locked for ever.",
        "mm: fix page_lock_anon_vma leaving mutex locked, May 2011",
        (Edit("mm.anon_vma", "            _lookup_unlocked(anon_vma, root)\n            root.mutex.unlock()\n",
              "            _lookup_unlocked(anon_vma, anon_vma.root)\n            anon_vma.root.mutex.unlock()\n"),),
        ("AVMA-RCU-007", "LOCK-ORD-025"),
    ),
    Mutant(
        "B-26", "freed without looking at the lock",
        "The quick lookup takes no reference: it relies on whoever frees to wait for the mutex that it holds.",
        FILE + ", anon_vma_free (25 May 2011)",
        (Edit("mm.anon_vma", "    if root.mutex.is_locked():\n        await root.mutex.lock()\n        root.mutex.unlock()\n"
              "", ""),),
        ("AVMA-REF-013", "AVMA-RCU-010", "AVMA-RCU-013"),
    ),
    Mutant(
        "B-18", "migration without a reference",
        "While its entries are migration entries a page is not mapped, and nothing keeps its anon_vma but a reference.",
        '"mm: migration: take a reference to the anon_vma before migrating", Mel Gorman, 25 May 2010',
        (Edit("mm.migrate", "        anon_vma = await page_get_anon_vma(page)\n        note(pinned=anon_vma)\n"
              "        if anon_vma is None:\n",
              "        if not page_mapped(page):\n"),),
        ("MIGR-WALK-002", "MIGR-ISOL-002", "HIST-013", "HIST-014"),
        FULL,
    ),
    Mutant(
        "B-22", "anon_vma of a forked neighbour taken over",
        "An area may share the anon_vma of its neighbour only if that has no other. A forked one's pages may belong to any on "
        "its chain, and equal anon_vmas would no longer mean equal chains.",
        "vma: enforce VMA fork limit on unfaulted, faulted mremap merge too, 2026; anon_vma reuse rule, April 2010",
        (Edit("mm.anon_vma", "        if near.anon_vma is not None and anon_vma_compatible(vma, near) and "
              "len(near.anon_vma_chain) == 1:\n",
              "        if near.anon_vma is not None and anon_vma_compatible(vma, near):\n"),),
        ("AVMA-PREP-007", "AVMA-LIST-010", "AVMA-ROOT-007"),
    ),
    Mutant(
        "B-27", "migration pins what is gone",
        "Migration asked whether the page is mapped and took its reference after that: on an anon_vma that had been freed in "
        "between, and was one of another tree.",
        "mm: fix migration hangs on anon_vma lock, Hugh Dickins, January 2011",
        (Edit("mm.migrate", "        anon_vma = await page_get_anon_vma(page)\n        note(pinned=anon_vma)\n",
              "        from mmreference.kernel.scheduler import Access\n"
              "        from mmreference.mm.anon_vma import _holder, get_anon_vma, pin\n"
              "        anon_vma = page.mapping.pointer if page_mapped(page) else None\n"
              "        await Access((page.name, \"mapping\"), \"between looking and taking\")\n"
              "        if anon_vma is not None:\n            get_anon_vma(anon_vma)\n            pin(anon_vma, _holder(\"pin\"))\n"
              "        note(pinned=anon_vma)\n"),),
        ("AVMA-REF-007", "AVMA-REF-006", "AVMA-REF-002", "MIGR-ISOL-002"),
        FULL,
    ),
    Mutant(
        "LAT-001", "root released before its child is gone",
        "The last put dropped the reference on the root first and looked at the root's mutex after that. Code of 3.2, "
        "corrected in 2014.",
        FILE + ", __put_anon_vma; mm: rmap: fix use-after-free in __put_anon_vma, 2014",
        (Edit("mm.anon_vma", "    _last_put(anon_vma)\n    await anon_vma_free(anon_vma)\n"
              "    if root is not anon_vma and await _drop_root(root):\n"
              "        _last_put(root)\n        await anon_vma_free(root)\n",
              "    _last_put(anon_vma)\n    if root is not anon_vma and await _drop_root(root):\n"
              "        _last_put(root)\n        await anon_vma_free(root)\n    await anon_vma_free(anon_vma)\n"),),
        ("AVMA-REF-010", "LAT-001", "AVMA-REF-003", "AVMA-ROOT-008"),
    ),
    Mutant(
        "LAT-002", "last put inside of the RCU section",
        "The lookup dropped its reference before it left the section, where freeing must not wait for a mutex. Code of 3.2, "
        "corrected in 2014.",
        FILE + ", page_lock_anon_vma; mm: fix sleeping function warning from __put_anon_vma, 2014",
        (Edit("mm.anon_vma", "    still_mapped = await page_mapped_now(page)\n    system.rcu.read_unlock()\n"
              "    if not still_mapped:\n"
              "        unpin(anon_vma, _holder(\"pin\"))\n        await put_anon_vma(anon_vma)\n        return None\n",
              "    still_mapped = await page_mapped_now(page)\n    if not still_mapped:\n"
              "        unpin(anon_vma, _holder(\"pin\"))\n        await put_anon_vma(anon_vma)\n        system.rcu.read_unlock()\n"
              "        return None\n    system.rcu.read_unlock()\n"),),
        ("AVMA-REF-011", "LAT-002", "LOCK-ORD-024"),
    ),
    # -- translations, dirty bits, secondary MMUs --------------------------------------------------------------------------
    Mutant(
        "F-01", "page freed before the secondary MMU forgets it",
        "A secondary translation holds no reference; it has to be gone before the page can be somebody else's.",
        '"mmu-notifiers: core", Andrea Arcangeli, 29 July 2008',
        (Edit("mm.pagetable", "    before = await ptep_clear_flush(vma, vpn, level)\n"
              "    await mmu_notifier_invalidate_page(vma.mm, vpn)\n",
              "    before = await ptep_clear_flush(vma, vpn, level)\n"),),
        ("MMUN-001", "MMUN-002", "MMUN-005", "TLB-001", "RMAP-UNMAP-019", "RMAP-REF-006"),
        FULL,
    ),
    Mutant(
        "F-02", "collapse without a word to secondary MMUs",
        "Small pages were replaced by a huge one with nothing but a flush of the CPUs; secondary MMUs went on using them.",
        "mm/khugepaged: invoke MMU notifiers in shmem/file collapse paths, 2022",
        (Edit("mm.huge_memory", "        await mmu_notifier_invalidate_range_start(mm, start, end)\n", ""),
         Edit("mm.huge_memory", "        await mmu_notifier_invalidate_range_end(mm, start, end)\n", "")),
        ("MMUN-001", "MMUN-002", "MMUN-005"),
        FULL,
    ),
    Mutant(
        "F-03", "write-protected without a flush",
        "At fork the entries of huge pages were write-protected, but the processor went on writing through what it "
        "remembered; the child saw its parent's writes.",
        "libhugetlbfs test fork-cow, on powerpc",
        (Edit("mm.hugetlb_anon", "        if isinstance(entry, Present):\n            await flush_slot(src, vpn, \"huge\")\n"
              "", ""),),
        ("RMAP-UNMAP-027", "TLB-001", "DIRTY-003"),
        FULL, arch="powerpc64",
    ),
    Mutant(
        "F-07", "registered in the middle of an invalidation",
        "A secondary MMU that is attached while somebody invalidates a range sees the end of what it did not see begin.",
        '"mmu-notifiers: core", Andrea Arcangeli, 29 July 2008',
        (Edit("mm.mmu_notifier", "        taken = await mm_take_all_locks(mm)\n", "        taken: list[object] | None = []\n"),),
        ("MMUN-007", "MMUN-008", "LOCK-PROT-025"),
        FULL,
    ),
    Mutant(
        "F-06", "dirty bit read before the entry is cleared",
        "Hardware may set the bit between reading and clearing; only what clearing returns is final.",
        FILE + ", try_to_unmap_one",
        (Edit("mm.rmap.unmap", "    if cleared.dirty:\n        await set_page_dirty(page)\n",
              "    if found.entry.dirty:\n        await set_page_dirty(page)\n"),),
        ("RMAP-UNMAP-009", "RMAP-UNMAP-010", "DIRTY-001"),
    ),
    Mutant(
        "F-08", "cleaned without a flush",
        "A CPU that remembers that it may write goes on writing, and nobody notices: the page is clean and changed.",
        '"Fix up page_mkclean_one(): virtual caches, s390", December 2006',
        (Edit("mm.rmap.mkclean", "        before = await ptep_clear_flush_notify(vma, found.vpn, found.level)\n",
              "        before = found.entry\n"),),
        ("RMAP-MKCLEAN-005", "RMAP-MKCLEAN-006", "RMAP-MKCLEAN-010", "DIRTY-003", "TLB-001"),
    ),
    Mutant(
        "F-10", "secondary fault during an invalidation",
        "Between the begin of an invalidation and its end the primary entries may still be there; a translation made from "
        "them is taken away by nobody.",
        '"mmu-notifiers: core", Andrea Arcangeli, 29 July 2008',
        (Edit("mm.mmu_notifier", "    blocked = any(vpn in vpns for vpns in notifier.invalidating) or notifier.sequence != "
              "sequence\n",
              "    blocked = False\n"),),
        ("MMUN-004", "MMUN-001", "MMUN-005"),
        FULL,
    ),
    Mutant(
        "F-14", "what was written through mappings is not written back",
        "page_mkclean said that the page had been written through a mapping, and nobody listened.",
        "VM: Fix nasty and subtle race in shared mmap'ed page writeback, December 2006",
        (Edit("mm.writeback", "    if mapping is not None and not PageAnon(page) and await page_mkclean(page):\n"
              "        await set_page_dirty(page)\n",
              "    if mapping is not None and not PageAnon(page):\n        await page_mkclean(page)\n"),),
        ("DIRTY-001", "RMAP-MKCLEAN-007", "RMAP-UNMAP-027", "DIRTY-005"),
    ),
    Mutant(
        "F-15", "moved, and flushed when the lock is gone",
        "mremap let go of the locks before CPUs had forgotten the old place: what was written through it after the page had been "
        "cleaned at the new one was noticed by nobody.",
        "mremap: fix race between mremap() and page cleaning, 2016",
        (Edit("mm.mremap", "        entry = await ptep_clear_flush(vma, vpn)\n", "        entry = store(mm, vma, vpn, None)\n"),
         Edit("mm.mremap", "            await move_pte(vma, vpn, new_vma, target)\n",
              "            await move_pte(vma, vpn, new_vma, target)\n            await flush_slot(mm, vpn, \"pte\")\n"),
         Edit("mm.mremap", "    set_pte_at,\n", "    flush_slot,\n    set_pte_at,\n    store,\n")),
        ("TLB-001", "DIRTY-001", "DIRTY-003", "RMAP-UNMAP-027", "RMAP-MKCLEAN-010"),
    ),
    Mutant(
        "F-16", "moved without a flush",
        "mremap moved the entry and let go of the lock while CPUs still remembered the old place; the page was freed "
        "through the new one.",
        "CVE-2018-18281, mremap: properly flush TLB before releasing the page",
        (Edit("mm.mremap", "        entry = await ptep_clear_flush(vma, vpn)\n", "        entry = store(mm, vma, vpn, None)\n"),
         Edit("mm.mremap", "    set_pte_at,\n", "    set_pte_at,\n    store,\n")),
        ("TLB-001", "RMAP-UNMAP-019", "RMAP-UNMAP-027"),
    ),
    Mutant(
        "F-20", "old page given up before its entry is gone",
        "The map count of the old page was lowered before its entry was replaced: the other process found itself alone "
        "and wrote, and a thread that still had the old translation read it.",
        "mm: fix race in COW logic, Nick Piggin, 2008",
        (Edit("mm.memory", "        await ptep_clear_flush_notify(vma, vpn)\n"
              "        await page_add_new_anon_rmap(new, vma, address)\n",
              "        await page_remove_rmap(old)\n        await ptep_clear_flush_notify(vma, vpn)\n"
              "        await page_add_new_anon_rmap(new, vma, address)\n"),
         Edit("mm.memory", "        await set_pte_at(mm, vma, vpn, Present(new, write=writable, young=True, dirty=True))\n"
              "        await page_remove_rmap(old)\n",
              "        await set_pte_at(mm, vma, vpn, Present(new, write=writable, young=True, dirty=True))\n")),
        ("RMAP-UNMAP-027", "RMAP-MAPCOUNT-003", "RMAP-REMOVE-008", "TLB-001", "DIRTY-002", "RMAP-REMOVE-001"),
    ),
)
