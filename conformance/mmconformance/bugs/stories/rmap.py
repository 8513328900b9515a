"""The mutants of reverse mapping, each with its story."""

from __future__ import annotations

from mmconformance.bugs.mutant import Mutant

ALL: tuple[Mutant, ...] = ()
