"""Map counts, owners, addresses, references, cleaning, adding, removing, unmapping: judged on programs, right and wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from feature_world import Failing, World

from mmreference.kernel.bug import KernelBug
from mmreference.mm import memory, pagetable
from mmreference.mm.anon_vma import page_get_anon_vma, unpin_anon_vma
from mmreference.mm.exec import copy_strings, setup_temporary_stack
from mmreference.mm.filemap import vmtruncate
from mmreference.mm.fremap import remap_file_pages
from mmreference.mm.memcontrol import commit_charge
from mmreference.mm.memory_failure import memory_failure
from mmreference.mm.migrate import unmap_and_move
from mmreference.mm.mlock import do_mlock
from mmreference.mm.mm_struct import VM_HUGETLB, Mm
from mmreference.mm.mprotect import do_mprotect
from mmreference.mm.page import Page, get_page, put_page
from mmreference.mm.pagetable import pte_lockptr
from mmreference.mm.rmap import address as address_module
from mmreference.mm.rmap import mapcount, mkclean, referenced, unmap
from mmreference.mm.rmap.address import page_address_in_vma, page_mapped_in_vma
from mmreference.mm.rmap.mapcount import do_page_add_anon_rmap, page_remove_rmap
from mmreference.mm.rmap.referenced import page_referenced, page_referenced_anon
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_MIGRATION, TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import SWAP_MAP_MAX, add_to_swap, swapoff
from mmreference.mm.vmscan import reclaim_page
from mmreference.mm.writeback import filemap_fdatawrite
from mmspec.contracts import operation
from mmspec.errors import SWAP_FAIL, SWAP_SUCCESS, Violation
from mmspec.invariant import REGISTRY

MODULES = (
    "mapcount", "anonymous", "addresses", "referenced", "mkclean", "adding", "removing", "unmapping", "tlb", "dirty", "memcg",
)  # fmt: skip
MINE = [i for i in REGISTRY if i.system == "rmap" and i.predicate.__module__.rpartition(".")[2] in MODULES]

PROFILES = [
    (arch, variant) for arch in ("x86_64", "s390x", "i386", "powerpc64") for variant in ("allyesconfig", "allnoconfig")
]

Program = Callable[[World], None]
PROGRAMS: list[Program] = []


def program(function: Program) -> Program:
    PROGRAMS.append(function)
    return function


async def with_page(page: Page, body: Callable[..., Any], *args: Any) -> Any:
    """Call with the page locked and a reference."""
    get_page(page)
    await page.lock.lock()
    result = await body(page, *args)
    page.lock.unlock()
    await put_page(page)
    return result


def reclaim(w: World, page: Page) -> bool:
    w.drain()
    return bool(w.run(reclaim_page(page)))


def evict(w: World, mm: Mm, address: int) -> None:
    """The page at the address goes to swap, or to its file."""
    page = w.page(mm, address)
    while w.kind(mm, address) == "present" or page in w.system.pages:
        reclaim(w, page)


def area(mm: Mm, address: int) -> Any:
    vma = mm.area_at(address)
    assert vma is not None
    return vma


@program
def file_pages(w: World) -> None:
    file, parent, other = w.system.new_file(4), w.mm(), w.mm()
    address = w.mmap(parent, 4, write=True, shared=True, file=file)
    there = w.mmap(other, 4, write=True, shared=True, file=file)
    private = w.mmap(other, 4, write=True, shared=False, file=file)
    w.write(parent, address)
    w.read(other, there)
    w.read(other, private)
    page = w.page(parent, address)
    assert w.run(page_mapped_in_vma(page, area(other, there))) == 1
    w.run(filemap_fdatawrite(file))
    w.write(parent, address, 9)
    w.write(other, private, 10)
    assert w.run(with_page(page, try_to_unmap, TTU_UNMAP)) == SWAP_FAIL
    w.run(with_page(page, try_to_unmap, TTU_UNMAP | TTU_IGNORE_ACCESS))
    assert w.read(other, there) == 9
    w.run(vmtruncate(file, 0))
    w.exit(parent)
    w.exit(other)


@program
def written_and_left(w: World) -> None:
    file, mm = w.system.new_file(1), w.mm()
    address = w.mmap(mm, 1, write=True, shared=True, file=file)
    w.write(mm, address, 5)
    w.exit(mm)
    w.run(filemap_fdatawrite(file))
    assert file.disk == {0: 5}
    w.run(vmtruncate(file, 0))


@program
def areas_without_table(w: World) -> None:
    file, mm, other = w.system.new_file(4), w.mm(), w.mm()
    address, there = (w.mmap(m, 4, write=True, shared=True, file=file) for m in (mm, other))
    w.write(mm, address)
    page = w.page(mm, address)
    assert w.run(page_mapped_in_vma(page, area(other, there))) == 0
    assert w.run(_call(page_address_in_vma, page, area(other, there))) == there
    w.mmap(other, 1, write=True, shared=False)
    assert w.run(_call(page_address_in_vma, page, other.vmas[-1])) < 0
    w.run(vmtruncate(file, 0))
    w.run(with_page_mkclean_of_nothing(w, file))


async def with_page_mkclean_of_nothing(w: World, file: Any) -> None:
    page = await w.system.alloc_page()
    assert page is not None
    await page.lock.lock()
    assert await mkclean.page_mkclean(page) == 0
    page.lock.unlock()
    await put_page(page)


async def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@program
def fork_and_copy_on_write(w: World) -> None:
    mm = w.mm()
    address = w.mmap(mm, 2, write=True, shared=False)
    w.write(mm, address)
    child = w.fork(mm)
    w.write(child, address, 8)
    w.write(mm, address, 9)
    w.write(child, address, 10)
    assert (w.read(mm, address), w.read(child, address)) == (9, 10)
    w.exit(mm)
    w.exit(child)


@program
def swap(w: World) -> None:
    if w.system.swap is None:
        return
    mm = w.mm()
    address = w.mmap(mm, 2, write=True, shared=False)
    w.write(mm, address)
    w.write(mm, address + w.size, 11)
    child = w.fork(mm)
    evict(w, mm, address)
    assert w.read(child, address) == 7
    page = w.page(child, address)
    assert w.run(_call(page_address_in_vma, page, area(mm, address))) == address
    w.exit(child)
    evict(w, mm, address + w.size)
    # Nobody else refers to the slot, and the page is no more: it comes back as one that was never shared.
    w.write(mm, address + w.size, 12)
    evict(w, mm, address + w.size)
    assert w.read(mm, address + w.size) == 12
    page = w.page(mm, address + w.size)
    w.drain()
    w.run(with_page(page, _to_swap_cache_only))
    assert w.run(swapoff(w.system)) == 0
    w.exit(mm)


async def _to_swap_cache_only(page: Page) -> None:
    """Unmap the page, and ask for what nothing maps."""
    if not page.PG_swapcache:
        assert await add_to_swap(page)
    vma = next(v for v in page.system.vmas if v.anon_vma is not None)
    assert await try_to_unmap(page, TTU_UNMAP | TTU_IGNORE_ACCESS) is SWAP_SUCCESS
    assert page_address_in_vma(page, vma) > 0
    assert await try_to_unmap(page, TTU_UNMAP | TTU_IGNORE_ACCESS) is SWAP_SUCCESS
    assert await page_referenced(page, True) == (0, 0)
    assert (await page_referenced_anon(page, None)).referenced == 0


@program
def only_the_child_is_left(w: World) -> None:
    """The parent has made a copy, and goes; the child finds its page behind the parent's area, and makes it its own."""
    mm = w.mm()
    address = w.mmap(mm, 1, write=True, shared=False)
    w.write(mm, address)
    child = w.fork(mm)
    page = w.page(child, address)
    w.write(mm, address, 8)
    if w.system.swap is not None:
        w.run(with_page(page, _refused_swap_count), strategy=Failing("swap count continuation"))
    w.exit(mm)
    w.write(child, address, 9)
    assert w.page(child, address) is page
    w.exit(child)


async def _refused_swap_count(page: Page) -> None:
    swap = page.system.swap
    assert swap is not None and await add_to_swap(page)
    swap.swap_map[page.private] = SWAP_MAP_MAX
    assert await try_to_unmap(page, TTU_UNMAP | TTU_IGNORE_ACCESS) is SWAP_FAIL
    del swap.swap_map[page.private], swap.continuations[page.private]


@program
def references(w: World) -> None:
    mm, file = w.mm(), w.system.new_file(2)
    shared = w.mmap(mm, 2, write=True, shared=True, file=file)
    private = w.mmap(mm, 2, write=True, shared=False)
    w.write(mm, shared)
    w.write(mm, private)
    for address in (shared, private):
        assert w.run(page_referenced(w.page(mm, address), False))[0] >= 1
        w.read(mm, address)
    # Locked by somebody.
    assert w.run(with_page(w.page(mm, shared), page_referenced, False)) == (1, 0)
    child = w.fork(mm)
    group = w.system.new_memcg()
    child.memcg = group
    w.run(page_referenced(w.page(mm, private), False, group))
    w.run(_with_swap_token(w, mm, w.page(mm, private)))
    w.run(do_mlock(mm, private, private + w.size, on=True))
    w.read(mm, private)
    w.run(page_referenced(w.page(mm, private), False))
    w.exit(child)
    w.exit(mm)
    w.run(vmtruncate(file, 0))


async def _with_swap_token(w: World, mm: Mm, page: Page) -> None:
    w.system.swap_token = mm
    w.system.current = {}
    await mm.mmap_sem.lock()
    count, _ = await page_referenced(page, False)
    assert count >= 1
    mm.mmap_sem.unlock()
    w.system.swap_token = None


@program
def groups(w: World) -> None:
    if w.system.swap is None:
        return
    mm = w.mm()
    address = w.mmap(mm, 1, write=True, shared=False)
    w.write(mm, address)
    child = w.fork(mm)
    child.memcg = w.system.new_memcg()
    page = w.page(mm, address)
    w.drain()
    w.run(with_page(page, _swap_out))
    w.read(mm, address)
    w.exit(mm)
    w.exit(child)


async def _swap_out(page: Page) -> None:
    assert await add_to_swap(page)
    assert await try_to_unmap(page, TTU_UNMAP | TTU_IGNORE_ACCESS) is SWAP_SUCCESS


@program
def nonlinear(w: World) -> None:
    mm, file = w.mm(), w.system.new_file(8)
    address = w.mmap(mm, 4, write=True, shared=True, file=file)
    w.write(mm, address)
    w.run(_remap(mm, address, w.size, 3))
    w.write(mm, address)
    page = w.page(mm, address)
    w.run(page_referenced(page, False))
    for _ in range(4):
        w.run(with_page(page, try_to_unmap, TTU_UNMAP))
    w.exit(mm)
    w.run(vmtruncate(file, 0))


async def _remap(mm: Mm, address: int, size: int, pgoff: int) -> None:
    assert await remap_file_pages(mm, address, size, pgoff) == 0


@program
def locked(w: World) -> None:
    file, mm, other = w.system.new_file(2), w.mm(), w.mm()
    address, there = (w.mmap(m, 2, write=True, shared=True, file=file) for m in (mm, other))
    w.write(mm, address)
    w.write(other, there)
    w.drain()
    assert w.run(do_mlock(mm, address, address + w.size, on=True)) == 0
    assert w.run(do_mlock(other, there, there + w.size, on=True)) == 0
    w.drain()
    assert w.run(do_mlock(mm, address, address + w.size, on=False)) == 0
    page = w.page(mm, address)
    # As a race may leave it: the area is locked, and the page not marked.
    if page.PG_mlocked:
        page.PG_mlocked = False
        w.system.zone.NR_MLOCK -= 1
    w.run(with_page(page, try_to_unmap, TTU_UNMAP | TTU_IGNORE_ACCESS))
    assert page._mapcount >= 0
    w.exit(mm)
    w.exit(other)
    w.run(vmtruncate(file, 0))


@program
def migration(w: World) -> None:
    if not w.system.has("MIGRATION"):
        return
    file, mm = w.system.new_file(2), w.mm()
    shared = w.mmap(mm, 2, write=True, shared=True, file=file)
    private = w.mmap(mm, 2, write=True, shared=False)
    stack = w.run(setup_temporary_stack(mm, 2 * w.size))
    assert stack > 0
    w.run(copy_strings(mm, stack, [1]))
    for address in (shared, private, stack):
        if address != stack:
            w.write(mm, address, 5)
        page = w.page(mm, address)
        w.drain()
        assert w.run(_move(w, page)) == (0 if address != stack else -11)
        if address != stack:
            assert w.read(mm, address) == 5
    w.exit(mm)
    w.run(vmtruncate(file, 0))


async def _move(w: World, page: Page) -> int:
    from mmreference.mm.lru import isolate_lru_page, putback_lru_page

    assert await isolate_lru_page(page)
    new = await w.system.alloc_page()
    assert new is not None
    error = await unmap_and_move(page, new, force=True)
    if error:
        await putback_lru_page(page)
        await put_page(new)
    else:
        page.isolated = False
        await putback_lru_page(new)
        await put_page(page)
    return int(error)


@program
def border_that_moved(w: World) -> None:
    """A page is mapped through an area that ended before it."""
    mm = w.mm()
    address = w.mmap(mm, 2, write=True, shared=False)
    w.write(mm, address)
    w.write(mm, address + w.size)
    w.run(do_mprotect(mm, address + w.size, w.size, write=False))
    first, page = area(mm, address), w.page(mm, address + w.size)
    assert not first.covers(address + w.size)
    w.run(with_page(page, _add_and_remove, first, address + w.size))


async def _add_and_remove(page: Page, vma: Any, address: int) -> None:
    async with pte_lockptr(vma.mm, address // vma.mm.system.page_size):
        get_page(page)
        await do_page_add_anon_rmap(page, vma, address, exclusive=False)
        await page_remove_rmap(page)
        await put_page(page)


@program
def hugetlb(w: World) -> None:
    if not w.system.has("HUGETLB_PAGE"):
        return
    mm = w.mm()
    pages = 1 << w.system.huge_page_order
    address = w.mmap(mm, pages, write=True, shared=False, flags=VM_HUGETLB)
    w.write(mm, address)
    child = w.fork(mm)
    w.write(child, address, 8)
    page = w.page(mm, address)
    if w.system.has("MIGRATION"):
        w.run(with_page(page, _unmap_and_restore))
    # An area without a table for huge entries.
    other = w.mm()
    w.mmap(other, pages, write=True, shared=False, flags=VM_HUGETLB)
    assert w.run(_call_check(page, other, other.vmas[0].vm_start)) is None
    w.exit(mm)
    w.exit(child)


async def _call_check(page: Page, mm: Mm, address: int) -> Any:
    return await address_module.page_check_address(page, mm, address)


async def _unmap_and_restore(page: Page) -> None:
    from mmreference.mm.migrate import remove_migration_ptes

    pinned = await page_get_anon_vma(page)
    assert pinned is not None
    page.migrating = True
    await try_to_unmap(page, TTU_MIGRATION | TTU_IGNORE_ACCESS)
    await remove_migration_ptes(page, page)
    await unpin_anon_vma(pinned)


@program
def trans_huge(w: World) -> None:
    if not w.system.has("TRANSPARENT_HUGEPAGE"):
        return
    w.system.thp_enabled = "always"
    mm = w.mm()
    address = w.mmap(mm, 3 * w.system.ptrs_per_pte, write=True, shared=False)
    inside = -(-address // w.system.pmd_size) * w.system.pmd_size
    w.write(mm, inside)
    page = w.page(mm, inside)
    assert page.order
    w.run(page_referenced(page, False))
    w.run(_call_check(page, mm, inside))
    child = w.fork(mm)
    w.write(child, inside, 8)
    if w.system.swap is not None:
        w.drain()
        reclaim(w, page)
    w.system.thp_enabled = "never"
    w.exit(mm)
    w.exit(child)


@program
def merged(w: World) -> None:
    if not w.system.has("KSM"):
        return
    from mmreference.mm.ksm import ksm_do_scan, madvise_mergeable

    mm = w.mm()
    address = w.mmap(mm, 2, write=True, shared=False)
    w.write(mm, address)
    w.write(mm, address + w.size)
    w.run(madvise_mergeable(mm, address, address + 2 * w.size, on=True))
    for _ in range(3):
        w.run(ksm_do_scan(w.system))
    page = w.page(mm, address)
    assert page is w.page(mm, address + w.size)
    assert w.run(_call(page_address_in_vma, page, area(mm, address))) < 0
    w.run(page_referenced(page, False))
    if w.system.swap is not None:
        evict(w, mm, address)
        w.read(mm, address)
        w.read(mm, address + w.size)
    if w.system.has("MIGRATION"):
        w.drain()
        w.run(_move(w, w.page(mm, address)))
    w.write(mm, address, 8)
    w.exit(mm)


@program
def poisoned(w: World) -> None:
    if not w.system.has("MEMORY_FAILURE"):
        return
    mm = w.mm()
    address = w.mmap(mm, 2, write=True, shared=False)
    w.write(mm, address)
    w.drain()
    page = w.page(mm, address)
    w.run(memory_failure(page))
    w.exit(mm)


@pytest.mark.parametrize(("arch", "variant"), PROFILES)
@pytest.mark.parametrize("body", PROGRAMS, ids=lambda body: body.__name__)
def test_reference_keeps_them(arch: str, variant: str, body: Program) -> None:
    body(World(arch, variant))


def test_all_of_them_are_judged() -> None:
    judged: set[str] = set()
    for arch in ("x86_64", "s390x"):
        for body in PROGRAMS:
            world = World(arch)
            body(world)
            judged |= set(world.judge.real)

    assert {i.id for i in MINE} - judged == set()


# -- wrong implementations ----------------------------------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


async def _nothing(*_: Any, **__: Any) -> None:
    """What was forgotten."""


def _no_flush(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pagetable, "flush_slot", _nothing)


def _dirty_bit_dropped_by_reclaim(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unmap, "set_page_dirty", _nothing)


def _dirty_bit_dropped_by_munmap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "set_page_dirty", _nothing)


def _mapping_not_counted_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "page_remove_rmap", _nothing)


def _reference_dropped_first(patch: pytest.MonkeyPatch) -> None:
    original = unmap.page_remove_rmap

    async def dropped_first(page: Page) -> None:
        await put_page(page)
        await original(page)

    patch.setattr(unmap, "page_remove_rmap", dropped_first)
    patch.setattr(unmap, "put_page", _nothing)


def _owner_forgotten_with_the_last_mapping(patch: pytest.MonkeyPatch) -> None:
    original = mapcount.mem_cgroup_uncharge_page

    async def and_forget(page: Page) -> None:
        await original(page)
        page.mapping = None

    patch.setattr(mapcount, "mem_cgroup_uncharge_page", and_forget)


def _page_always_the_areas_own(patch: pytest.MonkeyPatch) -> None:
    original = mapcount.__page_set_anon_rmap  # type: ignore[attr-defined]

    async def own(page: Page, vma: Any, address: int, *, exclusive: bool) -> None:
        await original(page, vma, address, exclusive=True)

    patch.setattr(mapcount, "__page_set_anon_rmap", own)


def _quick_look_when_cleaning(patch: pytest.MonkeyPatch) -> None:
    original = mkclean.page_check_address

    async def quick(page: Page, mm: Mm, address: int, *, sync: bool = False) -> Any:
        return await original(page, mm, address)

    patch.setattr(mkclean, "page_check_address", quick)


def _young_bits_stay(patch: pytest.MonkeyPatch) -> None:
    async def only_read(vma: Any, vpn: int, level: str = "pte") -> bool:
        entry = pagetable.read_entry(vma.mm, vpn, level)
        return bool(getattr(entry, "young", False))

    patch.setattr(referenced, "ptep_clear_flush_young_notify", only_read)


def _private_mappings_cleaned_too(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mkclean, "VM_SHARED", -1)


def _charged_by_each_mapping(patch: pytest.MonkeyPatch) -> None:
    original = memory.page_dup_rmap

    async def charged(page: Page) -> None:
        await original(page)
        if page.memcg is not None:
            commit_charge(page, page.memcg)

    patch.setattr(memory, "page_dup_rmap", charged)


def _shift_of_a_machine_word(patch: pytest.MonkeyPatch) -> None:
    @operation()
    def vma_address(page: Page, vma: Any) -> int:
        size = vma.mm.system.page_size
        address = (vma.vm_start + (page.index - vma.vm_pgoff) * size) % (1 << 32)
        return int(address) if vma.covers(address) else -14

    patch.setattr(address_module, "vma_address", vma_address)


def _storage_key_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mapcount, "page_test_and_clear_dirty", lambda page, *, mapped: False)


def _locked_areas_unmapped(patch: pytest.MonkeyPatch) -> None:
    original = unmap.try_to_unmap_one

    async def regardless(page: Page, vma: Any, address: int, flags: int) -> Any:
        return await original(page, vma, address, flags | unmap.TTU_IGNORE_MLOCK)

    patch.setattr(unmap, "_mlock_instead", _again)
    patch.setattr(unmap, "try_to_unmap_one", regardless)


async def _again(page: Page, vma: Any) -> Any:
    return unmap.SWAP_MLOCK


def _marked_without_mmap_sem(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unmap, "_mlock_instead", _again)


def _merged_pages_get_an_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mapcount, "PageKsm", lambda page: False)


def _far_page(w: World) -> None:
    """A file of more than 4 GiB is mapped at its start; its page 2**20 is asked for."""
    file, mm = w.system.new_file((1 << 20) + 2), w.mm()
    address = w.mmap(mm, 2, write=True, shared=True, file=file)
    there = w.mmap(mm, 1, write=True, shared=True, file=file, offset=(1 << 20) + 1)
    w.write(mm, there)
    w.run(_call(page_address_in_vma, w.page(mm, there), area(mm, address)))


@pytest.mark.parametrize(
    ("mistake", "body", "ids", "arch"),
    [
        (_no_flush, fork_and_copy_on_write, {"TLB-001", "MMUN-009"}, "x86_64"),
        (_dirty_bit_dropped_by_reclaim, file_pages, {"RMAP-UNMAP-009", "RMAP-UNMAP-010"}, "x86_64"),
        (_dirty_bit_dropped_by_munmap, written_and_left, {"DIRTY-001"}, "x86_64"),
        (_private_mappings_cleaned_too, file_pages, {"RMAP-MKCLEAN-004"}, "x86_64"),
        (_merged_pages_get_an_owner, merged, {"RMAP-ADD-002", "RMAP-ADD-005"}, "x86_64"),
        (_mapping_not_counted_off, file_pages, {"RMAP-MAPCOUNT-003"}, "powerpc64"),
        (_reference_dropped_first, swap, {"RMAP-REMOVE-008", "RMAP-UNMAP-008"}, "x86_64"),
        (_owner_forgotten_with_the_last_mapping, fork_and_copy_on_write, {"RMAP-ANON-007"}, "i386"),
        (_page_always_the_areas_own, swap, {"RMAP-ANON-009"}, "x86_64"),
        (_quick_look_when_cleaning, file_pages, {"RMAP-PCA-008"}, "powerpc64"),
        (_young_bits_stay, references, {"RMAP-REF-006"}, "x86_64"),
        (_charged_by_each_mapping, fork_and_copy_on_write, {"MEMCG-CHARGE-001"}, "x86_64"),
        (_shift_of_a_machine_word, _far_page, {"RMAP-ADDR-001", "RMAP-ADDR-010"}, "i386"),
        (_storage_key_forgotten, file_pages, {"RMAP-REMOVE-003"}, "s390x"),
        (_locked_areas_unmapped, locked, {"RMAP-UNMAP-006", "RMAP-UNMAP-021"}, "x86_64"),
        (_marked_without_mmap_sem, locked, {"RMAP-UNMAP-003", "RMAP-UNMAP-022"}, "x86_64"),
    ],
)
def test_mistakes_are_refused(
    monkeypatch: pytest.MonkeyPatch, mistake: Break, body: Program, ids: set[str], arch: str
) -> None:
    mistake(monkeypatch)

    with pytest.raises((Violation, KernelBug)) as refused:
        body(World(arch))

    found = refused.value.invariant.id if isinstance(refused.value, Violation) else refused.value.id
    assert found in ids
