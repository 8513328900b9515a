"""What a person sees."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from mmconformance.counting import Claim
from mmconformance.engines.execution import Execution
from mmconformance.engines.exhaustive import Exploration
from mmconformance.engines.lanes import text_lanes
from mmconformance.verdicts import Failure, Report, Verdict

_out = Console(highlight=False, soft_wrap=True)


def terminal(report: Report) -> None:
    """Header, a table of verdicts per area, and each failure with all that is needed to see it again."""
    profiles = list(dict.fromkeys(r.profile for r in report.results))
    _out.print(f"mmspec {report.version}: {report.implementation} ({report.interface}), engine {report.engine}, "
               f"seed {report.seed}, {len(profiles)} profiles: {', '.join(profiles)}", markup=False)  # fmt: skip
    table = Table("area", *(str(v) for v in Verdict))
    for area in dict.fromkeys(r.id.rpartition("-")[0] for r in report.results):
        rows = [r.verdict for r in report.results if r.id.rpartition("-")[0] == area]
        table.add_row(area, *(str(rows.count(v) or "") for v in Verdict))
    _out.print(table)
    shown: dict[str, list[str]] = {}
    for result in report.failures:
        shown.setdefault(result.id, []).append(result.profile)
    consequences = {c for r in report.failures if r.trace for c in r.trace.consequences}
    for result in report.failures:
        if result.trace is not None and result.id not in consequences and result.id in shown:
            _failure(result.trace, shown.pop(result.id))
    for note in report.notes:
        _out.print(note, markup=False)
    _out.print(", ".join(f"{n} {v}" for v, n in report.summary.items() if n), markup=False)


def _failure(failure: Failure, profiles: list[str]) -> None:
    lines = ["", f"FAIL {failure.id} on {', '.join(profiles)}", f"  {failure.sentence}"]
    lines += [f"  {failure.note}"] if failure.note else []
    lines += [f"    {name} = {value}" for name, value in failure.values.items()]
    lines += ["  ledger:", failure.ledger] if failure.ledger else []
    lines += ["  the shortest run found:"]
    lines += [failure.lanes] if failure.lanes else [f"    {line}" for line in failure.run]
    lines += [f"  follows from it: {', '.join(failure.consequences)}"] if failure.consequences else []
    lines += [f"  replay: {failure.replay_command}"]
    _out.print("\n".join(lines), markup=False)


def print_exploration(found: Exploration, arch: str, variant: str) -> None:
    """What was covered, every outcome, and the violations as lanes."""
    end = "complete" if found.complete else f"incomplete: {found.why_incomplete}"
    lines = [
        f"{found.scenario} on {arch}/{variant}: {found.executions} executions, {found.steps} steps, "
        f"{found.seconds:.2f} s, {end}, {found.deadlocks} deadlocks"
    ]
    lines += [f"  up to exchanging {', '.join(names)}, which are alike" for names in found.alike]
    lines += [f"  {count:6} x {outcome}" for outcome, count in found.outcomes.items()]
    _out.print("\n".join(lines), markup=False)
    for execution in found.violations:
        print_execution(execution)


def print_execution(execution: Execution) -> None:
    """One run as lanes, and what it breaks."""
    _out.print(text_lanes(execution), markup=False)
    if execution.violation is not None:
        violation = execution.violation
        _out.print(f"{violation}\n" + "\n".join(f"    {k} = {v}" for k, v in violation.values.items()), markup=False)
        if violation.ledger:
            _out.print(violation.ledger, markup=False)
    else:
        _out.print(f"no violation; {execution.outcome}", markup=False)


def print_claims(claims: Iterable[Claim]) -> None:
    """Claims about work with what was counted, one line each."""
    lines = [f"{'claimed':>12} {'counted':>12}  work"]
    for claim in claims:
        differs = "" if claim.holds else "  DIFFERS"
        lines.append(f"{claim.expected:12.10g} {claim.counted:12.10g}  {claim.name} ({claim.how}){differs}")
    _out.print("\n".join(lines), markup=False)
