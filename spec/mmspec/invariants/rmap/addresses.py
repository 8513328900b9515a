"""RMAP-ADDR, RMAP-PCA: where an area would map a page, and whether it does."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.invariant import lock_rule, postcondition, precondition
from mmspec.invariants.rmap.terms import (
    PTL_CLASSES,
    VM_HUGETLB,
    VM_NONLINEAR,
    is_anon,
    is_ksm,
    linear_page_index,
    lock_of,
    maps_at,
    pav,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

FAULT = -errno.EFAULT
GEOMETRY = ("page.index", "vma.vm_start", "vma.vm_end", "vma.vm_pgoff")


def _pgoff(op: Operation) -> int:
    """The page's index in base pages, as the area counts."""
    shift = op.page.order if op.vma.vm_flags & VM_HUGETLB else 0
    return int(op.page.index << shift)


def _distance(op: Operation) -> int:
    """How many base pages the page is from the start of the area; it may lie outside."""
    return int(_pgoff(op) - op.vma.vm_pgoff)


def _length(vma: Any) -> int:
    return int((vma.vm_end - vma.vm_start) // vma.mm.system.page_size)


@postcondition(
    "RMAP-ADDR-001", on=("vma_address",), source=rmap("vma_address"), fields=GEOMETRY, since="2.6.12", interfaces=("ReverseMap",)
)
def address_follows_from_the_offset(op: Operation, result: int) -> Truth:
    """An address that is found MUST be `vm_start` plus the page's offset in the object less `vm_pgoff`, in base pages.

    Every walk looks at this address and at no other.
    """
    return implies(
        result != FAULT, lambda: result == op.vma.vm_start + _distance(op) * op.vma.mm.system.page_size
    )


@postcondition(
    "RMAP-ADDR-002",
    on=("vma_address",),
    source=rmap("vma_address", "new-vma-page"),
    fields=GEOMETRY,
    would_catch="mbind() of 2.6.23 stopping at a BUG_ON for a page that another area of the process maps",
    since="2.6.24",
    interfaces=("ReverseMap",),
)
def answer_lies_inside_or_is_a_refusal(op: Operation, result: int) -> Truth:
    """The answer MUST be an address inside of the area, or -EFAULT where the page belongs elsewhere; asking is no error.

    Those who look for the right area ask each of them.
    """
    return bool(result == FAULT or op.vma.vm_start <= result < op.vma.vm_end)


@postcondition(
    "RMAP-ADDR-003",
    on=("vma_address",),
    source=rmap("vma_address", "__page_check_anon_rmap") + field_2011("analysis"),
    fields=GEOMETRY,
    functions=("vma_address", "linear_page_index"),
    interfaces=("ReverseMap",),
)
def address_and_index_are_inverse(op: Operation, result: int) -> Truth:
    """On a linear area, the linear index of the address that was found for a page MUST be the index of the page.

    One is stored when a page is mapped, the other is computed when it is looked for.
    """
    return implies(
        result != FAULT and not op.vma.vm_flags & VM_NONLINEAR,
        lambda: linear_page_index(op.vma, result // op.vma.mm.system.page_size) == op.page.index,
    )


@postcondition(
    "RMAP-ADDR-004",
    on=("vma_address",),
    source=rmap("vma_address"),
    fields=GEOMETRY,
    features=("HUGETLB_PAGE",),
    would_catch="a poisoned hugetlb page looked for at an address scaled by base pages",
    since="2.6.36",
)
def huge_areas_count_in_huge_pages(op: Operation, result: int) -> Truth:
    """In a hugetlb area the page's index MUST be taken as a number of huge pages of the page's own size, so each address
    is that of a whole huge page.
    """
    if not op.vma.vm_flags & VM_HUGETLB or result == FAULT:
        return VACUOUS
    span = op.vma.mm.system.page_size << op.page.order
    first = op.page.index * span - op.vma.vm_pgoff * op.vma.mm.system.page_size
    return bool(result - op.vma.vm_start == first)


@postcondition(
    "RMAP-ADDR-005",
    on=("vma_address",),
    source=rmap("vma_address", "page_referenced_file", "page_mkclean_file", "try_to_unmap_file", "rmap_walk_file"),
    fields=GEOMETRY,
)
def other_areas_count_in_cache_pages(op: Operation, result: int) -> Truth:
    """In any other area the page's index MUST be taken in units of the page cache, which in this release are base pages,
    whatever the order of the page; neighbours in the file are neighbours in the area.
    """
    size = op.vma.mm.system.page_size
    return implies(
        result != FAULT and not op.vma.vm_flags & VM_HUGETLB,
        lambda: (result - op.vma.vm_start) % size == 0 and (result - op.vma.vm_start) // size + op.vma.vm_pgoff == op.page.index,
    )


@postcondition(
    "RMAP-ADDR-006",
    on=("page_address_in_vma",),
    source=rmap("page_address_in_vma"),
    fields=("page.mapping", "vma.anon_vma", "anon_vma.root"),
    would_catch="an address reported for a page of an unrelated process that happens to have the same index",
    since="2.6.36",
    interfaces=("ReverseMap",),
)
def anonymous_page_of_another_tree_has_no_address(op: Operation, result: int) -> Truth:
    """For an anonymous page the answer MUST be -EFAULT unless page and area both have an anon_vma and both are of one
    tree.

    Indices of anonymous memory are addresses, so they coincide between processes that have nothing in common.
    """
    page, own = op.page, op.vma.anon_vma
    related = own is not None and pav(page) is not None and own.root is pav(page).root
    return implies(is_anon(page) and not related, lambda: result == FAULT)


@postcondition(
    "RMAP-ADDR-007",
    on=("page_address_in_vma",),
    source=rmap("page_address_in_vma", "unpaged"),
    fields=("page.mapping", "vma.vm_file"),
    would_catch="an Oops on an area without a file",
    interfaces=("ReverseMap",),
)
def page_of_another_file_has_no_address(op: Operation, result: int) -> Truth:
    """For a page that is not anonymous the answer MUST be -EFAULT unless the area is linear and maps the page's
    file; an area without a file is asked like any other.
    """
    page, vma = op.page, op.vma
    fits = (
        page.mapping is not None
        and not vma.vm_flags & VM_NONLINEAR
        and vma.vm_file is not None
        and vma.vm_file is page.mapping.pointer
    )
    return implies(not is_anon(page) and not fits, lambda: result == FAULT)


@postcondition(
    "RMAP-ADDR-008",
    on=("page_address_in_vma",),
    source=rmap("page_address_in_vma", "ksm-swappable"),
    fields=("page.mapping",),
    features=("KSM",),
    since="2.6.33",
)
def merged_page_has_no_address(op: Operation, result: int) -> Truth:
    """For a merged page the answer MUST be -EFAULT: no anon_vma follows from it, and its index means nothing."""
    return implies(is_ksm(op.page), lambda: result == FAULT)


@postcondition(
    "RMAP-ADDR-009",
    on=("page_address_in_vma",),
    source=rmap("page_address_in_vma"),
    fields=("page.mapping", "page.index"),
    since="2.6.35",
    interfaces=("ReverseMap",),
)
def address_does_not_depend_on_being_mapped(op: Operation, result: int) -> Truth:
    """An area of the right tree or file that covers the page's index MUST give an address also where the page is not
    mapped there (any more); so an address is no proof of a mapping.

    swapoff asks for pages that nothing maps, and compares the entry itself.
    """
    page, vma = op.page, op.vma
    if is_anon(page):
        possible = pav(page) is not None and vma.anon_vma is not None and vma.anon_vma.root is pav(page).root
    else:
        possible = page.mapping is not None and vma.vm_file is page.mapping.pointer and not vma.vm_flags & VM_NONLINEAR
    if not possible or not 0 <= _distance(op) < _length(vma):
        return VACUOUS
    vpn = vma.vm_start // vma.mm.system.page_size + _distance(op)
    return implies(not maps_at(page, vma.mm, vpn), lambda: result != FAULT)


@postcondition(
    "RMAP-ADDR-010",
    on=("vma_address",),
    source=rmap("vma_address") + field_2011("analysis"),
    fields=GEOMETRY,
    would_catch="on 32 bits, a page 4 GiB further on in the file that appears inside of the area (3.2 shifts modulo 2**32)",
    interfaces=("ReverseMap",),
)
def no_page_is_aliased_into_the_area(op: Operation, result: int) -> Truth:
    """An address MUST be given exactly for the pages whose offset is at least `vm_pgoff` and less than the area's length
    beyond it, however far away the others are and whatever the size of a machine word.
    """
    return (result != FAULT) == (0 <= _distance(op) < _length(op.vma))


@postcondition(
    "RMAP-ADDR-011",
    on=("vma_address", "page_address_in_vma"),
    source=rmap("vma_address", "page_address_in_vma") + field_2011("analysis"),
    fields=GEOMETRY,
)
def asking_for_an_address_changes_nothing(op: Operation) -> Truth:
    """Computing an address MUST change no state and take no lock; what keeps page and area alive is all that it needs."""
    return not op.did("write", "set_pte", "acquire", "release", "alloc", "get_page", "put_page")


# -- page_check_address ---------------------------------------------------------------------------------------------------

CHECK = ("page_check_address",)


def _vpn(op: Operation) -> int:
    return int(op.address // op.mm.system.page_size)


def _slot_level(op: Operation) -> str:
    return "huge" if op.page.huge else "pte"


def _mapped_there(op: Operation) -> bool:
    return maps_at(op.page, op.mm, _vpn(op), _slot_level(op))


def _slot_locks(op: Operation) -> list[Event]:
    return [e for e in op.all("acquire") if e.lock.cls in PTL_CLASSES]


@postcondition(
    "RMAP-PCA-001",
    on=CHECK,
    source=rmap("__page_check_address"),
    fields=("pte",),
    locks=PTL_CLASSES,
    would_catch="a slot handed out whose entry was read before its lock was taken",
    since="2.6.15",
)
def found_slot_is_locked_and_maps_the_page(op: Operation, result: Any) -> Truth:
    """A slot that is returned MUST be locked by the caller's thread, and its entry be present and refer to the page.

    The caller goes on to change the entry without looking again.
    """
    if result is None:
        return VACUOUS
    owner = lock_of(op.mm, result.vpn, result.level)
    held = any(h.cls in PTL_CLASSES and h.owner is owner for h in op.context.held)
    return held and result.vpn == _vpn(op) and result.entry.kind == "present" and result.entry.page is op.page and _mapped_there(op)


@postcondition("RMAP-PCA-002", on=CHECK, source=rmap("__page_check_address"), locks=PTL_CLASSES)
def nothing_found_is_nothing_held(op: Operation, result: Any) -> Truth:
    """If no slot is returned, the thread MUST hold the same locks as before."""
    return implies(result is None, lambda: op.context.held == op.held_at_entry)


@postcondition(
    "RMAP-PCA-003",
    on=CHECK,
    source=rmap("__page_check_address"),
    fields=("pte",),
    locks=PTL_CLASSES,
    implied_by=("RMAP-PCA-008",),
    would_catch="on powerpc64, a dirty mapping missed by page_mkclean() while its entry was rewritten (2008)",
    since="2.6.27",
)
def synchronous_check_misses_nothing(op: Operation, result: Any) -> Truth:
    """With `sync`, a slot that maps the page whenever nobody holds its lock MUST be found, also while somebody who holds
    the lock has emptied it for a moment.

    Without a mapping found a dirty page counts as clean.
    """
    return implies(op.sync and _mapped_there(op), lambda: result is not None)


@postcondition(
    "RMAP-PCA-004",
    on=CHECK,
    source=rmap("__page_check_address"),
    fields=("pte",),
    locks=PTL_CLASSES,
    would_catch="reclaim taking the page-table lock of every process that shares a library, for each of its pages",
    since="2.6.27",
)
def unlocked_look_may_only_skip_empty_slots(op: Operation, result: Any) -> Truth:
    """Without `sync`, a mapping MUST be missed only where a look without the lock found no present entry; then the
    lock MUST NOT be taken at all.

    The look is worth its inexactness only if it saves the lock.
    """
    if op.sync or result is not None or op.page.huge or "probed" not in op.noted:
        return VACUOUS
    if op.probed is None or op.probed.kind != "present":
        return not _slot_locks(op)
    return not _mapped_there(op)


@postcondition(
    "RMAP-PCA-005",
    on=CHECK,
    source=rmap("__page_check_address", "thp"),
    fields=("pmd",),
    would_catch="the memory of a trans-huge page read as if it were a page of ptes",
)
def missing_levels_map_nothing(op: Operation, result: Any) -> Truth:
    """Where there is no page table for the address, or a trans-huge page takes its place, nothing MUST be found."""
    index = _vpn(op) // op.mm.system.ptrs_per_pte
    return implies(
        not op.page.huge and (index in op.mm.pmds or index not in op.mm.tables), lambda: result is None
    )


@postcondition(
    "RMAP-PCA-006",
    on=CHECK,
    source=rmap("__page_check_address") + field_2011("later"),
    fields=("huge_pte",),
    locks=("page_table_lock",),
    features=("HUGETLB_PAGE",),
    would_catch="the Oops of 3.2 for a hugetlb area without page table (upstream: check for pte NULL pointer, 2013)",
    since="2.6.35",
)
def hugetlb_slot_or_nothing(op: Operation, result: Any) -> Truth:
    """For a hugetlb page the huge entry MUST be looked at under the `page_table_lock` of the address space, and where
    there is no table for one nothing MUST be found.
    """
    if not op.page.huge:
        return VACUOUS
    if _vpn(op) not in op.mm.huge_tables:
        return result is None
    locks = _slot_locks(op)
    return every(e.lock.cls == "page_table_lock" and e.lock.owner is op.mm for e in locks) and bool(locks)


@lock_rule(
    "RMAP-PCA-007",
    on=("slot_locked",),
    source=rmap("split-ptlock", "__page_check_address"),
    locks=PTL_CLASSES,
    functions=CHECK,
    would_catch="the lock of the address space taken where each table has its own: two threads in one table",
    since="2.6.15",
)
def slot_is_looked_at_under_its_own_lock(event: Event) -> Truth:
    """The lock under which a slot is examined MUST be the one that is designated for its page table: the table's own
    where these locks are split, else that of the address space.
    """
    op = event.op
    if op is None or op.name != "page_check_address":
        return VACUOUS
    return event.lock.owner is lock_of(event.mm, event.vpn, _slot_level(op))


@precondition(
    "RMAP-PCA-008",
    on=CHECK,
    source=rmap("page_mkclean_one", "page_mapped_in_vma"),
    fields=("pte",),
    would_catch="the missed dirty mapping on powerpc64 (2008)",
    since="2.6.28",
)
def exact_callers_ask_exactly(op: Operation) -> Truth:
    """Cleaning and the test whether an area maps a page MUST ask with `sync`; only reclaim may be content with less.

    Reclaim comes back; who believes a page clean does not.
    """
    caller = op.parent.name if op.parent is not None else ""
    return implies(caller in ("page_mkclean_one", "page_mapped_in_vma"), lambda: bool(op.sync))


@postcondition(
    "RMAP-PCA-009",
    on=("page_mapped_in_vma",),
    source=rmap("page_mapped_in_vma"),
    fields=("pte",),
    would_catch="a process killed for failed memory that it does not map",
    since="2.6.28",
)
def mapped_in_area_is_exact(op: Operation, result: int) -> Truth:
    """In a linear area that is not hugetlb, 1 MUST be returned if the area maps the page where its index says, else 0;
    no lock is left held and nothing is changed.
    """
    vma = op.vma
    if vma.vm_flags & (VM_NONLINEAR | VM_HUGETLB) or op.page.order:
        return VACUOUS
    distance = _distance(op)
    vpn = vma.vm_start // vma.mm.system.page_size + distance
    there = 0 <= distance < _length(vma) and maps_at(op.page, vma.mm, vpn)
    return result == int(there) and op.context.held == op.held_at_entry and not op.did("set_pte", "write")
