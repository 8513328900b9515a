"""LOCK-ORD and LOCK-PROT: which lock is taken inside which, and which lock protects what."""

from __future__ import annotations

from typing import Any, Final

from mmspec.invariant import Over, lock_rule, transition
from mmspec.invariants.rmap.roots import A_MUTEX, MUTEX
from mmspec.invariants.rmap.terms import (
    PAGE_MAPPING_ANON,
    PTL,
    VM_LOCKED,
    chain,
    is_anon,
    under_ptl,
)
from mmspec.logic import VACUOUS, Truth, both, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation, Run

#: Class of lock to its rank: what has a smaller one is taken first. Two classes of one rank are not taken inside each
#: other, but for the edges below. `ptl` is the lock of one table, where these are split, and `page_table_lock` that of
#: all others of the address space. The documentation draws its picture from this.
LOCK_RANKS: Final[dict[str, float]] = {
    "i_mutex": 0,
    "mmap_sem": 1,
    "page_lock": 2,
    "i_mmap_mutex": 3,
    "anon_vma_mutex": 4,
    "tasklist_lock": 4.5,
    "page_table_lock": 5,
    "ptl": 5,
    "lru_lock": 6,
    "swap_lock": 6,
    "compound_lock": 6.5,
    "mmlist_lock": 7,
    "private_lock": 7,
    "i_lock": 7,
    "wb_list_lock": 7,
    "sb_lock": 8,
    "tree_lock": 8,
}

#: Class to the kernel's name of the lock.
LOCK_NAMES: Final = {
    "i_mutex": "inode->i_mutex",
    "mmap_sem": "mm->mmap_sem",
    "page_lock": "PG_locked",
    "i_mmap_mutex": "mapping->i_mmap_mutex",
    "anon_vma_mutex": "anon_vma->root->mutex",
    "tasklist_lock": "tasklist_lock",
    "page_table_lock": "mm->page_table_lock",
    "ptl": "lock of the page table",
    "compound_lock": "compound_lock",
    "lru_lock": "zone->lru_lock",
    "swap_lock": "swap_lock",
    "mmlist_lock": "mmlist_lock",
    "private_lock": "mapping->private_lock",
    "i_lock": "inode->i_lock",
    "wb_list_lock": "bdi.wb->list_lock",
    "sb_lock": "sb_lock",
    "tree_lock": "mapping->tree_lock",
}

#: Edges that have an id of their own: the number of LOCK-ORD to the outer classes and the inner ones.
LOCK_EDGES: Final[dict[int, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    1: (("i_mutex",), ("mmap_sem",)),
    2: (("mmap_sem",), ("page_lock",)),
    3: (("page_lock",), ("i_mmap_mutex",)),
    4: (("i_mmap_mutex",), ("anon_vma_mutex",)),
    5: (("anon_vma_mutex",), PTL),
    6: (PTL, ("lru_lock",)),
    7: (PTL, ("swap_lock",)),
    8: (("swap_lock",), ("mmlist_lock",)),
    9: (PTL, ("private_lock",)),
    10: (PTL, ("i_lock",)),
    11: (PTL, ("wb_list_lock",)),
    12: (("wb_list_lock",), ("sb_lock",)),
    13: (("wb_list_lock",), ("tree_lock",)),
    14: (("private_lock",), ("tree_lock",)),
    15: (("anon_vma_mutex",), ("tasklist_lock",)),
    16: (("i_mmap_mutex",), ("tasklist_lock",)),
    17: (("tasklist_lock",), PTL),
    18: (("mmap_sem",), ("page_table_lock",)),
}

#: Locks of walkers: whoever has one of them must not wait for `mmap_sem`.
WALKERS_LOCKS: Final = ("page_lock", "i_mmap_mutex", "anon_vma_mutex", *PTL)
#: Locks that reclaim takes.
RECLAIMS_LOCKS: Final = ("i_mmap_mutex", "anon_vma_mutex", *PTL)
#: Functions that go from a page to its mappings.
WALKS: Final = ("page_referenced", "page_mkclean", "try_to_unmap", "try_to_munlock", "rmap_walk")


def in_order(event: Event, edge: int) -> Truth:
    """Whether a lock that has been waited for keeps an edge of :data:`LOCK_EDGES`: nothing inner is held when an outer one
    is taken. Who only tries does not wait, and is exempt.
    """
    outer, inner = LOCK_EDGES[edge]
    if event.how == "trylock":
        return VACUOUS
    taken, held = event.lock.cls, event.classes
    if taken in outer:
        return not any(cls in held for cls in inner)
    return implies(taken in inner and any(cls in held for cls in outer), lambda: True)


@lock_rule(
    "LOCK-ORD-001",
    on=("acquire",),
    source=rmap("locks"),
    locks=("i_mutex", "mmap_sem"),
    functions=("vmtruncate", "do_mmap"),
    since="2.6.16",
    enforced_by="lockdep",
)
def writers_lock_the_file_first(event: Event) -> Truth:
    """`i_mutex` MUST be taken before `mmap_sem`, and not be waited for while that is held.

    Who writes to a file may fault on the buffer that it writes from; a fault needs no `i_mutex`.
    """
    return in_order(event, 1)


@lock_rule(
    "LOCK-ORD-002",
    on=("acquire",),
    source=rmap("locks"),
    locks=("mmap_sem", "page_lock"),
    functions=("do_swap_page", "do_wp_page", "try_to_unmap_one"),
    since="2.6.19",
    enforced_by="lockdep",
)
def page_locks_come_inside_mmap_sem(event: Event) -> Truth:
    """A page lock MUST be taken inside `mmap_sem`: who has a page locked does not wait for the semaphore.

    Faults lock pages with the semaphore held.
    """
    return in_order(event, 2)


@lock_rule(
    "LOCK-ORD-003",
    on=("acquire",),
    source=rmap("locks"),
    locks=("page_lock", "i_mmap_mutex"),
    functions=("try_to_unmap_file", "page_mkclean_file", "page_referenced_file"),
    since="3.0",
    enforced_by="lockdep",
)
def files_are_locked_inside_page_locks(event: Event) -> Truth:
    """The `i_mmap_mutex` of a file MUST be taken inside a page lock, and no page lock be waited for inside it.

    Reclaim comes with a page locked and asks its file who maps it.
    """
    return in_order(event, 3)


@lock_rule(
    "LOCK-ORD-004",
    on=("acquire",),
    source=rmap("locks"),
    locks=("i_mmap_mutex", "anon_vma_mutex"),
    functions=("vma_adjust", "mm_take_all_locks"),
    since="3.0",
    enforced_by="lockdep",
)
def trees_are_locked_inside_files(event: Event) -> Truth:
    """The mutex of a tree of anon_vmas MUST be taken inside the `i_mmap_mutex` of a file where both are needed.

    Moving the border of an area with a file and private pages needs both.
    """
    return in_order(event, 4)


@lock_rule(
    "LOCK-ORD-005",
    on=("acquire",),
    source=rmap("locks", "anon_vma_prepare"),
    locks=("anon_vma_mutex", *PTL),
    functions=("try_to_unmap_one", "page_referenced_one", "anon_vma_prepare"),
    since="3.0",
    enforced_by="lockdep",
)
def page_tables_are_locked_inside_trees(event: Event) -> Truth:
    """A lock of page tables MUST be taken inside the mutex of a tree, never the other way round.

    Walks hold the mutex while they look at one slot after the other.
    """
    return in_order(event, 5)


@lock_rule(
    "LOCK-ORD-006",
    on=("acquire",),
    source=rmap("locks"),
    locks=(*PTL, "lru_lock"),
    functions=("page_add_new_anon_rmap", "unmap_page_range", "isolate_lru_page"),
    since="2.6.19",
    enforced_by="lockdep",
)
def lru_lists_are_locked_inside_page_tables(event: Event) -> Truth:
    """`lru_lock` MUST be taken inside a lock of page tables where both are needed.

    A page that is unmapped is marked as used, and a new one put on its list, from under that lock.
    """
    return in_order(event, 6)


@lock_rule(
    "LOCK-ORD-007",
    on=("acquire",),
    source=rmap("locks", "try_to_unmap_one"),
    locks=(*PTL, "swap_lock"),
    functions=("swap_duplicate", "try_to_unmap_one", "copy_page_range"),
    since="2.6.19",
    enforced_by="lockdep",
    features=("SWAP",),
)
def swap_counts_are_locked_inside_page_tables(event: Event) -> Truth:
    """`swap_lock` MUST be taken inside a lock of page tables where both are needed.

    The count of a slot is raised in the same section in which the entry for it is written.
    """
    return in_order(event, 7)


@lock_rule(
    "LOCK-ORD-008",
    on=("acquire",),
    source=rmap("locks"),
    locks=("swap_lock", "mmlist_lock"),
    functions=("try_to_unmap_one", "swapoff", "mmput"),
    since="2.6.19",
    enforced_by="lockdep",
)
def list_of_address_spaces_is_locked_after_swap(event: Event) -> Truth:
    """`mmlist_lock` MUST NOT be held while `swap_lock` is waited for.

    It ranks below: try_to_unmap_one takes it under a lock of page tables, swapoff while it goes from slot to slot.
    """
    return in_order(event, 8)


@lock_rule(
    "LOCK-ORD-009",
    on=("acquire",),
    source=rmap("locks"),
    locks=(*PTL, "private_lock"),
    functions=("set_page_dirty",),
    since="2.6.19",
    enforced_by="lockdep",
)
def buffers_are_locked_inside_page_tables(event: Event) -> Truth:
    """`private_lock` of a file MUST be taken inside a lock of page tables where both are needed.

    A page becomes dirty, with its buffers, from under that lock.
    """
    return in_order(event, 9)


@lock_rule(
    "LOCK-ORD-010",
    on=("acquire",),
    source=rmap("locks"),
    locks=(*PTL, "i_lock"),
    functions=("set_page_dirty",),
    since="2.6.39",
    enforced_by="lockdep",
)
def inodes_are_locked_inside_page_tables(event: Event) -> Truth:
    """`i_lock` of an inode MUST be taken inside a lock of page tables where both are needed.

    The inode becomes dirty with its page.
    """
    return in_order(event, 10)


@lock_rule(
    "LOCK-ORD-011",
    on=("acquire",),
    source=rmap("locks"),
    locks=(*PTL, "wb_list_lock"),
    functions=("set_page_dirty",),
    since="2.6.39",
    enforced_by="lockdep",
)
def dirty_lists_are_locked_inside_page_tables(event: Event) -> Truth:
    """`list_lock` of a device's writeback MUST be taken inside a lock of page tables where both are needed.

    An inode that becomes dirty with a page is put on its device's list at once.
    """
    return in_order(event, 11)


@lock_rule(
    "LOCK-ORD-012",
    on=("acquire",),
    source=rmap("locks"),
    locks=("wb_list_lock", "sb_lock"),
    functions=("set_page_dirty",),
    since="2.6.19",
    enforced_by="lockdep",
)
def file_systems_are_locked_inside_dirty_lists(event: Event) -> Truth:
    """`sb_lock` MUST be taken inside the `list_lock` of writeback where both are needed.

    Writeback goes from the inodes that it finds on the list to their file systems.
    """
    return in_order(event, 12)


@lock_rule(
    "LOCK-ORD-013",
    on=("acquire",),
    source=rmap("locks"),
    locks=("wb_list_lock", "tree_lock"),
    functions=("set_page_dirty", "filemap_fdatawrite"),
    since="2.6.19",
    enforced_by="lockdep",
)
def page_caches_are_locked_inside_dirty_lists(event: Event) -> Truth:
    """`tree_lock` of a file MUST be taken inside the `list_lock` of writeback where both are needed.

    Whether an inode still has dirty pages is asked while it is on the list.
    """
    return in_order(event, 13)


@lock_rule(
    "LOCK-ORD-014",
    on=("acquire",),
    source=rmap("locks") + field_2011("analysis"),
    locks=("private_lock", "tree_lock"),
    functions=("set_page_dirty",),
    since="2.6.19",
    enforced_by="lockdep",
)
def page_caches_are_locked_inside_buffers(event: Event) -> Truth:
    """`tree_lock` of a file MUST be taken inside its `private_lock`.

    Setting a page with buffers dirty looks at the buffers first and marks the page in the tree then.
    """
    return in_order(event, 14)


@lock_rule(
    "LOCK-ORD-015",
    on=("acquire",),
    source=rmap("locks-failure"),
    locks=("anon_vma_mutex", "tasklist_lock"),
    functions=("collect_procs_anon",),
    since="3.0",
    enforced_by="lockdep",
    features=("MEMORY_FAILURE",),
)
def tasks_are_listed_inside_trees(event: Event) -> Truth:
    """`tasklist_lock` MUST be taken inside the mutex of a tree of anon_vmas where both are needed.

    Memory failure looks for the processes of each area that it finds on a list.
    """
    return in_order(event, 15)


@lock_rule(
    "LOCK-ORD-016",
    on=("acquire",),
    source=rmap("locks-failure"),
    locks=("i_mmap_mutex", "tasklist_lock"),
    functions=("collect_procs_file",),
    since="3.0",
    enforced_by="lockdep",
    features=("MEMORY_FAILURE",),
)
def tasks_are_listed_inside_files(event: Event) -> Truth:
    """`tasklist_lock` MUST be taken inside the `i_mmap_mutex` of a file where both are needed.

    Memory failure looks for the processes of each area that maps the file. (The comment on it says `i_mutex`; the code takes
    `i_mmap_mutex`.)
    """
    return in_order(event, 16)


@lock_rule(
    "LOCK-ORD-017",
    on=("acquire",),
    source=rmap("locks-failure"),
    locks=("tasklist_lock", *PTL),
    functions=("page_mapped_in_vma", "collect_procs_anon"),
    since="2.6.32",
    enforced_by="lockdep",
    features=("MEMORY_FAILURE",),
)
def page_tables_are_locked_inside_the_list_of_tasks(event: Event) -> Truth:
    """A lock of page tables MUST be taken inside `tasklist_lock` where both are needed.

    Memory failure asks for each process whether it really maps the page.
    """
    return in_order(event, 17)


@lock_rule(
    "LOCK-ORD-018",
    on=("acquire",),
    source=rmap("anon_vma_prepare"),
    locks=("mmap_sem", "page_table_lock"),
    functions=("anon_vma_prepare", "handle_mm_fault"),
    since="2.6.19",
    enforced_by="lockdep",
)
def page_tables_are_locked_inside_mmap_sem(event: Event) -> Truth:
    """`page_table_lock` MUST be taken inside `mmap_sem`.

    The semaphore sleeps, and keeps the areas whose tables the lock is for.
    """
    return in_order(event, 18)


@transition(
    "LOCK-ORD-019",
    over=Over.RUN,
    source=rmap("locks", "locks-failure"),
    locks=tuple(LOCK_RANKS),
    functions=("try_to_unmap", "page_referenced", "page_mkclean", "anon_vma_prepare"),
    enforced_by="lockdep",
)
def no_circle_of_locks(run: Run) -> Truth:
    """Over a whole run, the graph of which class of lock was waited for while which was held MUST have no circle.

    Threads that go round a circle, each at another place, wait for each other for ever; a second lock of one class needs an
    order of its own.
    """
    after: dict[str, set[str]] = {}
    for event in run.events("acquire"):
        if event.how == "trylock":
            continue
        for cls in event.classes:
            if cls != event.lock.cls or event.how != "nested":
                after.setdefault(cls, set()).add(event.lock.cls)
    return implies(after, lambda: not _has_circle(after))


def _has_circle(after: dict[str, set[str]]) -> bool:
    left = dict(after)
    while True:
        leaves = [cls for cls, inner in left.items() if not inner & left.keys()]
        if not leaves:
            return bool(left)
        for cls in leaves:
            del left[cls]


@lock_rule(
    "LOCK-ORD-020",
    on=("acquire",),
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster"),
    locks=("mmap_sem", *WALKERS_LOCKS),
    functions=("try_to_unmap_one", "try_to_unmap_cluster"),
    since="2.6.28",
    enforced_by="lockdep",
)
def walkers_only_try_mmap_sem(event: Event) -> Truth:
    """Who holds a page lock, an `i_mmap_mutex`, the mutex of a tree or a lock of page tables MUST NOT wait for `mmap_sem`, but
    only try for it.

    Faults take all of them with `mmap_sem` held. A walk that does not get it at once leaves the page as it is.
    """
    if event.lock.cls != "mmap_sem":
        return VACUOUS
    inside = any(cls in WALKERS_LOCKS for cls in event.classes)
    return implies(inside or event.how != "trylock", lambda: not inside or event.how == "trylock")


@transition(
    "LOCK-ORD-021",
    over=Over.OPERATION,
    on=("page_referenced",),
    source=rmap("page_referenced"),
    locks=("page_lock",),
    functions=("page_referenced",),
    since="2.6.33",
)
def page_referenced_only_tries_the_page(op: Operation) -> Truth:
    """page_referenced MUST NOT wait for a page lock.

    Reclaim calls it for one page of many, and may have others locked; a page that is locked counts as used.
    """
    return not any(e.lock.cls == "page_lock" and e.how != "trylock" for e in op.all("acquire"))


@lock_rule(
    "LOCK-ORD-022",
    on=("acquire",),
    source=rmap("lock_anon_vma_root", "notifiers"),
    locks=("anon_vma_mutex", "i_mmap_mutex"),
    functions=("lock_anon_vma_root", "mm_take_all_locks"),
    since=A_MUTEX,
    enforced_by="lockdep",
)
def one_tree_and_one_file_at_a_time(event: Event) -> Truth:
    """A thread MUST NOT hold the mutexes of two trees, nor of two files, unless it takes all locks of an address space.

    Two threads that want two of them in different order wait for each other. Taking all is done by one thread at a time.
    """
    if event.lock.cls not in ("anon_vma_mutex", "i_mmap_mutex"):
        return VACUOUS
    if event.op is not None and event.op.within("mm_take_all_locks") is not None:
        return VACUOUS
    return event.lock.cls not in event.classes


@lock_rule(
    "LOCK-ORD-023",
    on=("alloc",),
    source=rmap("anon_vma_clone"),
    locks=RECLAIMS_LOCKS,
    functions=("anon_vma_clone", "anon_vma_chain_alloc"),
    since=A_MUTEX,
    enforced_by="lockdep, as reclaim is a lock class to it",
)
def no_reclaim_under_locks_that_it_takes(event: Event) -> Truth:
    """Memory MUST NOT be asked for in a way that may reclaim while the mutex of a tree or of a file, or a lock of page tables,
    is held.

    Reclaim takes these for the pages that it tries, which may be of the same tree.
    """
    return implies(event.may_reclaim, lambda: not any(cls in RECLAIMS_LOCKS for cls in event.classes))


@lock_rule(
    "LOCK-ORD-024",
    on=("acquire", "lock_root"),
    source=rmap("page_lock_anon_vma", "try_to_unmap_file"),
    locks=("anon_vma_mutex", "i_mmap_mutex"),
    functions=("page_lock_anon_vma", "try_to_unmap_file"),
    since=A_MUTEX,
    enforced_by="might_sleep() with CONFIG_DEBUG_ATOMIC_SLEEP",
)
def mutexes_are_not_waited_for_in_atomic_context(event: Event) -> Truth:
    """The mutex of a tree or of a file MUST NOT be waited for under a spinlock or in an RCU section.

    They were spinlocks once, and their callers must have nothing left from that time.
    """
    if event.kind == "acquire" and (event.lock.cls not in ("anon_vma_mutex", "i_mmap_mutex") or event.how == "trylock"):
        return VACUOUS
    return not event.spinlocks and not event.rcu


@lock_rule(
    "LOCK-ORD-025",
    on=("lock_root", "root_mutex_test"),
    source=rmap("page_lock_anon_vma", "unlink_anon_vmas"),
    locks=MUTEX,
    functions=("anon_vma_free", "unlink_anon_vmas", "page_lock_anon_vma"),
    since=A_MUTEX,
    enforced_by="lockdep",
)
def nobody_takes_a_tree_twice(event: Event) -> Truth:
    """A thread that has the mutex of a tree MUST NOT take it again, also not by freeing an anon_vma of that tree.

    It would wait for itself.
    """
    return not event.holds("anon_vma_mutex", event.root)


@lock_rule(
    "LOCK-ORD-026",
    on=("acquire",),
    source=rmap("page_referenced_one", "try_to_unmap_one", "page_mkclean_one"),
    locks=PTL,
    functions=WALKS,
)
def walks_lock_one_slot_at_a_time(event: Event) -> Truth:
    """A walk MUST release the lock of one slot before it takes that of the next.

    Slots of different address spaces have no order among them, and walks from two pages meet them in different order.
    """
    if event.lock.cls not in PTL or event.op is None or not any(op.name in WALKS for op in event.op.ancestors()):
        return VACUOUS
    return not any(cls in PTL for cls in event.classes)


# -- which lock protects what ------------------------------------------------------------------------------------------


def unborn(page: Any) -> bool:
    """Whether nobody else can find the page: it is in no cache and on no list, or it is being freed."""
    return bool(page._count == 0 or not (page.PG_lru or page.PG_swapcache))


def alone(mm: Any) -> bool:
    """Whether no thread is in the address space any more."""
    return bool(mm.users == 0)


def owned(event: Event, vma: Any) -> bool:
    """Whether nobody but the thread can change the area: it is not known yet, or `mmap_sem` is held for write."""
    return not vma.published or event.holds("mmap_sem", vma.mm) or alone(vma.mm)


def _may_own_page(event: Event, page: Any) -> bool:
    if event.holds("page_lock", page):
        return True
    tail_of = page.first_page
    if event.holds("compound_lock") or (tail_of is not None and event.holds("page_lock", tail_of)):
        return True
    return unborn(page) and under_ptl(event)


@lock_rule(
    "LOCK-PROT-001",
    on=("mapping",),
    source=rmap("__page_check_anon_rmap", "page_move_anon_rmap"),
    fields=("page.mapping",),
    locks=("page_lock", *PTL),
    functions=("__page_set_anon_rmap", "page_move_anon_rmap"),
)
def owner_of_an_anonymous_page_needs_the_page_lock(event: Event) -> Truth:
    """The anon_vma that `mapping` names MUST be written with the page locked, or, of a page that nobody has seen yet, with the
    lock of its first slot.

    The frames of a huge page that is split are covered by its compound lock. Lookups read the word with no lock at all.
    """
    page, old, new = event.obj, event.old, event.new
    if page.over is not Over.PAGE or page._count == 0 or old == new:
        return VACUOUS
    bits = (old.bits if old is not None else 0) | (new.bits if new is not None else 0)
    return implies(bits & PAGE_MAPPING_ANON, lambda: _may_own_page(event, page))


@lock_rule(
    "LOCK-PROT-002",
    on=("mapping",),
    source=rmap("page_referenced_file"),
    fields=("page.mapping",),
    locks=("page_lock",),
    functions=("delete_from_page_cache", "page_referenced_file"),
)
def page_leaves_its_file_locked(event: Event) -> Truth:
    """A page MUST be locked when it is taken out of its file.

    Walks through the file hold the page lock so that the file stays where they found it.
    """
    page, old = event.obj, event.old
    if page.over is not Over.PAGE or page._count == 0 or old is None or old.bits:
        return VACUOUS
    return implies(event.new is None, lambda: event.holds("page_lock", page))


@lock_rule(
    "LOCK-PROT-003",
    on=("index",),
    source=rmap("page_add_anon_rmap", "__page_set_anon_rmap"),
    fields=("page.index",),
    locks=("page_lock", *PTL),
    functions=("__page_set_anon_rmap",),
)
def index_of_an_anonymous_page_needs_the_page_lock(event: Event) -> Truth:
    """The index of an anonymous page MUST be written with the page locked, or, of one that nobody has seen yet, with the lock
    of its first slot.

    Where a walk looks depends on it.
    """
    page = event.obj
    if page.over is not Over.PAGE:
        return VACUOUS
    return implies(is_anon(page), lambda: _may_own_page(event, page))


@lock_rule(
    "LOCK-PROT-004",
    on=("_mapcount",),
    source=rmap("page_add_anon_rmap", "page_add_file_rmap", "page_remove_rmap", "split-ptlock"),
    fields=("page._mapcount",),
    locks=PTL,
    functions=("page_add_anon_rmap", "page_add_new_anon_rmap", "page_add_file_rmap", "page_remove_rmap", "page_dup_rmap"),
)
def map_count_changes_with_its_slot(event: Event) -> Truth:
    """The map count of a page MUST be changed with the lock of the slot held whose entry comes or goes, and by an atomic step,
    as others may change it for other slots at the same time.

    Splitting a huge page hands its count to its frames under the compound lock.
    """
    if event.obj.over is not Over.PAGE:
        return VACUOUS
    return under_ptl(event) or event.holds("compound_lock")


def _by_hardware(event: Event) -> bool:
    """Whether the step only notes in a present entry that the page was used or written."""
    old, new = event.old, event.new
    if old is None or new is None or old.kind != "present" or new.kind != "present":
        return False
    same = old.page is new.page and old.write == new.write
    return bool(same and event.vma is None and new.young >= old.young and new.dirty >= old.dirty)


@lock_rule(
    "LOCK-PROT-005",
    on=("set_pte",),
    source=rmap("split-ptlock", "__page_check_address"),
    fields=("pte", "pmd"),
    locks=PTL,
    functions=("try_to_unmap_one", "page_mkclean_one", "page_referenced_one"),
)
def entries_change_under_their_lock(event: Event) -> Truth:
    """A page-table entry MUST be changed with the lock of its slot held; only hardware that notes a use or a write may do so
    without.

    The lock is that of the table or that of the address space; with the wrong one of the two nobody is kept out.
    """
    return implies(not _by_hardware(event), lambda: event.holds(event.lock.cls, event.lock.owner))


@lock_rule(
    "LOCK-PROT-006",
    on=("anon_vma",),
    source=rmap("anon_vma_prepare", "split-ptlock") + field_2011("base"),
    fields=("vma.anon_vma",),
    locks=(*MUTEX, "mm.page_table_lock", "mmap_sem"),
    functions=("anon_vma_prepare", "anon_vma_fork", "anon_vma_clone", "vma_adjust"),
)
def anon_vma_of_an_area_is_set_once_by_one(event: Event) -> Truth:
    """`vma->anon_vma` MUST be written with the mutex of the tree and `page_table_lock`, or by a thread that has the area for
    itself: before others can find it, or with `mmap_sem` held for write.

    Faults of other threads see the area without an anon_vma and bring their own; one of the two has to win.
    """
    vma = event.obj
    if vma.over is not Over.VMA or event.old is event.new:
        return VACUOUS
    both_locks = (
        event.new is not None
        and event.holds("anon_vma_mutex", event.new.root)
        and event.holds("page_table_lock", vma.mm)
    )
    return both_locks or owned(event, vma)


@lock_rule(
    "LOCK-PROT-007",
    on=("link", "put_chain_ref", "list_del_same_anon_vma"),
    source=field_2011("base") + rmap("anon_vma_prepare"),
    fields=("vma.anon_vma_chain",),
    locks=("mmap_sem", "mm.page_table_lock"),
    functions=("anon_vma_chain_link", "unlink_anon_vmas"),
    since="2.6.34",
)
def chain_belongs_to_the_address_space(event: Event) -> Truth:
    """The chain of an area MUST be changed with `mmap_sem` held for write, or for read together with `page_table_lock`, unless
    nobody else can find the area.

    Fork and unmapping go along the chain with the one; threads that fault at once exclude each other by the other.
    """
    mm = event.vma.mm
    shared = event.holds("mmap_sem:r", mm) and event.holds("page_table_lock", mm)
    return shared or owned(event, event.vma)


@lock_rule(
    "LOCK-PROT-008",
    on=("link", "list_del_same_anon_vma", "moveto_tail"),
    source=rmap("anon_vma_chain_link", "anon_vma_clone", "unlink_anon_vmas"),
    fields=("anon_vma.head",),
    locks=MUTEX,
    functions=("anon_vma_chain_link", "unlink_anon_vmas", "anon_vma_moveto_tail"),
    since="2.6.36",
)
def list_of_areas_changes_under_the_mutex(event: Event) -> Truth:
    """The list of areas of an anon_vma MUST be changed with the mutex in the root of its tree held.

    That is all that a walk holds.
    """
    return event.holds("anon_vma_mutex", event.anon_vma.root)


@lock_rule(
    "LOCK-PROT-009",
    on=("root",),
    source=rmap("anon_vma_fork", "page_lock_anon_vma"),
    fields=("anon_vma.root",),
    functions=("anon_vma_alloc", "anon_vma_fork"),
    since="2.6.36",
)
def root_is_set_before_others_know(event: Event) -> Truth:
    """The root of an anon_vma MUST be written only while no area names it and none is on its list, since no lock protects it.

    Readers without a lock read it once, and would take one mutex and release another.
    """
    anon_vma = event.obj
    if anon_vma.over is not Over.ANON_VMA or event.old is event.new:
        return VACUOUS
    return not anon_vma.head and not any(v.anon_vma is anon_vma or anon_vma in chain(v) for v in anon_vma.system.vmas)


@lock_rule(
    "LOCK-PROT-010",
    on=("refcount",),
    source=rmap("page_get_anon_vma", "__put_anon_vma"),
    fields=("anon_vma.refcount",),
    functions=("page_get_anon_vma", "page_lock_anon_vma", "anon_vma_fork", "put_anon_vma"),
    since="2.6.39",
)
def references_are_counted_atomically(event: Event) -> Truth:
    """The count of an anon_vma MUST be changed by atomic steps of one.

    No lock protects it. A step that reads, adds and writes back loses what others did in between, and then the stored value
    differs from the one before it by something else than one.
    """
    if event.obj.over is not Over.ANON_VMA:
        return VACUOUS
    return abs(event.new - event.old) == 1 and event.new >= 0


@lock_rule(
    "LOCK-PROT-011",
    on=("i_mmap_insert", "i_mmap_remove"),
    source=rmap("page_referenced_file", "page_mkclean_file", "try_to_unmap_file", "rmap_walk_file"),
    fields=("mapping.i_mmap",),
    locks=("i_mmap_mutex",),
    functions=("vma_link_file", "vma_unlink_file"),
    since=A_MUTEX,
)
def tree_of_areas_changes_under_the_mutex(event: Event) -> Truth:
    """The tree of the linear areas that map a file MUST be changed with the file's `i_mmap_mutex` held.

    Walks through the file hold nothing else.
    """
    return implies(not event.nonlinear, lambda: event.holds("i_mmap_mutex", event.mapping))


@lock_rule(
    "LOCK-PROT-012",
    on=("i_mmap_insert", "i_mmap_remove", "cluster"),
    source=rmap("try_to_unmap_file", "cluster"),
    fields=("mapping.i_mmap_nonlinear", "vma.vm_private_data"),
    locks=("i_mmap_mutex",),
    functions=("vma_link_file", "vma_unlink_file", "try_to_unmap_file"),
    since=A_MUTEX,
)
def nonlinear_areas_and_cursors_change_under_the_mutex(event: Event) -> Truth:
    """The list of the nonlinear areas of a file, and the place that the scan of each has come to, MUST be changed with the
    file's `i_mmap_mutex` held.

    Reclaim from several threads goes round the same areas.
    """
    if event.kind == "cluster":
        return event.holds("i_mmap_mutex", event.vma.vm_file)
    return implies(event.nonlinear, lambda: event.holds("i_mmap_mutex", event.mapping))


@lock_rule(
    "LOCK-PROT-013",
    on=("vm_flags",),
    source=rmap("try_to_unmap_one", "try_to_munlock"),
    fields=("vma.vm_flags",),
    locks=("mmap_sem",),
    functions=("do_mlock", "munlock_vma_pages_range"),
)
def areas_are_locked_in_memory_under_mmap_sem(event: Event) -> Truth:
    """VM_LOCKED of an area MUST be changed with `mmap_sem` held for write, unless nobody else can find the area.

    A walk that sees the flag without the semaphore takes it for a hint, and asks again when it has it.
    """
    vma = event.obj
    if vma.over is not Over.VMA:
        return VACUOUS
    return implies((event.old ^ event.new) & VM_LOCKED, lambda: owned(event, vma))


@lock_rule(
    "LOCK-PROT-014",
    on=("set_mlocked", "PG_mlocked"),
    source=rmap("try_to_unmap_one", "mlock") + field_2011("later"),
    fields=("page.PG_mlocked",),
    locks=("page_lock", "mmap_sem"),
    functions=("mlock_vma_page", "munlock_vma_page", "try_to_unmap_one", "try_to_unmap_cluster"),
    since="2.6.28",
    would_catch="a page that migration moves while the scan of a nonlinear area marks it (CVE-2014-3122)",
)
def marks_of_locked_pages_need_the_page_lock(event: Event) -> Truth:
    """PG_mlocked of a page that others can see MUST be changed with the page locked, and be set by a walk or by mlock only with
    `mmap_sem` of the area's address space held as well.

    The page lock is for migration, which moves the mark to the new page; the semaphore keeps the area locked meanwhile.
    """
    if event.kind == "set_mlocked":
        sem = event.vma is None or event.holds("mmap_sem:r", event.vma.mm)
        return event.holds("page_lock", event.page) and sem
    page = event.obj
    if page.over is not Over.PAGE or event.old == event.new or event.op is None:
        return VACUOUS
    return event.holds("page_lock", page) or unborn(page) or event.holds("compound_lock")


@lock_rule(
    "LOCK-PROT-015",
    on=("PG_lru",),
    source=rmap("locks"),
    fields=("page.PG_lru", "zone.lru"),
    locks=("zone.lru_lock",),
    functions=("isolate_lru_page", "putback_lru_page", "lru_add_drain"),
)
def lists_of_pages_change_under_their_lock(event: Event) -> Truth:
    """PG_lru, and with it the lists of pages, MUST be changed with the zone's `lru_lock` held.

    All CPUs work on the same lists, with nothing else in common.
    """
    if event.obj.over is not Over.PAGE or event.old == event.new:
        return VACUOUS
    return event.holds("lru_lock", event.obj.system.zone)


@lock_rule(
    "LOCK-PROT-016",
    on=("swap_map",),
    source=rmap("locks", "continuations"),
    fields=("swap_map",),
    locks=("swap_lock",),
    functions=("swap_duplicate", "swap_free"),
    features=("SWAP",),
)
def swap_counts_change_under_swap_lock(event: Event) -> Truth:
    """The counts of swap slots MUST be changed with `swap_lock` held.

    Fork raises them from under one lock of page tables while another process drops them under its own.
    """
    return event.holds("swap_lock")


@lock_rule(
    "LOCK-PROT-017",
    on=("on_mmlist",),
    source=rmap("try_to_unmap_one"),
    fields=("mm.mmlist",),
    locks=("mmlist_lock",),
    functions=("try_to_unmap_one", "copy_page_range", "mmput"),
)
def list_of_swapped_address_spaces_has_a_lock(event: Event) -> Truth:
    """An address space MUST be put on the list that swapoff scans, and be taken off it, with `mmlist_lock` held.

    Whether it is on it may be asked without, as a hint; whoever then adds it asks again with the lock.
    """
    if event.obj.over is not Over.MM or event.old == event.new:
        return VACUOUS
    return event.holds("mmlist_lock")


@lock_rule(
    "LOCK-PROT-018",
    on=("rss_anon", "rss_file", "swapents"),
    source=rmap("try_to_unmap_one", "try_to_unmap_cluster"),
    fields=("mm.rss_stat",),
    locks=PTL,
    functions=("try_to_unmap_one", "try_to_unmap_cluster"),
)
def resident_set_changes_with_the_entries(event: Event) -> Truth:
    """The counters of an address space's pages and swap entries MUST be changed under a lock of its page tables.

    Each change belongs to that of an entry; apart from it the sum is wrong for all who look in between.
    """
    if event.obj.over is not Over.MM or event.old == event.new:
        return VACUOUS
    return under_ptl(event, event.obj)


@lock_rule(
    "LOCK-PROT-019",
    on=("hiwater_rss",),
    source=rmap("hiwater"),
    fields=("mm.hiwater_rss",),
    functions=("update_hiwater_rss",),
)
def marks_cost_no_lock(event: Event) -> Truth:
    """The mark of the largest resident set MUST be raised without taking a lock for it.

    It may be inexact after a race, which is cheaper than to be exact for ever.
    """
    if event.op is None:
        return VACUOUS
    for step in reversed(event.op.context.events):
        if step.kind == "update_hiwater_rss" and step.mm is event.obj:
            return True
        if step.kind == "acquire":
            return False
    return VACUOUS


@lock_rule(
    "LOCK-PROT-020",
    on=("NR_ANON_PAGES", "NR_FILE_MAPPED", "NR_ANON_TRANSPARENT_HUGEPAGES"),
    source=rmap("do_page_add_anon_rmap", "page_add_file_rmap", "page_remove_rmap"),
    fields=("zone.NR_ANON_PAGES", "zone.NR_FILE_MAPPED", "zone.NR_ANON_TRANSPARENT_HUGEPAGES"),
    functions=("do_page_add_anon_rmap", "page_add_new_anon_rmap", "page_add_file_rmap", "page_remove_rmap"),
)
def map_counters_change_without_preemption(event: Event) -> Truth:
    """The zone's counters of mapped pages MUST be changed where the thread cannot be preempted, as under a spinlock.

    They are kept for each CPU and added to in several instructions.
    """
    if event.obj.over is not Over.ZONE:
        return VACUOUS
    return bool(event.spinlocks)


@lock_rule(
    "LOCK-PROT-021",
    on=("mapping",),
    source=rmap("ksm-swappable"),
    fields=("page.mapping",),
    locks=("page_lock",),
    functions=("try_to_merge_with_ksm_page", "ksm_migrate_page"),
    features=("KSM",),
    since="2.6.33",
)
def node_of_a_merged_page_needs_the_page_lock(event: Event) -> Truth:
    """The node of the stable tree that `mapping` of a merged page names MUST be written with the page locked.

    Reclaim walks the node's list with the page lock and nothing else.
    """
    page, new = event.obj, event.new
    if page.over is not Over.PAGE or new is None or event.old == new:
        return VACUOUS
    return implies(new.bits == 3, lambda: event.holds("page_lock", page))


@lock_rule(
    "LOCK-PROT-022",
    on=("pmd_populate",),
    source=rmap("split-ptlock"),
    fields=("pmd",),
    locks=("mm.page_table_lock",),
    functions=("pte_alloc",),
)
def tables_are_entered_under_page_table_lock(event: Event) -> Truth:
    """A new page table MUST be entered with `page_table_lock` of the address space held, also where tables have locks of
    their own.

    Two threads that need the same table bring one each, and one of them has to go.
    """
    return event.holds("page_table_lock", event.mm)


@lock_rule(
    "LOCK-PROT-023",
    on=("set_pte",),
    source=rmap("page_referenced_one", "__page_check_address"),
    fields=("pmd",),
    locks=("mm.page_table_lock",),
    functions=("page_referenced_one", "try_to_unmap_one"),
    since="2.6.38",
    until="3.13",
)
def huge_entries_change_under_page_table_lock(event: Event) -> Truth:
    """An entry that maps a huge page, of either kind, MUST be changed with `page_table_lock` of the address space held.

    There is no table of ptes below it whose lock could serve.
    """
    if event.level not in ("pmd", "huge") or _by_hardware(event):
        return VACUOUS
    return event.holds("page_table_lock", event.mm)


@lock_rule(
    "LOCK-PROT-024",
    on=("order", "_count"),
    source=rmap("thp"),
    fields=("page.first_page", "page._count"),
    locks=("compound_lock",),
    functions=("__split_huge_page_refcount", "put_compound_page"),
    features=("TRANSPARENT_HUGEPAGE",),
    since="2.6.38",
    until="4.4",
    would_catch="a reference to a tail that is dropped at the head while the split hands it to the tail",
)
def huge_pages_split_under_their_lock(event: Event) -> Truth:
    """A trans-huge page MUST be split, and the references of its tails be dropped, with its compound lock held.

    A reference to a tail counts at the head as long as there is one. Who drops it has to know on which side of the split it is.
    """
    page = event.obj
    if page.over is not Over.PAGE or page.huge or event.old == event.new:
        return VACUOUS
    if event.field == "order":
        return event.holds("compound_lock", page)
    head = page.first_page
    return implies(head is not None and event.new < event.old, lambda: event.holds("compound_lock", head))


@lock_rule(
    "LOCK-PROT-025",
    on=("notifier_register",),
    source=rmap("notifiers"),
    fields=("mm.mmu_notifier_mm",),
    locks=("mmap_sem", "i_mmap_mutex", "anon_vma_mutex"),
    functions=("mmu_notifier_register", "mm_take_all_locks"),
    features=("MMU_NOTIFIER",),
    since="2.6.27",
)
def notifiers_come_when_nobody_walks(event: Event) -> Truth:
    """A secondary MMU MUST be attached with `mmap_sem` held for write and the mutexes of all files and trees that the address
    space has areas of.

    Otherwise an invalidation that began before would end after, and be told to it by halves.
    """
    mm = event.mm
    files = {v.vm_file: None for v in mm.vmas if v.vm_file is not None}
    roots = {a.root: None for v in mm.vmas for a in chain(v)}
    return both(
        event.holds("mmap_sem", mm),
        every(event.holds("i_mmap_mutex", mapping) for mapping in files),
        every(event.holds("anon_vma_mutex", root) for root in roots),
    )
