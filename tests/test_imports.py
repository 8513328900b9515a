"""Imports point one way: conformance to reference to spec."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Package to the folder that holds it, and the packages of this project that it may import beside itself.
PACKAGES = {
    "mmspec": ("spec", frozenset[str]()),
    "mmreference": ("reference", frozenset({"mmspec"})),
    "mmconformance": ("conformance", frozenset({"mmspec", "mmreference"})),
}


def imported(path: Path) -> set[str]:
    """The top-level names of all absolute imports in the file, wherever in it they stand."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def files() -> list[tuple[str, Path]]:
    """All modules, each with the package that it belongs to."""
    return [
        (package, path)
        for package, (folder, _) in PACKAGES.items()
        for path in sorted((ROOT / folder / package).rglob("*.py"))
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_there_is_something_to_look_at(package: str) -> None:
    assert [path for owner, path in files() if owner == package]


def test_arrows_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, path in files()
        for name in sorted(imported(path) & PACKAGES.keys())
        if name != package and name not in PACKAGES[package][1]
    ]

    assert wrong == []


def test_imports_are_absolute() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for _, path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]

    assert wrong == []
