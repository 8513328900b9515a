"""Map counts, owners, addresses, references, cleaning, adding, removing, unmapping: what their invariants refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drilling import refused

from mmreference.mm import memory, pagetable
from mmreference.mm.memcontrol import commit_charge
from mmreference.mm.mm_struct import Mm
from mmreference.mm.page import Page, put_page
from mmreference.mm.rmap import address as address_module
from mmreference.mm.rmap import mapcount, mkclean, referenced, unmap
from mmspec.contracts import operation

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


@pytest.mark.parametrize(
    ("mistake", "drill", "ids", "arch"),
    [
        (_no_flush, "copy_on_write", {"TLB-001", "MMUN-009"}, "x86_64"),
        (_dirty_bit_dropped_by_reclaim, "reclaim_from_a_large_process", {"RMAP-UNMAP-009", "RMAP-UNMAP-010"}, "x86_64"),
        (_dirty_bit_dropped_by_munmap, "written_back_and_written_again", {"DIRTY-001"}, "x86_64"),
        (_private_mappings_cleaned_too, "cleaned_for_nobody", {"RMAP-MKCLEAN-004"}, "x86_64"),
        (_merged_pages_get_an_owner, "merged_across_processes", {"RMAP-ADD-002", "RMAP-ADD-005"}, "x86_64"),
        (_mapping_not_counted_off, "file_page_mapped_twice", {"RMAP-MAPCOUNT-003"}, "powerpc64"),
        (_reference_dropped_first, "swapped_and_read_back", {"RMAP-REMOVE-008", "RMAP-UNMAP-008"}, "x86_64"),
        (_owner_forgotten_with_the_last_mapping, "copy_on_write", {"RMAP-ANON-007"}, "i386"),
        (_page_always_the_areas_own, "child_writes_what_is_in_swap", {"RMAP-ANON-009"}, "x86_64"),
        (_quick_look_when_cleaning, "written_back_and_written_again", {"RMAP-PCA-008"}, "powerpc64"),
        (_young_bits_stay, "use_of_pages", {"RMAP-REF-006"}, "x86_64"),
        (_charged_by_each_mapping, "copy_on_write", {"MEMCG-CHARGE-001"}, "x86_64"),
        (_shift_of_a_machine_word, "addresses_of_pages", {"RMAP-ADDR-001", "RMAP-ADDR-010"}, "i386"),
        (_storage_key_forgotten, "written_back_and_written_again", {"RMAP-REMOVE-003"}, "s390x"),
        (_locked_areas_unmapped, "locked_by_one_of_two", {"RMAP-UNMAP-006", "RMAP-UNMAP-021"}, "x86_64"),
        (_marked_without_mmap_sem, "lost_mark_is_found_again", {"RMAP-UNMAP-003", "RMAP-UNMAP-022"}, "x86_64"),
    ],
)
def test_mistakes_are_refused(monkeypatch: pytest.MonkeyPatch, mistake: Break, drill: str, ids: set[str], arch: str) -> None:
    mistake(monkeypatch)

    assert refused(drill, ids, arch) in ids
