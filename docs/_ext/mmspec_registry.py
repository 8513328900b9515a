"""The registry as documentation: everything here is rendered at build time from the objects that are executed.

Directives:

`mmspec-area:: AREA`
    all invariants of an area, as needs
`mmspec-page::`
    all invariants of the areas whose page this document is, see :data:`PAGES`
`mmspec-index::`
    one row per invariant, with an anchor that is its id
`mmspec-areas:: [SYSTEM]`
    one row per page of areas, of one system or of all
`mmspec-by:: fields|functions|locks|kind|guard`
    an index
`mmspec-traceability:: SOURCE`
    source anchors and the invariants that rest on them
`mmspec-judged:: INTERFACE`
    the invariants that can be judged through an interface
`mmspec-mutants:: SYSTEM`
    the mutants of a system with their stories
`mmspec-architectures::`, `mmspec-scenarios::`, `mmspec-variants::`, `mmspec-differences::`
    tables
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import cache
from typing import Any, ClassVar

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import mmconformance.scenarios  # noqa: F401 - imports the reference of every system, whose contracts fill CITED_BY
import mmspec
import mmspec.invariants
from mmspec.config import HUGETLB, RMAP, SYSTEMS
from mmspec.contracts import CITED_BY
from mmspec.interfaces import INTERFACES
from mmspec.invariant import REGISTRY, Invariant
from mmspec.sources import SOURCES

log = logging.getLogger(__name__)

#: What each system is about.
SYSTEM_TITLES = {HUGETLB: "Huge-page reservations", RMAP: "Reverse mapping"}

#: What each area is about, in a few words.
AREA_TITLES = {
    "HTLB-POOL": "the pool's counters",
    "HTLB-RSV": "the reserve, and who holds it",
    "HTLB-REG": "region lists",
    "HTLB-MAP": "reservation maps",
    "HTLB-VMA": "open, close, split, fork",
    "HTLB-ALC": "allocating and freeing",
    "HTLB-INF": "pages in flight",
    "HTLB-FLT": "faults",
    "HTLB-COW": "copy on write",
    "HTLB-TRN": "truncation and file size",
    "HTLB-QTA": "quota",
    "HTLB-LCK": "locks",
    "HTLB-ERR": "results and errors",
    "HTLB-LIV": "liveness",
    "HTLB-OBS": "what can be observed",
    "HTLB-PRF": "cost",
}

#: Pages for several areas: name to the areas, as patterns. Any other area has a page of its own.
PAGES = {
    "avma-clone": ("AVMA-CLONE", "AVMA-FORK", "AVMA-UNLINK", "AVMA-LOCKROOT"),
    "rmap-add": ("RMAP-ADD", "RMAP-ADDNEW", "RMAP-ADDFILE", "RMAP-MOVE"),
    "dirty": ("DIRTY", "TLB"),
    **{
        family: (family.upper(), f"{family.upper()}-*")
        for family in ("zstat", "nlin", "mlock", "migr", "ksm", "thp", "mmun", "memcg", "swap", "hwp", "rss", "lru")
    },
    **{family: (family.upper(), f"{family.upper()}-*") for family in ("arch", "cfg", "hist", "lat", "perf")},
}

#: What each page of reverse mapping is about.
AREA_TITLES |= {
    "RMAP-MAPCOUNT": "the map count",
    "ZSTAT": "statistics of mapped pages",
    "RMAP-ANON": "mapping and index of anonymous pages",
    "AVMA-ROOT": "the root of a tree",
    "AVMA-REF": "references and freeing",
    "AVMA-LIST": "the two lists of a chain element",
    "AVMA-PREP": "the first fault of an area",
    "AVMA-CLONE": "clone, fork, unlink",
    "AVMA-RCU": "from a page to its anon_vma",
    "RMAP-ADDR": "where an area would map a page",
    "RMAP-PCA": "whether the page is mapped there",
    "RMAP-REF": "was the page used?",
    "RMAP-MKCLEAN": "write protection before writeback",
    "RMAP-ADD": "adding mappings",
    "RMAP-REMOVE": "removing a mapping",
    "RMAP-UNMAP": "try_to_unmap",
    "NLIN": "nonlinear areas",
    "MLOCK": "pages locked in memory",
    "MIGR": "migration entries",
    "KSM": "merged pages",
    "THP": "trans-huge pages",
    "HTLB": "anonymous hugetlb pages",
    "MMUN": "secondary MMUs",
    "MEMCG": "control groups",
    "SWAP": "slots and their counts",
    "HWP": "memory that has failed",
    "RSS": "resident set counters",
    "LRU": "lists of reclaim",
    "DIRTY": "no store is lost",
    "TLB": "no stale translation",
    "LOCK-ORD": "the order of locks",
    "LOCK-PROT": "which lock protects what",
    "ARCH": "what depends on the architecture",
    "CFG": "what depends on the configuration",
    "PERF": "effort",
    "HIST": "what has been wrong before",
    "LAT": "what was still wrong",
}


# -- what there is -----------------------------------------------------------------------------------------------------


def areas() -> dict[str, list[Invariant]]:
    """Area to its invariants, both in the order of the registry; within an area by id."""
    found: dict[str, list[Invariant]] = {}
    for invariant in REGISTRY:
        found.setdefault(invariant.area, []).append(invariant)
    return {area: sorted(members, key=lambda i: i.id) for area, members in found.items()}


def optional(module: str, attribute: str) -> Any:
    """An attribute of a module that may not exist yet; an empty dict if it does not. Other errors are errors."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            return {}
        raise
    return getattr(found, attribute)


@cache
def contracts() -> dict[str, list[str]]:
    """Id to the functions whose contracts cite it."""
    cited: dict[str, list[str]] = {}
    for function, ids in CITED_BY.items():
        for id_ in ids:
            if function not in cited.setdefault(id_, []):
                cited[id_].append(function)
    return cited


@cache
def killers() -> dict[str, list[Any]]:
    """Id to the mutants that it is expected to kill."""
    found: dict[str, list[Any]] = {}
    for mutant in optional("mmconformance.bugs", "MUTANTS").values():
        for id_ in mutant.expects:
            found.setdefault(id_, []).append(mutant)
    return found


def page_of(area: str) -> str:
    """The document of an area."""
    for page, patterns in PAGES.items():
        if any(fnmatch(area, pattern) for pattern in patterns):
            return f"areas/{page}"
    return f"areas/{area.lower()}"


def pages() -> dict[str, list[Invariant]]:
    """Document to the invariants whose entries are there, in the order of the registry's areas."""
    found: dict[str, list[Invariant]] = {}
    for area, members in areas().items():
        found.setdefault(page_of(area), []).extend(members)
    return found


def title_of(area: str) -> str:
    """What an area is about."""
    return AREA_TITLES.get(area) or AREA_TITLES.get(page_of(area).partition("/")[2].upper(), "")


# -- text ------------------------------------------------------------------------------------------------------------


def rst(text: str) -> str:
    """Docstring text as reStructuredText: `code` stays code, everything else is taken literally."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        f"`{piece}`" if piece.startswith("`") and len(piece) > 2 else re.sub(r"([\\*_|`<>])", r"\\\1", piece)
        for piece in pieces
    )


def code(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"``{name}``" for name in names)


def words(invariant: Invariant) -> str:
    """The predicate's name in words."""
    text = invariant.name.replace("_", " ")
    return text[0].upper() + text[1:]


def link(invariant: Invariant) -> str:
    """A link to the full entry."""
    return f":need:`{invariant.id}`"


def predicate(invariant: Invariant) -> list[str]:
    """The predicate's source without decorator and docstring, which are shown as text."""
    source = textwrap.dedent(invariant.source_code)
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    first, last = function.lineno, function.end_lineno
    docstring = function.body[0]
    hidden = range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)
    lines = source.splitlines()[first - 1 : last]
    return [line for number, line in enumerate(lines, first) if number not in hidden]


def option(text: str) -> str:
    """Text for one line of a directive option."""
    return " ".join(text.split())


# -- one invariant -----------------------------------------------------------------------------------------------------


def facts(invariant: Invariant) -> Iterator[tuple[str, str]]:
    """The lines of an entry: name and reStructuredText."""
    i = invariant
    yield "Kind", f"{i.kind.value}, over: {i.over.value}"
    if i.guard is not None:
        yield "Guard", GUARDS.get(i.guard, f"true whenever ``{i.guard}`` is free; checked at each release")
    if i.on:
        yield "Judged at", code(i.on)
    if i.would_catch:
        yield "Would have caught", rst(i.would_catch)
    yield "Enforced today by", rst(i.enforced_by)
    if i.fields:
        yield "Fields", code(i.fields)
    if i.functions:
        yield "Functions", code(i.functions)
    if i.locks:
        yield "Locks", code(i.locks)
    yield "Variants", code(i.variants) if i.variants else "none of those in this reference"
    yield "Architectures", code(i.architectures) if i.architectures is not None else "all"
    yield "Judged through", code(("the reference's full view", *i.interfaces)).replace(
        "``the reference's full view``", "the reference's full view"
    )
    yield "Valid", f"since Linux {i.since}" + (f", until {i.until}" if i.until else "")
    for anchor in i.sources:
        yield "Source", f"{rst(anchor.citation)} (:ref:`{anchor.anchor} <source-{anchor.source.key}>`)"
    cited = contracts().get(i.id, [])
    if cited:
        yield "Contract of", code(cited)
    for mutant in killers().get(i.id, []):
        yield "Kills", f":ref:`{mutant.id} <mutant-{mutant.id.lower()}>`: {rst(mutant.name)}"


GUARDS = {
    "always": "always: checked after each atomic step",
    "quiescent": "quiescent: true when no operation is in flight",
}


def entry(invariant: Invariant) -> list[str]:
    """The invariant as a need, in reStructuredText."""
    i = invariant
    options = {
        "id": i.id,
        "area": i.area,
        "kind": i.kind.value,
        "over": i.over.value,
        "guard": i.guard or "",
        "sentence": i.sentence,
        "would_catch": i.would_catch,
        "enforced_by": i.enforced_by,
        "fields": ", ".join(i.fields),
        "functions": ", ".join(i.functions),
        "locks": ", ".join(i.locks),
        "variants": ", ".join(i.variants),
        "arches": ", ".join(i.architectures) if i.architectures is not None else "all",
        "interfaces": ", ".join(i.interfaces),
        "source": "; ".join(f"{a.source.key} {a.anchor}" for a in i.sources),
        "contracts": ", ".join(contracts().get(i.id, [])),
        "mutants": ", ".join(m.id for m in killers().get(i.id, [])),
        "since": i.since,
        "until": i.until,
        "implied_by": ", ".join(i.implied_by),
    }
    lines = [f".. inv:: {words(i)}"]
    lines += [f"   :{name}: {option(value)}" for name, value in options.items() if value]
    lines += ["   :layout: entry", "", "   .. rst-class:: mmspec-sentence", "", f"   {rst(i.sentence)}", ""]
    for paragraph in i.rationale.split("\n\n"):
        if paragraph:
            lines += [f"   {rst(paragraph)}", ""]
    lines += ["   .. code-block:: python", ""]
    lines += [f"      {line}" if line else "" for line in predicate(i)]
    lines += [""]
    lines += [f"   :{name}: {value}" for name, value in facts(i)]
    return [*lines, ""]


# -- tables ---------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: Iterable[list[str]], widths: str = "auto") -> list[str]:
    """A list-table; each cell is one line of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [head, *rows]:
        for k, cell in enumerate(row):
            lines.append(f"   {'*' if k == 0 else ' '} - {cell}".rstrip())
    return [*lines, ""]


class Generated(SphinxDirective):
    """A directive whose content is generated reStructuredText."""

    has_content = False

    def lines(self) -> list[str]:
        """The text."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        # What is rendered depends on code, not on this file, so it is read anew each time.
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)


class Area(Generated):
    """All invariants of an area."""

    required_arguments = 1

    def lines(self) -> list[str]:
        area = self.arguments[0]
        members = areas().get(area)
        if not members:
            raise self.error(f"the registry has no area {area}")
        lines: list[str] = []
        for invariant in members:
            heading = f"{invariant.id}: {words(invariant)}"
            lines += [heading, "-" * len(heading), "", *entry(invariant)]
        return lines


class Page(Generated):
    """All invariants of the areas whose page this document is."""

    def lines(self) -> list[str]:
        lines: list[str] = []
        for invariant in pages().get(self.env.docname, ()):
            heading = f"{invariant.id}: {words(invariant)}"
            lines += [heading, "-" * len(heading), "", *entry(invariant)]
        return lines or ["No invariant of this area is registered.", ""]


class Index(SphinxDirective):
    """One row per invariant; each row has the id as its anchor, which is what citations link to."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return [section for area, members in areas().items() for section in [self._section(area, members)]]

    def _section(self, area: str, members: list[Invariant]) -> nodes.section:
        title = f"{area}: {title_of(area)}".rstrip(": ")
        section = nodes.section(ids=[area.lower()], names=[area.lower()])
        section += nodes.title(title, title)
        for invariant in members:
            section += self._row(invariant)
        return section

    def _row(self, invariant: Invariant) -> nodes.container:
        # The anchor is the id, in the spelling of the id.
        row = nodes.container(ids=[invariant.id], classes=["mmspec-row"])
        text = [
            f"**{invariant.id}** {rst(words(invariant))}.",
            "",
            f"{rst(invariant.sentence)} ({link(invariant)})",
            "",
        ]
        row += self.parse_text_to_nodes("\n".join(text))
        return row


class Areas(Generated):
    """One row per page of areas."""

    optional_arguments = 1

    def lines(self) -> list[str]:
        system = self.arguments[0] if self.arguments else None
        if system not in (None, *SYSTEMS):
            raise self.error(f"no system {system}; known are {', '.join(SYSTEMS)}")
        rows, total = [], 0
        for page, members in pages().items():
            chosen = [i for i in members if system in (None, i.system)]
            if chosen:
                name = page.partition("/")[2].upper()
                rows.append([f":doc:`{name} </{page}>`", AREA_TITLES.get(name, ""), str(len(chosen))])
                total += len(chosen)
        return table(["area", "subject", "invariants"], [*rows, ["", "all", str(total)]])


def _one(value: str | None) -> list[str]:
    return [value] if value else []


class By(Generated):
    """An index by one property."""

    required_arguments = 1
    properties: ClassVar[dict[str, Callable[[Invariant], Iterable[str]]]] = {
        "fields": lambda i: i.fields,
        "functions": lambda i: i.functions,
        "locks": lambda i: i.locks,
        "kind": lambda i: [i.kind.value],
        "guard": lambda i: _one(i.guard),
        "interfaces": lambda i: i.interfaces,
        "enforced_by": lambda i: [i.enforced_by],
    }

    def lines(self) -> list[str]:
        of = self.properties.get(self.arguments[0])
        if of is None:
            raise self.error(f"no index by {self.arguments[0]}; known are {', '.join(self.properties)}")
        found: dict[str, list[Invariant]] = {}
        for invariant in sorted(REGISTRY, key=lambda i: i.id):
            for value in of(invariant):
                found.setdefault(value, []).append(invariant)
        rows = [[f"``{value}``", ", ".join(link(i) for i in members)] for value, members in sorted(found.items())]
        return table([self.arguments[0].replace("_", " "), "invariants"], rows, "30 70")


class Traceability(Generated):
    """The anchors of a source, and what rests on them."""

    required_arguments = 1

    def lines(self) -> list[str]:
        source = SOURCES.get(self.arguments[0])
        if source is None:
            raise self.error(f"no source {self.arguments[0]}; known are {', '.join(SOURCES)}")
        rows = []
        for anchor, place in source.anchors.items():
            resting = [i for i in sorted(REGISTRY, key=lambda i: i.id) if (source.key, anchor) in _anchors(i)]
            rows.append([anchor, rst(place), ", ".join(link(i) for i in resting) or "none"])
        return [f"{rst(source.citation)}. Kernels: {source.era}.", "", *table(
            ["anchor", "place", "invariants"], rows, "12 38 50"
        )]


def _anchors(invariant: Invariant) -> list[tuple[str, str]]:
    return [(a.source.key, a.anchor) for a in invariant.sources]


class Architectures(Generated):
    """The profiles."""

    def lines(self) -> list[str]:
        rows = [
            [
                f"``{a.name}``",
                size(a.page_size),
                ", ".join(size(s) + (" (default)" if s == a.huge_page_size else "") for s in a.huge_page_sizes),
                ", ".join(level.name + (" (folded)" if level.folded else "") for level in a.levels),
                a.huge_level,
                a.dirty_young.value,
                f"{a.flush.value} ({a.flush_instruction})",
            ]
            for a in optional("mmspec.arch", "ARCHITECTURES").values()
        ]
        head = ["profile", "base page", "huge pages", "levels", "huge entry in", "dirty and young", "TLB flush"]
        lines = table(head, rows) if rows else ["No profile is registered.", ""]
        for a in optional("mmspec.arch", "ARCHITECTURES").values():
            if a.facts:
                lines += [f"``{a.name}``", *(f"   * {what}: {rst(where)}" for what, where in a.facts.items()), ""]
        return lines


def size(count: int) -> str:
    """Bytes, in the largest unit that divides them."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"


class Mutants(Generated):
    """The mutants of a system with their stories."""

    required_arguments = 1

    def lines(self) -> list[str]:
        system = self.arguments[0]
        lines: list[str] = []
        for mutant in optional("mmconformance.bugs", "MUTANTS").values():
            if mutant.system != system:
                continue
            heading = f"{mutant.id}: {rst(mutant.name)}"
            lines += [f".. _mutant-{mutant.id.lower()}:", "", heading, "-" * len(heading), "", rst(mutant.story), ""]
            lines += [f":Expected killers: {expected(mutant)}"]
            for name, title in (("citation", "Source"), ("variants", "Variants")):
                value = getattr(mutant, name, None)
                if value:
                    lines.append(f":{title}: {rst(value) if isinstance(value, str) else code(value)}")
            lines.append("")
        return lines or ["No mutant is registered.", ""]


def expected(mutant: Any) -> str:
    """Links to the invariants that describe a mutant's mistake."""
    return ", ".join(link(REGISTRY[id_]) if id_ in REGISTRY else f"``{id_}``" for id_ in mutant.expects)


class Scenarios(Generated):
    """The scenarios."""

    def lines(self) -> list[str]:
        lines: list[str] = []
        for system, title in SYSTEM_TITLES.items():
            rows = [
                [f"``{s.name}``", rst(s.description), code((*s.variants, *s.features))]
                for s in optional("mmconformance.scenarios", "SCENARIOS").values()
                if s.system == system
            ]
            if rows:
                lines += [f".. rubric:: {title}", "", *table(["scenario", "race", "variants"], rows, "25 50 25")]
        return lines or ["No scenario is registered.", ""]


class Variants(Generated):
    """How many invariants hold in which variant of their system."""

    def lines(self) -> list[str]:
        rows = [
            [SYSTEM_TITLES[system], f"``{variant}``", str(count)]
            for system, variants in SYSTEMS.items()
            for variant in variants
            if (count := sum(variant in i.variants for i in REGISTRY))
        ]
        return table(["system", "variant", "invariants"], rows)


class Judged(Generated):
    """The invariants that can be judged through an interface."""

    required_arguments = 1

    def lines(self) -> list[str]:
        interface = self.arguments[0]
        if interface not in INTERFACES:
            raise self.error(f"no interface {interface}; known are {', '.join(INTERFACES)}")
        members = sorted((i for i in REGISTRY if interface in i.interfaces), key=lambda i: i.id)
        return table(["invariant", "relation"], [[link(i), rst(words(i))] for i in members], "25 75")


class Differences(Generated):
    """Where the running kernel's rules differ from those of the reference."""

    def lines(self) -> list[str]:
        rows = [
            [f"``{d.key}``", d.kind.value, releases(d.since, d.until), rst(d.sentence), rst(d.source)]
            for d in optional("mmconformance.adapters.kernel.differences", "TABLE")
        ]
        return table(["key", "kind", "releases", "difference", "source"], rows, "18 8 12 36 26")


def releases(since: tuple[int, ...] | None, until: tuple[int, ...] | None) -> str:
    """A range of kernel releases; the second is the first one outside."""
    first, end = (".".join(map(str, r)) if r else "" for r in (since, until))
    if first:
        return f"{first} to before {end}" if end else f"since {first}"
    return f"before {end}" if end else "all"


def qualify(app: Sphinx, doctree: nodes.document) -> None:
    """Both worlds of the reference have a Page and a Vma: a bare name means that of the world whose module says it."""
    for node in doctree.findall(addnodes.pending_xref):
        module, target = node.get("py:module") or "", node.get("reftarget", "")
        if node.get("refdomain") == "py" and "." not in target and module.startswith(WORLD):
            node["reftarget"] = _classes(module.startswith(HUGETLB_WORLD)).get(target, target)


WORLD = "mmreference.mm."
HUGETLB_WORLD = "mmreference.mm.hugetlb."


@cache
def _classes(hugetlb: bool) -> dict[str, str]:
    """Class name to full name, of one world."""
    return {
        name: f"{module}.{name}"
        for module, found in sorted(sys.modules.items())
        if module.startswith(WORLD) and module.startswith(HUGETLB_WORLD) == hugetlb
        for name, value in vars(found).items()
        if isinstance(value, type) and value.__module__ == module
    }


def check_pages(app: Sphinx, env: Any) -> None:
    """Each area has a page."""
    for area in areas():
        if page_of(area) not in env.found_docs:
            log.warning("area %s has no page docs/%s.rst", area, page_of(area))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register."""
    for name, directive in {
        "area": Area,
        "page": Page,
        "index": Index,
        "areas": Areas,
        "by": By,
        "traceability": Traceability,
        "architectures": Architectures,
        "mutants": Mutants,
        "scenarios": Scenarios,
        "variants": Variants,
        "judged": Judged,
        "differences": Differences,
    }.items():
        app.add_directive(f"mmspec-{name}", directive)
    app.connect("doctree-read", qualify)
    app.connect("env-check-consistency", check_pages)
    return {"version": mmspec.__version__, "parallel_read_safe": True, "parallel_write_safe": True}
