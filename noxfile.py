"""Sessions for developers: `nox -l` lists them."""

import nox

nox.options.sessions = ["lint", "tests", "conformance", "docs"]
nox.options.default_venv_backend = "venv"


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """This project's own tests."""
    session.install(".[test,docs]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def kernel(session: nox.Session) -> None:
    """The tests that resize this machine's huge-page pool; need root."""
    session.install(".[test]")
    session.run("pytest", "--running-kernel", "tests/adapters", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """The suite against the reference, on every architecture and variant."""
    session.install(".")
    session.run("mmspec", "check", "--arch", "all", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The rendered specification; warnings are errors."""
    session.install(".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "build/html", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and effects."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("mypy", "--strict", "spec", "reference")
    session.run("python", "-m", "deal", "lint", "spec", "reference")


@nox.session
def bench(session: nox.Session) -> None:
    """How fast the engines are."""
    session.install(".")
    session.run("python", "-m", "mmconformance.bench", *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """A long random search; the seconds are the first argument. Failing runs are kept and replayed first next time."""
    session.install(".")
    seconds, *rest = session.posargs or ["3600"]
    session.run("mmspec", "campaign", "--budget", seconds, *rest)
