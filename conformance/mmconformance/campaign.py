"""Long random searches: runs that failed before come first, then whatever a fresh seed brings.

Each failing run is kept as a replay file; all of them together are the corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmconformance.adapters.loading import Target
from mmconformance.engines.replay import load
from mmconformance.replaying import replay, replay_directory
from mmspec.errors import UsageError


def replay_corpus(target: Target, say: Callable[[str], None]) -> list[Path]:
    """Run again what is kept of the target's failing runs; those that still violate something."""
    failing = []
    for path in sorted(replay_directory().glob("*.json")):
        try:
            if load(path).implementation != target.name:
                continue
            violation = replay(path).violation
        except UsageError as error:
            say(f"{path}: {error}")
            continue
        if violation is None:
            say(f"{path}: violates nothing any more")
        else:
            say(f"{path}: still violates {violation.invariant.id}")
            failing.append(path)
    return failing
