"""The command `mmspec`."""

from __future__ import annotations

import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from mmconformance.verdicts import INTERRUPTED
from mmspec.config import SYSTEMS
from mmspec.errors import ImplementationFailure, UsageError

if TYPE_CHECKING:
    from mmconformance.adapters.loading import Target
    from mmconformance.bugs import MutantResult
    from mmconformance.scenarios import Scenario
    from mmconformance.verdicts import Report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DOCUMENTATION = "https://mmspec.readthedocs.io/invariants.html"

Implementation = Annotated[
    str | None, typer.Argument(help="package.module:attribute, exec:PROGRAM, kernel, or nothing: the reference.")
]
Interface = Annotated[str | None, typer.Option(help="ReservationMap or MemoryManager.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]
Arch = Annotated[str, typer.Option(help="Architecture profile, several with commas, or `all`.")]
System = Annotated[str, typer.Option(help=f"{', '.join(SYSTEMS)}, or `all`.")]
VARIANTS = "; ".join(f"{', '.join(variants)} of {system}" for system, variants in SYSTEMS.items())
Variant = Annotated[str, typer.Option(help=f"{VARIANTS}; or `all`.")]
Budget = Annotated[float | None, typer.Option(min=0.1, help="Seconds.")]


@app.callback(invoke_without_command=True)
def mmspec(context: typer.Context) -> None:
    """Executable specification of Linux memory management, and its conformance suite."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def writable(path: Path | None) -> Path | None:
    """Make sure before the work that the result can be written."""
    if path is not None:
        if path.is_dir() or not path.resolve().parent.is_dir():
            raise UsageError(f"{path} cannot be written: it is a directory, or its directory does not exist")
        try:
            probe = path.with_name(path.name + ".part")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return path


def write(path: Path | None, text: str) -> None:
    """Write a result whole or not at all."""
    if path is not None:
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def dump(document: Any) -> str:
    """A document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


@app.command()
def check(
    implementation: Implementation = None,
    interface: Interface = None,
    system: System = "all",
    arch: Arch = "all",
    variant: Variant = "all",
    engine: Annotated[str, typer.Option(help="sampled, exhaustive or all.")] = "all",
    budget: Budget = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    json: Json = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
) -> None:
    """Judge an implementation by every invariant, on every profile."""
    if engine not in ("sampled", "exhaustive", "all"):
        raise UsageError(f"no engine is called {engine!r}; known are sampled, exhaustive and all")
    writable(json)
    writable(junit)
    writable(html)
    from mmconformance.adapters.loading import load_target
    from mmconformance.report import html_page, junit_xml

    target = load_target(implementation, interface)
    report = _checked(target, system, arch, variant, engine, budget, seed)
    write(json, dump(report.document()))
    write(junit, junit_xml(report))
    if html is not None:
        write(html, html_page(report, DOCUMENTATION))
    raise typer.Exit(report.exit_status)


def _checked(
    target: Target, system: str, arch: str, variant: str, engine: str, budget: float | None, seed: int
) -> Report:
    """Run the suite, and show what it says."""
    from mmconformance.check import check as run
    from mmconformance.report import progress, terminal
    from mmconformance.suites import variants_of
    from mmspec.arch import architectures

    _need_contracts()
    archs = [a.name for a in architectures(arch)]
    variants = variants_of(target, variant, system)
    if target.kind == "kernel":
        from mmconformance.adapters.kernel.probe import host_profile

        archs = [host_profile()]
    with progress(target.name) as say:
        report = run(target, archs=archs, variants=variants, engine=engine, budget=budget, seed=seed, progress=say)
    terminal(report)
    return report


def _need_contracts() -> None:
    from mmspec.contracts import ENABLED

    if not ENABLED:
        raise UsageError("MMSPEC_CONTRACTS=off leaves nothing to check; unset it")


@app.command()
def campaign(
    implementation: Implementation = None,
    interface: Interface = None,
    system: System = "all",
    arch: Arch = "all",
    variant: Variant = "all",
    budget: Annotated[float, typer.Option(min=1, help="Seconds.")] = 3600,
    seed: Annotated[int | None, typer.Option(help="Another one each time, unless given.")] = None,
    json: Json = None,
) -> None:
    """Search at random for a long time, after a look at the runs that failed before."""
    from mmconformance.adapters.loading import load_target
    from mmconformance.campaign import replay_corpus

    writable(json)
    target = load_target(implementation, interface)
    failing = replay_corpus(target, print)
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    report = _checked(target, system, arch, variant, "sampled", budget, seed)
    write(json, dump(report.document()))
    raise typer.Exit(report.exit_status or (1 if failing else 0))


@app.command("list")
def list_(
    area: Annotated[str | None, typer.Option(help="Only this area, such as HTLB-RSV.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as `lock rule`.")] = None,
    system: System = "all",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the invariants."""
    registry = load_registry()
    known = dict.fromkeys(i.system for i in registry)
    if system not in ("all", *known):
        raise UsageError(f"no system is called {system!r}; known are {', '.join(known)}")
    chosen = [
        i
        for i in registry
        if system in ("all", i.system)
        and (area is None or i.area == area.upper())
        and (kind is None or i.kind.value == kind.lower())
    ]
    if not chosen:
        areas = ", ".join(dict.fromkeys(i.area for i in registry))
        raise UsageError(f"no invariant has that area, kind and system; areas are {areas}")
    if json:
        shown = ("id", "sentence", "area", "guard", "on", "fields", "functions", "locks", "variants", "interfaces")
        rows = [{n: getattr(i, n) for n in shown} | {"kind": i.kind.value, "over": i.over.value} for i in chosen]
        print(dump(rows), end="")
        return
    for invariant in chosen:
        print(f"{invariant.id}  {invariant.sentence}")


def load_registry() -> Any:
    """The registry, filled."""
    import mmspec.invariants  # noqa: F401
    from mmspec.invariant import REGISTRY

    return REGISTRY


@app.command()
def show(id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show all that is known of an invariant, with the predicate that is executed."""
    from mmconformance.report import show_invariant

    print(show_invariant(load_registry()[id_]))


@app.command()
def cite(id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Print an invariant as plain text for a mail."""
    from mmconformance.report import cite_invariant

    print(cite_invariant(load_registry()[id_], f"{DOCUMENTATION}#{id_}"))


@app.command()
def explore(
    scenario: Annotated[str | None, typer.Argument()] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
    arch: Annotated[str, typer.Option()] = "x86_64",
    variant: Annotated[str | None, typer.Option(help=f"{VARIANTS}; `all`; or the scenario's usual one.")] = None,
    plain: Annotated[bool, typer.Option(help="Without reduction: every interleaving.")] = False,
    budget: Budget = None,
    failures: Annotated[int, typer.Option(min=0, help="How many allocations may fail in one run.")] = 0,
    json: Json = None,
) -> None:
    """Run a scenario under every schedule, up to equivalence."""
    from mmconformance.engines.exhaustive import explore as run
    from mmconformance.report import exploration_document, print_exploration, progress
    from mmconformance.scenarios import SCENARIOS
    from mmconformance.scenarios import scenario as find
    from mmspec.arch import architecture
    from mmspec.invariant import Judge, judging

    if list_all or scenario is None:
        for known in SCENARIOS.values():
            print(f"{known.name}: {known.description}")
        return
    writable(json)
    _need_contracts()
    chosen = find(scenario)
    profile = architecture(arch).name
    broken = False
    documents = []
    for name in _variants(chosen, profile, variant):
        with judging(Judge.of(profile, name)), progress(scenario) as say:
            found = run(
                chosen.program(profile, name),
                reduction=not plain,
                budget_seconds=budget,
                failures=failures,
                progress=lambda e, say=say: say(f"{e.scenario}: {e.executions} executions"),  # type: ignore[misc]
            )
        print_exploration(found, profile, name)
        documents.append(exploration_document(found, profile, name))
        broken |= bool(found.violations)
        if found.interrupted:
            break
    write(json, dump(documents[0] if len(documents) == 1 else documents))
    raise typer.Exit(INTERRUPTED if found.interrupted else 1 if broken else 0)


def _variants(scenario: Scenario, arch: str, selection: str | None) -> list[str]:
    """The variants in which the scenario is to be run; a wrong one is refused when it is its turn."""
    from mmconformance.suites import SUITES

    if selection not in (None, "all"):
        return [selection]
    fitting = [v for v in scenario.variants if scenario.applies(arch, v)] or list(scenario.variants)
    usual = SUITES[scenario.system].usual
    return fitting if selection == "all" else [usual if usual in fitting else fitting[0]]


@app.command()
def replay(file: Annotated[Path, typer.Argument()]) -> None:
    """Run a recorded run again, step by step."""
    from mmconformance.replaying import replay as run
    from mmconformance.report import print_execution

    _need_contracts()
    done = run(file)
    if done.execution is not None:
        print_execution(done.execution)
    else:
        print("\n".join(done.calls))
        print(done.violation if done.violation is not None else "no violation")
    raise typer.Exit(1 if done.violation is not None else 0)


@app.command()
def bugs(
    id_: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the mutants with their stories.")] = False,
    json: Json = None,
) -> None:
    """Run the mutants: the reference with one real bug each."""
    from mmconformance.bugs import MUTANTS, mutant, run_mutants
    from mmconformance.report import progress

    if list_all:
        for known in MUTANTS.values():
            print(f"{known.id}: {known.name}\n    {known.story}\n    {known.citation}")
        return
    writable(json)
    _need_contracts()
    ids = [mutant(id_).id] if id_ is not None else list(MUTANTS)
    results = []

    def finished(result: MutantResult) -> None:
        results.append(result)
        print(
            f"{result.id}: {result.status} {result.killed_by}  "
            f"({result.executions} runs, {result.seconds:.1f} s) {result.note}".rstrip(),
            flush=True,
        )
        say(result.id, done=len(results), total=len(ids))

    with progress("mutants") as say:
        interrupted = run_mutants(ids, finished)
    write(json, dump([{k: v for k, v in msgspec.to_builtins(r).items() if k != "note"} for r in results]))
    astray = [r.id for r in results if r.status != "killed" or r.killed_by not in MUTANTS[r.id].expects]
    if astray:
        print(f"not killed by an invariant that describes them: {', '.join(astray)}")
    raise typer.Exit(INTERRUPTED if interrupted else 1 if astray else 0)


@app.command()
def count(
    children: Annotated[int, typer.Option(min=1, max=10_000, help="Processes that are forked from one.")] = 1000,
    pages: Annotated[int, typer.Option(min=1, max=10_000, help="Base pages that each of them has to itself.")] = 1000,
    json: Json = None,
) -> None:
    """Count the work that the history of mm/rmap.c speaks of: visited areas, locks, flushes, faults, table accesses."""
    from mmconformance.counting import all_claims
    from mmconformance.report import print_claims, progress

    writable(json)
    with progress("counting") as say:
        claims = all_claims(children, pages, say)
    print_claims(claims)
    write(json, dump(claims))
    raise typer.Exit(0 if all(claim.holds for claim in claims) else 1)


@app.command()
def schema(name: Annotated[str, typer.Argument(help="check, explore, bugs or count")]) -> None:
    """Print the JSON schema of an output."""
    from mmconformance.report import SCHEMAS

    if name not in SCHEMAS:
        raise UsageError(f"no output is called {name!r}; known are {', '.join(SCHEMAS)}")
    print(dump(msgspec.json.schema(SCHEMAS[name])), end="")


def main() -> None:
    """Entry point; gives every error its line and its exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = app(standalone_mode=False)
    except UsageError as error:
        fail(str(error), 2)
    except ImplementationFailure as error:
        fail(f"the implementation failed: {error}", 3)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        fail(usage(), 2)
    else:
        if status == INTERRUPTED:
            fail("interrupted", INTERRUPTED)
        sys.exit(status)


def fail(line: str, status: int) -> NoReturn:
    """One clear line, and the exit status."""
    print(f"mmspec: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
