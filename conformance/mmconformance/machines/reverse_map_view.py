"""What a :class:`~mmspec.interfaces.ReverseMap` lets be seen, in the words in which the invariants speak of the kernel.

A :class:`Snapshot` is what the implementation answers, in numbers; a :class:`World` are objects with the kernel's field
names over a snapshot and the shadow of the calls. What the implementation does not show raises
:class:`~mmspec.errors.NotObservable` when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import attrs

from mmconformance.machines.reverse_map_shadow import Shadow, ShadowArea, ShadowPage
from mmspec.errors import ImplementationFailure, NotObservable
from mmspec.interfaces import ReverseMap
from mmspec.invariant import Over
from mmspec.invariants.rmap.terms import PAGE_MAPPING_ANON

COUNTERS = ("NR_ANON_PAGES", "NR_FILE_MAPPED")


@attrs.define
class Snapshot:
    """The answers of one moment; None for what the implementation does not show."""

    own: dict[int, int | None] | None = None
    chains: dict[int, list[int]] | None = None
    heads: dict[int, list[int]] | None = None
    roots: dict[int, int] | None = None
    refcounts: dict[int, int] | None = None
    live: list[int] | None = None
    counts: dict[int, int] = attrs.field(factory=dict)
    """Page to its map count."""
    owners: dict[int, int | None] | None = None
    walks: dict[int, list[int]] = attrs.field(factory=dict)
    """Page to the areas that a walk for it looks at."""
    zone: dict[str, int] | None = None

    @property
    def ids(self) -> list[int]:
        """All anon_vmas that can be seen, each once."""
        seen = dict.fromkeys(self.live or ())
        for chain in (self.chains or {}).values():
            seen |= dict.fromkeys(chain)
        seen |= dict.fromkeys((self.roots or {}).values())
        return list(seen)

    @classmethod
    def of(cls, shows: ReverseMap, shadow: Shadow) -> Snapshot:
        """Everything, as it is now."""
        has = shows.capabilities
        new = cls()
        if "anon_vma" in has:
            new.own = {a: shows.anon_vma(a) for a in shadow.areas}
        if "chain" in has:
            new.chains = {a: list(shows.chain(a)) for a in shadow.areas}
        if "live_anon_vmas" in has:
            new.live = list(shows.live_anon_vmas())
        if "root" in has:
            new.roots = {i: shows.root(i) for i in new.ids if new._alive(i)}
        alive = [i for i in new.ids if new._alive(i)]
        if "areas" in has:
            new.heads = {i: list(shows.areas(i)) for i in alive}
        if "refcount" in has:
            new.refcounts = {i: shows.refcount(i) for i in alive}
        if "page_anon_vma" in has:
            new.owners = {}
        for page in shadow.pages.values():
            new.look_at(shows, shadow, page)
        new.zone = _statistics(shows)
        return new

    def after(self, shows: ReverseMap, shadow: Shadow, page: ShadowPage) -> Snapshot:
        """As before, but for one page and the statistics."""
        owners = None if self.owners is None else dict(self.owners)
        new = attrs.evolve(self, counts=dict(self.counts), owners=owners, walks=dict(self.walks))
        new.look_at(shows, shadow, page)
        new.zone = _statistics(shows)
        return new

    def look_at(self, shows: ReverseMap, shadow: Shadow, page: ShadowPage) -> None:
        """Ask for a page anew."""
        number = page.number
        self.walks.pop(number, None)
        if number not in shadow.pages:
            self.counts.pop(number, None)
            return
        self.counts[number] = shows.page_mapcount(number)
        if self.owners is not None:
            self.owners[number] = shows.page_anon_vma(number)
        if shadow.places(page):
            self.walks[number] = list(shows.rmap_areas(number))

    def _alive(self, id_: int) -> bool:
        return self.live is None or id_ in self.live


def _statistics(shows: ReverseMap) -> dict[str, int] | None:
    if "statistics" not in shows.capabilities:
        return None
    shown = shows.statistics()
    if not all(isinstance(shown.get(c), int) for c in COUNTERS):
        raise ImplementationFailure(f"statistics() returned {shown!r}, which lacks one of {', '.join(COUNTERS)}")
    return {c: shown[c] for c in COUNTERS}


class Slot(NamedTuple):
    """A place in the page tables of an address space."""

    mm: Any
    vpn: int
    level: str = "pte"


class Tagged(NamedTuple):
    """`mapping`: a pointer with what its low bits say about it."""

    pointer: Any
    bits: int


def _seen(value: Any, what: str) -> Any:
    if value is None:
        raise NotObservable(what)
    return value


@attrs.define(eq=False, repr=False)
class Link:
    """`struct anon_vma_chain`."""

    vma: SeenVma
    anon_vma: SeenAnonVma
    linked: bool = True

    def __repr__(self) -> str:
        return f"{self.vma}-{self.anon_vma}"


class SeenAnonVma:
    """`struct anon_vma`, as far as it is shown."""

    over = Over.ANON_VMA
    generation = 0
    emptied = False

    def __init__(self, world: World, number: int) -> None:
        snapshot = world.snapshot
        self.system = world
        self.number = number
        self.name = f"anon_vma{number}"
        self.allocated = snapshot._alive(number)
        self.depth, self._parent = world.forks.get(number, (0, None))
        self._head: list[Link] | None = None
        self.pins: dict[str, int] = {}

    def __repr__(self) -> str:
        return self.name

    @property
    def parent(self) -> SeenAnonVma | None:
        """The one of the area that fork copied."""
        return None if self._parent is None else self.system.anon(self._parent)

    @property
    def root(self) -> SeenAnonVma:
        """`root`"""
        roots = _seen(self.system.snapshot.roots, "anon_vma.root")
        return self.system.anon(roots.get(self.number, self.number))

    @property
    def refcount(self) -> int:
        """`refcount`"""
        return int(_seen(self.system.snapshot.refcounts, "anon_vma.refcount").get(self.number, 0))

    @property
    def head(self) -> list[Link]:
        """The `same_anon_vma` list."""
        if self._head is None:
            heads = _seen(self.system.snapshot.heads, "anon_vma.head")
            self._head = [self.system.link(self.system.vma(v), self) for v in heads.get(self.number, ())]
        return self._head

    @property
    def list(self) -> list[SeenVma]:
        """The areas on it."""
        return [link.vma for link in self.head]


class SeenVma:
    """`struct vm_area_struct`; addresses in base pages, which is what a byte is here."""

    over = Over.VMA

    def __init__(self, world: World, area: ShadowArea, *, gone: bool) -> None:
        self.system = world
        self.number = area.number
        self.name = f"vma{area.number}"
        self.mm = world.mm(area.mm)
        self.vm_start, self.vm_end, self.vm_pgoff = area.start, area.end, area.pgoff
        self.vm_flags = 0
        self.vm_file = None if area.file is None else world.file(area.file)
        self.gone = gone
        self._chain: list[Link] | None = None

    def __repr__(self) -> str:
        return f"{self.name}[{self.vm_start}, {self.vm_end}) of {self.mm}"

    @property
    def anon_vma(self) -> SeenAnonVma | None:
        """`anon_vma`: as it is told, or the first of the chain."""
        own = self.system.snapshot.own
        chains = {} if own is not None else _seen(self.system.snapshot.chains, "vma.anon_vma")
        number = own.get(self.number) if own is not None else next(iter(chains.get(self.number, ())), None)
        return None if number is None else self.system.anon(number)

    @property
    def anon_vma_chain(self) -> list[Link]:
        """The `same_vma` list."""
        if self._chain is None:
            chains = _seen(self.system.snapshot.chains, "vma.anon_vma_chain")
            self._chain = [self.system.link(self, self.system.anon(i)) for i in chains.get(self.number, ())]
        return self._chain


class SeenPage:
    """`struct page`."""

    over = Over.PAGE
    order = 0
    huge = False
    first_page = None
    subpages: tuple[Any, ...] = ()
    memcg = None
    PG_swapbacked = True
    locked = True
    anon_generation = 0

    def __init__(self, world: World, page: ShadowPage) -> None:
        self.system = world
        self.number = page.number
        self.name = f"page{page.number}"
        self.index = page.index
        self._mapcount = world.snapshot.counts.get(page.number, 0) - 1
        self.PG_swapcache = page.slot is not None
        self._file = None if page.file is None or page.anonymous else world.file(page.file)
        self._anonymous = page.anonymous
        self.slots: dict[Slot, Any] = {}

    def __repr__(self) -> str:
        return self.name

    @property
    def mapping(self) -> Tagged | None:
        """`mapping`"""
        if self._file is not None:
            return Tagged(self._file, 0)
        owners = self.system.snapshot.owners
        if owners is None:
            # Which anon_vma it is nobody asks who needs to see it.
            return Tagged(None, PAGE_MAPPING_ANON) if self._anonymous else None
        owner = owners.get(self.number)
        return None if owner is None else Tagged(self.system.anon(owner), PAGE_MAPPING_ANON)


@attrs.define(eq=False, repr=False)
class SeenMm:
    """`struct mm_struct`, with the entries that the calls imply."""

    system: World
    name: str
    vmas: list[SeenVma] = attrs.field(factory=list)
    tables: dict[int, Any] = attrs.field(factory=dict)
    pmds: dict[int, Any] = attrs.field(factory=dict)
    huge: dict[int, Any] = attrs.field(factory=dict)
    notifiers: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return self.name

    def area_at(self, address: int) -> Any:
        """The area that contains the address."""
        return next((v for v in self.vmas if v.vm_start <= address < v.vm_end), None)


@attrs.define(eq=False)
class Table:
    """A page table."""

    entries: dict[int, Any] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Entry:
    """A present entry, or one that refers to swap."""

    kind: str
    page: SeenPage | None = None
    slot: int = 0
    dirty: bool = False
    splitting: bool = False
    young: bool = False


@attrs.define(eq=False, repr=False)
class SeenFile:
    """A file."""

    name: str
    i_mmap_nonlinear: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return self.name


class SeenZone:
    """`struct zone`: the statistics."""

    over = Over.ZONE
    name = "zone"
    NR_ANON_TRANSPARENT_HUGEPAGES = 0

    def __init__(self, world: World, counters: dict[str, int]) -> None:
        self.system = world
        self.NR_ANON_PAGES = counters["NR_ANON_PAGES"]
        self.NR_FILE_MAPPED = counters["NR_FILE_MAPPED"]

    def __repr__(self) -> str:
        return f"<NR_ANON_PAGES={self.NR_ANON_PAGES} NR_FILE_MAPPED={self.NR_FILE_MAPPED}>"


class World:
    """The whole at one moment."""

    page_size = 1
    ptrs_per_pte = 1 << 40
    huge_page_order = 0
    split_ptlocks = False
    swap = None

    def __init__(self, snapshot: Snapshot, shadow: Shadow, forks: dict[int, tuple[int, int | None]]) -> None:
        self.snapshot = snapshot
        self.shadow = shadow
        self.forks = forks
        """Anon_vma to how many forks it is away from its root, and to the one that it was forked from."""
        self._anon: dict[int, SeenAnonVma] = {}
        self._vmas: dict[int, SeenVma] = {}
        self._links: dict[tuple[SeenVma, SeenAnonVma], Link] = {}
        self._mms: dict[int, SeenMm] = {}
        self._files: dict[int, SeenFile] = {}
        self._zone: SeenZone | None = None
        self._pages: dict[int, SeenPage] = {p.number: SeenPage(self, p) for p in shadow.pages.values()}
        for area in sorted(shadow.areas.values(), key=lambda a: (a.mm, a.start)):
            vma = self.vma(area.number)
            vma.mm.vmas.append(vma)
            entries = vma.mm.tables.setdefault(0, Table()).entries
            for at, page in area.slots.items():
                entries[at] = Entry("present", self.page(page.number))
                self.page(page.number).slots[Slot(vma.mm, at)] = entries[at]
            for at in area.swapped:
                entries[at] = Entry("swap")

    def __repr__(self) -> str:
        lines = []
        for vma in self.vmas:
            chain = (self.snapshot.chains or {}).get(vma.number)
            lines.append(f"{vma}" + ("" if chain is None else f" chain {chain}"))
        lines += [f"anon_vma{i} areas {areas}" for i, areas in (self.snapshot.heads or {}).items()]
        for page in self.pages:
            walk, owner = self.snapshot.walks.get(page.number), (self.snapshot.owners or {}).get(page.number)
            where = [f"{mm}@{at}" for mm, at, _ in page.slots]
            lines.append(f"{page} _mapcount {page._mapcount} at {where} owner {owner} walk {walk}")
        return "; ".join(lines)

    # -- the objects -----------------------------------------------------------------------------------------------------------

    def anon(self, number: int) -> SeenAnonVma:
        """The anon_vma of that number, alive or not."""
        if number not in self._anon:
            self._anon[number] = SeenAnonVma(self, number)
        return self._anon[number]

    def vma(self, number: int) -> SeenVma:
        """The area of that number, one that is gone if need be.

        :raises ImplementationFailure: if there has never been one.
        """
        if number not in self._vmas:
            gone = number not in self.shadow.areas
            area = self.shadow.gone.get(number) if gone else self.shadow.areas[number]
            if area is None:
                raise ImplementationFailure(f"a list holds {number!r}, which has never been an area")
            self._vmas[number] = SeenVma(self, area, gone=gone)
        return self._vmas[number]

    def link(self, vma: SeenVma, anon_vma: SeenAnonVma) -> Link:
        """What connects the two, whichever side tells of it."""
        if (vma, anon_vma) not in self._links:
            self._links[vma, anon_vma] = Link(vma, anon_vma)
        return self._links[vma, anon_vma]

    def mm(self, number: int) -> SeenMm:
        """An address space."""
        if number not in self._mms:
            self._mms[number] = SeenMm(self, f"mm{number}")
        return self._mms[number]

    def file(self, number: int) -> SeenFile:
        """A file."""
        return self._files.setdefault(number, SeenFile(f"file{number}"))

    def page(self, number: int) -> SeenPage:
        """A page."""
        return self._pages[number]

    @property
    def pages(self) -> list[SeenPage]:
        """All pages."""
        return list(self._pages.values())

    @property
    def mms(self) -> list[SeenMm]:
        """The address spaces that have areas."""
        return [mm for mm in self._mms.values() if mm.vmas]

    @property
    def vmas(self) -> list[SeenVma]:
        """All areas."""
        return [vma for mm in self.mms for vma in mm.vmas]

    @property
    def live_anon_vmas(self) -> dict[SeenAnonVma, None]:
        """Those that are told to be alive, or else those on chains."""
        live = self.snapshot.live
        if live is None:
            _seen(self.snapshot.chains, "anon_vmas")
        return dict.fromkeys(self.anon(i) for i in (self.snapshot.ids if live is None else live))

    @property
    def live_chains(self) -> dict[Link, None]:
        """All links that one of the sides tells of."""
        told = [link for vma in self.vmas for link in vma.anon_vma_chain]
        told += [link for anon_vma in self.live_anon_vmas for link in anon_vma.head]
        return dict.fromkeys(told)

    @property
    def zone(self) -> SeenZone:
        """The statistics."""
        if self._zone is None:
            self._zone = SeenZone(self, _seen(self.snapshot.zone, "zone"))
        return self._zone

    def has(self, feature: str) -> bool:
        """Nothing that a kernel may be built without takes part."""
        return False

    def anons(self, numbers: Iterable[int]) -> tuple[SeenAnonVma, ...]:
        """The anon_vmas of these numbers."""
        return tuple(self.anon(i) for i in numbers)


# -- walks, whatever the lists are like ----------------------------------------------------------------------------------


class WalkAnonVma:
    """The areas that a walk for one page looks at, as if they were the list of an anon_vma of the page's own."""

    over = Over.ANON_VMA
    allocated = True

    def __init__(self, name: str, root: Any, parent: Any = None) -> None:
        self.name = name
        self.root = root
        self.parent = parent
        self.found: list[Any] | None = None
        """The areas, if there is a page by which they were found."""

    def __repr__(self) -> str:
        return f"{self.name}{[link.vma.number for link in self.found or ()]}"

    @property
    def head(self) -> list[Any]:
        """What is found, as a list of links."""
        found: list[Any] = _seen(self.found, "anon_vma.head")
        return found


class WalkVma:
    """An area of a world of walks."""

    over = Over.VMA

    def __init__(self, vma: SeenVma, mm: Any) -> None:
        self.number = vma.number
        self.name = vma.name
        self.mm = mm
        self.vm_start, self.vm_end, self.vm_pgoff, self.vm_flags = vma.vm_start, vma.vm_end, vma.vm_pgoff, 0
        self.vm_file = vma.vm_file
        self.anon_vma: Any = None
        self.anon_vma_chain: list[Any] = []

    def __repr__(self) -> str:
        return f"{self.name}[{self.vm_start}, {self.vm_end}) of {self.mm}"


class WalkPage:
    """A page of a world of walks: its `mapping` leads to what the walk looks at."""

    over = Over.PAGE
    order = 0
    huge = False
    first_page = None

    def __init__(self, world: WalkWorld, page: ShadowPage) -> None:
        self.system = world
        self.name = f"page{page.number}"
        self.number = page.number
        self.index = page.index
        self.mapping: Tagged | None = None
        self._mapcount = -1
        self.slots: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return self.name


class WalkWorld:
    """What is seen through `rmap_areas` alone: who is found for a page is on the list of the page's anon_vma."""

    page_size = 1
    ptrs_per_pte = 1 << 40
    huge_page_order = 0
    split_ptlocks = False

    def __init__(self, world: World, only: Sequence[int] | None = None) -> None:
        """`only` restricts it to these address spaces."""
        shadow = world.shadow
        self._pages = {n: WalkPage(self, p) for n, p in shadow.pages.items()}
        self._mms: dict[int, SeenMm] = {}
        self._vmas: dict[int, WalkVma] = {}
        self._trees: dict[Any, WalkAnonVma] = {}
        areas = [a for a in shadow.areas.values() if only is None or a.mm in only]
        for area in sorted(areas, key=lambda a: (a.mm, a.start)):
            mm = self._mms.setdefault(area.mm, SeenMm(self, f"mm{area.mm}"))  # type: ignore[arg-type]
            vma = self._vmas[area.number] = WalkVma(world.vma(area.number), mm)
            if area.tree is not None:
                vma.anon_vma = self.own(area)
            mm.vmas.append(vma)  # type: ignore[arg-type]
            for at, page in area.slots.items():
                entry = Entry("present", self._pages[page.number])  # type: ignore[arg-type]
                mm.tables.setdefault(0, Table()).entries[at] = entry
                self._pages[page.number].slots[Slot(mm, at)] = entry
        for number, walk in world.snapshot.walks.items():
            page = shadow.pages[number]
            self._pages[number]._mapcount = len(shadow.places(page)) - 1
            self._pages[number].mapping = self._mapping(world, page, walk)

    def __repr__(self) -> str:
        mapped = [p for p in self._pages.values() if p.slots]
        return "; ".join(f"{p} at {[f'{s.mm}@{s.vpn}' for s in p.slots]} walk {p.mapping}" for p in mapped)

    def tree(self, key: Any) -> WalkAnonVma:
        """The root of a family of areas."""
        if key not in self._trees:
            root = self._trees[key] = WalkAnonVma(f"tree{key.number}", None)
            root.root = root
        return self._trees[key]

    def own(self, area: ShadowArea) -> WalkAnonVma:
        """What stands for the anon_vma of the area: the root's, or one right below, or further down."""
        assert area.tree is not None
        root = self.tree(area.tree)
        if area.generation == 0:
            return root
        parent = root if area.generation == 1 else WalkAnonVma("parent", root, root)
        return WalkAnonVma(f"of vma{area.number}", root, parent)

    def _mapping(self, world: World, page: ShadowPage, walk: list[int]) -> Tagged:
        if not page.anonymous or page.tree is None:
            return Tagged(None if page.file is None else world.file(page.file), 0)
        found = WalkAnonVma(f"walk of page{page.number}", self.tree(page.tree))
        found.found = []
        for number in dict.fromkeys(walk):
            vma = self._vmas.get(number)
            if vma is not None:
                link = Link(vma, found)  # type: ignore[arg-type]
                vma.anon_vma_chain.append(link)
                found.found.append(link)
            else:
                world.vma(number)
        maker = self._vmas.get(page.maker.number) if page.maker is not None else None
        if maker is not None and maker.anon_vma is not None:
            # Where the page was made, that is the list of the area's own pages.
            maker.anon_vma.found = found.found
        return Tagged(found, PAGE_MAPPING_ANON)

    def vma(self, number: int) -> WalkVma:
        """An area."""
        return self._vmas[number]

    def page(self, number: int) -> WalkPage:
        """A page."""
        return self._pages[number]

    @property
    def pages(self) -> list[WalkPage]:
        """All pages."""
        return list(self._pages.values())

    @property
    def mms(self) -> list[SeenMm]:
        """The address spaces."""
        return list(self._mms.values())

    @property
    def vmas(self) -> list[WalkVma]:
        """All areas."""
        return list(self._vmas.values())
