"""Trees of anon_vmas, their references, lists and lookups; locks, architectures, configurations, statistics.

Each mistake that is made on purpose is named by its invariant.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from drilling import refused
from feature_world import World

from mmreference.mm import anon_vma as avma
from mmreference.mm import mm_struct, mremap
from mmreference.mm.anon_vma import (
    AnonVma,
)
from mmreference.mm.mm_struct import Mm, Vma
from mmspec.invariant import REGISTRY, Over
from mmspec.invariants import rmap
from mmspec.invariants.rmap.locks import LOCK_EDGES, LOCK_NAMES, LOCK_RANKS
from mmspec.logic import VACUOUS
from mmspec.trace import Event, Held, Recorder


def area(mm: Mm, address: int) -> Vma:
    vma = mm.area_at(address)
    assert vma is not None
    return vma


# -- mistakes ----------------------------------------------------------------------------------------------------------


def _a_child_is_freed_after_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(anon_vma: AnonVma) -> None:
        root = anon_vma.root
        if root is not anon_vma and await avma._drop_root(root):
            await avma.anon_vma_free(root)
        await avma.anon_vma_free(anon_vma)

    put.__name__ = "__put_anon_vma"
    put.__module__ = avma.__name__
    from mmspec.contracts import operation

    monkeypatch.setattr(avma, "__put_anon_vma", operation()(put))


def _areas_go_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = avma.anon_vma_chain_link

    def link(vma: Vma, avc: Any, anon_vma: AnonVma) -> None:
        class Head(list):  # type: ignore[type-arg]
            def append(self, one: Any) -> None:
                self.insert(0, one)

        anon_vma.head = Head(anon_vma.head)
        plain(vma, avc, anon_vma)

    monkeypatch.setattr(avma, "anon_vma_chain_link", link)


def _roots_are_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avma, "get_anon_vma", lambda anon_vma: None)


def _chains_are_copied_in_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avma, "reversed", list, raising=False)


def _the_copy_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mremap, "anon_vma_moveto_tail", lambda vma: None)


def _peaks_are_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmreference.mm import memory, mmap
    from mmreference.mm.rmap import unmap

    for module in (memory, mmap, unmap):
        monkeypatch.setattr(module, "update_hiwater_rss", lambda mm: None)


@pytest.mark.parametrize(
    "mistake, drill, names",
    [
        (_a_child_is_freed_after_its_root, "three_generations", {"AVMA-REF-010", "LAT-001", "AVMA-ROOT-008", "AVMA-REF-003"}),
        (_areas_go_to_the_head, "three_generations", {"AVMA-LIST-005"}),
        (_roots_are_not_pinned, "three_generations", {"AVMA-ROOT-005", "AVMA-REF-003", "AVMA-FORK-005"}),
        (_chains_are_copied_in_reverse, "three_generations", {"AVMA-LIST-003", "AVMA-ROOT-007", "AVMA-CLONE-001"}),
        (_peaks_are_not_noted, "peak_of_the_resident_set", {"RSS-HIWATER-001", "RSS-HIWATER-003"}),
        (_the_copy_goes_first, "neighbours_move", {"AVMA-LIST-008", "LAT-008"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistakes_are_named(
    mistake: Callable[[pytest.MonkeyPatch], None], drill: str, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)

    assert refused(drill, names) in names


# -- steps and states that must be refused -----------------------------------------------------------------------------


def step(kind: str, *held: Held, rcu: bool = False, **data: Any) -> Event:
    return Event(kind, None, held, 1, data, rcu=rcu)


def held(cls: str, owner: Any = None, *, shared: bool = False, spinning: bool = False) -> Held:
    return Held(cls, shared, spinning, owner, cls)


def some(over: Over, **fields: Any) -> Any:
    return SimpleNamespace(over=over, **fields)


def check(id_: str, *args: Any) -> Any:
    return REGISTRY[id_].predicate(*args)


@pytest.mark.parametrize("number", LOCK_EDGES)
def test_each_edge_refuses_the_other_order(number: int) -> None:
    outer, inner = (classes[0] for classes in LOCK_EDGES[number])
    id_ = f"LOCK-ORD-{number:03}"

    assert check(id_, step("acquire", held(outer), lock=held(inner), how="")) is True
    assert check(id_, step("acquire", held(inner), lock=held(outer), how="")) is False
    assert check(id_, step("acquire", held(inner), lock=held(outer), how="trylock")) is VACUOUS
    assert check(id_, step("acquire", lock=held(inner), how="")) is VACUOUS
    assert LOCK_RANKS[outer] < LOCK_RANKS[inner]


def test_every_ranked_lock_has_a_name() -> None:
    assert LOCK_NAMES.keys() == LOCK_RANKS.keys()


ROOT = some(Over.ANON_VMA, name="root", head=["x"], pins={}, linked_before=True, refcount=1)
ROOT.root = ROOT
CHILD = some(Over.ANON_VMA, name="child", head=[], pins={"walk t": 0}, linked_before=True, refcount=0, root=ROOT)
PAGE = some(Over.PAGE, _count=2, PG_lru=True, PG_swapcache=False, first_page=None, huge=False, mapping=None)
MM = some(Over.MM, users=1, true_peak_rss=5)
AREA = some(Over.VMA, mm=MM, published=True, vm_flags=0)
ANON = SimpleNamespace(bits=1, pointer=ROOT)
MUTEX, PTL = held("anon_vma_mutex", ROOT), held("ptl", MM, spinning=True)

REFUSED: list[tuple[str, Any]] = [
    ("AVMA-ROOT-003", step("acquire", lock=held("anon_vma_mutex", CHILD), how="")),
    ("AVMA-ROOT-006", step("root", obj=CHILD, old=ROOT, new=CHILD)),
    ("AVMA-REF-006", step("refcount", obj=CHILD, old=0, new=1)),
    ("AVMA-REF-011", step("put_anon_vma", rcu=True, anon_vma=CHILD)),
    ("AVMA-REF-011", step("put_anon_vma", PTL, anon_vma=CHILD)),
    ("AVMA-REF-012", step("put_chain_ref", MUTEX, anon_vma=CHILD)),
    ("AVMA-REF-013", step("free_anon_vma", anon_vma=CHILD, users=("t",), lookup=None, waited_for=None)),
    ("AVMA-LIST-011", step("link", emptied=True)),
    ("AVMA-LIST-012", step("free_avc", avc=SimpleNamespace(), linked=True)),
    ("AVMA-PREP-006", step("link", before=[], anon_vma=CHILD)),
    ("AVMA-CLONE-004", step("alloc", MUTEX, what="anon_vma_chain", may_reclaim=True)),
    ("AVMA-RCU-008", step("acquire", rcu=True, lock=MUTEX, how="")),
    ("AVMA-RCU-010", step("root_mutex_test", anon_vma=CHILD, root=ROOT, locked=False)),
    ("AVMA-RCU-013", step("list_del_same_anon_vma", anon_vma=CHILD)),
    ("LOCK-ORD-020", step("acquire", held("page_lock"), lock=held("mmap_sem"), how="")),
    ("LOCK-ORD-022", step("acquire", MUTEX, lock=held("anon_vma_mutex"), how="")),
    ("LOCK-ORD-023", step("alloc", PTL, may_reclaim=True)),
    ("LOCK-ORD-024", step("acquire", PTL, lock=MUTEX, how="")),
    ("LOCK-ORD-025", step("lock_root", MUTEX, root=ROOT)),
    ("LOCK-PROT-001", step("mapping", PTL, obj=PAGE, old=None, new=ANON)),
    ("LOCK-PROT-002", step("mapping", obj=PAGE, old=SimpleNamespace(bits=0), new=None)),
    ("LOCK-PROT-004", step("_mapcount", obj=PAGE, old=0, new=1)),
    ("LOCK-PROT-006", step("anon_vma", MUTEX, obj=AREA, old=None, new=ROOT)),
    ("LOCK-PROT-007", step("link", MUTEX, held("mmap_sem", MM, shared=True), vma=AREA)),
    ("LOCK-PROT-008", step("link", PTL, anon_vma=CHILD)),
    ("LOCK-PROT-010", step("refcount", obj=CHILD, old=2, new=2)),
    ("LOCK-PROT-011", step("i_mmap_insert", mapping="file", nonlinear=False)),
    ("LOCK-PROT-012", step("i_mmap_remove", mapping="file", nonlinear=True)),
    ("LOCK-PROT-013", step("vm_flags", held("mmap_sem", MM, shared=True), obj=AREA, old=0, new=mm_struct.VM_LOCKED)),
    ("LOCK-PROT-014", step("set_mlocked", held("page_lock", PAGE), page=PAGE, vma=AREA)),
    ("LOCK-PROT-016", step("swap_map", slot=0)),
    ("LOCK-PROT-017", step("on_mmlist", obj=MM, old=False, new=True)),
    ("LOCK-PROT-018", step("rss_anon", held("ptl", None, spinning=True), obj=MM, old=0, new=1)),
    ("LOCK-PROT-022", step("pmd_populate", mm=MM, index=0)),
    ("RSS-HIWATER-002", step("hiwater_rss", obj=MM, old=3, new=2)),
    ("RSS-HIWATER-005", step("hiwater_rss", obj=MM, old=3, new=6)),
    ("ZSTAT-PREEMPT-001", step("zstat_mod", counter="NR_ANON_PAGES", amount=1)),
    ("ZSTAT-KIND-001", step("zstat_mod", counter="NR_ANON_PAGES", amount=-1, counted="NR_FILE_MAPPED")),
    ("LAT-001", step("root_mutex_test", anon_vma=CHILD, root=ROOT, root_allocated=False)),
    ("LAT-003", step("mlock_vma_page", page=PAGE)),
]


@pytest.mark.parametrize("id_, event", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_steps_are_refused(id_: str, event: Event) -> None:
    assert not check(id_, event)


def _broken(w: World, id_: str, harm: Callable[[Vma, Vma], None]) -> None:
    """The world of a parent and its child is right before the harm, and refused after it."""
    parent = w.mm()
    address = w.mmap(parent, 2)
    w.write(parent, address)
    child = w.fork(parent)
    assert check(id_, w.system)

    harm(area(parent, address), area(child, address))

    assert not check(id_, w.system)


def _leak(one: Vma, other: Vma) -> None:
    system = one.mm.system
    left = AnonVma("left", system)
    system.live_anon_vmas[left] = None


def _lose(one: Vma, other: Vma) -> None:
    assert one.anon_vma is not None
    one.anon_vma.head.pop(0)


def _count(field: str) -> Callable[[Vma, Vma], None]:
    def harm(one: Vma, other: Vma) -> None:
        zone = one.mm.system.zone
        setattr(zone, field, getattr(zone, field) + 1)

    return harm


@pytest.mark.parametrize(
    "id_, harm",
    [
        ("AVMA-REF-001", lambda one, other: setattr(one.anon_vma, "refcount", 3)),
        ("AVMA-REF-008", _leak),
        ("AVMA-LIST-001", _lose),
        ("AVMA-LIST-002", lambda one, other: other.anon_vma_chain.reverse()),
        ("AVMA-LIST-010", lambda one, other: setattr(other, "anon_vma", one.anon_vma)),
        ("LAT-009", lambda one, other: one.anon_vma_chain.clear()),
        ("ZSTAT-ANON-001", _count("NR_ANON_PAGES")),
        ("RSS-001", lambda one, other: setattr(one.mm, "rss_anon", 2)),
        ("RSS-HIWATER-003", lambda one, other: setattr(one.mm, "hiwater_rss", 9)),
        ("LRU-003", lambda one, other: setattr(next(iter(one.mm.system.pages)), "PG_swapbacked", False)),
        ("LRU-004", lambda one, other: one.mm.system.pagevecs.clear()),
        ("ARCH-S390-001", lambda one, other: setattr(next(iter(one.mm.system.pages)), "key_dirty", True)),
        ("ARCH-TAG-001", lambda one, other: one.mm.system.stable_tree.update({0: SimpleNamespace(address=6)})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_worlds_are_refused(id_: str, harm: Callable[[Vma, Vma], None]) -> None:
    _broken(World(), id_, harm)


def test_the_order_of_areas_keeps_both_systems_apart() -> None:
    areas = [i.area for i in REGISTRY]

    assert areas.index("AVMA-ROOT") < areas.index("RMAP-UNMAP") < areas.index("LAT")
    assert areas.index("HTLB-POOL") < areas.index("HTLB-RSV") < areas.index("HTLB-PRF")
    assert {i.area for i in REGISTRY if i.system == "rmap"} <= set(rmap.AREAS)


def test_no_predicate_needs_a_recorder_that_is_active() -> None:
    assert Recorder.active is None
