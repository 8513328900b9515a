"""AVMA-RCU: from a page to its anon_vma with no lock at all, while the page may be unmapped and the anon_vma freed."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import Over, lock_rule, postcondition, transition
from mmspec.invariants.rmap.references import COUNT
from mmspec.invariants.rmap.roots import A_MUTEX, MUTEX, ROOT
from mmspec.invariants.rmap.terms import PAGE_MAPPING_ANON, pav, walkers
from mmspec.logic import VACUOUS, Truth, every, implies
from mmspec.sources import rmap
from mmspec.trace import Event, Operation

LOOKUPS = ("page_get_anon_vma", "page_lock_anon_vma")
MAPPING = ("page.mapping",)
BITS = 3


def _positions(op: Operation, *kinds: str) -> list[int]:
    return [n for n, e in enumerate(op.events) if e.kind in kinds]


def _acquired(op: Operation) -> list[int]:
    """Where in its events the lookup has got the pin or, at the first attempt, the mutex."""
    return _positions(op, "pin_anon_vma", "trylock_root")


def _seen_mapped(op: Operation, after: int) -> bool:
    """Whether the last look at the map count after that position found the page mapped."""
    looks = [op.events[n] for n in _positions(op, "mapcount_read") if n > after]
    return bool(looks) and bool(looks[-1].mapped)


@transition(
    "AVMA-RCU-001",
    over=Over.OPERATION,
    on=LOOKUPS,
    source=rmap(*LOOKUPS),
    fields=MAPPING,
    functions=LOOKUPS,
    since="2.6.33",
    would_catch="a page that becomes a merged one between the test of its kind and the use of its pointer",
)
def mapping_is_read_once(op: Operation) -> Truth:
    """A lookup MUST read `mapping` exactly once, and test and use what it has read.

    Nothing keeps `mapping` from changing: a second look may find a file, or the node of a merged page.
    """
    return len(op.all("load_mapping")) == 1


@postcondition(
    "AVMA-RCU-002", on=LOOKUPS, source=rmap(*LOOKUPS), fields=MAPPING, since="2.6.33"
)
def only_anonymous_pages_have_an_anon_vma(op: Operation, result: Any) -> Truth:
    """If the low bits of what was read are not those of a plain anonymous page, a lookup MUST return nothing.

    With other bits the pointer is that of a file, or of a node of the stable tree.
    """
    loads = op.all("load_mapping")
    plain = bool(loads) and loads[0].mapping is not None and loads[0].mapping.bits & BITS == PAGE_MAPPING_ANON
    return implies(not plain, lambda: result is None)


@transition(
    "AVMA-RCU-003",
    over=Over.OPERATION,
    on=LOOKUPS,
    source=rmap(*LOOKUPS),
    fields=(*MAPPING, "page._mapcount", *ROOT),
    functions=LOOKUPS,
    since="2.6.29",
    would_catch="a lookup by the `mapping` that an unmapped page still shows, whose anon_vma is gone for good",
)
def page_is_mapped_before_the_pointer_is_used(op: Operation) -> Truth:
    """A lookup MUST have found the page mapped, after it has read `mapping` and before it touches the anon_vma.

    `mapping` stays when the last entry goes. Mapped, the anon_vma was there when the RCU section had begun already, so its
    memory stays of that type.
    """
    uses = _positions(op, "load_root", "pin_anon_vma", "trylock_root")
    loads, looks = _positions(op, "load_mapping"), _positions(op, "mapcount_read")

    def right(use: int) -> bool:
        return any(load < look < use and op.events[look].mapped for load in loads[:1] for look in looks)

    return every(right(use) for use in uses[:1])


@transition(
    "AVMA-RCU-004",
    over=Over.OPERATION,
    on=LOOKUPS,
    source=rmap(*LOOKUPS),
    fields=("page._mapcount", *COUNT),
    locks=MUTEX,
    functions=LOOKUPS,
    since="2.6.36",
    would_catch="an anon_vma that was freed and used again between the look at the page and the pin",
)
def page_is_looked_at_again(op: Operation, result: Any) -> Truth:
    """Once it has the reference or the mutex, a lookup MUST look again whether the page is mapped; if not, it undoes what it
    did and returns nothing.

    Still mapped, the anon_vma is the page's, and what the lookup has now keeps it so. Not mapped, it may be anybody's.
    """
    acquired = _acquired(op)
    if not acquired:
        return VACUOUS
    if _seen_mapped(op, acquired[0]):
        return True
    undone = len(op.all("pin_anon_vma")) == len(op.all("unpin_anon_vma"))
    return result is None and undone and op.context.held == op.held_at_entry


@postcondition(
    "AVMA-RCU-005", on=("page_get_anon_vma",), source=rmap("page_get_anon_vma"), fields=(*MAPPING, *COUNT), since=A_MUTEX
)
def pinned_anon_vma_is_the_pages(page: Any, op: Operation, result: Any) -> Truth:
    """What page_get_anon_vma returns MUST be alive, have one reference more for it, and have been the page's anon_vma while the
    page was mapped.

    Migration keeps it over the time in which nothing maps the page, and finds all places to restore by it.
    """
    if result is None:
        return VACUOUS
    sampled = op.all("load_mapping")[0].mapping
    return (
        result.allocated
        and result.refcount > 0
        and op.delta("refcount", result) == 1
        and sampled.pointer is result
        and _seen_mapped(op, _acquired(op)[0])
    )


@postcondition(
    "AVMA-RCU-006",
    on=("page_lock_anon_vma",),
    source=rmap("page_lock_anon_vma"),
    fields=COUNT,
    locks=MUTEX,
    since=A_MUTEX,
)
def found_is_locked_and_nothing_else_is_left(op: Operation, result: Any) -> Truth:
    """page_lock_anon_vma MUST return either nothing, and hold nothing, or an anon_vma, and hold the mutex of its root and no
    reference to it; in both cases it has left its RCU section.

    The mutex alone keeps all that the walk needs; a pin that is forgotten here is never dropped, since nobody knows of it.
    """
    if op.context.rcu_depth:
        return False
    before = list(op.held_at_entry)
    now = list(op.context.held)
    if result is None:
        return now == before
    gained = [h for h in now if h not in before]
    right = len(gained) == 1 and gained[0].matches("anon_vma_mutex", result.root)
    return right and len(now) == len(before) + 1 and op.delta("refcount", result) == 0


@transition(
    "AVMA-RCU-007",
    over=Over.OPERATION,
    on=("page_lock_anon_vma",),
    source=rmap("page_lock_anon_vma"),
    fields=ROOT,
    locks=MUTEX,
    functions=("page_lock_anon_vma",),
    since=A_MUTEX,
    would_catch="the mutex of another tree released, and the one that was taken held for ever (3.0-rc)",
)
def released_is_what_was_taken(op: Operation, result: Any) -> Truth:
    """If the page turns out to be unmapped, page_lock_anon_vma MUST release the mutex that it has taken, whatever the root of
    the anon_vma is by then.

    Its memory may be another anon_vma now, with another root.
    """
    taken = [e.lock.owner for e in op.all("acquire") if e.lock.cls == "anon_vma_mutex" and e.how == "trylock"]
    released = [e.lock.owner for e in op.all("release") if e.lock.cls == "anon_vma_mutex"]
    return implies(taken and result is None, lambda: released[: len(taken)] == taken)


@lock_rule(
    "AVMA-RCU-008",
    on=("lock_root", "acquire"),
    source=rmap("page_lock_anon_vma"),
    locks=MUTEX,
    functions=("page_lock_anon_vma",),
    since=A_MUTEX,
    enforced_by="might_sleep() with CONFIG_DEBUG_ATOMIC_SLEEP",
)
def nobody_waits_in_an_rcu_section(event: Event) -> Truth:
    """In an RCU section the mutex of a tree MUST only be tried; who has to wait takes a reference and leaves the section first.

    A sleeping reader ends no section; and when it has left, only the reference keeps the memory.
    """
    if event.kind == "acquire" and (event.lock.cls != "anon_vma_mutex" or event.how == "trylock"):
        return VACUOUS
    return not event.rcu


@transition(
    "AVMA-RCU-009",
    over=Over.OPERATION,
    on=("page_lock_anon_vma",),
    source=rmap("page_lock_anon_vma"),
    fields=COUNT,
    locks=MUTEX,
    functions=("page_lock_anon_vma", "__put_anon_vma"),
    since=A_MUTEX,
    would_catch="the last reference dropped under the mutex that freeing takes",
)
def who_has_to_wait_pins_first(op: Operation, result: Any) -> Truth:
    """If the mutex is taken, page_lock_anon_vma MUST pin, look again, leave the RCU section, wait, and unpin, in that order;
    if the pin was the last reference it MUST release the mutex before it frees, and return nothing.

    Without the pin the memory may be gone when the mutex is had; and freeing takes that mutex.
    """
    waited = [n for n, e in enumerate(op.events) if e.kind == "acquire" and e.lock.cls == "anon_vma_mutex" and e.how != "trylock"]
    pins, unpins = _positions(op, "pin_anon_vma"), _positions(op, "unpin_anon_vma")
    if not waited or not pins:
        return VACUOUS
    pinned = op.events[pins[0]].anon_vma
    looks = [n for n in _positions(op, "mapcount_read") if pins[0] < n < waited[0]]
    if looks and not op.events[looks[-1]].mapped:
        # It gave the pin up, and may have waited to free what nobody else had.
        return bool(unpins) and unpins[0] < waited[0]
    ordered = bool(looks) and bool(unpins) and pins[0] < looks[-1] < waited[0] < unpins[0]
    ordered = ordered and not op.events[waited[0]].rcu and bool(op.events[looks[-1]].mapped)
    last = [n for n, e in enumerate(op.events) if e.kind == "write" and e.field == "refcount" and e.obj is pinned and not e.new]
    if not last:
        return ordered
    freed, released = _positions(op, "root_mutex_test"), _positions(op, "release")
    return ordered and result is None and bool(freed) and any(last[0] < n < freed[0] for n in released)


@transition(
    "AVMA-RCU-010",
    over=Over.EVENT,
    on=("root_mutex_test",),
    source=rmap("anon_vma_free"),
    fields=("page._mapcount", *COUNT),
    locks=MUTEX,
    functions=("anon_vma_free", "page_lock_anon_vma"),
    since=A_MUTEX,
    would_catch="a machine on which the test of the mutex is done before the drop of the reference is seen",
)
def one_of_the_two_sees_the_other(event: Event) -> Truth:
    """A lookup that takes the mutex and then finds the page mapped, and a thread that drops the last reference and then finds
    the mutex free, MUST NOT both be: one of them sees what the other has done.

    Each does its own step first and looks at the other's after it. On machines that reorder the two, both need a barrier.
    """
    return implies(walkers(event.anon_vma) or _overtaken(event.anon_vma, event.root), lambda: bool(event.locked))


def _overtaken(anon_vma: Any, root: Any) -> bool:
    """Whether a lookup that had the mutex when the last reference went has it still."""
    before = anon_vma.lookup_at_last_put
    return before is not None and before == root.lookup


def _mapped_throughout(op: Operation, page: Any) -> bool:
    """Whether the page was mapped, and plainly anonymous, from the call until now, whatever others did meanwhile."""
    if pav(page) is None or page._mapcount < 0:
        return False
    for context in op.context.recorder.contexts:
        for event in reversed(context.events):
            if event.seq <= op.seq_at_entry:
                break
            if event.kind == "write" and event.data["obj"] is page:
                field, old, new = event.data["field"], event.data["old"], event.data["new"]
                if field == "mapping" or (field == "_mapcount" and min(old, new) < 0):
                    return False
    return True


@postcondition(
    "AVMA-RCU-011", on=LOOKUPS, source=rmap(*LOOKUPS), fields=(*MAPPING, "page._mapcount"), since=A_MUTEX
)
def mapped_pages_are_found(page: Any, op: Operation, result: Any) -> Truth:
    """If the page is anonymous, not merged, and mapped all the time, a lookup MUST find its anon_vma.

    A lookup that gives up too readily is safe, and reclaim and migration never get anywhere.
    """
    return implies(_mapped_throughout(op, page), lambda: result is not None)


@transition(
    "AVMA-RCU-012",
    over=Over.OPERATION,
    on=("page_referenced_one", "try_to_unmap_one", "page_mkclean_one"),
    source=rmap("page_get_anon_vma", "try_to_unmap_one"),
    fields=("pte",),
    functions=("page_referenced_one", "try_to_unmap_one", "page_mkclean_one"),
    since="2.6.29",
    would_catch="a walk that unmaps whatever is at the address now",
)
def walks_believe_page_tables_only(page: Any, op: Operation) -> Truth:
    """A walk MUST change an entry only if it maps the page, as seen with the lock of the slot held; that an area is on the list
    says no more than that it may.

    Lists hold all areas that ever could map a page of the tree, and most of them do not map this one.
    """
    return every(
        e.old is None or e.old.kind != "present" or (e.old.page is page and e.holds(e.lock.cls, e.lock.owner))
        for e in op.all("set_pte")
    )


@transition(
    "AVMA-RCU-013",
    over=Over.EVENT,
    on=("link", "list_del_same_anon_vma", "moveto_tail", "free_anon_vma"),
    source=rmap("page_lock_anon_vma", "anon_vma_free"),
    fields=("anon_vma.head",),
    locks=MUTEX,
    functions=("page_lock_anon_vma", "anon_vma_chain_link", "unlink_anon_vmas", "anon_vma_free"),
    since=A_MUTEX,
)
def nothing_moves_under_a_walk(event: Event) -> Truth:
    """From a successful lookup until the mutex is released, the anon_vma MUST NOT be freed and its list MUST NOT change.

    The walk goes along the list with no further precaution.
    """
    return not walkers(event.anon_vma)


@postcondition("AVMA-RCU-014", on=LOOKUPS, source=rmap("page_get_anon_vma", "page_move_anon_rmap"), fields=MAPPING, since="2.6.36")
def old_or_new_owner_will_do(page: Any, op: Operation, result: Any) -> Truth:
    """If the page is given to another anon_vma meanwhile, a lookup MUST return the old or the new one, of the same tree and
    alive.

    A write to a page that nobody else has gives it to the writer's own anon_vma. Who found the older one finds the writer
    on its list as well.
    """
    owner = pav(page)
    if result is None or owner is None or owner is result or page._mapcount < 0:
        return VACUOUS
    return result.allocated and result.root is owner.root


@postcondition("AVMA-RCU-015", on=LOOKUPS, source=rmap("page_get_anon_vma"), fields=MAPPING, since="2.6.36")
def lookups_need_no_lock(page: Any, op: Operation, result: Any) -> Truth:
    """A lookup MUST work for a caller that holds neither the page lock nor `mmap_sem`, whatever happens to the page meanwhile:
    what it returns is alive, if it returns anything.

    Reclaim asks for the references of a page that is not locked, and page_remove_rmap runs beside it unhindered.
    """
    bare = not any(h.cls in ("page_lock", "mmap_sem", "lru_lock") for h in op.held_at_entry)
    return implies(bare, lambda: result is None or bool(result.allocated))
