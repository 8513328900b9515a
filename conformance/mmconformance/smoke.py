"""A few fixed calls that come first for every implementation: a broken one fails here, at once and with one message."""

from __future__ import annotations

from typing import Any

from mmspec.errors import ImplementationFailure
from mmspec.state import PoolCounters, Setup


def smoke(interface: str, subject: Any) -> None:
    """Make the calls of the interface once.

    :raises ImplementationFailure: if one of them cannot be made at all.
    """
    {
        "ReservationMap": _reservation_map,
        "MemoryManager": _memory_manager,
        "ReverseMap": _reverse_map,
        "VirtualMemory": _virtual_memory,
    }[interface](subject)


def _expect(what: str, value: object, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ImplementationFailure(f"{what} returned {type(value).__name__}, not {kind.__name__}")
    return value


def _reservation_map(subject: Any) -> None:
    _expect("region_chg(0, 2)", subject.region_chg(0, 2), int)
    subject.region_add(0, 2)
    _expect("region_count(0, 2)", subject.region_count(0, 2), int)
    for pair in subject.regions:
        if not hasattr(pair, "__len__") or len(pair) != 2:
            raise ImplementationFailure(f"regions holds {pair!r}, not pairs (from, to)")
    _expect("region_truncate(0)", subject.region_truncate(0), int)


def _memory_manager(subject: Any) -> None:
    subject.start(Setup(pool=2))
    try:
        _expect("counters()", subject.counters(), PoolCounters)
        pid = _expect("spawn()", subject.spawn(), int)
        address = _expect("mmap()", subject.mmap(pid, 1), int)
        if address > 0:
            _expect("write()", subject.write(pid, address, 1), int)
            _expect("read()", subject.read(pid, address), int)
            _expect("munmap()", subject.munmap(pid, address, 1), int)
        _expect("exit()", subject.exit(pid), int)
    finally:
        subject.stop()


def _reverse_map(subject: Any) -> None:
    subject.new_area(1, 1, 4, 6, 4)
    if _expect("anon_vma_prepare(1)", subject.anon_vma_prepare(1), int) == 0:
        subject.new_page(1)
        subject.page_add_new_anon_rmap(1, 1, 4)
        _expect("page_mapcount(1)", subject.page_mapcount(1), int)
        _expect("page_address_in_vma(1, 1)", subject.page_address_in_vma(1, 1), int)
        list(subject.rmap_areas(1))
        subject.page_remove_rmap(1, 1, 4)
        subject.free_page(1)
    subject.unlink_anon_vmas(1)


def _virtual_memory(subject: Any) -> None:
    subject.start()
    try:
        pid = _expect("spawn()", subject.spawn(), int)
        address = _expect("map_pages()", subject.map_pages(pid, 1), int)
        if address > 0:
            _expect("write()", subject.write(pid, address, 1), int)
            _expect("read()", subject.read(pid, address), int)
            _expect("unmap_pages()", subject.unmap_pages(pid, address, 1), int)
        _expect("exit()", subject.exit(pid), int)
    finally:
        subject.stop()
