"""Short sequences that lead to states which random programs rarely reach. Each runs alone, once per profile."""

from __future__ import annotations

from mmconformance.scenarios.hugetlb.stage import Stage
from mmreference.mm.hugetlb.file import Inode
from mmreference.mm.hugetlb.mmap import do_mremap, do_munmap, hugetlb_reserve_pages
from mmreference.mm.hugetlb.pool import hugetlb_report_meminfo, keep_huge_page
from mmreference.mm.hugetlb.region import FileRegion, region_count


def split_and_unmap(stage: Stage) -> None:
    """The middle of a private mapping goes, then the ends, with some pages used and some not."""
    stage.start(6)
    manager, size = stage.manager, stage.manager.huge_page_bytes
    pid = manager.spawn()
    address = manager.mmap(pid, 5)
    for page in (0, 2, 4):
        manager.write(pid, address + page * size, page + 1)
    manager.munmap(pid, address + 2 * size, 1)
    manager.munmap(pid, address + 3 * size, 2)
    manager.munmap(pid, address, 2)


def copies_after_fork(stage: Stage) -> None:
    """Parent and child write what they share; the child unmaps and exits first."""
    stage.start(6)
    manager, size = stage.manager, stage.manager.huge_page_bytes
    parent = manager.spawn()
    address = manager.mmap(parent, 2)
    manager.write(parent, address, 5)
    child = manager.fork(parent)
    manager.write(child, address, 6)
    manager.write(parent, address, 7)
    manager.write(child, address + size, 8)
    manager.munmap(child, address, 1)
    manager.exit(child)
    manager.write(parent, address + size, 9)


def owner_takes_its_page_back(stage: Stage) -> None:
    """A parent writes a page that its child shares, with the pool empty; then the child touches it."""
    stage.start(1)
    manager = stage.manager
    parent = manager.spawn()
    address = manager.mmap(parent, 1)
    manager.write(parent, address, 5)
    child = manager.fork(parent)
    manager.write(parent, address, 6)
    manager.read(child, address)


def private_copy_of_a_cached_page(stage: Stage) -> None:
    """A private mapping of a file whose page is in the cache: read, then write; the file is not changed."""
    stage.start(3)
    manager = stage.manager
    file = manager.create_file(1)
    one, two = manager.spawn(), manager.spawn()
    shared = manager.mmap(one, 1, file=file, shared=True)
    manager.write(one, shared, 5)
    private = manager.mmap(two, 1, file=file)
    manager.read(two, private)
    manager.write(two, private, 6)
    manager.read(one, shared)


def private_write_of_a_cached_page(stage: Stage) -> None:
    """The first access of a private mapping to a cached page is a write."""
    stage.start(3)
    manager = stage.manager
    file = manager.create_file(1)
    one = manager.spawn()
    manager.write(one, manager.mmap(one, 1, file=file, shared=True), 5)
    manager.write(one, manager.mmap(one, 1, file=file), 6)


def private_write_after_the_sharers_left(stage: Stage) -> None:
    """A private mapping is the only one of a cached page; what it writes must not get into the file."""
    stage.start(3)
    manager = stage.manager
    file = manager.create_file(1)
    one = manager.spawn()
    shared = manager.mmap(one, 1, file=file, shared=True)
    manager.write(one, shared, 5)
    manager.munmap(one, shared, 1)
    private = manager.mmap(one, 1, file=file)
    manager.read(one, private)
    manager.write(one, private, 6)
    manager.read(one, manager.mmap(one, 1, file=file, shared=True))


def beyond_the_end(stage: Stage) -> None:
    """Accesses beyond the end of a truncated file, with the pool empty."""
    stage.start(1)
    manager = stage.manager
    file = manager.create_file(1)
    one = manager.spawn()
    address = manager.mmap(one, 1, file=file, shared=True)
    manager.write(one, address, 5)
    manager.truncate(file, 0)
    manager.write(one, manager.mmap(one, 1), 6)
    for _ in range(3):
        manager.read(one, address)


def reservation_does_not_come_back(stage: Stage) -> None:
    """Truncation, then extension: what was consumed or released stays so, and faults take unreserved pages."""
    stage.start(4)
    manager, size = stage.manager, stage.manager.huge_page_bytes
    file = manager.create_file(2)
    one = manager.spawn()
    shared = manager.mmap(one, 2, file=file, shared=True)
    private = manager.mmap(one, 2, file=file)
    manager.write(one, shared, 5)
    manager.write(one, private, 6)
    manager.truncate(file, 0)
    manager.truncate(file, 2)
    manager.write(one, private, 7)
    manager.write(one, shared + size, 8)
    manager.read(one, shared)


def read_only_shared_mapping(stage: Stage) -> None:
    """A shared mapping becomes writable by mprotect; nothing is copied."""
    stage.start(2)
    manager = stage.manager
    file = manager.create_file(1)
    one = manager.spawn()
    address = manager.mmap(one, 1, file=file, shared=True, writable=False)
    manager.read(one, address)
    manager.mprotect(one, address, 1, True)
    manager.write(one, address, 5)
    manager.mprotect(one, address, 1, False)


def file_opened_read_only(stage: Stage) -> None:
    """A MAP_SHARED mapping of a file that was opened read-only: VM_MAYSHARE without VM_SHARED."""
    stage.start(2)
    manager = stage.manager
    file = manager.create_file(1)
    one = manager.spawn()
    address = stage.alone(manager.map_read_only_file(one, 1, file))
    manager.read(one, address)
    manager.munmap(one, address, 1)


def quota_runs_out(stage: Stage) -> None:
    """One block of quota: mapped, freed, mapped again; then two mappings want it."""
    stage.start(3, quota=1)
    manager = stage.manager
    file = manager.create_file(2)
    one = manager.spawn()
    for _ in range(2):
        address = manager.mmap(one, 1)
        manager.write(one, address, 5)
        manager.munmap(one, address, 1)
    manager.mmap(one, 2)
    held = manager.mmap(one, 2, file=file, shared=True, noreserve=True)
    manager.read(one, held)
    manager.read(one, held + manager.huge_page_bytes)


def pages_on_a_forbidden_node(stage: Stage) -> None:
    """Two nodes; all free pages are on the one that the process must not use."""
    stage.start(2, nodes=2)
    manager = stage.manager
    one = manager.spawn()
    manager.process(one).allowed_nodes = (1,)
    address = manager.mmap(one, 2, noreserve=True)
    manager.write(one, address, 5)
    manager.write(one, address + manager.huge_page_bytes, 6)


def resizing(stage: Stage) -> None:
    """The pool is resized around reserved, used and surplus pages."""
    stage.start(3, overcommit=2)
    manager, size = stage.manager, stage.manager.huge_page_bytes
    one = manager.spawn()
    address = manager.mmap(one, 2)
    manager.write(one, address, 5)
    manager.set_nr_hugepages(0)
    manager.set_nr_hugepages(4)
    more = manager.mmap(one, 4)
    manager.write(one, more, 6)
    manager.set_nr_hugepages(1)
    manager.write(one, address + size, 7)
    manager.munmap(one, address, 2)
    manager.munmap(one, more, 4)


def surplus_pages_for_faults(stage: Stage) -> None:
    """Faults without reservation are served by overcommit, and give the pages back."""
    stage.start(1, overcommit=1)
    manager = stage.manager
    one = manager.spawn()
    reserved = manager.mmap(one, 1)
    address = manager.mmap(one, 2, noreserve=True)
    manager.write(one, address, 5)
    manager.write(one, address + manager.huge_page_bytes, 6)
    manager.write(one, reserved, 7)
    manager.munmap(one, address, 2)


def pinned_page(stage: Stage) -> None:
    """A page is pinned through a tail page, unmapped, and released."""
    stage.start(2)
    manager = stage.manager
    one = manager.spawn()
    address = manager.mmap(one, 1)
    page = stage.pin(one, address)
    manager.munmap(one, address, 1)
    stage.unpin(page)
    stage.pin(one, manager.mmap(one, 1, writable=False), write=False)


def settled_twice(stage: Stage) -> None:
    """keep_huge_page on a page that is settled already."""
    stage.start(1)
    manager = stage.manager
    one = manager.spawn()
    address = manager.mmap(one, 1)
    manager.write(one, address, 5)
    mm = manager.process(one)
    vma = mm.find_vma(address)
    assert vma is not None
    entry = mm.ptes[address // manager.huge_page_bytes]
    stage.alone(keep_huge_page(entry.page, vma, vma.index(address)))


def segment_without_vma(stage: Stage) -> None:
    """A shared memory segment reserves before anything maps it."""
    stage.start(2)
    inode: Inode = stage.manager.inode(stage.manager.create_file(2))

    async def reserve() -> int:
        async with inode.i_mutex:
            return int(await hugetlb_reserve_pages(inode, 0, 2, None))

    stage.alone(reserve())


def wrong_arguments(stage: Stage) -> None:
    """Addresses that are no huge-page boundary, and operations that huge pages do not have."""
    stage.start(1)
    manager = stage.manager
    one = manager.spawn()
    address = manager.mmap(one, 1)
    mm = manager.process(one)
    stage.alone(do_munmap(mm, address + 4096, manager.huge_page_bytes))
    stage.alone(do_mremap(mm, address, manager.huge_page_bytes))
    manager.munmap(one, address, 0)
    stage.alone(hugetlb_report_meminfo(manager.system.pool))


def offsets_beyond_32_bits(stage: Stage) -> None:
    """Regions around offset 2^31."""
    stage.start(1)
    edge = 1 << 31
    region_count([FileRegion(3, 9), FileRegion(edge - 1, edge + 1)], edge - 1, edge + 1)


def overlapping_shared_mappings(stage: Stage) -> None:
    """Overlapping shared mappings of one file with gaps, then truncation in the middle of them."""
    stage.start(8)
    manager, size = stage.manager, stage.manager.huge_page_bytes
    file = manager.create_file(7)
    one, two = manager.spawn(), manager.spawn()
    address = manager.mmap(one, 2, file=file, shared=True)
    manager.mmap(one, 2, file=file, offset=4, shared=True)
    other = manager.mmap(two, 3, file=file, offset=1, shared=True)
    manager.read(two, other)
    manager.read(two, other + size)
    manager.mmap(two, 2, file=file, shared=True)
    manager.mmap(two, 1, file=file, offset=6, shared=True, noreserve=True)
    manager.write(one, address, 1)
    manager.write(one, address + size, 2)
    manager.truncate(file, 1)
    manager.truncate(file, 5)
    manager.read(two, address)


def clears_in_parallel(stage: Stage) -> None:
    """Three threads fault three offsets; where nothing serialises them, all three clear at the same time."""
    stage.start(3)
    manager, size = stage.manager, stage.manager.huge_page_bytes
    one = manager.spawn()
    address = manager.mmap(one, 3)
    for number in range(3):
        stage.race(f"T{number}", "write", one, address + number * size, number + 1)
    stage.facts["can_overlap"] = 3
    stage.facts["excess"] = 0
