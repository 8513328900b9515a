"""Nonlinear areas, mlock, migration, merging, huge pages, secondary MMUs, swap, poison: what their invariants refuse."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest
from drilling import refused
from feature_world import World

from mmreference.mm import anon_vma as anon_vmas
from mmreference.mm import gup, huge_memory, ksm, migrate, mmu_notifier, mprotect, pagetable, swapfile
from mmreference.mm.ksm import ksm_do_scan, madvise_mergeable
from mmreference.mm.mm_struct import VM_HUGETLB
from mmreference.mm.mmu_notifier import mmu_notifier_register
from mmreference.mm.page import PAGE_MAPPING_FLAGS, Tagged
from mmreference.mm.pagetable import HwPoisonEntry, MigrationEntry, Present
from mmreference.mm.rmap import mapcount, nonlinear, unmap
from mmreference.mm.rmap.referenced import page_referenced
from mmreference.mm.vmscan import reclaim_page
from mmspec.errors import SWAP_AGAIN, SWAP_FAIL, SWAP_SUCCESS, VM_FAULT_MINOR
from mmspec.invariant import REGISTRY
from mmspec.logic import VACUOUS
from mmspec.trace import Event, Held


def unused(w: World, mm: Any, address: int) -> Any:
    """The page there, which nobody has used since."""
    page = w.page(mm, address)
    w.run(page_referenced(page, False))
    return page


def swapped(w: World, pages: int = 1) -> tuple[Any, int]:
    """An address space whose pages are all in swap."""
    mm = w.mm()
    address = w.mmap(mm, pages)
    for number in range(pages):
        w.write(mm, address + number * w.size, 5 + number)
    w.drain()
    for number in range(pages):
        assert w.run(reclaim_page(unused(w, mm, address + number * w.size)))
    return mm, address


# -- mistakes ----------------------------------------------------------------------------------------------------------


def _linear_nowhere(vma: Any, address: int) -> int:
    return -1


async def _nobody(*_: Any) -> Any:
    return SWAP_AGAIN


async def _nothing(*_: Any, **__: Any) -> bool:
    return False


async def _saturated(*_: Any) -> int:
    return 0


async def _refused(*_: Any) -> int:
    return -errno.EPERM


_follow_page = gup.follow_page


async def _readable_page(vma: Any, address: int, *, write: bool = False) -> Any:
    return await _follow_page(vma, address, write=write) if vma.vm_flags & 1 else None


async def _unpinned(page: Any) -> Any:
    return page.mapping.pointer


async def _always_root(page: Any, vma: Any, address: int, *, exclusive: bool) -> None:
    page.mapping = Tagged(vma.anon_vma.root, 1)
    page.index = mapcount.linear_page_index(vma, address)


async def _relock(root: Any, anon_vma: Any) -> Any:
    if root is not None:
        root.mutex.unlock()
    await anon_vma.root.mutex.lock()
    return anon_vma.root


class _NoEntry:
    """No entry is one of these."""


#: Invariant, module and name of what is replaced, by what, and the drill that shows it.
MISTAKES: tuple[tuple[str, Any, str, Any, str], ...] = (
    ("NLIN-CLUSTER-005", nonlinear, "linear_page_index", _linear_nowhere, "pages_out_of_line"),
    ("NLIN-CLUSTER-007", nonlinear, "update_hiwater_rss", lambda mm: None, "pages_out_of_line"),
    ("NLIN-CLUSTER-006", nonlinear, "set_page_dirty", _nothing, "pages_out_of_line"),
    ("NLIN-CLUSTER-004", nonlinear, "ptep_clear_flush_young_notify", _nothing, "pages_out_of_line"),
    ("NLIN-FILE-004", nonlinear, "scan_size", lambda v: v.vm_end - v.vm_start, "clusters_out_of_line"),
    ("MLOCK-010", gup, "follow_page", _readable_page, "locked_without_rights"),
    ("HIST-015", gup, "follow_page", _readable_page, "locked_without_rights"),
    ("MLOCK-013", unmap, "try_to_munlock", _nobody, "locked_by_one_of_two"),
    ("MIGR-ORPHAN-001", migrate, "remove_migration_pte", _nobody, "migrated_under_everybody"),
    ("MIGR-ENTRY-001", migrate, "remove_migration_pte", _nobody, "migrated_under_everybody"),
    ("MIGR-WALK-002", migrate, "page_get_anon_vma", _unpinned, "migrated_under_everybody"),
    ("MIGR-ISOL-002", migrate, "page_get_anon_vma", _unpinned, "migrated_under_everybody"),
    ("MIGR-MLOCK-001", migrate, "_mlock_migrate_page", lambda *_: None, "migrated_under_everybody"),
    ("MIGR-MPROTECT-001", mprotect, "MigrationEntry", _NoEntry, "migrated_under_everybody"),
    ("SWAP-COUNT-002", swapfile, "_carry", _saturated, "more_references_than_a_byte_holds"),
    ("SWAP-COUNT-003", swapfile, "_carry", _refused, "more_references_than_a_byte_holds"),
    ("MIGR-ENTRY-004", swapfile, "max_swapfiles", lambda system: 32, "swap_is_switched_off"),
    ("KSM-003", ksm, "ksm_does_need_to_copy", lambda *_: False, "merged_and_swapped"),
    ("KSM-004", ksm, "ksm_does_need_to_copy", lambda *_: False, "merged_and_swapped"),
    ("THP-SPLIT-003", huge_memory, "mod_zone_page_state", lambda *_: None, "huge_page_is_split_and_collapsed"),
    ("THP-CTL-001", huge_memory, "transparent_hugepage_enabled", lambda vma: True, "small_pages_beside_huge_ones"),
    ("HTLB-002", mapcount, "__page_set_anon_rmap", _always_root, "hugetlb_page_is_moved"),
    ("MMUN-001", mmu_notifier, "mmu_notifier_invalidate_page", _nothing, "pages_in_secondary_use"),
    ("MMUN-002", mmu_notifier, "mmu_notifier_invalidate_page", _nothing, "pages_in_secondary_use"),
    ("MMUN-006", mmu_notifier, "mmu_notifier_clear_flush_young", _nothing, "pages_in_secondary_use"),
    ("HWP-002", unmap, "TTU_IGNORE_HWPOISON", 0, "memory_of_a_swapped_page_fails"),
    ("PERF-012", anon_vmas, "lock_anon_vma_root", _relock, "families_end"),
    ("HIST-038", anon_vmas, "lock_anon_vma_root", _relock, "families_end"),
)


@pytest.mark.parametrize(("id_", "module", "name", "mistake", "drill"), MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch, id_: str, module: Any, name: str, mistake: Any, drill: str
) -> None:
    monkeypatch.setattr(module, name, mistake)
    assert refused(drill, {id_}) == id_


# -- steps, states and calls that are refused ---------------------------------------------------------------------------


def event(kind: str, *held: Held, **data: Any) -> Event:
    return Event(kind, None, held, 1, data)


def lock(cls: str, owner: object = None, *, shared: bool = False) -> Held:
    return Held(cls, shared, False, owner, cls)


def verdict(id_: str, subject: Any, **arguments: Any) -> Any:
    return REGISTRY[id_].predicate(subject, **arguments)


def test_events_are_refused() -> None:
    mm = SimpleNamespace(name="mm", on_mmlist=False, notifiers=[], system=SimpleNamespace(ptrs_per_pte=8), tables={})
    page = SimpleNamespace(name="page", locked=False, PG_hwpoison=False, mapping=Tagged(None, PAGE_MAPPING_FLAGS))
    plain, nonlinear_ = SimpleNamespace(vm_flags=0, mm=mm), SimpleNamespace(vm_flags=0x800000, mm=mm)
    stack = SimpleNamespace(vm_flags=0x100 | 0x8000 | 0x10000, mm=mm)
    moving, mapped = MigrationEntry(page, write=True), Present(page)  # type: ignore[arg-type]

    def stored(entry: Any, vma: Any = plain) -> Event:
        return event("set_pte", mm=mm, vma=vma, vpn=1, level="pte", old=None, new=entry)

    assert not verdict("MIGR-ENTRY-001", stored(moving))
    assert not verdict("MIGR-WALK-006", stored(moving, nonlinear_))
    assert not verdict("MIGR-STACK-002", stored(moving, stack))
    assert verdict("MIGR-STACK-002", stored(moving)) is True
    assert verdict("MIGR-STACK-002", stored(mapped, stack)) is VACUOUS
    assert not verdict("KSM-005", stored(mapped, nonlinear_))
    mm.system.pages = [page]
    assert not verdict("HWP-001", stored(HwPoisonEntry(page)))  # type: ignore[arg-type]
    assert not verdict("SWAP-MMLIST-002", stored(pagetable.SwapEntry(3)))
    assert not verdict("SWAP-MMLIST-002", event("mmlist_add", mm=mm))
    assert verdict("SWAP-MMLIST-002", event("mmlist_add", lock("mmlist_lock"), mm=mm))
    mm.tables = {0: SimpleNamespace(entries={1: moving})}
    assert not verdict("MIGR-FORK-001", event("pte_copied", src=mm, dst=mm, vpn=1, entry=moving, cow=True))
    assert not verdict("NLIN-MLOCK-003", event("mlock_vma_page", page=page, vma=plain))
    assert not verdict("MLOCK-009", event("set_mlocked", lock("page_lock", page), lock("mmap_sem", mm), page=page, vma=plain))
    locked = SimpleNamespace(vm_flags=0x2000, mm=mm)
    held = lock("page_lock", page), lock("mmap_sem", mm, shared=True)
    assert verdict("MLOCK-009", event("set_mlocked", *held, page=page, vma=locked))
    assert not verdict("MLOCK-009", event("set_mlocked", held[0], page=page, vma=locked))
    tail = SimpleNamespace(first_page=page)
    assert not verdict("THP-PUT-001", event("put_tail", page=tail, head=page))
    assert verdict("THP-PUT-001", event("put_tail", lock("compound_lock", page), page=tail, head=page))
    tasks = Held("tasklist_lock", True, True, None, "tasklist_lock")
    assert not verdict("HWP-003", event("acquire", tasks, lock=lock("i_mmap_mutex"), how=""))
    assert not verdict("HWP-003", event("acquire", lock("ptl"), lock=tasks, how=""))
    mm.notifiers = [SimpleNamespace(invalidating=[range(4)])]
    assert not verdict("MMUN-004", event("spte_establish", mm=mm, vpn=2))


def test_states_are_refused() -> None:
    w = World()
    mm, address = swapped(w)
    world, swap = w.system, w.system.swap
    assert swap is not None
    slot = next(iter(swap.swap_map))
    assert verdict("SWAP-COUNT-001", world) is True and verdict("SWAP-MMLIST-001", world) is True
    swap.swap_map[slot] += 1
    assert not verdict("SWAP-COUNT-001", world)
    mm.on_mmlist = False
    assert not verdict("SWAP-MMLIST-001", world)
    assert verdict("MLOCK-001", world) is VACUOUS

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1)
    w.write(mm, address)
    w.drain()
    page = w.page(mm, address)
    page.PG_mlocked = True
    assert not verdict("MLOCK-001", w.system)
    assert verdict("MLOCK-011", w.system) is True
    page.mapping = None
    assert not verdict("MLOCK-011", w.system)

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1)
    w.write(mm, address)
    page = w.page(mm, address)
    notifier = w.run(mmu_notifier_register(mm))
    assert verdict("MMUN-005", w.system) is VACUOUS
    notifier.sptes[address // w.size] = mmu_notifier.Spte(page, write=True)
    assert verdict("MMUN-005", w.system) is True
    notifier.sptes[address // w.size + 1] = mmu_notifier.Spte(page, write=True)
    assert not verdict("MMUN-005", w.system)

    w = World(thp="always")
    mm = w.mm()
    address = w.mmap(mm, w.system.hpage_pmd_nr)
    w.write(mm, address)
    assert verdict("THP-SCOPE-001", w.system) is True
    w.page(mm, address).order = 1
    assert not verdict("THP-SCOPE-001", w.system)

    w = World()
    one, two = w.mm(), w.mm()
    for each in (one, two):
        at = w.mmap(each, 1)
        w.write(each, at)
        w.run(madvise_mergeable(each, at, at + w.size, on=True))
    w.run(ksm_do_scan(w.system))
    assert verdict("KSM-007", w.system) is True
    next(iter(w.system.rmap_items.values())).anon_vma.pins.clear()  # type: ignore[union-attr]
    assert not verdict("KSM-007", w.system)

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1 << w.system.huge_page_order, flags=VM_HUGETLB)
    w.write(mm, address)
    assert verdict("HTLB-004", w.system) is True
    w.page(mm, address).memcg = w.system.root_memcg
    assert not verdict("HTLB-004", w.system)

    w = World()
    mm = w.mm()
    address = w.mmap(mm, 1)
    w.write(mm, address)
    child = w.fork(mm)
    assert verdict("PERF-001", w.system) is True
    child.vmas[0].anon_vma = mm.vmas[0].anon_vma
    assert not verdict("PERF-001", w.system)


def operation(name: str, **facts: Any) -> Any:
    """A call that has returned, without any steps but those that are given."""
    defaults = {"held_at_entry": (), "context": SimpleNamespace(held=(), name="task"), "alone": True, "noted": facts, "steps": []}
    known = {"name": name, **defaults, **facts}
    op = SimpleNamespace(**known)
    op.get = lambda key, default=None: facts.get(key, default)
    op.all = lambda *kinds: [e for e in op.steps if e.kind in kinds]
    op.did = lambda *kinds: any(e.kind in kinds for e in op.steps)
    op.calls = lambda called: []
    op.within = lambda outer: facts.get("caller") if facts.get("caller") is not None and facts["caller"].name == outer else None
    op.net = lambda *fields: {}
    return op


def test_operations_are_refused() -> None:
    page = SimpleNamespace(name="page", locked=True, PG_lru=True, PG_mlocked=True, mapping=None, slots={}, _mapcount=0, order=0)
    page.lists, page.huge = ["unevictable"], False
    assert not verdict("MLOCK-004", operation("try_to_munlock", page=page))
    assert not verdict("MLOCK-006", operation("try_to_munlock", page=page), result=SWAP_SUCCESS)
    assert not verdict("MLOCK-008", operation("munlock_vma_page", page=page, was_mlocked=True))
    assert not verdict("MIGR-INSERT-001", operation("move_to_new_page", page=page))
    assert not verdict("MIGR-WALK-001", operation("rmap_walk", page=page))
    assert not verdict("KSM-002", operation("rmap_walk_ksm", page=page))
    assert not verdict("THP-SPLIT-001", operation("split_huge_page", page=page), result=1)
    assert not verdict("MIGR-STACK-001", operation("is_vma_temporary_stack", vma=SimpleNamespace(vm_flags=0x18000)), result=True)
    waiting = operation("do_swap_page", orig=MigrationEntry(page, write=False), steps=[event("set_pte")])  # type: ignore[arg-type]
    assert not verdict("MIGR-FAULT-001", waiting, result=VM_FAULT_MINOR)
    failed = [event("mmap_sem_trylock", got=False), event("set_pte")]
    assert not verdict("MLOCK-012", operation("try_to_unmap_one", steps=failed), result=SWAP_AGAIN)
    marked = operation("try_to_unmap_cluster", may_mark=False, steps=[event("set_mlocked")])
    assert not verdict("NLIN-MLOCK-002", marked, result=SWAP_AGAIN)
    vma = SimpleNamespace(vm_flags=0x2000, mm=object())
    caller = SimpleNamespace(name="munlock_vma_pages_range", vma=vma)
    assert not verdict("MLOCK-007", operation("try_to_munlock", page=page, caller=caller))
    empty = SimpleNamespace(vm_start=0, vm_end=8)
    assert not verdict("NLIN-FILE-002", operation("try_to_unmap_nonlinear", areas=[empty]), result=SWAP_FAIL)
    left = SimpleNamespace(held=(lock("i_mmap_mutex"),))
    assert not verdict("MMUN-008", operation("mm_take_all_locks", context=left), result=None)
