"""What functions may do, by deal's linter, as if each were decorated: a decorator would cost time at every call."""

from __future__ import annotations

import ast
from pathlib import Path

import deal.linter
import pytest

import mmreference.mm
import mmspec.invariants

PREDICATES = sorted(Path(mmspec.invariants.__path__[0]).rglob("*.py"))
REFERENCE = sorted(Path(mmreference.mm.__path__[0]).rglob("*.py"))

#: Modules with functions that may raise; kernel functions return error codes instead.
MAY_RAISE = {"system": "deal.raises(UsageError)"}


class Decorated(ast.NodeTransformer):
    """Puts a contract on each function, in the place of whatever decorates it."""

    def __init__(self, contract: str) -> None:
        self.contract = ast.parse(contract, mode="eval").body
        self.functions = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802
        self.functions += 1
        node.decorator_list = [self.contract]
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:  # noqa: N802
        self.functions += 1
        node.decorator_list = [self.contract]
        return node


def complaints(source: str, contract: str) -> list[str]:
    decorated = Decorated(contract)
    tree = decorated.visit(ast.parse(source))
    assert decorated.functions or "def " not in source
    # Unparsed and parsed again, so that lines and columns fit.
    text = "import deal\n" + ast.unparse(ast.fix_missing_locations(tree))
    return [message for _, _, message, _ in deal.linter.Checker(ast.parse(text)).run()]


@pytest.mark.parametrize("path", PREDICATES, ids=lambda p: p.stem)
def test_predicates_are_pure(path: Path) -> None:
    assert complaints(path.read_text(), "deal.pure") == []


@pytest.mark.parametrize("path", REFERENCE, ids=lambda p: p.stem)
def test_kernel_functions_return_errors_and_raise_nothing(path: Path) -> None:
    assert complaints(path.read_text(), MAY_RAISE.get(path.stem, "deal.safe")) == []


@pytest.mark.parametrize(
    "body", ["print(pool)", "raise ValueError", "global pool\n    pool = 1", "import random\n    return random.random()"]
)
def test_the_linter_notices(body: str) -> None:
    assert complaints(f"def predicate(pool):\n    {body}\n", "deal.pure")
