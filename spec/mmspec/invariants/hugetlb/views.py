"""What contracts on particular functions see as `old` and `new`."""

from __future__ import annotations

from typing import Any

import attrs

from mmspec.invariants.hugetlb.terms import VM_WRITE, mapped_shared, owner, private_map, reserved, used
from mmspec.trace import Recorder


@attrs.frozen(slots=True)
class FaultView:
    """Around a fault: whether the offset's reservation is outstanding, or was and has not been withdrawn."""

    reserved: bool
    promised: bool
    idx: int
    size: int
    consumed: bool


def fault_view(vma: Any, address: int) -> FaultView:
    """See :class:`FaultView`; the first look is also noted for the history."""
    idx = vma.index(address)
    outstanding = reserved(vma, idx)
    resv_map = private_map(vma)
    recorder = Recorder.active
    if recorder is not None and recorder.current.op is not None:
        recorder.current.op.noted.setdefault("reserved_at_entry", outstanding)
    shared = mapped_shared(vma)
    promised = idx in vma.vm_file.resv_map.coverage() if shared else owner(vma)
    return FaultView(outstanding, promised, idx, vma.vm_file.i_size, resv_map is not None and idx in resv_map.coverage())


@attrs.frozen(slots=True)
class AccessView:
    """Around an access: whether the mapping at the address allows it."""

    allowed: bool


def access_view(mm: Any, address: int, value: int | None) -> AccessView:
    """See :class:`AccessView`."""
    vma = mm.find_vma(address)
    return AccessView(vma is not None and (value is None or bool(vma.vm_flags & VM_WRITE)))


@attrs.frozen(slots=True)
class VmaView:
    """Around an operation on a VMA: what it may claim."""

    shared: bool
    owner: bool
    npages: int
    used: int
    refs: int
    private_data: int
    map: Any


def vma_view(vma: Any) -> VmaView:
    """See :class:`VmaView`."""
    resv_map = private_map(vma)
    return VmaView(
        mapped_shared(vma),
        owner(vma),
        vma.npages,
        0 if resv_map is None else used(vma),
        0 if resv_map is None else resv_map.refs,
        vma.vm_private_data,
        resv_map,
    )


@attrs.frozen(slots=True)
class SplitView:
    """Around a split: the parts, their claims, and the offset of each address."""

    npages: int
    index_of: dict[int, int]
    flags: int
    private_data: int
    refs: int
    remainder: int


def split_view(mm: Any, vma: Any) -> SplitView:
    """See :class:`SplitView`; covers the VMA and whatever else of the address space has the same map."""
    resv_map = private_map(vma)
    parts = [vma] if resv_map is None else [v for v in mm.vmas if private_map(v) is resv_map]
    index_of = {
        address: v.index(address)
        for v in mm.vmas
        if v.vm_file is vma.vm_file
        for address in range(v.vm_start, v.vm_end, v.huge_page_size)
    }
    remainder = 0 if resv_map is None else sum(v.npages - used(v) for v in parts)
    refs = 0 if resv_map is None else resv_map.refs
    return SplitView(len(index_of), index_of, vma.vm_flags, vma.vm_private_data, refs, remainder)


def coverage_view(resv_map: Any) -> frozenset[int]:
    """The covered offsets of a map."""
    return frozenset(resv_map.coverage())


def regions_view(resv_map: Any) -> tuple[tuple[int, int], ...]:
    """The regions of a map as pairs."""
    return tuple((rg.frm, rg.to) for rg in resv_map.regions)


def own_region_steps(resv_map: Any) -> tuple[str, ...]:
    """What the running operation has done to the map so far."""
    recorder = Recorder.active
    op = recorder.current.op if recorder is not None else None
    return () if op is None else tuple(e.kind for e in op.events if e.kind == "prepare" and e.map is resv_map)


def flags_view(vma: Any) -> int:
    """The private data of a VMA."""
    return int(vma.vm_private_data)


def commit_view(vma: Any) -> frozenset[int] | None:
    """The covered offsets of the map that decides about the VMA's faults, or None."""
    resv_map = vma.vm_file.resv_map if mapped_shared(vma) else private_map(vma)
    return None if resv_map is None else frozenset(resv_map.coverage())


def tag_view(page: Any) -> int:
    """The tag of a page."""
    return int(page.tag)


@attrs.frozen(slots=True)
class FreeView:
    """Around the free of a page."""

    private: Any
    drawn_from: Any


def free_view(page: Any) -> FreeView:
    """See :class:`FreeView`."""
    return FreeView(page.private, page.drawn_from)


def quota_view(inode: Any) -> int:
    """Free blocks of the file's file system."""
    return int(inode.sb.free_blocks)


@attrs.frozen(slots=True)
class ForkView:
    """Around a fork: the parent's entries with their pages' reference counts, and its size."""

    entries: dict[int, tuple[Any, bool]]
    rss: int
    maps: tuple[tuple[str, int], ...]


def fork_view(oldmm: Any) -> ForkView:
    """See :class:`ForkView`."""
    maps = {m.name: m.refs for v in oldmm.vmas if (m := private_map(v)) is not None}
    return ForkView(
        {vpn: (entry.page, entry.writable) for vpn, entry in oldmm.ptes.items()},
        oldmm.file_rss,
        tuple(maps.items()),
    )
