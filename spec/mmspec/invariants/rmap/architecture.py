"""ARCH: where machines differ, and what must not."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.arch import PteValue
from mmspec.invariant import QUIESCENT, Over, lock_rule, postcondition, precondition, state_invariant, transition
from mmspec.invariants.rmap.terms import (
    PTL,
    VM_GROWSDOWN,
    VM_GROWSUP,
    VM_HUGETLB,
    VM_NONLINEAR,
    VM_STACK_INCOMPLETE_SETUP,
    census,
    heads,
)
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

KEYS = ("storage key",)
S390 = ("s390x",)
POWER = ("powerpc64",)
NARROW = ("i386", "i386-pae")

#: Kinds of entries that may stand in a slot of each level.
KINDS = {
    "pte": ("present", "swap", "migration", "hwpoison", "file"),
    "pmd": ("present",),
    "huge": ("present", "migration", "hwpoison"),
}


@state_invariant(
    "ARCH-S390-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("page_remove_rmap", "page_mkclean", "page_referenced"),
    fields=KEYS,
    functions=("page_test_and_clear_dirty", "page_test_and_clear_young"),
)
def keys_are_where_there_are_keys(world: Any) -> Truth:
    """A page MUST NOT be dirty or young apart from its entries and flags unless the machine has storage keys.

    Elsewhere asking for the key answers no, and whatever were noted there would be lost.
    """
    if world.storage_keys:
        return VACUOUS
    return every(not p.key_dirty and not p.key_young for p in heads(world))


@transition(
    "ARCH-S390-002",
    over=Over.OPERATION,
    on=("page_mkclean", "page_remove_rmap"),
    source=rmap("page_mkclean", "page_remove_rmap"),
    fields=KEYS,
    functions=("page_mkclean", "page_remove_rmap", "page_test_and_clear_dirty"),
    architectures=S390,
    since="3.0",
)
def key_is_cleared_at_once_as_of_a_mapped_page(op: Operation) -> Truth:
    """The dirty bit of a storage key MUST be tested and cleared in one step, at most once for each time that a page is cleaned
    or loses its last mapping, and as that of a page which others may use through a mapping.

    A write between test and clear is lost; and of a page that may be mapped other CPUs remember what the key says.
    """
    steps = [e for e in op.all("key_clear") if e.which == "dirty"]
    return implies(steps, lambda: len(steps) == 1 and steps[0].mapped)


@transition(
    "ARCH-S390-003",
    over=Over.OPERATION,
    on=("page_remove_rmap",),
    source=rmap("page_remove_rmap"),
    fields=(*KEYS, "page.PG_dirty"),
    functions=("page_remove_rmap",),
    architectures=S390,
    would_catch="a page that is dropped from the swap cache as clean, while another process's entry still needs what is in it",
)
def key_is_kept_of_pages_in_the_swap_cache(op: Operation, page: Any) -> Truth:
    """When a page of the swap cache loses its last mapping, a dirty storage key MUST become PG_dirty.

    Other entries may refer to the slot, and nothing has been written to it yet.
    """
    steps = [e for e in op.events if e.kind == "write" and e.data["obj"] is page and e.data["field"] == "_mapcount"]
    last = any(e.new < 0 <= e.old for e in steps)
    return implies(last and page.PG_swapcache and op.get("key_dirty"), lambda: bool(page.PG_dirty))


@state_invariant(
    "ARCH-PT-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("__page_check_address", "try_to_unmap_cluster"),
    fields=("pgd", "pud", "pmd", "pte"),
    functions=("__page_check_address", "try_to_unmap_cluster"),
)
def walks_go_down_all_levels(world: Any) -> Truth:
    """Page tables MUST have the levels that the machine has: a folded one translates no bit of an address and is never absent,
    the others together translate each address that a process can have, and what is mapped lies among these.

    Walks are written for the largest number of levels and find the entry of the one above where there are fewer.
    """
    arch = world.arch
    shape = all((level.bits == 0) == level.folded for level in arch.levels)
    reach = arch.user_end <= 1 << arch.va_bits
    return every(
        shape and reach and 0 <= place.vpn * arch.page_size < arch.user_end for place in census(world).places
    )


@lock_rule(
    "ARCH-PTL-001",
    on=("slot_locked",),
    source=rmap("split-ptlock", "__page_check_address"),
    locks=PTL,
    functions=("__page_check_address", "page_referenced_one"),
)
def one_lock_for_each_slot(event: Event) -> Truth:
    """Whether locks of page tables are split MUST make no other difference than which lock covers a slot: that of the table if
    they are and there is a table of ptes, else that of the address space, and the same one for everybody.

    Who takes one of them and who takes the other for the same slot work at the same time.
    """
    mm, lock = event.mm, event.lock
    if lock.owner is mm:
        split = mm.system.split_ptlocks and event.vpn // mm.system.ptrs_per_pte in mm.tables
        return lock.cls == "page_table_lock" and not (split and not _huge(mm, event.vpn))
    return lock.cls == "ptl" and mm.system.split_ptlocks and lock.owner.mm is mm


def _huge(mm: Any, vpn: int) -> bool:
    system = mm.system
    area = mm.area_at(vpn * system.page_size)
    return vpn // system.ptrs_per_pte in mm.pmds or (area is not None and bool(area.vm_flags & VM_HUGETLB))


@postcondition(
    "ARCH-CLUSTER-001",
    on=("try_to_unmap_cluster",),
    source=rmap("cluster", "try_to_unmap_cluster"),
    fields=("CLUSTER_SIZE",),
)
def cluster_lies_in_one_table(vma: Any, op: Operation) -> Truth:
    """CLUSTER_SIZE MUST be the smaller one of 32 base pages and what one page table spans, and a power of two; so no window of
    the scan reaches into a second table.

    The scan holds the lock of one table.
    """
    system = vma.mm.system
    size = system.cluster_size
    start, end = op.get("window", (0, 0))
    right = size == min(32 * system.page_size, system.pmd_size) and size & (size - 1) == 0
    return implies(end > start, lambda: right and start // size == (end - 1) // size)


@postcondition(
    "ARCH-STACK-001",
    on=("is_vma_temporary_stack",),
    source=rmap("is_vma_temporary_stack"),
    fields=("vma.vm_flags",),
    since="2.6.35",
    would_catch="temporary stacks that are not recognised where stacks grow upwards",
)
def stacks_are_known_whichever_way_they_grow(vma: Any, result: bool) -> Truth:
    """Whether an area is a stack that exec is moving MUST depend on both bits of its marker, and be the same for stacks that
    grow down and for such that grow up.

    Each bit alone is advice on how the area is read.
    """
    grows = vma.vm_flags & (VM_GROWSDOWN | VM_GROWSUP)
    marked = vma.vm_flags & VM_STACK_INCOMPLETE_SETUP == VM_STACK_INCOMPLETE_SETUP
    return implies(grows, lambda: result == marked)


@transition(
    "ARCH-CACHE-001",
    over=Over.OPERATION,
    on=("try_to_unmap_one", "page_mkclean_one", "try_to_unmap_cluster"),
    source=rmap("page_mkclean_one", "try_to_unmap_one", "try_to_unmap_cluster"),
    fields=("pte",),
    functions=("page_mkclean_one", "try_to_unmap_one", "try_to_unmap_cluster"),
    would_catch="data that stays in lines of a virtually indexed cache which nobody can name any more",
)
def caches_are_flushed_while_the_translation_stands(op: Operation) -> Truth:
    """The cache lines of a page MUST be flushed before its entry is cleared, while the translation is still there.

    A virtually indexed cache needs the translation to write them back; elsewhere the flush does nothing.
    """

    def flushed(clear: Event) -> bool:
        return any(
            e.mm is clear.mm and e.vpn == clear.vpn and e.valid and e.seq < clear.seq for e in op.all("flush_cache_page")
        )

    clears = [e for e in op.all("ptep_clear") if e.level == "pte" and e.entry is not None and e.entry.kind == "present"]
    return every(flushed(e) for e in clears)


@state_invariant(
    "ARCH-PTE-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("try_to_unmap_one", "swapless"),
    fields=("pte",),
    functions=("try_to_unmap_one", "try_to_unmap_cluster"),
)
def entries_are_of_one_kind(world: Any) -> Truth:
    """What an entry is, empty, present, of swap, migration, poison or a file's index, MUST be told by its bits alone, each kind
    only where it can be: index entries in nonlinear areas, and in the table of a huge page none but present ones.

    Kinds that overlap on some machine would be taken for each other: a page's frame number read as a place in swap.
    """
    arch = world.arch

    def right(place: Any) -> bool:
        entry = place.entry
        if entry.kind not in KINDS[place.level]:
            return False
        if entry.kind == "file":
            return place.vma is not None and bool(place.vma.vm_flags & VM_NONLINEAR)
        if entry.kind != "present":
            return True
        huge = place.level != "pte"
        value = PteValue(0, True, entry.write, huge=huge)
        read = arch.decode(arch.encode(value), huge=huge)
        gone = arch.decode(arch.encode(PteValue(0, False, False, huge=huge)), huge=huge)
        return read.present and read.writable == entry.write and not gone.present

    return every(right(place) for place in census(world).places)


@postcondition(
    "ARCH-PTE-002",
    on=("swapon_type",),
    source=rmap("swapless"),
    fields=("MAX_SWAPFILES",),
    functions=("swapon_type",),
    features=("SWAP",),
    since="2.6.18",
)
def special_entries_take_types_from_swap(system: Any, taken: int, result: int) -> Truth:
    """Each special kind of entry, two for migration and one for poison, MUST take a type away from those that swap devices can
    have.

    A device of that type would have entries that are taken for pages on their way, or for broken ones.
    """
    special = 2 * system.has("MIGRATION") + system.has("MEMORY_FAILURE")
    left = 32 - special
    return result == (taken if taken < left else -errno.EPERM)


@postcondition(
    "ARCH-PTE-003",
    on=("page_check_address",),
    source=rmap("__page_check_address"),
    fields=("pte",),
    architectures=POWER,
    since="2.6.28",
)
def empty_moments_are_tolerated(op: Operation, result: Any) -> Truth:
    """Where setting an entry leaves its slot empty for a moment, a look without the lock that meets this moment MUST do no harm:
    who may miss the mapping is told that there is none, and holds nothing.

    Who must not miss one takes the lock first.
    """
    if op.get("sync") or "probed" not in op.noted or op.noted["probed"] is not None:
        return VACUOUS
    return result is None and op.context.held == op.held_at_entry


@precondition(
    "ARCH-THP-001",
    on=("page_add_new_anon_rmap",),
    source=rmap("thp"),
    fields=("pmd",),
    features=("TRANSPARENT_HUGEPAGE",),
    since="2.6.38",
)
def huge_pages_are_what_a_pmd_maps(page: Any) -> Truth:
    """Trans-huge pages MUST exist only where the machine can map a huge page by an entry of the level above ptes, with base
    pages beside it.

    Where page sizes cannot be mixed in one region a huge page can be neither assembled nor split in place.
    """
    arch = page.system.arch
    return implies(
        page.order > 0 and not page.huge, lambda: arch.has("thp") and arch.bytes_per_entry("pmd") in arch.huge_page_sizes
    )


@state_invariant(
    "ARCH-THP-002",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("thp"),
    fields=("page.order",),
    functions=("do_huge_pmd_anonymous_page", "hugetlb_fault"),
    since="2.6.38",
    until="4.8",
)
def other_sizes_are_hugetlb(world: Any) -> Truth:
    """A mapped compound page that is not of the size that one pmd entry spans MUST be a hugetlb page.

    Reverse mapping of trans-huge pages knows one size.
    """
    return every(p.huge or p.nr_pages * world.page_size == world.pmd_size for p in census(world).maps if p.order)


def place_is_exact(page: Any, vma: Any, result: int) -> Truth:
    """Whether an address was computed exactly if the page's index lies in the area, and only then."""
    system = vma.mm.system
    index = page.index << system.huge_page_order if vma.vm_flags & VM_HUGETLB else page.index
    pages = index - vma.vm_pgoff
    if not 0 <= pages < (vma.vm_end - vma.vm_start) // system.page_size:
        return result == -errno.EFAULT
    return bool(result == vma.vm_start + pages * system.page_size)


@postcondition(
    "ARCH-WORD-001",
    on=("vma_address",),
    source=rmap("vma_address") + field_2011("analysis"),
    fields=("page.index", "vma.vm_pgoff"),
    architectures=NARROW,
)
def narrow_words_compute_the_same(page: Any, vma: Any, result: int) -> Truth:
    """On a machine with words of 32 bits the address of a page in an area MUST be the same as on one with 64.

    An index counts pages and may be larger than any address shifted down; shifted up, it loses its upper bits.
    """
    return place_is_exact(page, vma, result)


@state_invariant(
    "ARCH-TAG-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("__page_set_anon_rmap"),
    fields=("page.mapping",),
    functions=("__page_set_anon_rmap", "page_get_anon_vma"),
)
def tags_fit_under_pointers(world: Any) -> Truth:
    """Whatever `mapping` can point to, an anon_vma, a node of the stable tree or a file, MUST be aligned to four bytes at least.

    The two lowest bits of the pointer say what it points to.
    """
    tagged = [*world.live_anon_vmas, *world.files, *world.stable_tree.values()]
    return every(getattr(x, "address", 0) % 4 == 0 for x in tagged)
