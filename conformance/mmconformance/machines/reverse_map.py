"""Drives any :class:`~mmspec.interfaces.ReverseMap` as faults, fork, munmap, swap and exit do, and judges what can be seen.

The machine is the rest of the kernel: it knows who maps what (:mod:`mmconformance.machines.reverse_map_shadow`). After
each call it looks again (:mod:`mmconformance.machines.reverse_map_view`), and the predicates of the specification judge the
state, and the call as far as the difference tells of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mmconformance.machines.reverse_map_shadow import Shadow, ShadowArea, ShadowPage, Slot
from mmconformance.machines.reverse_map_view import COUNTERS, Snapshot, Tagged, WalkWorld, World
from mmconformance.machines.steps import Step, recorded
from mmspec.errors import SWAP_AGAIN, SWAP_SUCCESS, ImplementationFailure
from mmspec.interfaces import ReverseMap
from mmspec.invariant import REGISTRY, Judge, Over
from mmspec.invariants.rmap.terms import TTU_IGNORE_ACCESS
from mmspec.invariants.rmap.views import ChainView, PairView, UnlinkView
from mmspec.trace import Event, Operation, Recorder

PROCESSES = 4
AREAS = 9
GENERATIONS = 3
FILES = 2

#: One of several things, whose number is known only when the rule is applied.
pick = st.integers(0, 15)
lengths = st.sampled_from([1, 2, 2, 3, 4])
KINDS = {"anonymous": (None, False), "file": (0, False), "shared file": (0, True), "other file": (1, False)}

#: Judged after each call: those about pages, and those about areas and their lists.
PAGES = (
    "RMAP-MAPCOUNT-001", "RMAP-MAPCOUNT-002", "RMAP-ANON-004", "RMAP-ANON-005", "ZSTAT-ANON-001", "ZSTAT-FILE-001",
)  # fmt: skip
LISTS = (
    "AVMA-LIST-004", "AVMA-LIST-001", "AVMA-LIST-002", "AVMA-ROOT-001", "AVMA-ROOT-002", "AVMA-LIST-003", "AVMA-ROOT-007",
    "AVMA-LIST-010", "AVMA-REF-001", "AVMA-REF-008", "PERF-001",
)  # fmt: skip
#: Functions that add a mapping or take one away, to what is judged of each call.
CALLS = {
    "page_add_new_anon_rmap": ("RMAP-ADDNEW-002", "ZSTAT-EDGE-001"),
    "page_add_anon_rmap": ("RMAP-ADD-003", "RMAP-ANON-009", "RMAP-ANON-010", "RMAP-ANON-011", "ZSTAT-EDGE-001"),
    "page_add_file_rmap": ("RMAP-ADDFILE-001", "ZSTAT-EDGE-001"),
    "page_dup_rmap": ("RMAP-MAPCOUNT-009", "ZSTAT-EDGE-001"),
    "page_remove_rmap": ("RMAP-REMOVE-002", "RMAP-ANON-007", "ZSTAT-EDGE-001"),
    "page_move_anon_rmap": ("RMAP-MOVE-002", "RMAP-MOVE-003", "PERF-017"),
}
ADDRESSES = tuple(f"RMAP-ADDR-{n:03}" for n in (1, 2, 3, 10))

#: What has to be shown for an invariant to be judged, beside what each implementation has.
_CHAIN, _LINKS = frozenset({"chain"}), frozenset({"chain", "areas"})
_OWNER = frozenset({"page_anon_vma", "chain"})
_MOVES = frozenset({"page_move_anon_rmap"})
NEEDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("AVMA-LIST-003", "AVMA-LIST-009", "AVMA-LIST-010", "AVMA-CLONE-001", "AVMA-FORK-001"), _CHAIN),
    **dict.fromkeys(("AVMA-PREP-007", "AVMA-ROOT-002", "AVMA-UNLINK-005"), _CHAIN),
    **dict.fromkeys((f"AVMA-LIST-00{n}" for n in (1, 4, 5, 6, 7)), _LINKS),
    **dict.fromkeys(("AVMA-FORK-002", "AVMA-UNLINK-001"), _LINKS),
    **dict.fromkeys(("AVMA-ROOT-001", "AVMA-ROOT-002"), _CHAIN | {"root"}),
    "AVMA-ROOT-007": _LINKS | {"root"},
    "AVMA-ROOT-008": _CHAIN | {"root", "live_anon_vmas"},
    "AVMA-LIST-002": _CHAIN | {"anon_vma"},
    "AVMA-PREP-002": frozenset({"anon_vma"}),
    "AVMA-FORK-005": _CHAIN | {"root", "refcount"},
    "AVMA-REF-001": _LINKS | {"root", "refcount"},
    "AVMA-REF-008": _LINKS | {"root", "live_anon_vmas"},
    "RMAP-ANON-003": frozenset({"page_anon_vma", "live_anon_vmas"}),
    **dict.fromkeys(("RMAP-ANON-007", "RMAP-ANON-011"), frozenset({"page_anon_vma"})),
    "RMAP-ANON-005": _OWNER | {"root"},
    "RMAP-ANON-009": _OWNER | {"root"},
    "RMAP-ANON-010": _OWNER,
    "RMAP-ANON-013": _OWNER | {"root", "areas"},
    "RMAP-ADDNEW-002": _OWNER | {"statistics"},
    **dict.fromkeys(("RMAP-MOVE-002",), _OWNER | _MOVES),
    **dict.fromkeys(("RMAP-MOVE-003", "PERF-017"), _OWNER | _MOVES | {"areas"}),
    **dict.fromkeys(("RMAP-ADD-003", "RMAP-ADDFILE-001", "RMAP-MAPCOUNT-009"), frozenset({"statistics"})),
    **dict.fromkeys(("ZSTAT-ANON-001", "ZSTAT-FILE-001", "ZSTAT-EDGE-001"), frozenset({"statistics"})),
}

_OVER: dict[Over, Callable[[World], list[Any]]] = {
    Over.PAGE: lambda world: world.pages,
    Over.VMA: lambda world: world.vmas,
    Over.ANON_VMA: lambda world: list(world.live_anon_vmas),
    Over.WORLD: lambda world: [world],
}


class Call:
    """One call in the vocabulary of the specification: what is different after it, as steps."""

    def __init__(self, name: str, *, hidden: frozenset[str] = frozenset(), **arguments: Any) -> None:
        self.hidden = hidden
        """The invariants that cannot be judged."""
        self.recorder = Recorder()
        self.operation: Operation = self.recorder.enter(name, arguments)

    def did(self, kind: str, **data: Any) -> Event:
        """A step that the call must have made."""
        self.recorder.seq += 1
        event = Event(kind, self.operation, (), self.recorder.seq, data)
        self.recorder.current.events.append(event)
        return event

    def wrote(self, obj: Any, field: str, old: Any, new: Any) -> None:
        """A field is different."""
        if old != new:
            self.did("write", obj=obj, field=field, old=old, new=new)

    def judge(self, *ids: str, result: Any = None, **views: Any) -> None:
        """Evaluate these invariants over the call.

        :raises Violation: for the first that does not hold.
        """
        self.operation.result = result
        values = {"op": self.operation, "result": result, **self.operation.arguments, **views}
        for id_ in ids:
            if id_ not in self.hidden:
                invariant = REGISTRY[id_]
                invariant.demand(**{p: values[p] for p in invariant.parameters})


class ReverseMapMachine(RuleBasedStateMachine):
    """The rules. `subject` makes an empty reverse map; set by the engine on a subclass.

    `log` collects the calls of the example for the report.
    """

    subject: Callable[[], ReverseMap]

    def __init__(self) -> None:
        super().__init__()
        self.map = self.subject()
        self.log: list[str] = []
        self.operations = 0
        self.steps: list[Step] = []
        self.shadow = Shadow()
        self.forks: dict[int, tuple[int, int | None]] = {}
        """See :attr:`World.forks`."""
        self.snapshot = Snapshot()
        self.started = False
        self.hidden = frozenset(i for i, needs in NEEDS.items() if not needs <= self.map.capabilities)
        """The invariants that cannot be judged, because the implementation does not show enough."""

    # -- looking and judging ----------------------------------------------------------------------------------------------

    def _world(self, snapshot: Snapshot | None = None) -> World:
        return World(snapshot or self.snapshot, self.shadow, self.forks)

    def _call(self, name: str, *args: Any) -> int:
        result = getattr(self.map, name)(*args)
        shown = ", ".join(map(str, args))
        if name in ("anon_vma_prepare", "anon_vma_fork", "split_vma", "vma_merge"):
            if result > 0:
                raise ImplementationFailure(f"{name}() returned {result}, not 0 or an errno")
            self.log.append(f"{result} = {name}({shown})")
        else:
            self.log.append(f"{name}({shown})")
        self.operations += 1
        return int(result or 0)

    def _new(self, name: str, **arguments: Any) -> Call:
        return Call(name, hidden=self.hidden, **arguments)

    def _look(self, page: ShadowPage | None = None) -> tuple[Snapshot, World]:
        """Look again, at everything or at one page; what was there before, and the world now."""
        old = self.snapshot
        self.snapshot = Snapshot.of(self.map, self.shadow) if page is None else old.after(self.map, self.shadow, page)
        if page is None:
            self.forks = {i: f for i, f in self.forks.items() if i in self.snapshot.ids}
        return old, self._world()

    def _settle(self, world: World) -> None:
        """Judge the whole."""
        for id_ in (*PAGES, *LISTS):
            if id_ not in self.hidden and (id_ != "RMAP-ANON-004" or self._lists_are_shown):
                for subject in self._subjects(id_, world):
                    REGISTRY[id_].demand(subject)
        walks = WalkWorld(world)
        REGISTRY["RMAP-ANON-004"].demand(walks)
        for number in self.snapshot.walks:
            self._judge_walk(world, walks.page(number))

    def _settle_page(self, world: World, page: ShadowPage) -> None:
        """Judge the whole after a call that is about one page: what cannot have changed but for that page only."""
        REGISTRY["RMAP-MAPCOUNT-001"].demand(world.page(page.number))
        for id_ in PAGES[1:]:
            if id_ not in self.hidden and (id_ != "RMAP-ANON-004" or self._lists_are_shown):
                REGISTRY[id_].demand(world)
        if page.number in self.snapshot.walks:
            walks = WalkWorld(world)
            if not self._lists_are_shown:
                REGISTRY["RMAP-ANON-004"].demand(walks)
            self._judge_walk(world, walks.page(page.number))

    @property
    def _lists_are_shown(self) -> bool:
        """Whether what a walk finds can be told from the lists, without walking."""
        return self.map.capabilities >= _OWNER | _LINKS

    def _judge_walk(self, world: World, page: Any) -> None:
        call = self._new("rmap_walk_anon", page=page)
        for found in self.snapshot.walks[page.number]:
            call.did("visit", vma=world.vma(found))
        call.judge("PERF-002")

    @staticmethod
    def _subjects(id_: str, world: World) -> list[Any]:
        return _OVER[REGISTRY[id_].over](world)

    def _difference(self, call: Call, old: Snapshot, world: World) -> None:
        """What the call has changed, as its own writes."""
        new = world.snapshot
        for page in world.pages:
            number = page.number
            call.wrote(page, "_mapcount", old.counts.get(number, 0) - 1, page._mapcount)
            if old.owners is not None and new.owners is not None and old.owners.get(number) != new.owners.get(number):
                before = old.owners.get(number)
                was = None if before is None else Tagged(world.anon(before), 1)
                event = call.did("write", obj=page, field="mapping", old=was, new=page.mapping)
                if was is not None:
                    self._judge_event("RMAP-ANON-013", event)
        if old.zone is not None and new.zone is not None:
            zone = world.zone
            for counter in COUNTERS:
                amount = new.zone[counter] - old.zone[counter]
                call.wrote(zone, counter, old.zone[counter], new.zone[counter])
                if amount:
                    call.did("zstat_mod", counter=counter, amount=amount)
        if old.refcounts is not None and new.refcounts is not None:
            for id_ in old.refcounts.keys() | new.refcounts.keys():
                call.wrote(world.anon(id_), "refcount", old.refcounts.get(id_, 0), new.refcounts.get(id_, 0))

    def _judge_event(self, id_: str, event: Event) -> None:
        if id_ not in self.hidden:
            REGISTRY[id_].demand(event)

    def _judge_freed(self, old: Snapshot, world: World) -> None:
        """Anon_vmas that are no more."""
        if old.live is None or world.snapshot.live is None:
            return
        for id_ in [i for i in old.live if i not in world.snapshot.live]:
            event = self._new("anon_vma_free").did("free_anon_vma", anon_vma=world.anon(id_))
            self._judge_event("AVMA-ROOT-008", event)
            self._judge_event("RMAP-ANON-003", event)

    def _judge_links(self, old: Snapshot, world: World, number: int) -> None:
        """The area has been put on lists on which it was not."""
        if old.heads is None or world.snapshot.heads is None:
            return
        for id_, members in world.snapshot.heads.items():
            before = old.heads.get(id_, [])
            if number in members and number not in before:
                vma, anon_vma = world.vma(number), world.anon(id_)
                seen = [world.vma(v) for v in before]
                event = self._new("link").did("link", vma=vma, anon_vma=anon_vma, before=seen, after=anon_vma.list, emptied=False)
                self._judge_event("AVMA-LIST-005", event)
                if world.snapshot.live is not None:
                    self._judge_event("AVMA-ROOT-008", event)

    # -- set-up and end ---------------------------------------------------------------------------------------------------

    @initialize()
    @recorded
    def start(self) -> None:
        """A process with an area."""
        self.started = True
        if Judge.active is not None:
            Judge.active.unobservable.update(self.hidden)
        self.snapshot = Snapshot.of(self.map, self.shadow)
        self._mmap(self._spawn(), 3, "anonymous", 0, beside=False)

    def _spawn(self) -> int:
        mm = self.shadow.new_number()
        self.shadow.mms.append(mm)
        return mm

    def teardown(self) -> None:
        """Everybody leaves; nothing may be left."""
        if not self.started or sys.exc_info()[0] is not None:
            return
        for mm in list(self.shadow.mms):
            self._exit(mm)
        for page in list(self.shadow.pages.values()):
            self._free(page)
        self._settle(self._look()[1])

    # -- areas ------------------------------------------------------------------------------------------------------------

    def _area(self, which: int) -> ShadowArea:
        areas = list(self.shadow.areas.values())
        return areas[which % len(areas)]

    @precondition(lambda self: len(self.shadow.areas) < AREAS)
    @rule(who=pick, length=lengths, kind=st.sampled_from(list(KINDS)), pgoff=st.integers(0, 2), beside=st.booleans())
    @recorded
    def mmap(self, who: int, length: int, kind: str, pgoff: int, beside: bool) -> None:
        """An area, perhaps right behind another one; in a new process if there is none."""
        mms = self.shadow.mms or [self._spawn()]
        self._mmap(mms[who % len(mms)], length, kind, pgoff, beside=beside)

    @precondition(lambda self: len(self.shadow.mms) < PROCESSES and len(self.shadow.areas) < AREAS)
    @rule(length=lengths)
    @recorded
    def spawn(self, length: int) -> None:
        """A process that is related to none, with an area at the same address as others'."""
        self._mmap(self._spawn(), length, "anonymous", 0, beside=False)

    def _mmap(self, mm: int, length: int, kind: str, pgoff: int, *, beside: bool) -> ShadowArea:
        areas = self.shadow.of(mm)
        start = areas[-1].end + (not beside) if areas else 4
        file, shared = KINDS[kind]
        if file is None:
            pgoff = start
        elif beside and areas and areas[-1].file == file:
            pgoff = areas[-1].index(areas[-1].end)
        return self._enter(ShadowArea(self.shadow.new_number(), mm, start, start + length, pgoff, file, shared))

    def _enter(self, area: ShadowArea) -> ShadowArea:
        self.shadow.areas[area.number] = area
        self._call(
            "new_area", area.number, area.mm, area.start, area.end, area.pgoff, area.file, area.shared
        )  # fmt: skip
        self._settle(self._look()[1])
        return area

    def _prepare(self, area: ShadowArea) -> bool:
        """Whether anonymous pages can be mapped in the area now."""
        result = self._call("anon_vma_prepare", area.number)
        first = not area.links
        if result == 0 and first:
            shared_with = self._shared_with(area)
            self.shadow.prepared(area, shared_with)
        old, world = self._look()
        self._remember_forks(world, 0, None)
        vma = world.vma(area.number)
        views = [self._chain_view(s, world, area.number) for s in (old, self.snapshot)]
        call = self._new("anon_vma_prepare", vma=vma)
        if all(view is not None for view in views):
            call.judge("AVMA-PREP-002", result=result, old=views[0], new=views[1])
            if result == 0 and first and views[1] is not None and views[1].anon_vma is not None:
                call.did("install", vma=vma, anon_vma=views[1].anon_vma)
                known = old.ids
                if views[1].anon_vma.number not in known:
                    call.did("anon_vma_allocated", anon_vma=views[1].anon_vma)
                call.judge("AVMA-PREP-007", result=result, old=views[0])
        self._judge_links(old, world, area.number)
        self._judge_freed(old, world)
        self._settle(world)
        return result == 0

    def _shared_with(self, area: ShadowArea) -> ShadowArea | None:
        """The neighbour whose only anon_vma the area has got, if the implementation shows that."""
        if "chain" not in self.map.capabilities:
            return None
        chain = list(self.map.chain(area.number))
        near = [a for a in self.shadow.neighbours(area) if len(a.links) == 1]
        return next((a for a in near if list(self.map.chain(a.number)) == chain), None)

    def _chain_view(self, snapshot: Snapshot, world: World, number: int) -> ChainView | None:
        """The area's anon_vma and chain of that moment; None if neither is shown."""
        if snapshot.own is None and snapshot.chains is None:
            return None
        chain = world.anons((snapshot.chains or {}).get(number, ()))
        own = snapshot.own.get(number) if snapshot.own is not None else None
        first = chain[0] if chain and snapshot.own is None else None if own is None else world.anon(own)
        return ChainView(first, chain, len(snapshot.ids), 0)

    def _remember_forks(self, world: World, depth: int, parent: int | None) -> None:
        """Anon_vmas that are seen for the first time have come about by the last call."""
        for id_ in world.snapshot.ids:
            self.forks.setdefault(id_, (depth, parent))

    @precondition(lambda self: any(a.length > 1 for a in self.shadow.areas.values()) and len(self.shadow.areas) < AREAS)
    @rule(which=pick, at=pick)
    @recorded
    def split(self, which: int, at: int) -> None:
        """An area is cut in two."""
        areas = [a for a in self.shadow.areas.values() if a.length > 1]
        area = areas[which % len(areas)]
        self._split(area, area.start + 1 + at % (area.length - 1))

    def _split(self, area: ShadowArea, where: int) -> None:
        number = self.shadow.new_number()
        result = self._call("split_vma", area.number, number, where)
        if result == 0:
            self.shadow.split(area, number, where)
        old, world = self._look()
        if result == 0:
            self._judge_copy("anon_vma_clone", ("AVMA-CLONE-001",), old, world, area.number, number, result)
        self._settle(world)

    def _judge_copy(
        self, name: str, ids: tuple[str, ...], old: Snapshot, world: World, source: int, copy: int, result: int
    ) -> None:
        """A call that has linked the area `copy` to the anon_vmas of `source`."""
        self._judge_links(old, world, copy)
        before, after, made = (
            self._chain_view(old, world, source),
            self._chain_view(self.snapshot, world, source),
            self._chain_view(self.snapshot, world, copy),
        )
        if before is None or after is None or made is None or "chain" not in self.map.capabilities:
            return
        vma, source_vma = world.vma(copy), world.vma(source)
        arguments = {"dst": vma, "src": source_vma} if name == "anon_vma_clone" else {"vma": vma, "pvma": source_vma}
        call = self._new(name, **arguments)
        self._difference(call, old, world)
        for id_ in [i for i in self.snapshot.ids if i not in old.ids]:
            call.did("anon_vma_allocated", anon_vma=world.anon(id_))
        if made.chain:
            call.did("link", vma=vma, anon_vma=made.chain[0])
        empty = ChainView(None, (), before.live, 0)
        call.judge(*ids, result=result, old=PairView(before, empty, 0, ()), new=PairView(after, made, 0, ()))

    @precondition(lambda self: bool(self._mergeable()))
    @rule(which=pick)
    @recorded
    def merge(self, which: int) -> None:
        """Two neighbours become one area."""
        found = self._mergeable()
        low, high = found[which % len(found)]
        others = {a.number for a in self.shadow.areas.values()} - {low.number, high.number}
        result = self._call("vma_merge", low.number, high.number)
        if result == 0:
            self.shadow.merged(low, high)
        old, world = self._look()
        if result == 0:
            self._judge_unlink(old, world, high.number, others)
        self._settle(world)

    def _mergeable(self) -> list[tuple[ShadowArea, ShadowArea]]:
        found = []
        for mm in self.shadow.mms:
            areas = self.shadow.of(mm)
            found += [pair for pair in zip(areas, areas[1:], strict=False) if self.shadow.mergeable(*pair)]
        return found

    @precondition(lambda self: self.shadow.areas)
    @rule(which=pick)
    @recorded
    def munmap(self, which: int) -> None:
        """An area goes, with what is mapped in it."""
        self._munmap(self._area(which))

    def _munmap(self, area: ShadowArea) -> None:
        for at in sorted({*area.slots, *area.swapped}):
            self._zap(area, at)
        others = set(self.shadow.areas) - {area.number}
        self._call("unlink_anon_vmas", area.number)
        self.shadow.went(area)
        old, world = self._look()
        self._judge_unlink(old, world, area.number, others)
        self._settle(world)

    def _judge_unlink(self, old: Snapshot, world: World, number: int, others: set[int]) -> None:
        """The area has gone, all others must be as they were."""
        new = self.snapshot
        if old.chains is not None and new.chains is not None:
            seen = [], []  # type: tuple[list[Any], list[Any]]
            for snapshot, found in zip((old, new), seen, strict=True):
                on = tuple(world.anon(i) for i, areas in (snapshot.heads or {}).items() if number in areas)
                chains = {f"vma{v}": world.anons((snapshot.chains or {}).get(v, ())) for v in others}
                found.append(UnlinkView(world.anons((snapshot.chains or {}).get(number, ())), (), chains, on))
            call = self._new("unlink_anon_vmas", vma=world.vma(number))
            call.judge("AVMA-UNLINK-001", "AVMA-UNLINK-005", old=seen[0][0], new=seen[1][0])
        self._judge_freed(old, world)

    # -- processes --------------------------------------------------------------------------------------------------------

    def _parents(self) -> list[int]:
        generation = {mm: max((a.generation for a in self.shadow.of(mm)), default=0) for mm in self.shadow.mms}
        room = AREAS - len(self.shadow.areas)
        return [mm for mm, g in generation.items() if g < GENERATIONS and 0 < len(self.shadow.of(mm)) <= room]

    @precondition(lambda self: len(self.shadow.mms) < PROCESSES and self._parents())
    @rule(who=pick)
    @recorded
    def fork(self, who: int) -> None:
        """A copy of a process."""
        self._fork(self._parents()[who % len(self._parents())])

    def _fork(self, parent: int) -> int | None:
        mm = self._spawn()
        for area in self.shadow.of(parent):
            number = self.shadow.new_number()
            child = ShadowArea(number, mm, area.start, area.end, area.pgoff, area.file, area.shared)
            self._enter(child)
            if not self._fork_area(child, area):
                self._exit(mm)
                return None
        return mm

    def _fork_area(self, child: ShadowArea, area: ShadowArea) -> bool:
        result = self._call("anon_vma_fork", child.number, area.number)
        if result == 0:
            self.shadow.forked(child, area)
        old, world = self._look()
        parent = next(iter((old.chains or {}).get(area.number, ())), None)
        depth = self.forks.get(parent, (0, None))[0] if parent is not None else 0
        self._remember_forks(world, depth + 1, parent)
        world = self._world()
        ids = ("AVMA-FORK-001", "AVMA-LIST-009", "AVMA-FORK-002", "AVMA-FORK-005")
        self._judge_copy("anon_vma_fork", ids, old, world, area.number, child.number, result)
        self._settle(world)
        if result:
            return False
        if self.snapshot.chains is not None and self.snapshot.heads is not None and (area.slots or area.swapped):
            vma = world.vma(child.number)
            event = self._new("copy_page_range", vma=world.vma(area.number), copy=vma).did("set_pte", vma=vma)
            self._judge_event("AVMA-LIST-006", event)
            self._judge_event("AVMA-LIST-007", event)
        for at in sorted(area.slots):
            child.slots[at] = area.slots[at]
            self._mapping("page_dup_rmap", area.slots[at], child, at)
        child.swapped = dict(area.swapped)
        return True

    @precondition(lambda self: len(self.shadow.mms) > 1)
    @rule(who=pick)
    @recorded
    def exit(self, who: int) -> None:
        """The end of a process."""
        self._exit(self.shadow.mms[who % len(self.shadow.mms)])

    def _exit(self, mm: int) -> None:
        areas = self.shadow.of(mm)
        for area in areas:
            for at in sorted({*area.slots, *area.swapped}):
                self._zap(area, at)
        for area in areas:
            self._munmap(area)
        self.shadow.mms.remove(mm)

    # -- pages ------------------------------------------------------------------------------------------------------------

    def _new_page(self, file: int | None = None, index: int = 0) -> ShadowPage:
        page = ShadowPage(self.shadow.new_number(), file, index)
        self.shadow.pages[page.number] = page
        self._call("new_page", page.number, file, index)
        self._look(page)
        return page

    def _free(self, page: ShadowPage) -> None:
        self._call("free_page", page.number)
        del self.shadow.pages[page.number]
        if page.slot is not None:
            page.slot.page = None
        self._look(page)

    def _mapping(self, name: str, page: ShadowPage, area: ShadowArea, at: int, *exclusive: bool) -> None:
        """A mapping comes or goes, or the page becomes the area's own; the shadow has followed."""
        was_anon = page.anonymous
        if name in ("page_add_new_anon_rmap", "page_add_anon_rmap") and not was_anon:
            page.anonymous, page.index, page.tree, page.file = True, area.index(at), area.tree, None
            page.maker = area if name == "page_add_new_anon_rmap" or exclusive[0] else None
        if name == "page_move_anon_rmap":
            page.maker = area
        self._call(name, page.number, area.number, at, *exclusive)
        old, world = self._look(page)
        kernels = {"page_add_anon_rmap": "do_page_add_anon_rmap"}.get(name, name)
        vma, seen = world.vma(area.number), world.page(page.number)
        call = self._new(kernels, page=seen, vma=vma, address=at, exclusive=exclusive == (True,))
        call.operation.noted.update(was_anon=was_anon, was_ksm=False, swapcache=page.slot is not None)
        self._difference(call, old, world)
        call.judge(*CALLS[name])
        self._settle_page(world, page)

    def _remove(self, page: ShadowPage, area: ShadowArea, at: int) -> None:
        """An entry that maps the page goes."""
        call = self._new("page_remove_rmap", page=self._world().page(page.number))
        call.judge("RMAP-MAPCOUNT-006")
        del area.slots[at]
        self._mapping("page_remove_rmap", page, area, at)

    def _zap(self, area: ShadowArea, at: int) -> None:
        """The entry at the address goes, and with it what it alone has kept."""
        if at in area.slots:
            page = area.slots[at]
            self._remove(page, area, at)
            self._give_up(page)
        else:
            area.swapped.pop(at, None)

    def _give_up(self, page: ShadowPage) -> None:
        """Free an anonymous page to which no entry refers, unless the swap cache keeps it for a while."""
        if page.anonymous and page.slot is None and not self.shadow.places(page):
            self._free(page)

    @precondition(lambda self: self.shadow.areas)
    @rule(which=pick, page=pick, write=st.booleans())
    @recorded
    def access(self, which: int, page: int, write: bool) -> None:
        """A load or a store, with the fault that it takes."""
        area = self._area(which)
        self._access(area, area.start + page % area.length, write)

    def _access(self, area: ShadowArea, at: int, write: bool) -> None:
        if at in area.swapped and not self._swap_in(area, at, write):
            return
        page = area.slots.get(at)
        if page is None and area.file is not None and (area.shared or not write):
            self._map_file(area, at)
        elif page is None and write:
            self._map_new(area, at)
        elif page is not None and write and not area.shared:
            self._write_protected(area, at, page)

    def _map_file(self, area: ShadowArea, at: int) -> None:
        assert area.file is not None
        page = self.shadow.cached(area.file, area.index(at)) or self._new_page(area.file, area.index(at))
        area.slots[at] = page
        self._mapping("page_add_file_rmap", page, area, at)

    def _map_new(self, area: ShadowArea, at: int) -> None:
        if self._prepare(area):
            page = self._new_page()
            area.slots[at] = page
            self._mapping("page_add_new_anon_rmap", page, area, at)

    def _write_protected(self, area: ShadowArea, at: int, page: ShadowPage) -> None:
        """A store to a page that others may use: they keep it, and the area gets a copy, or nobody else does."""
        others = len(self.shadow.places(page)) > 1 or (page.slot is not None and self.shadow.referring(page.slot))
        if page.anonymous and not others:
            if page.slot is not None:
                page.slot.page = None
                page.slot = None
            if "page_move_anon_rmap" in self.map.capabilities:
                self._mapping("page_move_anon_rmap", page, area, at)
        elif self._prepare(area):
            # The entry changes in one section: for an instant both pages are counted.
            copy = self._new_page()
            self._remove(page, area, at)
            area.slots[at] = copy
            self._mapping("page_add_new_anon_rmap", copy, area, at)
            self._give_up(page)

    # -- swap -------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.shadow.mapped())
    @rule(which=pick)
    @recorded
    def unmap(self, which: int) -> None:
        """Reclaim looks for the mappings of a page and takes them away; for an anonymous one swap entries take their place."""
        mapped = self.shadow.mapped()
        self._unmap(mapped[which % len(mapped)])

    def _unmap(self, page: ShadowPage) -> None:
        self._settle(self._look()[1])
        walks = WalkWorld(self._world())
        seen = walks.page(page.number)
        call = self._new("try_to_unmap", page=seen, flags=TTU_IGNORE_ACCESS)
        noted = {"was_mapped": True, "was_ksm": False, "slots_before": dict(seen.slots), "count": len(seen.slots)}
        call.operation.noted.update(noted)
        slot = None
        if page.anonymous:
            slot = page.slot = page.slot or Slot(page)
        for number in self.map.rmap_areas(page.number):
            area = self.shadow.areas.get(number)
            at = self.map.page_address_in_vma(page.number, number) if area is not None else -1
            if area is not None and area.slots.get(at) is page:
                if slot is not None:
                    area.swapped[at] = slot
                self._remove(page, area, at)
        call.judge("RMAP-UNMAP-028", result=SWAP_AGAIN if self.shadow.places(page) else SWAP_SUCCESS)

    def _in_swap_cache(self) -> list[ShadowPage]:
        mapped = self.shadow.mapped()
        return [p for p in self.shadow.pages.values() if p.slot is not None and p not in mapped]

    @precondition(lambda self: self._in_swap_cache())
    @rule(which=pick)
    @recorded
    def write_out(self, which: int) -> None:
        """A page that is in the swap cache only is freed; its content is in swap."""
        found = self._in_swap_cache()
        self._free(found[which % len(found)])

    def _swap_in(self, area: ShadowArea, at: int, write: bool) -> bool:
        """An entry that refers to swap maps a page again: the one in the swap cache, or a new one."""
        if not self._prepare(area):
            return False
        slot = area.swapped[at]
        page = slot.page
        if page is None:
            page = slot.page = self._new_page()
            page.slot = slot
        alone = len(self.shadow.referring(slot)) == 1 and not self.shadow.places(page)
        del area.swapped[at]
        area.slots[at] = page
        if alone and write:
            slot.page = page.slot = None
        self._mapping("page_add_anon_rmap", page, area, at, alone and write)
        return True

    # -- questions --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.shadow.mapped())
    @rule()
    @recorded
    def ask_for_addresses(self) -> None:
        """Each mapped page is looked for in each area."""
        walks = WalkWorld(self._world())
        for page in self.shadow.mapped():
            for area in list(self.shadow.areas.values()):
                result = self.map.page_address_in_vma(page.number, area.number)
                self._judge_address(walks, page, area, result)
        self.log.append("page_address_in_vma of all pages in all areas")
        self.operations += 1

    def _judge_address(self, walks: WalkWorld, page: ShadowPage, area: ShadowArea, result: int) -> None:
        seen, vma = walks.page(page.number), walks.vma(area.number)
        asked = self._new("page_address_in_vma", page=seen, vma=vma)
        asked.operation.result = result
        if page.anonymous:
            related = area.tree is page.tree
            if area.tree is not None and page.tree is not None and not related and area.tree in page.tree.kin:
                # They may be of one tree.
                return
            asked.judge("RMAP-ADDR-006", result=result)
        else:
            related = area.file == page.file
            asked.judge("RMAP-ADDR-007", result=result)
        if related:
            asked.judge("RMAP-ADDR-009", result=result)
            self._new("vma_address", page=seen, vma=vma).judge(*ADDRESSES, result=result)

    # -- runs of calls that chance alone seldom makes; the history has them one by one ------------------------------------

    @precondition(lambda self: len(self.shadow.mms) < PROCESSES and self._parents())
    @rule(which=pick, page=pick, child_writes=st.booleans(), between=st.sampled_from(["", "unmap", "write out"]))
    def share(self, which: int, page: int, child_writes: bool, between: str) -> None:
        """A page is written, inherited, perhaps swapped out, used by both, and written by one and then by the other."""
        parents = self._parents()
        areas = [a for a in self.shadow.areas.values() if a.mm in parents]
        area = areas[which % len(areas)]
        at = page % area.length
        self._at(area, at, write=True)
        shared = area.slots.get(area.start + at)
        if shared is None:
            return
        self.fork(who=parents.index(area.mm))
        child = next((a for a in self.shadow.of(self.shadow.mms[-1]) if a.slots.get(area.start + at) is shared), None)
        if child is None:
            return
        if between:
            self.unmap(which=self.shadow.mapped().index(shared))
        if between == "write out" and shared in self._in_swap_cache():
            self.write_out(which=self._in_swap_cache().index(shared))
        for one in (child, area):
            self._at(one, at, write=(one is child) is child_writes)
        for one in (child, area):
            self._at(one, at, write=True)

    @precondition(lambda self: self.shadow.areas)
    @rule(which=pick, page=pick, between=st.booleans(), write=st.booleans())
    def out_and_in(self, which: int, page: int, between: bool, write: bool) -> None:
        """A page is written, swapped out, and used again."""
        area = self._area(which)
        at = page % area.length
        self._at(area, at, write=True)
        out = area.slots.get(area.start + at)
        if out is None:
            return
        self.unmap(which=self.shadow.mapped().index(out))
        if between and out in self._in_swap_cache():
            self.write_out(which=self._in_swap_cache().index(out))
        self._at(area, at, write=write)

    @precondition(lambda self: self.shadow.mms and len(self.shadow.areas) < AREAS)
    @rule(who=pick, length=lengths, page=pick, low=st.booleans(), merge=st.booleans())
    def grow(self, who: int, length: int, page: int, low: bool, merge: bool) -> None:
        """A process gets an area right behind its last one, and writes to it, perhaps to both; perhaps they become one."""
        mm = self.shadow.mms[who % len(self.shadow.mms)]
        kinds = {kind: name for name, kind in KINDS.items()}
        last = self.shadow.of(mm)[-1] if self.shadow.of(mm) else None
        if last is not None and low:
            self._at(last, page % last.length, write=True)
        kind = "anonymous" if last is None else kinds[last.file, last.shared]
        self.mmap(who=who, length=length, kind=kind, pgoff=0, beside=True)
        new = self.shadow.of(mm)[-1]
        self._at(new, page % new.length, write=True)
        pairs = self._mergeable()
        if merge and (last, new) in pairs:
            self.merge(which=pairs.index((last, new)))  # type: ignore[arg-type]

    @precondition(lambda self: self.shadow.mms and len(self.shadow.areas) < AREAS - 2)
    @rule(who=pick, shared=st.booleans(), cut=st.booleans(), page=st.integers(0, 2), other=st.booleans())
    def files(self, who: int, shared: bool, cut: bool, page: int, other: bool) -> None:
        """A process reads a page of a file, perhaps cuts the area, maps another file, and the page is looked for."""
        mm = self.shadow.mms[who % len(self.shadow.mms)]
        self.mmap(who=who, length=3, kind="shared file" if shared else "file", pgoff=0, beside=False)
        area = self.shadow.of(mm)[-1]
        self._at(area, page, write=False)
        mapped = area.slots[area.start + page]
        if cut:
            longer = [a for a in self.shadow.areas.values() if a.length > 1]
            self.split(which=longer.index(area), at=0)
        if other:
            self.mmap(who=who, length=3, kind="other file", pgoff=0, beside=False)
        self.ask_for_addresses()
        self.unmap(which=self.shadow.mapped().index(mapped))

    def _at(self, area: ShadowArea, page: int, *, write: bool) -> None:
        self.access(which=self._which(area), page=page, write=write)

    def _which(self, area: ShadowArea) -> int:
        return list(self.shadow.areas.values()).index(area)

    @precondition(lambda self: len(self.shadow.mms) <= PROCESSES - 3 and len(self.shadow.areas) <= AREAS - 3)
    @rule(number=st.integers(2, 3), pages=st.integers(1, 2), deep=st.booleans())
    @recorded
    def family(self, number: int, pages: int, deep: bool) -> None:
        """A process and its children, or its child and that one's child; each writes pages of its own; then they leave."""
        mm = self._spawn()
        family = [mm]
        area = self._mmap(mm, pages, "anonymous", 0, beside=False)
        for at in range(area.start, area.end):
            self._access(area, at, write=True)
        for _ in range(number - 1):
            child = self._fork(family[-1] if deep else mm)
            if child is None:
                break
            family.append(child)
        # The first comes last: its pages are its own again when all others have copies.
        for one in reversed(family):
            for own in self.shadow.of(one):
                for at in range(own.start, own.end):
                    self._access(own, at, write=True)
        _, world = self._look()
        REGISTRY["PERF-001"].demand(WalkWorld(world, family))
        last = self.shadow.of(family[-1])[0]
        out = last.slots.get(last.start)
        if deep and out is not None:
            self._unmap(out)
            if out in self._in_swap_cache():
                self._free(out)
            self._access(last, last.start, write=True)
        if last.length > 1:
            self._split(last, last.start + 1)
        for one in family:
            self._exit(one)


#: What this machine judges, whatever the implementation shows.
JUDGED = tuple(
    dict.fromkeys(
        (
            *PAGES, *LISTS, *(i for ids in CALLS.values() for i in ids), *ADDRESSES, "RMAP-ADDR-006", "RMAP-ADDR-007",
            "RMAP-ADDR-009", "RMAP-MAPCOUNT-006", "RMAP-ANON-003", "RMAP-ANON-013", "RMAP-UNMAP-028", "PERF-002",
            "AVMA-ROOT-008", "AVMA-PREP-002", "AVMA-PREP-007", "AVMA-CLONE-001", "AVMA-FORK-001", "AVMA-FORK-002",
            "AVMA-FORK-005", "AVMA-LIST-005", "AVMA-LIST-006", "AVMA-LIST-007", "AVMA-LIST-009", "AVMA-UNLINK-001",
            "AVMA-UNLINK-005",
        )
    )
)  # fmt: skip
