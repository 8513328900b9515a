"""Tests that change settings of this machine are only made when asked for, and then alone."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--running-kernel", action="store_true", help="also make the tests that resize this machine's huge-page pool"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "running_kernel: resizes this machine's huge-page pool, see --running-kernel")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("running_kernel")]
    reason = _why_not(config) if marked else None
    if reason is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_not(config: pytest.Config) -> str | None:
    if not config.getoption("--running-kernel"):
        return "resizes this machine's huge-page pool: pytest --running-kernel tests/adapters"
    if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
        return "there is only one running kernel: not with xdist"
    from mmconformance.adapters.kernel import available

    reason = available()
    return None if reason is None else f"running kernel: {reason}"
