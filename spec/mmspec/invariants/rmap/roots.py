"""AVMA-ROOT, AVMA-LOCKROOT: the root of a tree of anon_vmas, whose mutex is the mutex of them all."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import Over, lock_rule, postcondition, state_invariant, transition
from mmspec.invariants.rmap.terms import chain, linked_chain
from mmspec.logic import VACUOUS, Truth, both, implies
from mmspec.sources import rmap
from mmspec.trace import Event, Operation

ROOT = ("anon_vma.root",)
MUTEX = ("anon_vma.root.mutex",)

#: Since when a tree has one lock.
ONE_LOCK = "2.6.36"
#: Since when that lock is a mutex, taken by lookups that hold nothing.
A_MUTEX = "3.0"


@state_invariant(
    "AVMA-ROOT-001",
    over=Over.ANON_VMA,
    guard="anon_vma_mutex",
    source=rmap("anon_vma_alloc", "anon_vma_fork"),
    fields=ROOT,
    functions=("anon_vma_alloc", "anon_vma_fork"),
    since=ONE_LOCK,
    would_catch="a fork that takes the parent's anon_vma for the root, so that grandchildren lock another mutex",
    interfaces=("ReverseMap",),
)
def root_of_a_root_is_itself(anon_vma: Any) -> Truth:
    """The root of an anon_vma MUST be its own root.

    Two steps to the lock of a tree would be two locks: who goes one step and who goes two would not exclude each other.
    """
    return anon_vma.root.root is anon_vma.root


@state_invariant(
    "AVMA-ROOT-002",
    over=Over.VMA,
    guard="anon_vma_mutex",
    source=rmap("lock_anon_vma_root"),
    fields=(*ROOT, "vma.anon_vma_chain"),
    functions=("anon_vma_clone", "anon_vma_fork", "unlink_anon_vmas", "lock_anon_vma_root"),
    since=ONE_LOCK,
    enforced_by="WARN_ON in lock_anon_vma_root",
    interfaces=("ReverseMap",),
)
def chain_has_one_root(vma: Any) -> Truth:
    """All anon_vmas on the chain of an area MUST have the same root.

    Cloning and unlinking take one mutex for the whole chain; elements of another tree would be changed unlocked.
    """
    return implies(vma.anon_vma_chain, lambda: len({anon_vma.root for anon_vma in chain(vma)}) == 1)


@lock_rule(
    "AVMA-ROOT-003",
    on=("acquire", "lookup_done"),
    source=rmap("anon_vma_fork", "lock_anon_vma_root"),
    fields=ROOT,
    locks=MUTEX,
    functions=("anon_vma_prepare", "anon_vma_clone", "anon_vma_fork", "unlink_anon_vmas", "page_lock_anon_vma"),
    since=ONE_LOCK,
)
def only_roots_are_locked(event: Event) -> Truth:
    """Whoever waits for the mutex of an anon_vma, or works under it, MUST have taken the one in the root of its tree.

    The mutex of any other anon_vma protects nothing. A lookup that tries a lock before it knows whether the page is still
    mapped may get that of memory which belongs to another tree by now; it finds out and lets go.
    """
    if event.kind == "lookup_done":
        return event.root is event.anon_vma.root and event.root.root is event.root
    if event.lock.cls != "anon_vma_mutex" or event.how == "trylock":
        return VACUOUS
    return event.lock.owner.root is event.lock.owner


@postcondition(
    "AVMA-ROOT-004",
    on=("anon_vma_alloc",),
    source=rmap("anon_vma_alloc", "anon_vma_ctor"),
    fields=(*ROOT, "anon_vma.refcount", "anon_vma.head"),
    locks=MUTEX,
    since="2.6.39",
)
def new_anon_vma_stands_alone(result: Any) -> Truth:
    """A new anon_vma MUST have one reference, be its own root, have no area on its list, and be locked by nobody but a
    lookup that took its memory for what it was before.

    The memory comes back as it was given up: nothing but the count and the root is set anew.
    """
    if result is None:
        return VACUOUS
    untouched = result.mutex.writer is None or result.generation > 0
    return result.refcount == 1 and result.root is result and not result.head and untouched


@transition(
    "AVMA-ROOT-005",
    over=Over.OPERATION,
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork"),
    fields=(*ROOT, "anon_vma.refcount", "vma.anon_vma"),
    functions=("anon_vma_fork",),
    locks=MUTEX,
    since=ONE_LOCK,
    would_catch="a child that is found by a walk while it is still its own root: walker and fork hold different mutexes",
)
def root_is_set_and_pinned_before_anybody_looks(op: Operation, result: int) -> Truth:
    """fork MUST set the root of the new anon_vma to that of the parent's tree and take a reference on it before it locks,
    links or publishes the new one.

    From the first link on others reach it, and go by its root to the mutex, which must be there and be the right one.
    """
    published = [n for n, e in enumerate(op.events) if e.kind == "publish_vma_anon_vma"]
    if result or not published:
        return VACUOUS
    own = op.events[published[0]].anon_vma

    def first(found: Any) -> int:
        return next((n for n, e in enumerate(op.events) if found(e)), -1)

    rooted = first(lambda e: e.kind == "write" and e.field == "root" and e.obj is own and e.new is own.root is not own)
    pinned = first(lambda e: e.kind == "get_anon_vma" and e.anon_vma is own.root)
    linked = first(lambda e: e.kind == "link" and e.anon_vma is own)
    prepared = max(rooted, pinned)
    locked = [n for n, e in enumerate(op.events) if e.kind == "acquire" and e.lock.owner is own.root and prepared < n < linked]
    return rooted >= 0 and pinned >= 0 and prepared < published[0] and prepared < linked and bool(locked)


@transition(
    "AVMA-ROOT-006",
    over=Over.EVENT,
    on=("root",),
    source=rmap("page_lock_anon_vma"),
    fields=ROOT,
    functions=("anon_vma_fork", "anon_vma_alloc"),
    since=ONE_LOCK,
)
def root_of_a_linked_anon_vma_is_constant(event: Event) -> Truth:
    """The root of an anon_vma MUST NOT change from its first link until its memory is freed.

    Lookups read it without a lock and take the mutex behind it; a root that changes splits those who lock by the old one
    from those who lock by the new.
    """
    if event.obj.over is not Over.ANON_VMA or event.old is event.new:
        return VACUOUS
    return not event.obj.linked_before and not event.obj.head


@state_invariant(
    "AVMA-ROOT-007",
    over=Over.VMA,
    guard="anon_vma_mutex",
    source=rmap("unlink_anon_vmas", "oldest"),
    fields=(*ROOT, "vma.anon_vma_chain"),
    functions=("anon_vma_prepare", "anon_vma_clone", "anon_vma_fork"),
    since=ONE_LOCK,
    implied_by=("AVMA-PREP-007",),
    interfaces=("ReverseMap",),
)
def oldest_of_a_chain_is_the_root(vma: Any) -> Truth:
    """The oldest anon_vma to which an area is linked MUST be the root of its tree.

    A page that several processes may share is given to the oldest, because everybody who may map it is on that list; and
    unlinking from newest to oldest frees the root, whose mutex it needs until then, last.
    """
    linked = linked_chain(vma)
    return implies(linked, lambda: linked[-1] is linked[0].root)


@transition(
    "AVMA-ROOT-008",
    over=Over.EVENT,
    on=("free_anon_vma", "link"),
    source=rmap("anon_vma_fork", "page_get_anon_vma"),
    fields=(*ROOT, "anon_vma.refcount"),
    functions=("anon_vma_free", "__put_anon_vma", "anon_vma_chain_link"),
    since="2.6.39",
    would_catch="the root freed with its parent process while children still lock by it",
    interfaces=("ReverseMap",),
)
def ancestors_outlive_descendants(event: Event) -> Truth:
    """An anon_vma MUST NOT be freed while it is the root of another that is alive, or on the chain of an area; and nothing
    that is freed is linked.

    The mutex of a tree and the place where shared pages are looked up are in the root, which the process that made it may
    have left long ago.
    """
    anon_vma = event.anon_vma
    if event.kind == "link":
        return anon_vma.allocated and anon_vma.root.allocated
    system = anon_vma.system
    return both(
        not any(other.root is anon_vma for other in system.live_anon_vmas if other is not anon_vma),
        not any(anon_vma in chain(vma) for vma in system.vmas),
    )


# -- the helper that takes the mutex of a chain ------------------------------------------------------------------------


@postcondition(
    "AVMA-LOCKROOT-001",
    on=("lock_anon_vma_root",),
    source=rmap("lock_anon_vma_root"),
    fields=ROOT,
    locks=MUTEX,
    since=A_MUTEX,
    enforced_by="WARN_ON in lock_anon_vma_root",
)
def lock_of_the_tree_is_kept_or_taken(root: Any, anon_vma: Any, result: Any, op: Operation) -> Truth:
    """lock_anon_vma_root MUST return the root of the anon_vma with its mutex held, keeping it if it is held already; another
    root that is held is complained of and released first.

    Taking a mutex again that one has is a deadlock, and holding two of them is one with whoever does so the other way round.
    """
    held = [h.owner for h in op.context.held if h.cls == "anon_vma_mutex"]
    right = result is anon_vma.root and result in held
    if root is None:
        return right
    if root is result:
        return right and not op.did("acquire", "release")
    return right and op.did("warn") and root not in held


@postcondition(
    "AVMA-LOCKROOT-002",
    on=("unlock_anon_vma_root",),
    source=rmap("unlock_anon_vma_root"),
    locks=MUTEX,
    since=A_MUTEX,
)
def unlocking_nothing_does_nothing(root: Any, op: Operation) -> Truth:
    """unlock_anon_vma_root MUST release the mutex of the root that it is given, and do nothing if there is none.

    Callers come here with whatever they have, also when the chain was empty.
    """
    if root is None:
        return not op.events and op.context.held == op.held_at_entry
    return [e.lock.owner for e in op.all("release")] == [root]


