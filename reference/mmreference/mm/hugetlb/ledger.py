"""Who holds how much of the reserve: the books of a conservation law.

Every reservation is held by a file, by the VMAs of a private mapping, or is in transit between the counter and a
holder while an operation moves it. Nothing in the memory manager reads the books.
"""

from __future__ import annotations

from typing import Any, Protocol


class Holder(Protocol):
    """Somebody who holds reservations."""

    name: str

    def outstanding(self) -> int:
        """How many huge pages are promised to it and not delivered."""

    def book_version(self) -> Any:
        """Changes whenever :meth:`outstanding` may."""


class Ledger:
    """The books of one pool."""

    def __init__(self) -> None:
        self._holders: dict[Holder, tuple[Any, int]] = {}
        self.in_transit = 0

    def open(self, holder: Holder) -> None:
        """From here on `holder` holds what it says; that much is no longer in transit."""
        amount = holder.outstanding()
        self._holders[holder] = (holder.book_version(), amount)
        self.in_transit -= amount

    def enter(self, holder: Holder, amount: int) -> None:
        """`amount` has arrived at a holder that is in the books already."""
        self.in_transit -= amount

    def split(self, holder: Holder) -> None:
        """`holder` has taken over a part of what another holder held; nothing is in transit."""
        self._holders[holder] = (holder.book_version(), holder.outstanding())

    def close(self, holder: Holder) -> None:
        """`holder` goes; what it held is in transit."""
        if self._holders.pop(holder, None) is not None:
            self.in_transit += holder.outstanding()

    def withdraw(self, amount: int) -> None:
        """A holder gives `amount` away, which is in transit now."""
        self.in_transit += amount

    def forget(self, holder: Holder) -> None:
        """`holder` is gone together with what it held nothing of."""
        self._holders.pop(holder, None)

    def held(self) -> dict[str, int]:
        """What each holder holds, by name; only holders that changed are asked again."""
        for holder, (version, _) in self._holders.items():
            now = holder.book_version()
            if now != version:
                self._holders[holder] = (now, holder.outstanding())
        return {holder.name: amount for holder, (_, amount) in self._holders.items()}

    def total(self) -> int:
        """What all holders hold together, and what is in transit."""
        return sum(self.held().values()) + self.in_transit
