"""Pictures of reverse mapping, drawn from the model: each one runs the reference and shows what is there then.

They are pictures of `mmspec_pictures`, inserted by `.. picture:: NAME`. Directives:

`mmspec-counted::`
    the table of counted work
`mmspec-ranks::`
    the order of locks as a table
`mmspec-runs:: AREA`
    the mutants of an area of bugs, with failing runs that `docs/record_runs.py` has recorded
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from mmspec_pictures import PICTURES, Canvas
from mmspec_registry import Generated, expected, link, rst, table
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import mmspec
from mmconformance import counting
from mmconformance.engines.execution import Execution
from mmconformance.engines.lanes import rows
from mmconformance.scenarios import scenario
from mmreference.kernel.scheduler import Scheduler, Task
from mmreference.machine import Machine
from mmreference.mm.anon_vma import AnonVma
from mmreference.mm.lru import lru_add_drain_all
from mmreference.mm.mm_struct import Vma
from mmreference.mm.page import PAGE_MAPPING_ANON, PAGE_MAPPING_FLAGS
from mmreference.mm.rmap.address import vma_address
from mmspec.config import ALLYESCONFIG
from mmspec.invariant import REGISTRY
from mmspec.invariants.rmap.locks import LOCK_EDGES, LOCK_NAMES, LOCK_RANKS
from mmspec.invariants.rmap.terms import PTL
from mmspec.trace import Recorder, recording

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from record_runs import chosen, digest  # noqa: E402 - the tool that records lies beside the pages

log = logging.getLogger(__name__)

# -- trees of anon_vmas -------------------------------------------------------------------------------------------------


def _edges(
    title: str, areas: list[Vma], heads: list[str], pages: list[tuple[str, str, AnonVma]]
) -> str:
    """Areas on the left, their anon_vmas in the middle, pages on the right, and what points where.

    A page is its name, what is said of it, and its anon_vma.
    """
    anon_vmas = list(dict.fromkeys(avc.anon_vma for vma in areas for avc in reversed(vma.anon_vma_chain)))
    row, top = 74, 40
    high = max(row * max(len(areas), len(anon_vmas)), 44 * len(pages))
    c = Canvas(870, top + high + 8, title)
    for x, text in ((125, "areas, with their chains"), (440, "anon_vmas, with their lists"), (755, "pages")):
        c.text(x, 22, text, bold=True)
    middle = {a: top + high * (2 * k + 1) / (2 * len(anon_vmas)) for k, a in enumerate(anon_vmas)}
    for k, (vma, head) in enumerate(zip(areas, heads, strict=True)):
        y = top + high * (2 * k + 1) / (2 * len(areas))
        c.box(10, y - 22, 230, 44)
        c.text(125, y - 4, head, size=12, bold=True)
        c.text(125, y + 13, ", ".join(avc.anon_vma.name for avc in vma.anon_vma_chain), size=10)
        for avc in vma.anon_vma_chain:
            c.line(240, y, 340, middle[avc.anon_vma], "line" if avc.anon_vma is vma.anon_vma else "faint")
    for anon_vma, y in middle.items():
        c.box(340, y - 22, 200, 44, cls="strong" if anon_vma.root is anon_vma else "soft")
        c.text(440, y - 4, anon_vma.name + (" (root)" if anon_vma.root is anon_vma else ""), size=12, bold=True)
        c.text(440, y + 13, ", ".join(heads[areas.index(v)] for v in anon_vma.list), size=10)
    step = high / max(1, len(pages))
    for k, (name, said, anon_vma) in enumerate(pages):
        y = top + step * (k + 0.5)
        c.box(650, y - 18, 210, 36)
        c.text(755, y - 3, name, size=12)
        c.text(755, y + 12, said, size=10)
        c.line(650, y, 542, middle[anon_vma], arrow=True)
    return c.svg()


def forked() -> str:
    """Three generations, each of which has written to a page."""
    machine = Machine(variant=ALLYESCONFIG)
    parent = machine.spawn()
    address = machine.do("mmap", parent, 3)
    places = [address + number * machine.page_size for number in range(3)]
    for place in places:
        machine.do("write", parent, place, 1)
    child = machine.do("fork", parent)
    machine.do("write", child, places[0], 2)
    grandchild = machine.do("fork", child)
    machine.do("write", grandchild, places[1], 3)
    pids = [parent, child, grandchild]
    areas = [machine.vma_at(pid, address) for pid in pids]
    heads = ["parent", "child", "grandchild"]
    users = {vma.mm: head for vma, head in zip(areas, heads, strict=True)}
    pages = dict.fromkeys(p for pid in pids for place in places if (p := machine.page_at(pid, place)) is not None)
    shown = [
        (f"{p.name}, index {places.index(next(iter(p.slots)).vpn * machine.page_size)}",
         f"mapped by {', '.join(users[slot.mm] for slot in p.slots)}", p.mapping.pointer)
        for p in pages
    ]  # fmt: skip
    return _edges("anon_vmas of a process, its child and its grandchild", areas, heads, shown)


def _family(linking: str) -> str:
    areas = counting.family(3, 1, linking)
    heads = ["parent", "child 1", "child 2", "child 3"]
    pages = [
        (f"page of {head}", f"a walk visits {len(vma.anon_vma.list)}", vma.anon_vma)
        for vma, head in zip(areas, heads, strict=True)
        if vma.anon_vma is not None
    ]
    return _edges(f"A process and three children, {linking}", areas, heads, pages)


def family_shared() -> str:
    """Before March 2010."""
    return _family(counting.SHARED)


def family_chained() -> str:
    """Since."""
    return _family(counting.CHAINED)


# -- the walk of a file page --------------------------------------------------------------------------------------------


def file_walk() -> str:
    """Which areas the walk of a file's page looks at, and where it expects the page."""
    machine = Machine(variant=ALLYESCONFIG)
    file, index = machine.create_file(12), 5
    spans = [(0, 12), (0, 4), (3, 5), (5, 1), (6, 6)]
    areas = []
    for offset, length in spans:
        pid = machine.spawn()
        areas.append(machine.vma_at(pid, machine.do("mmap", pid, length, file=file, offset=offset, shared=True)))
        machine.do("read", pid, areas[-1].vm_start + max(0, min(length - 1, index - offset)) * machine.page_size)
    found = machine.files[file].prio_tree(index)
    page = machine.files[file].pages[index]
    cell, left, row = 38, 150, 34
    c = Canvas(left + 12 * cell + 150, 66 + row * len(areas), "The areas that map the page at index 5 of a file")
    c.text(left - 12, 44, "offset in the file", anchor="end", size=12)
    for offset in range(12):
        c.text(left + (offset + 0.5) * cell, 44, str(offset), size=12, bold=offset == index)
    for k, vma in enumerate(areas):
        y = 56 + row * k
        c.text(left - 12, y + 18, f"process {k + 1}", anchor="end", size=12)
        c.box(left + vma.vm_pgoff * cell, y, vma.npages * cell, 26, cls="strong" if vma in found else "faint")
        if vma in found:
            number = (vma_address(page, vma) - vma.vm_start) // machine.page_size
            c.text(left + 12 * cell + 10, y + 18, f"vm_start + {number} pages", anchor="start", size=12)
    for edge in (index, index + 1):
        c.line(left + edge * cell, 50, left + edge * cell, 60 + row * len(areas), "faint")
    c.text(left + (index + 0.5) * cell, 22, "the page", size=12, bold=True)
    return c.svg()


# -- what page->mapping says --------------------------------------------------------------------------------------------

#: What `mapping` can say.
STATES = ("nothing", "a file", "the area's own anon_vma", "the root of its tree", "a node of merged pages")


def _state(mapping: Any, own: bool) -> str:
    if mapping is None or (mapping.pointer is None and not mapping.bits):
        return STATES[0]
    if mapping.bits == PAGE_MAPPING_FLAGS:
        return STATES[4]
    if mapping.bits == PAGE_MAPPING_ANON:
        return STATES[2] if own else STATES[3]
    return STATES[1]


def _lives(machine: Machine) -> None:
    """Pages of all kinds come, change and go."""
    pid = machine.spawn()
    size = machine.page_size
    address = machine.do("mmap", pid, 3)
    for number in range(3):
        machine.do("write", pid, address + number * size, 7)
    child = machine.do("fork", pid)
    machine.do("write", child, address, 8)
    machine.run(lru_add_drain_all(machine.system))
    # The child reads a page that both have in swap: it may not keep it for itself until it is the only one.
    for _ in range(3):
        machine.do("shrink")
    machine.do("read", child, address + size)
    machine.do("write", pid, address + size, 9)
    machine.do("write", child, address + size, 9)
    machine.do("migrate", child, address + size)
    file = machine.create_file(1)
    mapped = machine.do("mmap", pid, 1, file=file, shared=True)
    machine.do("write", pid, mapped, 5)
    twins = [machine.spawn(), machine.spawn()]
    for twin in twins:
        machine.do("mmap", twin, 1, address=address)
        machine.do("write", twin, address, 7)
        machine.do("madvise", twin, address, 1, "mergeable")
    machine.run(lru_add_drain_all(machine.system))
    machine.do("merge", twins[0], address, twins[1], address)
    machine.do("truncate", file, 0)
    for each in (child, pid, *twins):
        machine.do("exit", each)


class _MappingStores(Recorder):
    """Notes each store to `mapping` while it happens: state before, state after, function."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[Any, str] = {}
        self.seen: dict[tuple[str, str, str], None] = {}

    def write(self, obj: Any, field: str, old: Any, new: Any) -> None:
        super().write(obj, field, old, new)
        if field == "mapping":
            op = self.current.op
            vma = op.get("vma") if op is not None else None
            own = vma is not None and new is not None and vma.anon_vma is new.pointer
            before, after = self.states.get(obj, STATES[0]), _state(new, own and bool(op.get("exclusive", True)))
            if op is not None and op.get("newpage") is obj and new is not None:
                after = self.states[op.page]
            self.states[obj] = after
            if after != before:
                self.seen[before, after, _storer(op.name if op is not None else "")] = None


@cache
def mapping_changes() -> list[tuple[str, str, str]]:
    """State before, state after, function that stored: each once, in the order in which they were seen."""
    recorder = _MappingStores()
    with recording(recorder):
        _lives(Machine(variant=ALLYESCONFIG))
    return list(recorder.seen)


def _storer(operation: str) -> str:
    """The function that stores; of the common part of several, the one of them that `operation` names."""
    frame = sys._getframe(1)
    while not frame.f_globals.get("__name__", "").startswith("mmreference.mm.") or frame.f_code.co_name in _STORING:
        assert frame.f_back is not None
        frame = frame.f_back
    name = frame.f_code.co_name
    return operation if name == "__page_set_anon_rmap" else name


#: What stores on behalf of others.
_STORING = ("set_page_mapping", "_own", "set_page_stable_node")


def mapping_life() -> str:
    """One column per state; each arrow is a store that was seen."""
    changes = sorted(mapping_changes(), key=lambda change: (STATES.index(change[0]), STATES.index(change[1])))
    wide, row = 170, 34
    c = Canvas(wide * len(STATES) + 10, 46 + row * len(changes), "What the mapping field of a page can say, and who changes it")
    at = {state: 5 + wide * (k + 0.5) for k, state in enumerate(STATES)}
    for state, x in at.items():
        c.box(x - wide / 2 + 5, 4, wide - 10, 26, state, size=12)
        c.line(x, 30, x, 40 + row * len(changes), "faint")
    for k, (before, after, function) in enumerate(changes):
        y = 66 + row * k
        c.line(at[before], y, at[after], y, arrow=True)
        c.text((at[before] + at[after]) / 2, y - 6, function, size=11)
    return c.svg()


# -- locks --------------------------------------------------------------------------------------------------------------


@cache
def _nestings() -> set[tuple[str, str]]:
    """Which lock is taken inside which, in a run of the reference with a little of everything."""
    machine = Machine(variant=ALLYESCONFIG)
    with recording(Recorder()):
        _lives(machine)
        file, pid = machine.create_file(2), machine.spawn()
        mapped = machine.do("mmap", pid, 2, file=file, shared=True)
        machine.do("write", pid, mapped, 1)
        machine.do("writeback", file)
        machine.do("write", pid, mapped, 2)
        address = machine.do("mmap", pid, 2)
        machine.do("write", pid, address, 1)
        machine.do("mlock", pid, address, 1)
        machine.run(lru_add_drain_all(machine.system))
        machine.do("migrate", pid, address)
        machine.do("shrink")
        machine.do("mremap", pid, address, 1, address + 64 * machine.page_size)
        huge = machine.do("mmap", pid, 2 * machine.system.hpage_pmd_nr)
        machine.do("write", pid, huge, 1)
        machine.do("split", pid, huge)
        machine.do("fail_memory", pid, mapped)
        machine.do("exit", pid)
    after = machine.system.order.after
    return {(_box(a), _box(b)) for a, inner in after.items() for b in inner if a in LOCK_RANKS and b in LOCK_RANKS}


def _box(name: str) -> str:
    """The lock that stands for it in the picture: those of page tables are one."""
    return PTL[0] if name in PTL else name


def _required() -> set[tuple[str, str]]:
    return {(_box(a), _box(b)) for outer, inner in LOCK_EDGES.values() for a in outer for b in inner}


def _reduced(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that follow from others."""
    reach = set(edges)
    for m in LOCK_RANKS:
        reach |= {(a, b) for a, m1 in reach if m1 == m for m2, b in reach if m2 == m}
    return [(a, b) for a, b in sorted(edges) if not any((a, m) in reach and (m, b) in reach for m in LOCK_RANKS)]


def rmap_locks() -> str:
    """The order of locks by rank, with the edges that the specification demands and those that were seen."""
    ranks: dict[float, list[str]] = {}
    for name, rank in LOCK_RANKS.items():
        if _box(name) == name:
            ranks.setdefault(rank, []).append(name)
    row, wide, gap = 66, 176, 12
    most = max(len(names) for names in ranks.values())
    c = Canvas(most * (wide + gap) + 10, row * len(ranks), "Lock order of reverse mapping, outermost lock first")
    place: dict[str, tuple[float, float]] = {}
    for k, rank in enumerate(sorted(ranks)):
        names = ranks[rank]
        left = (c.width - len(names) * (wide + gap) + gap) / 2
        for j, name in enumerate(names):
            place[name] = (left + j * (wide + gap) + wide / 2, 8 + k * row)
    seen = _nestings()
    for a, b in _reduced(_required() | seen):
        (xa, ya), (xb, yb) = place[a], place[b]
        style = "line" if (a, b) in seen else "faint"
        if yb <= ya:
            continue
        far = yb - ya > row and abs(xa - xb) < wide / 2
        side = wide / 2 + 30 if far else 0
        c.path(f"M{xa} {ya + 30}C{xa + side} {ya + 52} {xb + side} {yb - 22} {xb} {yb}", style, arrow=True)
    for name, (x, y) in place.items():
        c.box(x - wide / 2, y, wide, 30, "page-table lock" if name in PTL else LOCK_NAMES[name], size=12)
    return c.svg()


# -- runs as lanes ------------------------------------------------------------------------------------------------------


def run_picture(title: str, heads: list[str], lines: list[tuple[int | None, int, str, str]], end: str, bad: bool) -> str:
    """Columns, one per thread, time downwards. A line is a number, a lane, a mark and a text; `end` stands below."""
    line, top, left, character = 19, 34, 40, 6.9
    longest = max([len(mark + text) for _, _, mark, text in lines] or [10])
    lane = min(330.0 if len(heads) > 1 else 700.0, max(150.0, 14 + character * longest))
    width = max(480, int(left + lane * len(heads) + 10))
    below = textwrap.wrap(end, int((width - left) / (7.6 if bad else character)))[:6]
    c = Canvas(width, top + line * (len(lines) + len(below)) + 12, title)
    clip = int((lane - 14) / character)
    bottom = top + line * len(lines)
    middle = [left + lane * (k + 0.5) for k in range(len(heads))]
    for x, head in zip(middle, heads, strict=True):
        c.text(x, 18, head, bold=True)
        c.line(x, 24, x, bottom, "faint")
    for k, (number, lane_number, mark, text) in enumerate(lines):
        y, x = top + line * k, middle[lane_number]
        said = (mark + text).strip()
        c.box(x - lane / 2 + 4, y, lane - 8, line - 3, said if len(said) <= clip else said[: clip - 1] + "…",
              cls="strong" if mark.strip() in ("✗", "⧗") else "soft", size=11)  # fmt: skip
        if number is not None:
            c.text(left - 8, y + 13, str(number), size=10, anchor="end")
    for k, text in enumerate(below):
        c.text(left, bottom + 16 + line * k, text, size=12, anchor="start", bold=bad)
    return c.svg()


def execution_lines(execution: Execution) -> list[tuple[int | None, int, str, str]]:
    """The lines of a run, see :func:`run_picture`."""
    return [(r.number, r.lane, "" if r.number is not None else r.mark, r.text) for r in rows(execution)]


class _Turns:
    """A strategy: each turn is a thread and how the label of the step begins before which it stops ("" is: its end)."""

    def __init__(self, *turns: tuple[str, str]) -> None:
        self.turns = list(turns)
        self.waits: list[tuple[int, str, str]] = []
        """Where a turn ended because the thread had to wait: after how many steps, which thread, for what."""

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        scheduler = Scheduler.current
        assert scheduler is not None
        while self.turns:
            name, until = self.turns[0]
            task = next(t for t in scheduler.tasks if t.name == name)
            stop = task.pending is not None and bool(until) and task.pending.label.startswith(until)
            if task in enabled and not stop:
                return task
            if task.pending is not None and task not in enabled:
                self.waits.append((len(scheduler.executed), name, task.pending.label))
            self.turns.pop(0)
        return enabled[0]

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        return 0


def _lookup(title: str, *turns: tuple[str, str]) -> str:
    """The lookup against free and reuse, in this order; a thread that has no turn is left out."""
    program = scenario("lookup_against_free_and_reuse").program("x86_64", ALLYESCONFIG)
    strategy = _Turns(*turns)
    execution = program(strategy)
    assert execution.violation is None and not execution.stuck
    heads = [head for task in execution.tasks if (head := task.name) in dict(turns)]
    names = [task.name for task in execution.tasks]
    lines: list[tuple[int | None, int, str, str]] = []
    for number, _, mark, text, lane in [(*line[:1], 0, *line[2:], line[1]) for line in execution_lines(execution)]:
        if names[lane] in heads:
            lines.append((number, heads.index(names[lane]), mark, text))
        lines += [(None, heads.index(n), "⧗ ", f"waits: {what}") for after, n, what in strategy.waits if after == number]
    ends = ", ".join(f"{head}: {execution.results[head]}" for head in heads)
    return run_picture(title, heads, lines, ends, False)


#: A lookup up to the step in which it looks at the map count again, with the mutex held.
_LOCKED = (("lookup0", "mutex_trylock"), ("lookup0", "atomic_read"))


def lookup_stale() -> str:
    """The anon_vma is freed and used again between two steps of a lookup."""
    return _lookup("A lookup finds an anon_vma that has become another one", _LOCKED[0], ("unmap", ""), ("lookup0", ""))


def lookup_holds() -> str:
    """The lookup has the mutex before the mapping goes."""
    return _lookup("The last unmap waits for a lookup", *_LOCKED, ("unmap", ""), ("lookup0", ""), ("unmap", ""))


def lookup_pins() -> str:
    """The mutex is taken: the lookup needs a reference, which turns out to be the last one."""
    return _lookup(
        "A lookup that had to wait has the last reference",
        *_LOCKED, ("lookup1", ""), ("lookup0", ""), ("unmap", "mutex_is_locked"), ("lookup1", ""), ("unmap", ""),
    )  # fmt: skip


# -- counted work -------------------------------------------------------------------------------------------------------

#: Children of the families in the picture.
FAMILIES = (1, 3, 10, 30, 100, 300, 1000)


@cache
def _visits(children: int, linking: str) -> counting.Visits:
    # The means do not depend on the number of pages of each process.
    return counting.visits(children, 1, linking)


def counted_visits() -> str:
    """Areas per walk over the number of children, both axes logarithmic."""
    c = Canvas(700, 380, "Areas that a walk visits, by the number of children")
    left, top, wide, high = 70, 24, 420, 300

    def x(children: int) -> float:
        return left + wide * math.log10(children) / 3

    def y(visits: float) -> float:
        return top + high * (1 - math.log10(visits) / 3.1)

    for power in range(4):
        c.line(x(10**power), top, x(10**power), top + high, "faint")
        c.text(x(10**power), top + high + 20, str(10**power), size=12)
        c.line(left, y(10**power), left + wide, y(10**power), "faint")
        c.text(left - 10, y(10**power) + 4, str(10**power), size=12, anchor="end")
    c.text(left + wide / 2, top + high + 42, "children", size=12)
    c.text(left - 10, 14, "areas per walk", size=12, anchor="start")
    for linking, name in ((counting.SHARED, "shared"), (counting.CHAINED, "chained")):
        for early in (False, True):
            points = [
                (x(n), y(v.mean_early if early else v.mean_full)) for n in FAMILIES if (v := _visits(n, linking))
            ]
            c.path("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points))
            for a, b in points:
                c.parts.append(f'<circle class="{"soft" if early else "strong"}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>')
            done = _visits(FAMILIES[-1], linking)
            value = done.mean_early if early else done.mean_full
            c.text(left + wide + 10, points[-1][1] + 4, f"{value:.4g}  {name}, {'early exit' if early else 'full walk'}",
                   size=12, anchor="start")  # fmt: skip
    return c.svg()


class Counted(Generated):
    """The claims, and what was counted."""

    def lines(self) -> list[str]:
        claims = [c for linking in (counting.SHARED, counting.CHAINED) for c in counting.linking_claims(1000, 1, linking)]
        found = [
            [rst(c.name), f"{c.expected:,.10g}", f"{c.counted:,.10g}" + ("" if c.holds else " **differs**")]
            for c in (*claims, *_others())
        ]
        return table(["work", "claimed", "counted"], found, "70 15 15")


@cache
def _others() -> tuple[counting.Claim, ...]:
    return tuple(counting.other_claims())


class Ranks(Generated):
    """The order of locks as a table."""

    def lines(self) -> list[str]:
        found = [[f"{rank:g}", f"``{LOCK_NAMES[name]}``", f"``{name}``"] for name, rank in LOCK_RANKS.items()]
        return table(["rank", "lock", "class in the model"], found)


# -- failing runs of mutants --------------------------------------------------------------------------------------------

RECORDED = Path(__file__).resolve().parent.parent / "recorded-runs.json"


#: Lines at the start and at the end of a run that are shown if it is longer than both together.
LONG = 25


class Runs(SphinxDirective):
    """The mutants of an area of bugs, each with its story and a failing run that was recorded."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        self.env.note_dependency(str(RECORDED))
        runs = json.loads(RECORDED.read_text(encoding="utf-8"))
        shown: list[nodes.Node] = []
        for mutant in chosen():
            if mutant.id.split("-")[0] == self.arguments[0]:
                shown += self._mutant(mutant, runs.get(mutant.id, {}))
        return shown or self.parse_text_to_nodes("No mutant of this area is registered.")

    def _mutant(self, mutant: Any, run: dict[str, Any]) -> list[nodes.Node]:
        current = bool(run.get("lines")) and run["digest"] == digest(mutant)
        text = f":ref:`{mutant.id} <mutant-{mutant.id.lower()}>`, **{rst(mutant.name)}.** {rst(mutant.story)}"
        if current:
            found = link(REGISTRY[run["violates"]]) if run["violates"] in REGISTRY else run["violates"]
            text += f" Found by {found}."
        else:
            log.info("no current run of %s: `python docs/record_runs.py %s`", mutant.id, mutant.id)
            text += f" Described by {expected(mutant)}."
        said = self.parse_text_to_nodes(text)
        if not current:
            return said
        lines = [(number, lane, mark, words) for number, lane, mark, words in run["lines"]]
        if len(lines) > 2 * LONG:
            left_out: tuple[int | None, int, str, str] = (None, 0, "", f"… {len(lines) - 2 * LONG} more …")
            lines = [*lines[:LONG], left_out, *lines[-LONG:]]
        if len(run["heads"]) == 1:
            lines.append((None, 0, "✗ ", run["violates"]))
        values = ", ".join(f"{name} = {value}" for name, value in run["values"].items())
        picture = run_picture(f"{mutant.id}, {run['program']}", run["heads"], lines, values, True)
        summary = f"The run: {escape(run['description'])} ({run['profile']})"
        html = f'<details class="mmspec-run"><summary>{summary}</summary>{picture}</details>'
        return [*said, nodes.raw("", html, format="html")]


PICTURES |= {
    "anon-vma-forked": forked,
    "anon-vma-shared": family_shared,
    "anon-vma-chained": family_chained,
    "file-walk": file_walk,
    "mapping-life": mapping_life,
    "rmap-locks": rmap_locks,
    "lookup-stale": lookup_stale,
    "lookup-holds": lookup_holds,
    "lookup-pins": lookup_pins,
    "counted-visits": counted_visits,
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register."""
    app.setup_extension("mmspec_pictures")
    app.add_directive("mmspec-counted", Counted)
    app.add_directive("mmspec-ranks", Ranks)
    app.add_directive("mmspec-runs", Runs)
    return {"version": mmspec.__version__, "parallel_read_safe": True, "parallel_write_safe": True}
