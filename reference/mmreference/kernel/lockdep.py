"""Which lock class may be taken while which is held.

Every acquisition adds an edge from each held class to the new one; the first edge that closes a cycle is reported
with the whole cycle and where each of its edges was first seen.
"""

from __future__ import annotations

import attrs


class LockOrderViolation(Exception):  # noqa: N818
    """Two tasks can wait for each other; `cycle` lists the classes, first and last the same."""

    def __init__(self, cycle: list[str], where: dict[tuple[str, str], str]) -> None:
        self.cycle = cycle
        edges = zip(cycle, cycle[1:], strict=False)
        lines = [f"{a} -> {b} ({where[a, b]})" for a, b in edges]
        super().__init__("lock order cycle: " + "; ".join(lines))


@attrs.define
class LockOrder:
    """The graph of lock classes seen so far."""

    after: dict[str, dict[str, None]] = attrs.field(factory=dict)
    """Class to the classes that were taken while it was held."""
    where: dict[tuple[str, str], str] = attrs.field(factory=dict)

    def acquire(self, held: tuple[str, ...], cls: str, by: str) -> None:
        """Record that `by` takes a lock of `cls` while holding locks of the classes `held`.

        :raises LockOrderViolation: if that closes a cycle; taking a class twice is a cycle of one.
        """
        for outer in held:
            edges = self.after.setdefault(outer, {})
            if cls in edges:
                continue
            edges[cls] = None
            self.where[outer, cls] = by
            path = self._path(cls, outer)
            if path:
                raise LockOrderViolation([outer, *path], self.where)

    def _path(self, start: str, goal: str) -> list[str]:
        """A path from `start` to `goal` along the edges, both included, or nothing."""
        trail: list[tuple[str, list[str]]] = [(start, [start])]
        seen = {start: None}
        while trail:
            node, path = trail.pop()
            if node == goal:
                return path
            for successor in self.after.get(node, {}):
                if successor not in seen:
                    seen[successor] = None
                    trail.append((successor, [*path, successor]))
        return []
