"""One invariant as text."""

from __future__ import annotations

import textwrap

from mmspec.contracts import CITED_BY
from mmspec.invariant import Invariant


def cite_invariant(invariant: Invariant, link: str) -> str:
    """What goes into a mail: id, sentence, source, link; at most 75 columns."""
    lines = [f"{invariant.id} ({invariant.kind.value})"]
    lines += textwrap.wrap(invariant.sentence, 73, initial_indent="  ", subsequent_indent="  ")
    lines.append("")
    for anchor in invariant.sources:
        lines += textwrap.wrap(anchor.citation, 73, initial_indent="  Source: ", subsequent_indent="    ")
    lines.append(f"  {link}")
    return "\n".join(lines)


def show_invariant(invariant: Invariant) -> str:
    """All that is known of it."""
    import mmconformance.scenarios  # noqa: F401 - imports the reference of every system: contracts that cite

    rows = {
        "name": invariant.name.replace("_", " "),
        "kind": invariant.kind.value,
        "about": invariant.over.value,
        "guard": invariant.guard or "",
        "on": ", ".join(invariant.on),
        "fields": ", ".join(invariant.fields),
        "functions": ", ".join(invariant.functions),
        "locks": ", ".join(invariant.locks),
        "variants": ", ".join(invariant.variants) or "none that is implemented",
        "architectures": ", ".join(invariant.architectures or ("all",)),
        "interfaces": ", ".join(invariant.interfaces) or "the reference's own contracts",
        "enforced today by": invariant.enforced_by,
        "would have caught": invariant.would_catch,
        "valid": f"since {invariant.since}" + (f" until {invariant.until}" if invariant.until else ""),
        "contracts": ", ".join(sorted(name for name, ids in CITED_BY.items() if invariant.id in ids)),
    }
    lines = [invariant.id, *textwrap.wrap(invariant.sentence, 98, initial_indent="  ", subsequent_indent="  "), ""]
    if invariant.rationale:
        lines += [*textwrap.wrap(invariant.rationale, 98, initial_indent="  ", subsequent_indent="  "), ""]
    lines += [f"  {name + ':':<20} {value}" for name, value in rows.items() if value]
    lines += [f"  {'source:':<20} {anchor.citation}" for anchor in invariant.sources]
    return "\n".join([*lines, "", textwrap.indent(invariant.source_code.rstrip(), "    ")])
