"""Reclaim, swap slots and their counts, and swapoff."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any

from mmconformance.scenarios.rmap.stage import Stage
from mmconformance.scenarios.staging import conditions
from mmreference.mm.rmap.address import page_address_in_vma
from mmreference.mm.rmap.referenced import page_referenced, page_referenced_anon
from mmreference.mm.rmap.unmap import TTU_IGNORE_ACCESS, TTU_UNMAP, try_to_unmap
from mmreference.mm.swapfile import SWAP_MAP_MAX, add_to_swap, max_swapfiles, swap_duplicate, swap_free, swapon_type


@conditions(features=("SWAP",))
def swapped_and_read_back(stage: Stage) -> None:
    """Pages go to swap and come back, with and without their page in the swap cache."""
    pid, address = stage.written(3)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
        stage.quiet()
    for number in range(3):
        stage.expect(pid, address + number * stage.page_size, 7 + number)
    stage.do("evict", stage.page(pid, address))
    stage.expect(pid, address, 7)
    stage.do("write", pid, address, 11)
    stage.expect(pid, address, 11)


@conditions(features=("SWAP",))
def child_swaps_in_first(stage: Stage) -> None:
    """A page that parent and child have in swap is read by the child first, then by the parent; the child is gone then."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    page = stage.page(pid, address)
    stage.do("evict", page)
    stage.quiet()
    stage.expect(child, address, 7)
    stage.expect(pid, address, 7)
    stage.quiet()
    stage.do("exit", child)
    stage.quiet()
    stage.run(page_referenced(page, False))
    stage.do("evict", page)
    stage.expect(pid, address, 7)


@conditions(features=("SWAP",))
def child_writes_what_is_in_swap(stage: Stage) -> None:
    """A page that parent and child have in swap is written by the child, which must not keep it for itself."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.do("write", child, address, 9)
    stage.quiet()
    stage.expect(pid, address, 7)
    stage.do("exit", child)
    stage.quiet()
    stage.expect(pid, address, 7)


@conditions(features=("SWAP",))
def more_references_than_a_byte_holds(stage: Stage) -> None:
    """A page in swap has more references than the byte of the map can count; with and without memory to go on."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.drain()
    page = stage.page(pid, address)
    stage.with_page(page, add_to_swap)
    stage.run(_times(SWAP_MAP_MAX - 1, swap_duplicate, stage.system, page.private))
    with stage.without("swap count continuation"):
        stage.do("evict", page)
        refused = stage.do("fork", pid)
    stage.demand("SWAP-COUNT-003", refused == -errno.ENOMEM, fork=refused)
    stage.expect(child, address, 7)
    stage.do("evict", page)
    grandchild = stage.do("fork", child)
    stage.run(_times(SWAP_MAP_MAX - 1, swap_free, stage.system, page.private))
    for each in (child, grandchild, pid):
        stage.quiet()
        stage.expect(each, address, 7)
        stage.do("exit", each)


async def _times(count: int, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
    for _ in range(count):
        await function(*args)


@conditions(features=("SWAP",))
def swap_is_switched_off(stage: Stage) -> None:
    """All pages come back when swap is switched off, those of forked processes too."""
    pid, address = stage.written(3)
    child = stage.do("fork", pid)
    stage.do("write", child, address, 9)
    stage.drain()
    for _ in range(3):
        stage.do("shrink")
    stage.quiet()
    stage.do("swapoff")
    stage.quiet()
    stage.demand("SWAP-OFF-001", all(mm.swapents == 0 for mm in stage.system.mms), mms=list(stage.system.mms))
    stage.expect(pid, address, 7)
    stage.expect(child, address, 9)
    stage.expect(child, address + stage.page_size, 8)
    limit = max_swapfiles(stage.system)
    for taken in range(limit + 2):
        type_ = swapon_type(stage.system, taken)
        stage.demand("MIGR-ENTRY-004", type_ < limit, type=type_, limit=limit)


@conditions(features=("SWAP",))
def asked_for_in_swap_only(stage: Stage) -> None:
    """A page of the swap cache that nobody maps any more is asked for by all who may be interested; then swap goes."""
    pid, address = stage.written()
    page = stage.page(pid, address)
    stage.drain()
    stage.do("evict", page)
    answer = page_address_in_vma(page, stage.area(pid, address))
    stage.demand("RMAP-REMOVE-009", answer == address, answer=answer)
    stage.with_page(page, try_to_unmap, TTU_UNMAP | TTU_IGNORE_ACCESS)
    stage.with_page(page, page_referenced, True)
    walk = stage.run(page_referenced_anon(page, None))
    stage.demand("RMAP-REF-012", walk.referenced == 0, walk=walk)
    stage.do("swapoff")
    stage.expect(pid, address, 7)


@conditions(features=("SWAP",))
def written_again_and_again(stage: Stage) -> None:
    """A page goes to swap, comes back for a write that nobody else has a part in, and goes again."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    stage.reclaim(pid, address)
    stage.do("exit", child)
    for value in (8, 9):
        stage.do("write", pid, address, value)
        stage.drain()
        stage.reclaim(pid, address)
        stage.expect(pid, address, value)


@conditions(features=("SWAP",))
def only_the_child_is_left(stage: Stage) -> None:
    """The parent has made a copy and goes; the child finds its page behind the parent's area and makes it its own."""
    pid, address = stage.written()
    child = stage.do("fork", pid)
    page = stage.page(child, address)
    stage.do("write", pid, address, 8)
    stage.do("exit", pid)
    stage.do("write", child, address, 9)
    stage.demand("RMAP-MOVE-001", stage.page(child, address) is page, page=page)
    stage.drain()
    stage.reclaim(child, address)
    stage.expect(child, address, 9)


@conditions(features=("SWAP", "MMU_NOTIFIER"))
def reclaim_from_a_large_process(stage: Stage) -> None:
    """Reclaim takes pages of all kinds from a process, one after the other, and all of them come back."""
    pid, address = stage.written(4)
    file = stage.machine.create_file(4)
    shared = stage.do("mmap", pid, 4, file=file, shared=True)
    for number in range(4):
        stage.do("write", pid, shared + number * stage.page_size, 20 + number)
    stage.do("attach_mmu", pid)
    for _ in range(3):
        stage.do("shrink")
    stage.quiet()
    for number in range(4):
        stage.expect(pid, address + number * stage.page_size, 7 + number)
        stage.expect(pid, shared + number * stage.page_size, 20 + number)
