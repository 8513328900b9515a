"""`pytest --pyargs mmconformance --mm-implementation NAME --mm-arch ARCH`: the suite of `mmspec check` under pytest.

One test per invariant and profile. The check runs once per session; the tests look their verdicts up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mmconformance.verdicts import Report

RESULT = "mm_result"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the suite."""
    group = parser.getgroup("mmspec", "conformance of memory managers")
    group.addoption("--mm-implementation", default=None, help="package.module:attribute, exec:PROGRAM or kernel")
    group.addoption("--mm-interface", default=None, help="ReservationMap, MemoryManager, ReverseMap or VirtualMemory")
    group.addoption("--mm-arch", default="x86_64", help="architecture profile, several with commas, or all")
    group.addoption("--mm-system", default="all", help="system, such as hugetlb, or all")
    group.addoption("--mm-variant", default="all", help="variant of the reference, or all")
    group.addoption("--mm-seed", default=0, type=int, help="seed of the sampled engine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per verdict, in the suite's own test module only."""
    if RESULT in metafunc.fixturenames and metafunc.module.__name__ == "mmconformance.test_conformance":
        results = _report(metafunc.config).results
        metafunc.parametrize(RESULT, results, ids=[f"{r.id}-{r.profile}" for r in results])


def _report(config: pytest.Config) -> Report:
    found: Any = getattr(config, "_mmspec_report", None)
    if found is None:
        from mmconformance.adapters.loading import load_target
        from mmconformance.check import check
        from mmconformance.suites import variants_of
        from mmspec.arch import architectures
        from mmspec.errors import ImplementationFailure, UsageError

        try:
            target = load_target(config.getoption("--mm-implementation"), config.getoption("--mm-interface"))
            found = check(
                target,
                archs=[a.name for a in architectures(config.getoption("--mm-arch"))],
                variants=variants_of(target, config.getoption("--mm-variant"), config.getoption("--mm-system")),
                seed=config.getoption("--mm-seed"),
            )
        except (UsageError, ImplementationFailure) as error:
            raise pytest.UsageError(str(error)) from None
        config._mmspec_report = found  # type: ignore[attr-defined]
    result: Report = found
    return result
