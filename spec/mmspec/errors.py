"""Results of memory-management operations, by the kernel's names, and the exceptions of this package.

Operations report errors as the kernel does: a negative `errno` value (`-errno.ENOMEM`) or a `VM_FAULT_` code. An
exception means that something is *wrong with the implementation* (:class:`Violation` and its kin) or that this
package was used wrongly (:class:`UsageError`).
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmspec.invariant import Invariant


class VmFault(Enum):
    """What a page-fault handler reports, in the coding of 2006 (2.6.19)."""

    VM_FAULT_MINOR = "VM_FAULT_MINOR"
    """Handled without input/output, or: nothing was done, repeat the access. The 2008 kernels say 0."""
    VM_FAULT_SIGBUS = "VM_FAULT_SIGBUS"
    """The access is beyond the end of the object, or its file system's quota is used up."""
    VM_FAULT_OOM = "VM_FAULT_OOM"
    """No memory; the process is going to be killed."""

    def __repr__(self) -> str:
        return self.name


VM_FAULT_MINOR = VmFault.VM_FAULT_MINOR
VM_FAULT_SIGBUS = VmFault.VM_FAULT_SIGBUS
VM_FAULT_OOM = VmFault.VM_FAULT_OOM


class SwapResult(IntEnum):
    """What try_to_unmap and its kin report."""

    SWAP_SUCCESS = 0
    """Nothing maps the page any more."""
    SWAP_AGAIN = 1
    """A mapping was missed, or nothing speaks against going on."""
    SWAP_FAIL = 2
    """The page is not to be unmapped now."""
    SWAP_MLOCK = 3
    """An area that is locked in memory maps the page, which is marked so now."""

    def __repr__(self) -> str:
        return self.name


SWAP_SUCCESS = SwapResult.SWAP_SUCCESS
SWAP_AGAIN = SwapResult.SWAP_AGAIN
SWAP_FAIL = SwapResult.SWAP_FAIL
SWAP_MLOCK = SwapResult.SWAP_MLOCK


class Signal(IntEnum):
    """How a memory access ends when it does not succeed. Values are the negated Linux signal numbers."""

    SIGBUS = -7
    SIGKILL = -9
    """The out-of-memory killer; kernels from 2.6.34 on send SIGBUS where the huge-page pool is empty."""
    SIGSEGV = -11

    def __repr__(self) -> str:
        return self.name


class UsageError(Exception):
    """Wrong use of this package; the message is one line that names the input and the mend."""


class NotObservable(Exception):  # noqa: N818 - it is an answer, not an error
    """The implementation under test offers no view of the state that a predicate asks for."""


class ImplementationFailure(Exception):  # noqa: N818
    """The implementation under test crashed, hung, broke the protocol or returned what is no result at all."""


class Violation(AssertionError):  # noqa: N818 - the word of the field
    """An invariant does not hold.

    `invariant` is the one that was broken, `values` what its predicate saw (name to printable value), `ledger` the
    lines of a conservation law that does not balance (empty for other invariants).
    """

    def __init__(self, invariant: Invariant, values: dict[str, Any], note: str = "", ledger: str = "") -> None:
        self.invariant = invariant
        self.values = {name: printable(value) for name, value in values.items()}
        self.note = note
        self.ledger = ledger
        super().__init__(f"{invariant.id}: {invariant.sentence}" + (f" [{note}]" if note else ""))


def printable(value: object, limit: int = 600) -> str:
    """`repr` of `value`, cut after `limit` characters and safe against a `repr` that raises."""
    try:
        text = repr(value)
    except Exception as error:  # the object belongs to somebody else
        text = f"<{type(value).__name__}: repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"
