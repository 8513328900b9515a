"""What contracts see of the world before and after a call, where the events of the call do not say it."""

from __future__ import annotations

from typing import Any

import attrs

from mmspec.invariants.rmap.terms import entries_in


@attrs.frozen
class ChainView:
    """One area's anon_vma and chain, and how many anon_vmas and chain elements there are."""

    anon_vma: Any
    chain: tuple[Any, ...]
    live: int
    chains: int


def _chain(vma: Any) -> tuple[Any, ...]:
    return tuple(avc.anon_vma for avc in vma.anon_vma_chain)


def chain_view(vma: Any) -> ChainView:
    """Of one area."""
    system = vma.mm.system
    return ChainView(vma.anon_vma, _chain(vma), len(system.live_anon_vmas), len(system.live_chains))


@attrs.frozen
class PairView:
    """Two areas, the one that is copied and the copy."""

    source: ChainView
    copy: ChainView
    root_refcount: int
    """References to the root of the source's tree; 0 if it has none."""
    live_before: tuple[Any, ...]
    """All anon_vmas."""


def _pair(source: Any, copy: Any) -> PairView:
    root = source.anon_vma.root.refcount if source.anon_vma is not None else 0
    return PairView(chain_view(source), chain_view(copy), root, tuple(source.mm.system.live_anon_vmas))


def clone_view(dst: Any, src: Any) -> PairView:
    """Of :func:`anon_vma_clone`."""
    return _pair(src, dst)


def fork_view(vma: Any, pvma: Any) -> PairView:
    """Of :func:`anon_vma_fork`."""
    return _pair(pvma, vma)


@attrs.frozen
class UnlinkView:
    """The area that is unlinked, and the chains of all others."""

    chain: tuple[Any, ...]
    entries: tuple[str, ...]
    """The kinds of entries in its slots."""
    others: dict[str, tuple[Any, ...]]
    on_lists: tuple[Any, ...]
    """The anon_vmas on whose lists the area stands."""


def anon_vma_view(vma: Any) -> UnlinkView:
    """Of :func:`unlink_anon_vmas`."""
    system = vma.mm.system
    return UnlinkView(
        _chain(vma),
        tuple(entry.kind for _, entry in entries_in(vma)),
        {v.name: _chain(v) for v in system.vmas if v is not vma},
        tuple(a for a in system.live_anon_vmas if any(avc.vma is vma for avc in a.head)),
    )
