"""The stage of reverse mapping."""

from __future__ import annotations

from mmconformance.scenarios import staging


class Stage(staging.Stage):
    """A machine with pages, address spaces and files; `race_body` collects what runs at once.

    `arch` and `variant` are its profile, `recorder` has all that happens, `threads` are those that race, and `facts`
    what the script knows beforehand.
    """
