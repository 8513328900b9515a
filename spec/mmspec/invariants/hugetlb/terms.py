"""Terms that several predicates use, each defined on what an implementation shows, never on how it decides."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.errors import VM_FAULT_OOM
from mmspec.trace import Event, Operation, Section

VM_MAYSHARE = 1 << 7
VM_WRITE = 1 << 1
OWNER = 1 << 0
UNMAPPED = 1 << 1

RETRY = -errno.EAGAIN
NO_PAGE = -errno.ENOMEM

#: Counters of the pool.
POOL = ("nr_huge_pages", "free_huge_pages", "resv_huge_pages", "surplus_huge_pages", "tentative_huge_pages")


def is_page(result: object) -> bool:
    """Whether an allocation has returned a page."""
    return result is not None and not isinstance(result, int)


def is_shortage(result: object) -> bool:
    """Whether an allocation has failed, with or without hope."""
    return isinstance(result, int) and result in (RETRY, NO_PAGE)


def mapped_shared(vma: Any) -> bool:
    """Whether the mapping was made with MAP_SHARED."""
    return bool(vma.vm_flags & VM_MAYSHARE)


def private_map(vma: Any) -> Any:
    """The private reservation map of a VMA, or None."""
    return None if mapped_shared(vma) else vma.map


def owner(vma: Any) -> bool:
    """Whether a private VMA belongs to the process that called mmap and so has reservations."""
    return not mapped_shared(vma) and bool(vma.vm_private_data & OWNER)


def unmapped(vma: Any) -> bool:
    """Whether a page of the VMA was taken away for the owner's sake."""
    return not mapped_shared(vma) and bool(vma.vm_private_data & UNMAPPED)


def span(vma: Any) -> range:
    """The huge-page offsets of a VMA."""
    return range(vma.lo, vma.hi)


def used(vma: Any) -> int:
    """How many offsets of an owner VMA have consumed their reservation."""
    coverage = private_map(vma).coverage()
    return sum(1 for idx in span(vma) if idx in coverage)


def reserved(vma: Any, idx: int) -> bool:
    """Whether a reservation for the offset is outstanding and no page drawn for it is on its way."""
    if mapped_shared(vma):
        resv_map = vma.vm_file.resv_map
        return idx in resv_map.coverage() and idx not in vma.vm_file.pages and idx not in resv_map.drawn
    resv_map = private_map(vma)
    return owner(vma) and resv_map is not None and idx not in resv_map.coverage() and idx not in resv_map.drawn


def outstanding_shared(inode: Any) -> int:
    """Offsets of a file that were reserved and have no page yet."""
    return len(inode.resv_map.coverage() - set(inode.pages))


def outstanding_private(vma: Any) -> int:
    """Offsets of an owner VMA that have not consumed their reservation."""
    return vma.npages - used(vma) if owner(vma) else 0


def own_counters(op: Operation) -> dict[str, int]:
    """The pool counters that the operation's own writes have changed in the end."""
    return {f: d for f in POOL if (d := op.delta(f))}


#: Fields whose change somebody else can notice.
VISIBLE = (*POOL, "free_blocks", "i_size", "refs", "vm_private_data", "vm_start", "vm_end", "file_rss")


def own_effects(op: Operation) -> dict[tuple[str, str], tuple[Any, Any]]:
    """What the operation's own writes have changed in the end, as far as anybody can see.

    Objects that the operation has freed again do not count, nor do placeholders in region lists.
    """
    freed = {e.obj.name for e in op.all("free")}
    # Among several threads, which page is the surplus one is a matter of who comes first.
    moving = () if op.alone else ("nr_huge_pages", "free_huge_pages", "surplus_huge_pages")
    return {
        (obj, field): change
        for (obj, field), change in op.net().items()
        if (field in VISIBLE or field.startswith(("pages[", "ptes[")) or field == "regions")
        and field not in moving
        and obj.removeprefix("freed ") not in freed
        and not (field.startswith("ptes[") and _same_page(*change))
    }


def _same_page(old: Any, new: Any) -> bool:
    """Whether two entries map the same page; a lost right to write comes back with the next fault."""
    return old is not None and new is not None and old.page is new.page


def region_growth(op: Operation, resv_map: Any = None, *, private: bool | None = None) -> int:
    """How many offsets the operation's own writes have added to region lists; truncation counts negative."""
    return sum(
        len(e.data["new"]) - len(e.data["old"])
        for e in op.all("write")
        if e.data["field"] == "regions"
        and (resv_map is None or e.data["obj"] is resv_map)
        and (private is None or e.data["obj"].private is private)
    )


def wrote_counters(section: Section) -> bool:
    """Whether any pool counter differs between start and end of the section."""
    return bool(section.deltas())


def events(section: Section, *kinds: str) -> list[Event]:
    """The steps of these kinds inside the section."""
    return section.did(*kinds)


def allocating(section: Section) -> bool:
    """Whether this is the section in which a fault's allocation is decided."""
    return bool(section.did("availability_test"))


def out_of_memory(op: Operation) -> bool:
    """Whether the fault has reported that there is no memory."""
    return op.result is VM_FAULT_OOM
