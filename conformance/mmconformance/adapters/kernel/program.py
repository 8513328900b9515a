"""Writes a run down as a program of its own: one file, standard library only, for people who do not have mmspec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from mmconformance.adapters.kernel.operations import Operation, Step, Symbol, Value
from mmspec.state import PoolCounters, Setup

#: The laws that such a program checks by itself: id, sentence, predicate as text.
LAWS = (
    (
        "HTLB-RSV-001",
        "resv_huge_pages never goes below zero",
        "counters[2] >= 0",
    ),
    (
        "HTLB-RSV-002",
        "reserved pages are in the pool: resv_huge_pages <= free_huge_pages",
        "counters[2] <= counters[1]",
    ),
    (
        "HTLB-POOL-007",
        "free_huge_pages and surplus_huge_pages are between 0 and nr_huge_pages",
        "0 <= counters[1] <= counters[0] and 0 <= counters[3] <= counters[0]",
    ),
    (
        "HTLB-RSV-029",
        "when nobody uses a huge page any more, nothing is reserved and every page is free",
        "not end or counters[1] == counters[0] and counters[2] == counters[3] == 0",
    ),
    (
        "HTLB-QTA-005",
        "when nobody uses a huge page any more, the whole quota is free",
        "not end or quota_free == quota",
    ),
)

_HEAD = '''\
#!/usr/bin/env python3
"""{title}

Run as root on an otherwise idle huge-page pool: python3 {name}
Exit status: 0 all laws held, 1 a law was broken, 2 the run was impossible. The pool's settings are put
back, unless the program is killed by SIGKILL.
"""

from __future__ import annotations

{imports}

# The run: text, name, arguments, options. Processes count from 1 in the order of spawn and fork, files from 0; a pair
# (m, n) is the address of huge page n of the m-th mmap. Lengths and offsets are in huge pages.
OPERATIONS = [
{operations}
]

HUGE_PAGE, POOL, OVERCOMMIT, QUOTA = {huge_page}, {pool}, {overcommit}, {quota}

# Id, sentence, and the predicate over (total, free, reserved, surplus), whether it is the end, and the quota.
LAWS = [
{laws}
]

# What each result and the counters after it must be, where a law says so.
EXPECTED = [
{expected}
]

# What shows the finding: the operation's number, its result and the counters after it, and which law that breaks; or None.
FINDING = {finding}

# -- machinery: system calls on raw addresses, processes, the run ------------------------------------------------------

'''

_FOOT = """

if __name__ == "__main__":
    program = Program(
        OPERATIONS, LAWS, EXPECTED, FINDING, huge_page=HUGE_PAGE, pool=POOL, overcommit=OVERCOMMIT, quota=QUOTA
    )
    sys.exit(program.main())
"""

_MODULE = "syscalls"


def _imports_and_body(name: str) -> tuple[set[str], str]:
    """The import lines of a module beside this one, and what follows them."""
    text = Path(__file__).with_name(f"{name}.py").read_text()
    lines = text.split('"""', 2)[2].lstrip("\n").split("\n")
    imports = {line for line in lines if re.match(r"(import|from) ", line)}
    body = "\n".join(line for line in lines if line not in imports)
    return {line for line in imports if "mmconformance" not in line and "__future__" not in line}, body.strip("\n")


def _literal(value: Value) -> str:
    if isinstance(value, Symbol):
        return f"({value.number}, {value.pages})" if value.kind == "m" else str(value.number)
    return repr(value)


def _line(operation: Operation) -> str:
    args = "".join(f"{_literal(a)}, " for a in operation.args).rstrip()
    args = args if len(operation.args) == 1 else args.rstrip(",")
    options = ", ".join(f"{name!r}: {_literal(value)}" for name, value in operation.options)
    return f'    ("{operation}", {operation.name!r}, ({args}), {{{options}}}),'


@attrs.frozen
class Finding:
    """What the running kernel did in operation `number` (counted from 1) that breaks the law `id`."""

    number: int
    result: int
    counters: PoolCounters
    id: str
    sentence: str


def _four(counters: PoolCounters) -> tuple[int, int, int, int]:
    return (
        counters.nr_huge_pages, counters.free_huge_pages, counters.resv_huge_pages, counters.surplus_huge_pages
    )  # fmt: skip


def write_program(
    setup: Setup,
    operations: Sequence[Operation],
    *,
    title: str = "A run of huge-page operations.",
    name: str = "run.py",
    expected: Sequence[Step | None] = (),
    finding: Finding | None = None,
    huge_page_bytes: int = 2 << 20,
) -> str:
    """The text of a program that performs exactly these system calls and says which law is broken.

    :param title: the first line of the program's description: what it shows.
    :param expected: what the law demands to see after each operation, where it is more than :data:`LAWS`.
    :param finding: what was seen, where the broken law is none of :data:`LAWS`.
    """
    imports, body = set[str](), []
    for module in (_MODULE, "standalone"):
        lines, text = _imports_and_body(module)
        imports |= lines
        # One file is one namespace.
        body.append(text if module == _MODULE else re.sub(rf"\b{_MODULE}\.", "", text))
    demands = [
        "    None," if step is None else f"    ({int(step.result)}, {_four(step.counters)})," for step in expected
    ]
    if finding is not None and finding.id not in {identity for identity, _, _ in LAWS}:
        told = repr((finding.number, int(finding.result), _four(finding.counters), finding.id, finding.sentence))
    else:
        told = "None"
    laws = [
        f"    (\n        {identity!r},\n        {sentence!r},\n"
        f"        lambda counters, end, quota_free, quota: {predicate},\n    ),"
        for identity, sentence, predicate in LAWS
    ]
    head = _HEAD.format(
        title=title,
        name=name,
        imports="\n".join(sorted(imports, key=lambda line: (not line.startswith("import"), line))),
        operations="\n".join(_line(operation) for operation in operations),
        huge_page=huge_page_bytes,
        pool=setup.pool,
        overcommit=setup.overcommit,
        quota=setup.quota,
        laws="\n".join(laws),
        expected="\n".join(demands),
        finding=told,
    )
    return head + "\n\n\n".join(body) + "\n" + _FOOT
