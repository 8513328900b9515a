"""What a mutant is, and how it gets into the reference."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

import attrs

from mmspec.config import SYSTEMS
from mmspec.contracts import system_of_module


@attrs.frozen
class Edit:
    """Replace `old`, which occurs once in the source of the reference's module, by `new`."""

    module: str
    old: str
    new: str

    @property
    def target(self) -> str:
        """The module's full name."""
        return f"mmreference.{self.module}"


@attrs.frozen
class Mutant:
    """One mistake, with its story."""

    id: str
    name: str
    story: str
    citation: str
    edits: tuple[Edit, ...]
    expects: tuple[str, ...]
    """Ids of the invariants that describe the mistake; one of them has to be the one that finds it."""
    variants: tuple[str, ...] = attrs.field(
        default=attrs.Factory(lambda self: SYSTEMS[self.system], takes_self=True)
    )
    arch: str = "x86_64"
    """The architecture on which it is hunted."""

    @property
    def system(self) -> str:
        """The system that has the mistake."""
        return system_of_module(self.edits[0].target)


class Mutator(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Applies a mutant's edits to modules while they are imported."""

    def __init__(self, mutant: Mutant) -> None:
        self.edits: dict[str, list[Edit]] = {}
        for edit in mutant.edits:
            self.edits.setdefault(edit.target, []).append(edit)

    def install(self) -> None:
        """From here on imports are mutated.

        :raises RuntimeError: if a module that is to be mutated has been imported before.
        """
        early = [name for name in self.edits if name in sys.modules]
        if early:
            raise RuntimeError(f"{', '.join(early)} imported before the mutant was installed")
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Take over the modules that are to be edited."""
        if fullname not in self.edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            return importlib.util.spec_from_loader(fullname, self, origin=spec.origin)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Compile the edited source."""
        assert module.__spec__ is not None and module.__spec__.origin is not None
        origin = module.__spec__.origin
        with open(origin, encoding="utf-8") as file:
            source = mutated(file.read(), self.edits[module.__name__])
        exec(compile(source, origin, "exec"), module.__dict__)


def mutated(source: str, edits: list[Edit]) -> str:
    """The source with the edits applied.

    :raises ValueError: if the text that an edit replaces is not there exactly once.
    """
    for edit in edits:
        if source.count(edit.old) != 1:
            raise ValueError(f"{edit.module}: occurs {source.count(edit.old)} times, not once: {edit.old!r}")
        source = source.replace(edit.old, edit.new)
    return source
