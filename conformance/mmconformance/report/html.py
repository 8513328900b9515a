"""One page that holds a whole report; it loads nothing from elsewhere."""

from __future__ import annotations

from collections import Counter

import jinja2

from mmconformance.verdicts import Failure, Report, Verdict


def html_page(report: Report, documentation: str) -> str:
    """The report as a page; ids link to their place in the `documentation`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmconformance", "report/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    areas: dict[str, Counter[str]] = {}
    for result in report.results:
        areas.setdefault(result.id.rpartition("-")[0], Counter())[str(result.verdict)] += 1
    return environment.get_template("report.html").render(
        report=report,
        profiles=list(dict.fromkeys(r.profile for r in report.results)),
        verdicts=[str(v) for v in Verdict],
        areas=areas,
        failures=_roots(report),
        documentation=documentation,
    )


def _roots(report: Report) -> list[tuple[Failure, list[str]]]:
    """Each failure that is nobody's consequence, with the profiles that show it."""
    found: dict[str, tuple[Failure, list[str]]] = {}
    consequences = {c for r in report.failures if r.trace is not None for c in r.trace.consequences}
    for result in report.failures:
        if result.trace is not None and result.id not in consequences:
            found.setdefault(result.id, (result.trace, []))[1].append(result.profile)
    return list(found.values())
