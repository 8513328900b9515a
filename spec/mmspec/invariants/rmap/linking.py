"""AVMA-PREP, AVMA-CLONE, AVMA-FORK, AVMA-UNLINK: giving areas their anon_vmas, and taking them away again."""

from __future__ import annotations

import errno
from typing import Any

from mmspec.invariant import Over, lock_rule, postcondition, precondition, transition
from mmspec.invariants.rmap.lists import CHAIN, CHAINS, HEAD
from mmspec.invariants.rmap.references import COUNT, COUNTED
from mmspec.invariants.rmap.roots import A_MUTEX, MUTEX, ONE_LOCK, ROOT
from mmspec.invariants.rmap.terms import PTL, chain, entered_with, places_of
from mmspec.logic import VACUOUS, Truth, both, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

OWN = ("vma.anon_vma",)


def _elements_are_balanced(op: Operation, linked: int) -> bool:
    """Whether all chain elements that the operation linked, but for `linked` of them, are freed again."""
    made, freed = op.all("link"), {e.avc for e in op.all("free_avc")}
    return sum(1 for e in made if e.avc not in freed) == linked


# -- anon_vma_prepare --------------------------------------------------------------------------------------------------


@precondition(
    "AVMA-PREP-001",
    on=("anon_vma_prepare",),
    source=rmap("anon_vma_prepare"),
    locks=("mmap_sem",),
    fields=OWN,
    enforced_by="might_sleep() in anon_vma_prepare",
)
def prepare_needs_mmap_sem(vma: Any, op: Operation) -> Truth:
    """Who calls anon_vma_prepare MUST hold `mmap_sem` of the area's address space, for read at least, and be able to sleep.

    The semaphore keeps the area and its neighbours as they are while one of them is asked for its anon_vma.
    """
    spinning = any(h.spinning for h in op.held_at_entry)
    return entered_with(op, "mmap_sem:r", vma.mm) and not spinning and op.context.rcu_depth == 0


@postcondition("AVMA-PREP-002", on=("anon_vma_prepare",), source=rmap("anon_vma_prepare"), fields=OWN, interfaces=("ReverseMap",))
def prepared_areas_have_an_anon_vma(result: int, old: Any, new: Any) -> Truth:
    """If anon_vma_prepare returns 0 the area MUST have an anon_vma, and the one that it had if it had one.

    Pages of the area already name the old one.
    """
    return implies(
        result == 0, lambda: new.anon_vma is not None and (old.anon_vma is None or new.anon_vma is old.anon_vma)
    )


@postcondition(
    "AVMA-PREP-003",
    on=("anon_vma_prepare",),
    source=rmap("anon_vma_prepare"),
    fields=(*OWN, *CHAIN),
    since=CHAINS,
    would_catch="the element of the chain that is lost if there is no memory for the anon_vma",
)
def failed_prepare_changes_nothing(result: int, op: Operation, old: Any, new: Any) -> Truth:
    """If anon_vma_prepare fails it MUST return -ENOMEM and leave nothing behind: no link, no pointer, no memory.

    The fault is repeated or the process killed; whatever stays is found by nobody.
    """
    if result == 0:
        return VACUOUS
    own = not op.net("anon_vma") and not op.did("link", "install")
    return result == -errno.ENOMEM and own and (not op.alone or new == old)


@transition(
    "AVMA-PREP-004",
    over=Over.OPERATION,
    on=("anon_vma_prepare",),
    source=rmap("anon_vma_prepare"),
    fields=(*OWN, *CHAIN, *COUNT),
    functions=("anon_vma_prepare",),
    since=COUNTED,
    would_catch="two threads that fault at once, and the anon_vma of the first is replaced while a page names it",
)
def one_of_the_racing_threads_installs(op: Operation, result: int, old: Any) -> Truth:
    """Of several threads that prepare one area, only the one that finds it without an anon_vma MUST set one; the others
    release the anon_vma and the chain element that they brought, once and after the locks.

    What they brought is known to nobody, but dropping a reference may take the mutex that they hold.
    """
    if result or old.anon_vma is not None or not op.did("alloc"):
        return VACUOUS
    stores = [e for e in op.events if e.kind == "write" and e.field == "anon_vma" and e.obj is op.vma]
    installed = len(stores)
    spare = op.all("free_avc", "put_anon_vma")
    made = [e.anon_vma for e in op.all("anon_vma_allocated")]
    kept = [a for a in made if op.delta("refcount", a)]
    return both(
        installed <= 1 and all(e.old is None for e in stores),
        len(op.all("link")) == installed and len(op.all("free_avc")) == 1 - installed,
        all(installed and a is stores[0].new for a in kept),
        not any(e.holds("anon_vma_mutex") or any(e.holds(cls) for cls in PTL) for e in spare),
    )


@lock_rule(
    "AVMA-PREP-005",
    on=("anon_vma", "link"),
    source=rmap("anon_vma_prepare"),
    fields=(*OWN, *CHAIN, *HEAD),
    locks=(*MUTEX, "mm.page_table_lock"),
    functions=("anon_vma_prepare",),
    since=ONE_LOCK,
)
def prepare_links_under_both_locks(event: Event) -> Truth:
    """anon_vma_prepare MUST set the pointer and make both links with the mutex of the tree and, taken after it,
    `page_table_lock` held.

    The mutex is for those who come from the pages, the spinlock for the other threads of this process, which hold `mmap_sem`
    for read only.
    """
    op = event.op.within("anon_vma_prepare") if event.op is not None else None
    if op is None:
        return VACUOUS
    vma, anon_vma = (event.vma, event.anon_vma) if event.kind == "link" else (event.obj, event.new)
    if anon_vma is None or vma.over is not Over.VMA:
        return VACUOUS
    held = [(h.cls, h.owner) for h in event.held]
    mutex, spinlock = ("anon_vma_mutex", anon_vma.root), ("page_table_lock", vma.mm)
    return mutex in held and spinlock in held and held.index(mutex) < held.index(spinlock)


@lock_rule(
    "AVMA-PREP-006",
    on=("link",),
    source=rmap("anon_vma_prepare"),
    fields=HEAD,
    locks=MUTEX,
    functions=("anon_vma_prepare", "anon_vma_fork"),
    since="2.6.29",
    would_catch="an empty list that is filled while a stale lookup walks it (2.6.28)",
)
def even_a_new_anon_vma_is_locked(event: Event) -> Truth:
    """The first area MUST be linked to an anon_vma with the mutex held, although nobody has been told of it yet.

    Its memory may have been another anon_vma a moment ago, and a lookup that still believes so may have the mutex.
    """
    return implies(not event.before, lambda: event.holds("anon_vma_mutex", event.anon_vma.root))


@postcondition(
    "AVMA-PREP-007",
    on=("anon_vma_prepare",),
    source=field_2011("base") + rmap("oldest"),
    fields=(*OWN, *CHAIN),
    functions=("find_mergeable_anon_vma",),
    since=CHAINS,
    would_catch="an area that shares the anon_vma of a forked neighbour, but not the rest of its chain (2.6.34-rc)",
    interfaces=("ReverseMap",),
)
def only_lone_anon_vmas_are_shared(vma: Any, op: Operation, old: Any) -> Truth:
    """anon_vma_prepare MUST take a neighbour's anon_vma only if that is the neighbour's only one.

    The new area is linked to that one alone. If the neighbour has older ones too, the areas look as if they could merge, and
    the pages that belong to the older ones are lost from sight.
    """
    installs = [e.anon_vma for e in op.all("install")]
    made = [e.anon_vma for e in op.all("anon_vma_allocated")]
    if not installs or installs[0] in made:
        return VACUOUS
    vmas = vma.mm.vmas
    where = vmas.index(vma)
    near = [v for v in (*vmas[max(where - 1, 0) : where], *vmas[where + 1 : where + 2]) if v.anon_vma is installs[0]]
    return bool(near) and all(len(v.anon_vma_chain) == 1 for v in near)


@postcondition("AVMA-PREP-008", on=("anon_vma_prepare",), source=rmap("anon_vma_prepare"), fields=OWN)
def prepared_areas_cost_nothing(op: Operation, old: Any) -> Truth:
    """If the area has an anon_vma already, anon_vma_prepare MUST take no lock and allocate nothing.

    It is called at each fault.
    """
    return implies(old.anon_vma is not None, lambda: not op.did("acquire", "alloc"))


# -- anon_vma_clone ----------------------------------------------------------------------------------------------------


@postcondition(
    "AVMA-CLONE-001",
    on=("anon_vma_clone",),
    source=rmap("anon_vma_clone", "oldest"),
    fields=CHAIN,
    since=CHAINS,
    would_catch="a chain that is copied in reverse, and the newest anon_vma taken for the oldest (2.6.34-rc)",
    interfaces=("ReverseMap",),
)
def clone_has_the_same_chain(result: int, old: Any, new: Any) -> Truth:
    """After a successful anon_vma_clone the copy MUST have the anon_vmas of the source, in the same order.

    The entries of the source may come to lie in the copy, or are copied there; their pages are found through these.
    """
    return implies(result == 0, lambda: new.copy.chain == old.source.chain)


@postcondition(
    "AVMA-CLONE-002",
    on=("anon_vma_clone",),
    source=rmap("anon_vma_clone"),
    fields=CHAIN,
    since=CHAINS,
)
def failed_clone_leaves_no_link(result: int, op: Operation, old: Any, new: Any) -> Truth:
    """If anon_vma_clone fails it MUST return -ENOMEM, the copy has no chain, and all elements are freed; in any case the source
    keeps its chain.

    Part of a chain is worse than none: nobody can tell which pages of the copy are out of sight.
    """
    kept = new.source.chain == old.source.chain
    if result == 0:
        return kept
    return both(result == -errno.ENOMEM, kept, new.copy.chain == (), _elements_are_balanced(op, 0))


@precondition("AVMA-CLONE-003", on=("anon_vma_clone",), source=rmap("anon_vma_clone"), fields=CHAIN, since=CHAINS)
def copy_has_no_chain_yet(dst: Any) -> Truth:
    """The area that anon_vma_clone links MUST have no chain yet.

    When memory runs out, everything on it is unlinked.
    """
    return not dst.anon_vma_chain


@lock_rule(
    "AVMA-CLONE-004",
    on=("alloc",),
    source=rmap("anon_vma_clone"),
    locks=MUTEX,
    functions=("anon_vma_clone", "anon_vma_chain_alloc"),
    since=A_MUTEX,
    would_catch="reclaim that waits for the mutex which its own thread holds",
)
def elements_are_allocated_without_waiting_under_the_mutex(event: Event) -> Truth:
    """An allocation of a chain element that may wait for reclaim MUST NOT be made with the mutex of a tree held; under it one
    may be tried that fails instead.

    Reclaim takes the mutex of whatever tree the page belongs to that it looks at.
    """
    return implies(
        event.what == "anon_vma_chain", lambda: not event.may_reclaim or not event.holds("anon_vma_mutex")
    )


@postcondition(
    "AVMA-CLONE-005", on=("anon_vma_clone",), source=rmap("lock_anon_vma_root", "anon_vma_clone"), locks=MUTEX, since=A_MUTEX
)
def clone_locks_once(op: Operation) -> Truth:
    """If no allocation has to wait, anon_vma_clone MUST take the mutex of the tree at most once, however long the chain is.

    All processes of a tree meet at this mutex; taking it anew for each element made it the busiest lock of some machines.
    """
    waited = any(e.may_reclaim for e in op.all("alloc"))
    return implies(not waited, lambda: sum(1 for e in op.all("acquire") if e.lock.cls == "anon_vma_mutex") <= 1)


@postcondition(
    "AVMA-CLONE-006",
    on=("anon_vma_clone",),
    source=rmap("anon_vma_clone", "anon_vma_fork") + field_2011("later"),
    fields=(*OWN, *CHAIN),
    since=CHAINS,
    would_catch="an area that gives new pages to an anon_vma on whose list it is not, after a merge ran out of memory",
)
def failed_clone_leaves_no_pointer(result: int, new: Any) -> Truth:
    """After a failed anon_vma_clone the copy MUST NOT point to an anon_vma any more.

    The pointer came with the copy of the struct; without a chain it is no reference. In 3.2 it stays, and all depends on the
    caller to throw the area away.
    """
    return implies(result != 0, lambda: new.copy.anon_vma is None)


# -- anon_vma_fork -----------------------------------------------------------------------------------------------------


@postcondition(
    "AVMA-FORK-001",
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork"),
    fields=(*OWN, *CHAIN),
    since=CHAINS,
    interfaces=("ReverseMap",),
)
def nothing_to_fork(result: int, op: Operation, old: Any) -> Truth:
    """If the parent's area has no anon_vma, anon_vma_fork MUST return 0 and do nothing.

    There are no anonymous pages in it; the child gets an anon_vma when it makes the first one.
    """
    return implies(
        old.source.anon_vma is None, lambda: result == 0 and not op.net() and not op.did("alloc", "link", "acquire")
    )


@postcondition(
    "AVMA-FORK-002",
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork", "linking"),
    fields=(*OWN, *CHAIN),
    since=CHAINS,
    until="3.19",
    would_catch="a machine with a thousand children, each of whose pages is looked for in all the others",
    interfaces=("ReverseMap",),
)
def child_shares_the_old_and_owns_a_new_one(result: int, op: Operation, old: Any, new: Any) -> Truth:
    """A forked area MUST be on all anon_vmas of the parent's, and have a new one of its own, on which no other area is.

    Pages that the child makes are looked for in the child only, those that it inherited wherever they may be.
    """
    if result or old.source.anon_vma is None:
        return VACUOUS
    own = new.copy.anon_vma
    made = [e.anon_vma for e in op.all("anon_vma_allocated")]
    return set(old.source.chain) < set(new.copy.chain) and own in made and [v.name for v in own.list] == [op.vma.name]


@postcondition(
    "AVMA-FORK-003",
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork"),
    fields=(*OWN, *CHAIN, *COUNT),
    since=CHAINS,
    would_catch="the anon_vma that was lost when the allocation of its chain element failed (2.6.34-rc)",
)
def failed_fork_releases_everything(result: int, op: Operation, old: Any, new: Any) -> Truth:
    """If anon_vma_fork fails it MUST return -ENOMEM, give back all links, elements and anon_vmas that it made, and leave the
    parent's area as it was.

    Memory runs out rarely, so these paths are hardly ever run, and most mistakes in this function were in them.
    """
    if result == 0:
        return VACUOUS
    made = [e.anon_vma for e in op.all("anon_vma_allocated")]
    return both(
        result == -errno.ENOMEM,
        new.copy.chain == () and new.source.chain == old.source.chain,
        _elements_are_balanced(op, 0),
        all(op.delta("refcount", a) == 0 for a in made),
    )


@transition(
    "AVMA-FORK-004",
    over=Over.OPERATION,
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork"),
    fields=(*ROOT, *COUNT),
    functions=("anon_vma_fork", "__put_anon_vma"),
    since=COUNTED,
)
def failed_fork_leaves_the_parents_root_alone(result: int, pvma: Any, op: Operation) -> Truth:
    """A fork that fails before the new anon_vma has joined the parent's tree MUST NOT change the count of the parent's root.

    Until then the new one is its own root, and putting it drops no other reference.
    """
    return implies(
        result != 0 and pvma.anon_vma is not None, lambda: op.delta("refcount", pvma.anon_vma.root) == 0
    )


@postcondition(
    "AVMA-FORK-005",
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork"),
    fields=(*ROOT, *COUNT),
    since=COUNTED,
    interfaces=("ReverseMap",),
)
def each_fork_takes_one_reference_on_the_root(result: int, pvma: Any, op: Operation) -> Truth:
    """Each successful fork of an area with an anon_vma MUST add exactly one reference to the root of the tree.

    It is the new anon_vma's, which uses the root's mutex as long as it lives.
    """
    return implies(
        result == 0 and pvma.anon_vma is not None, lambda: op.delta("refcount", pvma.anon_vma.root) == 1
    )


# -- unlink_anon_vmas --------------------------------------------------------------------------------------------------


@postcondition(
    "AVMA-UNLINK-001",
    on=("unlink_anon_vmas",),
    source=rmap("unlink_anon_vmas"),
    fields=(*CHAIN, *HEAD),
    since=CHAINS,
    interfaces=("ReverseMap",),
)
def unlinked_areas_are_on_no_list(old: Any, new: Any) -> Truth:
    """After unlink_anon_vmas the area MUST have no chain and be on the list of no anon_vma.

    It is going to be freed; a walk that met it would look at page tables that are gone.
    """
    return implies(old.chain, lambda: new.chain == () and new.on_lists == ())


@transition(
    "AVMA-UNLINK-002",
    over=Over.OPERATION,
    on=("unlink_anon_vmas",),
    source=rmap("unlink_anon_vmas"),
    fields=(*CHAIN, *COUNT),
    functions=("unlink_anon_vmas",),
    since=ONE_LOCK,
)
def root_goes_last(op: Operation, old: Any) -> Truth:
    """unlink_anon_vmas MUST go from the newest anon_vma to the oldest, and drop those that it emptied in that order.

    The root has the mutex that the others need until they are freed.
    """
    removed = [e.anon_vma for e in op.all("list_del_same_anon_vma")]
    dropped = [e.anon_vma for e in op.all("put_chain_ref")]
    return implies(removed, lambda: removed == list(old.chain) and dropped == [a for a in old.chain if a in dropped])


@transition(
    "AVMA-UNLINK-003",
    over=Over.OPERATION,
    on=("unlink_anon_vmas",),
    source=rmap("unlink_anon_vmas"),
    fields=(*CHAIN, *HEAD, *COUNT),
    locks=MUTEX,
    functions=("unlink_anon_vmas",),
    since=A_MUTEX,
)
def lists_with_the_mutex_references_without(op: Operation) -> Truth:
    """unlink_anon_vmas MUST take the area off lists with the mutex of the tree held, and drop references only when all that
    is done and the mutex is released.

    Freeing takes the mutex, so a reference that is dropped under it waits for its own thread.
    """
    lists = op.all("list_del_same_anon_vma")
    drops = op.all("put_chain_ref", "put_anon_vma")
    return every(
        [
            *(e.holds("anon_vma_mutex", e.anon_vma.root) for e in lists),
            *(not e.holds("anon_vma_mutex") and e.seq > lists[-1].seq for e in drops),
        ]
    )


@precondition(
    "AVMA-UNLINK-004",
    on=("unlink_anon_vmas",),
    source=field_2011("base") + rmap("unlink_anon_vmas"),
    fields=("pte", *CHAIN),
    since=CHAINS,
    would_catch="pages that stay mapped when their anon_vma is freed",
)
def nothing_is_left_in_an_area_that_is_unlinked(vma: Any) -> Truth:
    """An area MUST be unlinked only when no page, swap entry or migration entry is left in it, or when another area with all
    of its anon_vmas has taken over the place.

    Its pages still name the anon_vma, which may go with the last area.
    """
    size = vma.mm.system.page_size
    left = [
        place
        for place in places_of(vma.mm)
        if vma.vm_start <= place.vpn * size < vma.vm_end and place.entry.kind in ("present", "swap", "migration")
    ]
    return implies(
        vma.anon_vma_chain,
        lambda: all(p.vma is not None and p.vma is not vma and set(chain(vma)) <= set(chain(p.vma)) for p in left),
    )


@postcondition(
    "AVMA-UNLINK-005",
    on=("unlink_anon_vmas",),
    source=rmap("unlink_anon_vmas"),
    fields=(*CHAIN, *HEAD),
    since=CHAINS,
    interfaces=("ReverseMap",),
)
def others_stay_linked(vma: Any, op: Operation, old: Any, new: Any) -> Truth:
    """unlink_anon_vmas MUST leave the chains of all other areas as they are.

    Brothers, parents and children go on to live by the lists that the area leaves.
    """
    own = all(e.vma is vma for e in op.all("list_del_same_anon_vma", "put_chain_ref", "link"))
    return implies(old.others, lambda: own and (not op.alone or new.others == old.others))
