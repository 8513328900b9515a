"""AVMA-REF: who holds references on an anon_vma, and how its memory is given back."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import ALWAYS, QUIESCENT, Over, lock_rule, precondition, state_invariant, transition
from mmspec.invariants.rmap.roots import A_MUTEX, MUTEX, ROOT
from mmspec.invariants.rmap.terms import walkers
from mmspec.logic import VACUOUS, Truth, both, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event, Operation

COUNT = ("anon_vma.refcount",)

#: Since when all anon_vmas are counted.
COUNTED = "2.6.39"


def _children(anon_vma: Any) -> int:
    """How many living anon_vmas have this one as their root, itself left out."""
    return sum(1 for c in anon_vma.system.live_anon_vmas if c is not anon_vma and c.root is anon_vma)


def _pins(anon_vma: Any) -> int:
    """References that are held by neither the list nor a child."""
    return sum(anon_vma.pins.values())


@state_invariant(
    "AVMA-REF-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("anon_vma_alloc", "anon_vma_fork", "unlink_anon_vmas", "__put_anon_vma"),
    fields=COUNT,
    functions=("anon_vma_prepare", "anon_vma_fork", "unlink_anon_vmas", "page_get_anon_vma", "put_anon_vma"),
    since=COUNTED,
    implied_by=("AVMA-REF-003", "AVMA-REF-004", "AVMA-REF-005", "AVMA-FORK-005"),
    would_catch="anon_vmas that are never freed after a failed fork",
    interfaces=("ReverseMap",),
)
def references_are_accounted_for(world: Any) -> Truth:
    """The count of an anon_vma MUST be one for its list of areas if that is not empty, one for each other anon_vma of which
    it is the root, and one for each pin.

    One too many is a leak for ever; one too few is a tree freed under the feet of those who walk it.
    """
    return every(a.refcount == bool(a.head) + _children(a) + _pins(a) for a in world.live_anon_vmas)


@precondition(
    "AVMA-REF-002",
    on=("anon_vma_free",),
    source=rmap("anon_vma_free"),
    fields=COUNT,
    since=COUNTED,
    enforced_by="VM_BUG_ON in anon_vma_free",
)
def only_unreferenced_anon_vmas_are_freed(anon_vma: Any) -> Truth:
    """An anon_vma MUST NOT be freed while there are references to it.

    A pin of migration or of a merged page's reverse mapping would then walk the list of a stranger.
    """
    return bool(anon_vma.refcount == 0)


@state_invariant(
    "AVMA-REF-003",
    over=Over.ANON_VMA,
    guard=ALWAYS,
    source=rmap("anon_vma_fork", "__put_anon_vma"),
    fields=(*COUNT, *ROOT),
    functions=("anon_vma_fork", "__put_anon_vma"),
    since=COUNTED,
    would_catch="a child that is linked before its root is pinned, and the parent exits in between",
)
def each_child_has_a_reference_on_its_root(anon_vma: Any) -> Truth:
    """From fork until its own end each anon_vma MUST hold a reference on its root, beside those of the root's list and of
    pins.

    It is checked at every step, as the count never less than what is known to be held: between two steps a reference may be
    on its way, but none may be missing.
    """
    root = anon_vma.root
    if not anon_vma.allocated or not root.allocated:
        return VACUOUS
    return implies(
        root is not anon_vma or _children(root),
        lambda: bool(root.refcount >= bool(root.head) + _children(root) + _pins(root)),
    )


@transition(
    "AVMA-REF-004",
    over=Over.OPERATION,
    on=("anon_vma_clone", "anon_vma_prepare"),
    source=rmap("anon_vma_prepare", "anon_vma_clone"),
    fields=COUNT,
    functions=("anon_vma_prepare", "anon_vma_clone"),
    since=COUNTED,
)
def a_further_area_takes_no_reference(op: Operation, result: int) -> Truth:
    """Linking a further area to an anon_vma that has some already MUST leave its count alone.

    All areas of the list share one reference; the one who empties the list drops it.
    """
    linked = {e.anon_vma for e in op.all("link") if e.before}
    return implies(result == 0 and linked, lambda: all(op.delta("refcount", anon_vma) == 0 for anon_vma in linked))


@transition(
    "AVMA-REF-005",
    over=Over.OPERATION,
    on=("unlink_anon_vmas",),
    source=rmap("unlink_anon_vmas"),
    fields=(*COUNT, "anon_vma.head"),
    functions=("unlink_anon_vmas",),
    since=COUNTED,
)
def who_empties_the_list_drops_its_reference(op: Operation) -> Truth:
    """Whoever takes the last area off the list of an anon_vma MUST drop the list's reference, once; who leaves areas there
    MUST NOT.

    A list has one reference, not one for each area, so it is the emptying that counts.
    """

    def right(removal: Event) -> bool:
        drops = sum(1 for e in op.all("put_chain_ref") if e.anon_vma is removal.anon_vma)
        return drops == (removal.left == 0)

    return every(right(e) for e in op.all("list_del_same_anon_vma"))


@transition(
    "AVMA-REF-006",
    over=Over.EVENT,
    on=("refcount",),
    source=rmap("page_get_anon_vma", "page_lock_anon_vma"),
    fields=COUNT,
    functions=("page_get_anon_vma", "page_lock_anon_vma", "anon_vma_alloc"),
    since=A_MUTEX,
    would_catch="a lookup that revives an anon_vma whose last reference is gone, and frees it a second time",
)
def nothing_is_revived(event: Event) -> Truth:
    """The count of an anon_vma MUST leave zero only in anon_vma_alloc; a lookup without locks takes a reference by an
    increment that fails at zero.

    From zero on somebody is about to free it, who does not look at the count again.
    """
    if event.obj.over is not Over.ANON_VMA:
        return VACUOUS
    return implies(
        event.old == 0 and event.new > 0, lambda: event.op is not None and event.op.within("anon_vma_alloc") is not None
    )


@lock_rule(
    "AVMA-REF-007",
    on=("get_anon_vma",),
    source=rmap("anon_vma_fork") + field_2011("base"),
    fields=COUNT,
    functions=("get_anon_vma",),
    since=COUNTED,
)
def an_unconditional_reference_needs_another(event: Event) -> Truth:
    """A reference that is taken without asking whether there is one MUST be taken by somebody who has another, which keeps
    the anon_vma alive meanwhile.

    Otherwise the count may have become zero a moment before, and nothing notices.
    """
    return bool(event.stable and event.anon_vma.refcount > 0)


@state_invariant(
    "AVMA-REF-008",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("unlink_anon_vmas", "anon_vma_fork"),
    fields=(*COUNT, "anon_vma.head"),
    functions=("anon_vma_prepare", "anon_vma_fork", "unlink_anon_vmas", "__put_anon_vma"),
    since=COUNTED,
    would_catch="an anon_vma that is lost when the allocation after it fails in fork",
    interfaces=("ReverseMap",),
)
def nothing_is_left_behind(world: Any) -> Truth:
    """When nothing is in flight, each anon_vma MUST have an area, a pin, or another anon_vma whose root it is; what has none
    of them is freed, also after each failure.

    Nobody is left then who could find it.
    """
    return every(bool(a.head) or bool(_pins(a)) or bool(_children(a)) for a in world.live_anon_vmas)


def _torn_down(op: Operation) -> tuple[Any, Any] | None:
    """The anon_vma that the operation tears down, and its root as it was then."""
    tests = [e for e in op.all("root_mutex_test") if e.anon_vma is op.anon_vma]
    return (op.anon_vma, tests[0].root) if tests else None


@transition(
    "AVMA-REF-009",
    over=Over.OPERATION,
    on=("__put_anon_vma",),
    source=rmap("__put_anon_vma"),
    fields=COUNT,
    functions=("__put_anon_vma",),
    since=COUNTED,
    would_catch="roots that outlive all their processes",
)
def last_put_of_a_child_drops_its_root(op: Operation) -> Truth:
    """The last put of an anon_vma that is no root MUST drop its reference on the root, once, and free the root if that was
    the last one.

    The process that made the root may be gone long since; its last descendant takes it along.
    """
    torn = _torn_down(op)
    if torn is None or torn[0] is torn[1]:
        return VACUOUS
    root = torn[1]
    emptied = any(e.kind == "write" and e.field == "refcount" and e.obj is root and e.new == 0 for e in op.events)
    freed = any(e.anon_vma is root for e in op.all("free_anon_vma"))
    return op.delta("refcount", root) == -1 and emptied == freed


@transition(
    "AVMA-REF-010",
    over=Over.OPERATION,
    on=("__put_anon_vma",),
    source=rmap("__put_anon_vma", "anon_vma_free") + field_2011("later"),
    fields=COUNT,
    locks=MUTEX,
    functions=("__put_anon_vma", "anon_vma_free"),
    since=COUNTED,
    would_catch="the root released first, and its mutex looked at in freed memory (until 3.16)",
)
def child_is_torn_down_before_its_root(op: Operation) -> Truth:
    """An anon_vma MUST be torn down, and its root's mutex looked at for the last time, before its reference on the root is
    dropped.

    That reference may be the root's last. In 3.2 the root goes first, and the test of its mutex reads freed memory.
    """
    torn = _torn_down(op)
    if torn is None or torn[0] is torn[1]:
        return VACUOUS
    child, root = torn
    order = [
        e.kind
        for e in op.events
        if (e.kind in ("free_anon_vma", "root_mutex_test") and e.anon_vma is child)
        or (e.kind == "put_root" and e.anon_vma is root)
    ]
    return order == ["root_mutex_test", "free_anon_vma", "put_root"]


@lock_rule(
    "AVMA-REF-011",
    on=("put_anon_vma",),
    source=rmap("page_get_anon_vma", "page_lock_anon_vma") + field_2011("later"),
    fields=COUNT,
    functions=("put_anon_vma", "page_get_anon_vma", "page_lock_anon_vma"),
    since=A_MUTEX,
    enforced_by="might_sleep() with CONFIG_DEBUG_ATOMIC_SLEEP",
    would_catch="__put_anon_vma sleeping in an RCU section after a failed second look (until 3.16)",
)
def last_put_may_sleep(event: Event) -> Truth:
    """A reference that may be the last MUST NOT be dropped in an RCU section or under a spinlock.

    Freeing may have to wait for the root's mutex. In 3.2 both lookups drop their pin inside the RCU section when the page
    turns out to be unmapped.
    """
    return not event.rcu and not event.spinlocks


@lock_rule(
    "AVMA-REF-012",
    on=("put_anon_vma", "put_chain_ref"),
    source=rmap("unlink_anon_vmas", "page_lock_anon_vma"),
    fields=COUNT,
    locks=MUTEX,
    functions=("unlink_anon_vmas", "put_anon_vma"),
    since=A_MUTEX,
)
def references_go_after_the_mutex(event: Event) -> Truth:
    """The reference of a list MUST be dropped when the mutex of the tree has been released.

    The last put takes that mutex itself, and would wait for its own thread.
    """
    return not event.holds("anon_vma_mutex", event.anon_vma.root)


@transition(
    "AVMA-REF-013",
    over=Over.EVENT,
    on=("free_anon_vma",),
    source=rmap("anon_vma_free"),
    fields=COUNT,
    locks=MUTEX,
    functions=("anon_vma_free",),
    since=A_MUTEX,
    would_catch="a walk of an anon_vma that is another process's by now",
)
def freeing_waits_for_who_took_the_mutex(event: Event) -> Truth:
    """The memory of an anon_vma MUST NOT be given back while a lookup works under the mutex that found its page mapped, or
    that had taken the mutex before the last reference went.

    Such a lookup has no reference. Whoever drops the last one looks at the mutex after that, and if somebody has it, waits by
    taking it once.
    """
    overtaken = event.lookup is not None and event.lookup == event.waited_for
    return not event.users and not walkers(event.anon_vma) and not overtaken


@transition(
    "AVMA-REF-014",
    over=Over.EVENT,
    on=("free_anon_vma",),
    source=rmap("anon_vma_ctor", "anon_vma_init"),
    fields=(*COUNT, "anon_vma.head"),
    locks=MUTEX,
    functions=("anon_vma_free", "anon_vma_ctor"),
    since="2.6.23",
)
def memory_goes_back_as_it_was_constructed(event: Event) -> Truth:
    """The memory of an anon_vma MUST be given back as the constructor left it: no area on the list, no reference, and the
    mutex not held by whoever frees it.

    The constructor runs once for each piece of memory, not for each allocation: what is left in it is there for the next.
    """
    anon_vma = event.anon_vma
    return both(not anon_vma.head, bool(anon_vma.refcount == 0), not event.holds("anon_vma_mutex", anon_vma))


@transition(
    "AVMA-REF-015",
    over=Over.OPERATION,
    on=("page_get_anon_vma", "page_lock_anon_vma"),
    source=rmap("anon_vma_init", "page_get_anon_vma"),
    functions=("page_get_anon_vma", "page_lock_anon_vma"),
    since="2.6.23",
)
def memory_stays_an_anon_vma_through_the_section(op: Operation) -> Truth:
    """What a lookup finds behind `mapping` MUST be an anon_vma from the moment it reads the pointer until it has a reference
    or the mutex, be it the page's or another by now; so all of that is done in one RCU section.

    The memory may be freed at any instant, and may be used again at once; only that it is used for the same type until all
    readers are gone makes it safe to touch its count and its mutex.
    """
    steps = op.all("load_mapping", "load_root", "trylock_root")
    found = [e.anon_vma for e in steps if e.kind != "load_mapping"]
    sections = {e.kind for e in steps if not e.rcu}
    return implies(steps, lambda: not sections and all(a.over is Over.ANON_VMA for a in found))
