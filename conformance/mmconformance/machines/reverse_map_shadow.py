"""Who maps what, as the calls of a :class:`~mmspec.interfaces.ReverseMap` say: the oracle of its machine.

The shadow knows areas, pages and entries, and which areas come from one by fork, split and merge. It knows no anon_vma.
Addresses, offsets and indices are in base pages.
"""

from __future__ import annotations

import itertools

import attrs


@attrs.define(eq=False)
class ShadowPage:
    """A page. `anonymous` from its first anonymous mapping on; `index` is its place in its object."""

    number: int
    file: int | None = None
    index: int = 0
    anonymous: bool = False
    tree: Tree | None = None
    """The family of the area that it was first mapped in."""
    maker: ShadowArea | None = None
    """The area for which it was made, or whose own it has become."""
    slot: Slot | None = None
    """The swap slot with the same content, while the page is in the swap cache."""


@attrs.define(eq=False)
class Slot:
    """A swap slot; `page` is the one in the swap cache with its content."""

    page: ShadowPage | None


@attrs.define(eq=False)
class Tree:
    """Areas that come from one by fork, split and merge; `kin` are trees that may be one, as areas of them touched."""

    number: int
    kin: set[Tree] = attrs.field(factory=set)


@attrs.define(eq=False)
class ShadowArea:
    """An area `[start, end)`; `links` are what its chain must be like, as names: its own (the newest) first."""

    number: int
    mm: int
    start: int
    end: int
    pgoff: int
    file: int | None
    shared: bool
    links: tuple[int, ...] = ()
    tree: Tree | None = None
    generation: int = 0
    """How many forks it is away from the area that was mapped."""
    slots: dict[int, ShadowPage] = attrs.field(factory=dict)
    """Address to the page that is mapped there."""
    swapped: dict[int, Slot] = attrs.field(factory=dict)
    """Address to the swap slot to which the entry refers."""

    @property
    def length(self) -> int:
        """In base pages."""
        return self.end - self.start

    def index(self, address: int) -> int:
        """The place in the area's object."""
        return address - self.start + self.pgoff

    def address(self, page: ShadowPage) -> int | None:
        """Where the page would be, going by its index alone."""
        at = page.index - self.pgoff
        return self.start + at if 0 <= at < self.length else None

    def in_line(self, high: ShadowArea) -> bool:
        """Whether `high` goes on where this one ends: same object, same kind."""
        return (
            (self.mm, self.end, self.file, self.shared) == (high.mm, high.start, high.file, high.shared)
            and self.index(self.end) == high.pgoff
        )  # fmt: skip


@attrs.define
class Shadow:
    """All of it."""

    areas: dict[int, ShadowArea] = attrs.field(factory=dict)
    pages: dict[int, ShadowPage] = attrs.field(factory=dict)
    gone: dict[int, ShadowArea] = attrs.field(factory=dict)
    """The areas that there were."""
    mms: list[int] = attrs.field(factory=list)
    _numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))

    def new_number(self) -> int:
        """A number that means nothing yet."""
        return next(self._numbers)

    def of(self, mm: int) -> list[ShadowArea]:
        """The areas of an address space, by address."""
        return sorted((a for a in self.areas.values() if a.mm == mm), key=lambda a: a.start)

    def places(self, page: ShadowPage) -> list[tuple[ShadowArea, int]]:
        """Where the page is mapped."""
        return [(area, at) for area in self.areas.values() for at, p in area.slots.items() if p is page]

    def mapped(self) -> list[ShadowPage]:
        """The pages that something maps."""
        return [p for p in self.pages.values() if any(p in a.slots.values() for a in self.areas.values())]

    def referring(self, slot: Slot) -> list[tuple[ShadowArea, int]]:
        """The entries that refer to the swap slot."""
        return [(area, at) for area in self.areas.values() for at, s in area.swapped.items() if s is slot]

    def cached(self, file: int, index: int) -> ShadowPage | None:
        """The page of a file."""
        return next((p for p in self.pages.values() if (p.file, p.index) == (file, index) and not p.anonymous), None)

    def neighbours(self, area: ShadowArea) -> list[ShadowArea]:
        """The areas that touch and map the same stretch of the same object."""
        return [a for a in self.of(area.mm) if a.in_line(area) or area.in_line(a)]

    # -- what calls mean -----------------------------------------------------------------------------------------------------

    def prepared(self, area: ShadowArea, shared_with: ShadowArea | None) -> None:
        """The area has an anon_vma, of its own or, as the implementation lets see, that of a neighbour."""
        area.tree = Tree(self.new_number()) if shared_with is None else shared_with.tree
        area.links = (self.new_number(),) if shared_with is None else shared_with.links
        assert area.tree is not None
        for near in self.neighbours(area):
            if near.tree is not None and near.tree is not area.tree:
                together = area.tree.kin | near.tree.kin | {area.tree, near.tree}
                for tree in together:
                    tree.kin |= together - {tree}

    def forked(self, child: ShadowArea, parent: ShadowArea) -> None:
        """The child's area has the parent's anon_vmas, and one of its own."""
        if parent.links:
            child.links = (self.new_number(), *parent.links)
            child.tree = parent.tree
        child.generation = parent.generation + 1

    def split(self, area: ShadowArea, number: int, at: int) -> ShadowArea:
        """The part from `at` on is an area of its own."""
        upper = attrs.evolve(
            area,
            number=number,
            start=at,
            pgoff=area.index(at),
            slots={a: p for a, p in area.slots.items() if a >= at},
            swapped={a: s for a, s in area.swapped.items() if a >= at},
        )
        area.end = at
        area.slots = {a: p for a, p in area.slots.items() if a < at}
        area.swapped = {a: s for a, s in area.swapped.items() if a < at}
        self.areas[number] = upper
        return upper

    def mergeable(self, low: ShadowArea, high: ShadowArea) -> bool:
        """Whether the areas can become one, whatever the implementation is like."""
        if not low.in_line(high):
            return False
        return low.links == high.links or (not (low.links and high.links) and len(low.links or high.links) == 1)

    def merged(self, low: ShadowArea, high: ShadowArea) -> None:
        """`high` is a part of `low`."""
        low.end = high.end
        low.slots |= high.slots
        low.swapped |= high.swapped
        if not low.links:
            low.links, low.tree = high.links, high.tree
        self.went(high)

    def went(self, area: ShadowArea) -> None:
        """The area is no more."""
        self.gone[area.number] = self.areas.pop(area.number)
        area.slots, area.swapped = {}, {}
