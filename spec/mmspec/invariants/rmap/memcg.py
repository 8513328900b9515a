"""MEMCG: a page is charged to one control group, once, however often it is mapped."""

from __future__ import annotations

from typing import Any

from mmspec.errors import SWAP_AGAIN, SWAP_SUCCESS
from mmspec.invariant import QUIESCENT, Over, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    TTU_ACTION_MASK,
    TTU_MIGRATION,
    VM_NONLINEAR,
    area_of,
    heads,
    is_anon,
    is_temporary_stack,
    mapped,
    own_writes,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import rmap
from mmspec.trace import Event, Operation

GROUPS = ("CGROUP_MEM_RES_CTLR",)


@transition(
    "MEMCG-CHARGE-001",
    over=Over.EVENT,
    on=("charge",),
    source=rmap("memcg"),
    fields=("page.memcg", "memcg.usage"),
    functions=("mem_cgroup_newpage_charge",),
    features=GROUPS,
    would_catch="a reference count per page and group, with its lock, that each mapping and unmapping had to take",
    since="2.6.27",
)
def charge_comes_with_the_first_mapping(event: Event) -> Truth:
    """A page MUST be charged only while it is not charged, and before it is mapped or by the thread that is adding its first
    and only mapping: an anonymous page at its first mapping, a page of a file when it enters the page cache.

    As further mappings do not count, there is nothing to count back either.
    """
    page = event.page
    if event.charged or page._mapcount > 0:
        return False
    return not mapped(page) or (event.op is not None and _mapped_by(event.op, page))


def _mapped_by(op: Operation, page: Any) -> bool:
    """Whether the operation has added the page's first mapping."""
    return any(e.old == -1 and e.new == 0 for e in own_writes(op, "_mapcount", of=page))


@transition(
    "MEMCG-CHARGE-002",
    over=Over.EVENT,
    on=("uncharge",),
    source=rmap("memcg", "page_remove_rmap"),
    fields=("page.memcg", "memcg.usage"),
    functions=("mem_cgroup_uncharge_page", "mem_cgroup_uncharge_cache_page"),
    features=GROUPS,
    would_catch="a page of a file that a group stops paying for when one process unmaps it",
    since="2.6.27",
)
def charge_ends_with_last_mapping_or_cache(event: Event) -> Truth:
    """The charge of a page MUST end only when it is anonymous, or of no kind yet, and nothing maps it (any more), or when it
    has left the page cache.
    """
    page = event.page
    if event.left_page_cache:
        return page.mapping is None or page.mapping.bits != 0 or page.mapping.pointer.pages.get(page.index) is not page
    return not mapped(page) and (page.mapping is None or is_anon(page))


@state_invariant(
    "MEMCG-CHARGE-003",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("memcg"),
    fields=("page.memcg", "memcg.usage"),
    functions=("mem_cgroup_newpage_charge", "mem_cgroup_uncharge_page", "mem_cgroup_uncharge_cache_page"),
    features=GROUPS,
    implied_by=("MEMCG-CHARGE-001",),
    would_catch="a group at its limit with no page that could be taken from it",
    since="2.6.27",
)
def usage_is_the_pages_charged(world: Any) -> Truth:
    """With nothing in flight, the usage of each control group MUST be the base pages of the pages charged to it, each page
    counted once however often it is mapped.
    """
    return every(
        group.usage == sum(page.nr_pages for page in heads(world) if page.memcg is group) for group in world.memcgs
    )


@state_invariant(
    "MEMCG-FILEMAP-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("page_add_file_rmap", "page_remove_rmap"),
    fields=("memcg.NR_FILE_MAPPED", "zone.NR_FILE_MAPPED"),
    functions=("page_add_file_rmap", "page_remove_rmap"),
    features=GROUPS,
    implied_by=("RMAP-ADDFILE-001", "RMAP-REMOVE-007"),
    since="2.6.31",
)
def group_counts_its_mapped_file_pages(world: Any) -> Truth:
    """With nothing in flight, a group's count of mapped file pages MUST be the number of pages charged to it that are
    mapped, of a file, and not hugetlb.

    It moves with that of the zone, at the first and the last mapping.
    """

    def counts(page: Any, group: Any) -> bool:
        return page.memcg is group and mapped(page) and not is_anon(page) and not page.huge

    return every(sum(counts(page, group) for page in heads(world)) == group.NR_FILE_MAPPED for group in world.memcgs)


@postcondition(
    "MEMCG-REF-001",
    on=("try_to_unmap",),
    source=rmap("page_referenced_anon", "page_referenced_file", "try_to_unmap_anon", "try_to_unmap_file"),
    fields=("mm.memcg",),
    functions=("try_to_unmap_anon", "try_to_unmap_file", "page_referenced_anon", "page_referenced_file"),
    features=GROUPS,
    would_catch="a page that can never be freed, as only the mappings of one group are removed",
    since="2.6.25",
)
def unmapping_does_not_ask_for_groups(op: Operation, result: Any) -> Truth:
    """A walk that unmaps a page MUST visit the mappings of every control group; only asking for references leaves groups out.

    What keeps a page in memory is its mappings, whosever they are.
    """
    if not op.alone or result not in (SWAP_SUCCESS, SWAP_AGAIN):
        return VACUOUS
    vmas = [vma for vma in dict.fromkeys(area_of(slot) for slot in op.slots_before) if vma is not None]
    if op.flags & TTU_ACTION_MASK == TTU_MIGRATION:
        vmas = [vma for vma in vmas if not is_temporary_stack(vma)]
    visited = [e.vma for e in op.all("visit")]
    linear = [vma for vma in vmas if not vma.vm_flags & VM_NONLINEAR]
    return implies(len({vma.mm.memcg for vma in linear}) > 1, lambda: all(vma in visited for vma in linear))
