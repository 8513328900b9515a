"""The pictures, drawn as inline SVG by small functions: no other program is needed, and colours follow the theme.

`.. picture:: NAME` inserts one; its content is the caption.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import mmspec
from mmreference.manager import ReferenceMemoryManager
from mmspec.config import HUGETLB, SYSTEMS
from mmspec.invariants.hugetlb.locks import LOCK_ORDER
from mmspec.state import Setup
from mmspec.trace import Recorder


class Canvas:
    """Shapes, in user units."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height = width, height
        self.parts = [f"<title>{escape(title)}</title>"]

    def box(self, x: float, y: float, w: float, h: float, label: str = "", cls: str = "soft", size: int = 13) -> None:
        """A rectangle with a label in its middle."""
        self.parts.append(f'<rect class="{cls}" x="{x}" y="{y}" width="{w}" height="{h}" rx="3"/>')
        if label:
            self.text(x + w / 2, y + h / 2 + size * 0.35, label, size=size)

    def text(self, x: float, y: float, label: str, size: int = 13, anchor: str = "middle", bold: bool = False) -> None:
        """One line of text."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(label)}</text>'
        )

    def path(self, d: str, cls: str = "line", arrow: bool = False) -> None:
        """Any path."""
        end = ' marker-end="url(#mmspec-arrow)"' if arrow else ""
        self.parts.append(f'<path class="{cls}" d="{d}"{end}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str = "line", arrow: bool = False) -> None:
        """A straight line."""
        self.path(f"M{x1} {y1}L{x2} {y2}", cls, arrow)

    def svg(self) -> str:
        """The whole."""
        marker = (
            '<defs><marker id="mmspec-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
        )
        return (
            f'<svg class="mmspec-picture" xmlns="http://www.w3.org/2000/svg" role="img" '
            f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}">'
            f"{marker}{''.join(self.parts)}</svg>"
        )


CELL = 62


def _offsets(c: Canvas, x: float, y: float, offsets: range, strong: set[int], missing: set[int], name: str) -> None:
    c.text(x - 12, y + 20, name, anchor="end")
    for k, idx in enumerate(offsets):
        if idx in missing:
            c.box(x + k * CELL, y, CELL, 30, "", cls="faint")
        else:
            c.box(x + k * CELL, y, CELL, 30, str(idx), cls="strong" if idx in strong else "soft")


def region_map() -> str:
    """One map across a split: before, after munmap of the middle, after closing a half."""
    c = Canvas(730, 325, "A private mapping of eight huge pages before and after a split")
    x, used = 190, {1, 2, 6}
    c.text(x, 22, "before: one VMA, offsets 0 to 7, three pages faulted in", anchor="start", bold=True)
    _offsets(c, x, 34, range(8), used, set(), "VMA")
    c.text(x, 96, "map: regions [1, 3) and [6, 7); promised: 8 − 3 = 5", anchor="start")
    c.text(x, 140, "after munmap of offsets 3 and 4: two VMAs, one map, two references", anchor="start", bold=True)
    _offsets(c, x, 152, range(8), used, {3, 4}, "lower and upper VMA")
    c.text(x, 212, "the map is the same, by offset: it needs no cutting", anchor="start")
    for y, lo, hi, label in (
        (232, 0, 3, "3 − 2 = 1 back"),
        (232, 3, 5, "2 − 0 = 2 back"),
        (232, 5, 8, "3 − 1 = 2 back"),
    ):
        left, right = x + lo * CELL + 4, x + hi * CELL - 4
        c.path(f"M{left} {y}v8H{right}v-8")
        c.text((left + right) / 2, y + 26, label, size=12)
    c.text(x - 12, 258, "at each close", anchor="end", size=12)
    c.text(x, 292, "1 + 2 + 2 = 5: each part counts inside its own span,", anchor="start", size=12)
    c.text(x, 310, "and together they give back what was promised", anchor="start", size=12)
    return c.svg()


def lanes(title: str, heads: list[str], steps: list[tuple[int, str]], pool: dict[int, str]) -> str:
    """Columns, one per thread, time downwards; `pool` says what the pool shows after a step."""
    wide, row = 250, 34
    c = Canvas(wide * len(heads) + 200, row * len(steps) + 56, title)
    for k, head in enumerate(heads):
        c.text(wide * k + wide / 2, 20, head, bold=True)
        c.line(wide * k + wide / 2, 28, wide * k + wide / 2, row * len(steps) + 50, cls="faint")
    c.text(wide * len(heads) + 10, 20, "pool", anchor="start", bold=True)
    for n, (lane, label) in enumerate(steps):
        y = 36 + n * row
        last = label.endswith("!")
        c.box(wide * lane + 8, y, wide - 16, row - 8, label.rstrip("!"), cls="strong" if last else "soft", size=12)
        if n in pool:
            c.text(wide * len(heads) + 10, y + 17, pool[n], anchor="start", size=12)
    return c.svg()


def last_page() -> str:
    """The race for the last page, without protection."""
    return lanes(
        "Two faults race for the last huge page",
        ["first fault", "second fault"],
        [
            (0, "looks up slot 0: nothing"),
            (1, "looks up slot 0: nothing"),
            (0, "takes the last page"),
            (1, "pool is empty: out of memory!"),
            (0, "clears the page"),
            (0, "puts it into slot 0"),
        ],
        {1: "free 1", 2: "free 0", 3: "free 0", 5: "free 0"},
    )


def stale_look() -> str:
    """The race that is left with the count alone."""
    return lanes(
        "The second fault looks too early and allocates too late",
        ["first fault", "second fault"],
        [
            (1, "looks up slot 0: nothing; gen is 7"),
            (0, "takes the last page"),
            (0, "puts it into slot 0"),
            (0, "settles it"),
            (1, "pool empty, nothing in flight"),
            (1, "gen is 8, not 7: repeat!"),
            (1, "looks up slot 0: there it is"),
        ],
        {0: "in flight 0, gen 7", 1: "in flight 1, gen 7", 3: "in flight 0, gen 8", 4: "in flight 0, gen 8"},
    )


def late_settle() -> str:
    """Copy on write in two address spaces."""
    return lanes(
        "Parent and child both copy a page; one page is free",
        ["parent", "child"],
        [
            (0, "takes the last page, copies"),
            (0, "maps the copy"),
            (0, "drops its references to the old page"),
            (0, "settles the copy"),
            (1, "old page: am I its only user?"),
            (1, "yes: makes it writable!"),
        ],
        {0: "in flight 1", 1: "in flight 1", 2: "in flight 1", 3: "in flight 0"},
    )


def _exercise(machine: ReferenceMemoryManager) -> None:
    """A little of everything, one call at a time."""
    machine.start(Setup(pool=8, overcommit=1, quota=8))
    file = machine.create_file(4)
    pid = machine.spawn()
    shared = machine.mmap(pid, 3, file=file, shared=True)
    private = machine.mmap(pid, 2, file=file)
    plain = machine.mmap(pid, 2)
    machine.write(pid, shared, 1)
    machine.read(pid, private)
    machine.write(pid, private, 2)
    machine.write(pid, plain, 3)
    child = machine.fork(pid)
    machine.write(pid, plain, 4)
    machine.write(child, plain, 5)
    machine.munmap(pid, plain, 1)
    machine.truncate(file, 1)
    machine.exit(child)
    machine.exit(pid)
    machine.close_file(file)


def _seen_edges() -> set[tuple[str, str]]:
    """Which lock was taken inside which, in a short run of the reference in each variant."""
    seen: set[tuple[str, str]] = set()
    before = Recorder.active
    try:
        for variant in SYSTEMS[HUGETLB]:
            Recorder.active = Recorder()
            machine = ReferenceMemoryManager(variant=variant)
            _exercise(machine)
            seen |= {(outer, inner) for outer, after in machine.system.order.after.items() for inner in after}
    finally:
        Recorder.active = before
    return seen


def lock_order() -> str:
    """The order of locks, with the nestings that the reference really has."""
    edges = {(a, b) for a, b in _seen_edges() if a in LOCK_ORDER and b in LOCK_ORDER}
    # An edge that follows from two others says nothing new.
    plain = [
        (a, b) for a, b in sorted(edges) if not any((a, m) in edges and (m, b) in edges for m in LOCK_ORDER)
    ]
    row, x, w = 44, 250, 200
    c = Canvas(700, row * len(LOCK_ORDER) + 20, "Lock order, outermost lock first")
    place = {name: 10 + k * row for k, name in enumerate(LOCK_ORDER)}
    for name, y in place.items():
        c.box(x, y, w, 28, name)
    sides = {"left": 0, "right": 0}
    for a, b in plain:
        ya, yb = place[a] + 28, place[b]
        span = LOCK_ORDER.index(b) - LOCK_ORDER.index(a)
        if span == 1:
            c.line(x + w / 2, ya, x + w / 2, yb, arrow=True)
            continue
        side = "left" if sides["left"] <= sides["right"] else "right"
        sides[side] += 1
        edge, bend = (x, x - 24 - 22 * span) if side == "left" else (x + w, x + w + 24 + 22 * span)
        c.path(f"M{edge} {ya - 10}C{bend} {ya} {bend} {yb} {edge} {yb + 10}", arrow=True)
    return c.svg()


def packages() -> str:
    """Who may import whom."""
    c = Canvas(700, 200, "Imports point from the suite to the reference to the specification")
    for x, name, lines in (
        (10, "mmconformance", ["engines, machines,", "scenarios, mutants,", "adapters, reports"]),
        (260, "mmreference", ["scheduler and locks,", "hugetlb as coroutines"]),
        (510, "mmspec", ["invariants, interfaces,", "architectures, sources"]),
    ):
        c.box(x, 40, 180, 110)
        c.text(x + 90, 64, name, bold=True)
        for k, line in enumerate(lines):
            c.text(x + 90, 90 + 18 * k, line, size=12)
    c.line(190, 95, 258, 95, arrow=True)
    c.line(440, 95, 508, 95, arrow=True)
    c.path("M100 152C100 195 600 195 600 153", arrow=True)
    return c.svg()


def two_maps() -> str:
    """A file's map and a private map, for the same history."""
    c = Canvas(720, 190, "The two kinds of map count opposite things")
    x = 190
    c.text(x, 20, "eight offsets reserved, pages at 1, 2 and 6", anchor="start", bold=True)
    _offsets(c, x, 34, range(8), set(range(8)), set(), "a file's map covers")
    c.text(x, 84, "what was ever reserved; promised: covered and without a page", anchor="start", size=12)
    _offsets(c, x, 108, range(8), {1, 2, 6}, set(), "a private map covers")
    c.text(x, 158, "what is consumed; promised: not covered", anchor="start", size=12)
    return c.svg()


PICTURES: dict[str, Callable[[], str]] = {
    "region-map": region_map,
    "two-maps": two_maps,
    "last-page": last_page,
    "stale-look": stale_look,
    "late-settle": late_settle,
    "lock-order": lock_order,
    "packages": packages,
}


class Picture(SphinxDirective):
    """One picture with its caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        draw = PICTURES.get(self.arguments[0])
        if draw is None:
            raise self.error(f"no picture {self.arguments[0]}; known are {', '.join(PICTURES)}")
        picture = nodes.raw("", draw(), format="html")
        caption = nodes.paragraph("", classes=["mmspec-caption"])
        for paragraph in self.parse_text_to_nodes(" ".join(self.content)) if self.content else []:
            caption.extend(paragraph.children)
        return [picture, caption]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register."""
    app.add_directive("picture", Picture)
    return {"version": mmspec.__version__, "parallel_read_safe": True, "parallel_write_safe": True}
