"""Assertions of the kernel itself."""

from __future__ import annotations


class KernelBug(Exception):  # noqa: N818
    """BUG_ON: a state that the code believes impossible."""


def bug_on(condition: object, what: str) -> None:
    """Stop the machine if `condition` holds; `what` says what was believed impossible.

    :raises KernelBug: then.
    """
    if condition:
        raise KernelBug(what)
