"""Assertions of the kernel itself."""

from __future__ import annotations


class KernelBug(Exception):  # noqa: N818
    """BUG_ON: a state that the code believes impossible.

    `id` names the invariant that the assertion stands for, "" if it stands for none in particular.
    """

    def __init__(self, what: str, id: str = "") -> None:  # noqa: A002
        self.id = id
        super().__init__(what)


def bug_on(condition: object, what: str, id: str = "") -> None:  # noqa: A002
    """Stop the machine if `condition` holds; `what` says what was believed impossible, `id` which invariant says so.

    :raises KernelBug: then.
    """
    if condition:
        raise KernelBug(what, id)
