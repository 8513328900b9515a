"""When a search has to end."""

from __future__ import annotations

import time


class Deadline:
    """A time at which no further example begins; without one, whoever searches decides himself.

    To be asked between examples: an exception raised by a signal may come where nobody hears it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.interrupted = False
        self._until = None if seconds is None else time.monotonic() + seconds

    def interrupt(self) -> None:
        """It is now."""
        self.interrupted = True
        self._until = time.monotonic()

    @property
    def limited(self) -> bool:
        """Whether there is an end to the time."""
        return self._until is not None

    @property
    def left(self) -> float | None:
        """Seconds, at least 0; None if there is no end to them."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def passed(self, grace: float = 0.0) -> bool:
        """Whether the time is up; `grace` are seconds beyond it that are allowed unless somebody interrupts."""
        return self._until is not None and time.monotonic() > self._until + (0.0 if self.interrupted else grace)
