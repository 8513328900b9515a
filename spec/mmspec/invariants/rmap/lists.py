"""AVMA-LIST: areas and anon_vmas, many to many, and the order in which each side lists the other."""

from __future__ import annotations

from typing import Any

from mmspec.invariant import QUIESCENT, Over, postcondition, state_invariant, transition
from mmspec.invariants.rmap.roots import A_MUTEX
from mmspec.invariants.rmap.terms import areas, chain
from mmspec.logic import VACUOUS, Truth, both, every, implies
from mmspec.sources import field_2011, rmap
from mmspec.trace import Event

CHAIN = ("vma.anon_vma_chain",)
HEAD = ("anon_vma.head",)

#: Since when areas have chains.
CHAINS = "2.6.34"
#: Since when new areas go to the tail.
TAIL = "2.6.38"


@state_invariant(
    "AVMA-LIST-001",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("anon_vma_chain_link", "linking"),
    fields=(*CHAIN, *HEAD, "avc.vma", "avc.anon_vma"),
    functions=("anon_vma_chain_link", "unlink_anon_vmas"),
    since=CHAINS,
    interfaces=("ReverseMap",),
)
def both_sides_know_each_link(world: Any) -> Truth:
    """Each element of a chain MUST be on the list of its area and on that of its anon_vma, on no other, and nothing else is.

    An area that is missing from the list has pages that reclaim and migration do not find; one that is too much on it is
    walked after it was freed.
    """
    linked = list(world.live_chains)
    sides = [c for v in world.vmas for c in v.anon_vma_chain] + [c for a in world.live_anon_vmas for c in a.head]
    return every(
        [
            *(c in c.vma.anon_vma_chain and c in c.anon_vma.head for c in linked),
            *(c in world.live_chains for c in sides),
            *(c.vma is v for v in world.vmas for c in v.anon_vma_chain),
            *(c.anon_vma is a for a in world.live_anon_vmas for c in a.head),
        ]
    )


@state_invariant(
    "AVMA-LIST-002",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=rmap("anon_vma_prepare", "anon_vma_fork"),
    fields=("vma.anon_vma", *CHAIN),
    functions=("anon_vma_prepare", "anon_vma_fork", "anon_vma_clone"),
    since=CHAINS,
    implied_by=("AVMA-CLONE-006", "AVMA-LIST-009"),
    interfaces=("ReverseMap",),
)
def own_anon_vma_is_the_newest_of_the_chain(world: Any) -> Truth:
    """When nothing is in flight, an area MUST have an anon_vma exactly if it has a chain, and it is the chain's first.

    New pages are given to `vma->anon_vma`; if the area is not on its list they are never found again.
    """
    return every(v.anon_vma is (v.anon_vma_chain[0].anon_vma if v.anon_vma_chain else None) for v in world.vmas)


@state_invariant(
    "AVMA-LIST-003",
    over=Over.VMA,
    guard="anon_vma_mutex",
    source=rmap("unlink_anon_vmas", "anon_vma_clone", "oldest"),
    fields=CHAIN,
    functions=("anon_vma_clone", "anon_vma_fork", "unlink_anon_vmas"),
    since=CHAINS,
    would_catch="chains that anon_vma_clone turned round, so that the oldest anon_vma was taken for the newest (2010)",
    interfaces=("ReverseMap",),
)
def chain_goes_from_newest_to_oldest(vma: Any) -> Truth:
    """The chain of an area MUST be in order of forks: each anon_vma is of a later generation than the one behind it.

    The last one is where shared pages belong, and unlinking must come to the root last. Both go by the position only.
    """
    depths = [anon_vma.depth for anon_vma in chain(vma)]
    return every(newer > older for newer, older in zip(depths, depths[1:], strict=False))


@state_invariant(
    "AVMA-LIST-004",
    over=Over.ANON_VMA,
    guard="anon_vma_mutex",
    source=rmap("anon_vma_chain_link"),
    fields=(*CHAIN, *HEAD),
    functions=("anon_vma_chain_link", "anon_vma_clone"),
    since=CHAINS,
    interfaces=("ReverseMap",),
)
def nothing_is_linked_twice(anon_vma: Any) -> Truth:
    """An area MUST NOT be on the list of an anon_vma twice, nor an anon_vma on the chain of an area.

    Walks count what they find against the map count; who is met twice is counted twice.
    """
    on_list = areas(anon_vma)
    return implies(
        on_list,
        lambda: len(set(on_list)) == len(on_list) and all(len(set(chain(v))) == len(v.anon_vma_chain) for v in on_list),
    )


@transition(
    "AVMA-LIST-005",
    over=Over.EVENT,
    on=("link",),
    source=rmap("anon_vma_chain_link", "anon_vma_prepare", "swapless"),
    fields=HEAD,
    functions=("anon_vma_chain_link",),
    since=TAIL,
    would_catch="a migration entry that fork copies to an area which the walk has passed already",
    interfaces=("ReverseMap",),
)
def new_areas_go_to_the_tail(event: Event) -> Truth:
    """A new area MUST be put at the tail of an anon_vma's list.

    A walk that is under way while fork copies has then met the parent before it meets the child. Put at the head, the child
    can be passed before the entry is copied, and keeps an entry for a page that is gone.
    """
    return list(event.after) == [*event.before, event.vma]


def _copied_to(event: Event) -> tuple[Any, Any] | None:
    """The parent's area and the child's, if the step fills a slot of the child's while fork copies."""
    op = event.op.within("copy_page_range") if event.op is not None else None
    if op is None or event.vma is not op.copy:
        return None
    return op.vma, op.copy


@transition(
    "AVMA-LIST-006",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("anon_vma_chain_link", "swapless"),
    fields=HEAD,
    functions=("anon_vma_clone", "copy_page_range"),
    since=TAIL,
    implied_by=("AVMA-LIST-005",),
    interfaces=("ReverseMap",),
)
def parents_stand_before_their_children(event: Event) -> Truth:
    """While fork copies entries, the parent's area MUST stand before the child's on each list that both are on.

    Copying does not keep walks away. Who asks the parent first and then the child sees each entry at least once. When all are
    copied the order is of no importance any more: areas that merge or move may change it.
    """
    pair = _copied_to(event)
    if pair is None:
        return VACUOUS
    parent, child = pair
    lists = [areas(a) for a in chain(child)]
    return every(on.index(parent) < on.index(child) for on in lists if parent in on and child in on)


@transition(
    "AVMA-LIST-007",
    over=Over.EVENT,
    on=("set_pte",),
    source=rmap("swapless", "anon_vma_chain_link"),
    fields=(*CHAIN, *HEAD),
    functions=("dup_mm", "anon_vma_fork", "copy_page_range"),
    since=TAIL,
    would_catch="entries that are copied to an area that no walk can find yet",
    interfaces=("ReverseMap",),
)
def child_is_linked_before_entries_are_copied(event: Event) -> Truth:
    """fork MUST have linked the child's area to all anon_vmas of the parent's before it copies the first entry.

    Order on the list alone does not help: an entry in an area that is on no list yet is met by no walk.
    """
    pair = _copied_to(event)
    if pair is None:
        return VACUOUS
    parent, child = pair
    return every(child in areas(anon_vma) for anon_vma in chain(parent))


def source_stands_before_destination(src: Any, dst: Any) -> Truth:
    """Whether a walk that meets both areas comes to `src` first, on each list that both are on."""
    if src is dst:
        return VACUOUS
    lists = [areas(a) for a in chain(dst)]
    return every(on.index(src) < on.index(dst) for on in lists if src in on and dst in on)


@transition(
    "AVMA-LIST-008",
    over=Over.EVENT,
    on=("move_pte",),
    source=field_2011("later") + rmap("anon_vma_chain_link"),
    fields=HEAD,
    functions=("move_page_tables", "move_vma", "copy_vma", "anon_vma_moveto_tail"),
    since="3.2",
    would_catch="migration that misses an entry which mremap moves at that moment (until 3.3)",
)
def entries_move_towards_the_tail(event: Event) -> Truth:
    """While mremap moves entries without the mutex of the tree, the area that they come from MUST stand before the one that
    they go to, on each list that both are on; also when they are moved back after a failure.

    A walk that has looked at the destination before the entry came, and looks at the source after it has gone, misses it.
    """
    return source_stands_before_destination(event.src, event.dst)


@postcondition(
    "AVMA-LIST-009",
    on=("anon_vma_fork",),
    source=rmap("anon_vma_fork", "anon_vma_clone", "linking"),
    fields=CHAIN,
    since=CHAINS,
    interfaces=("ReverseMap",),
)
def childs_chain_is_the_parents_with_its_own_in_front(result: int, old: Any, new: Any) -> Truth:
    """The chain of a forked area MUST be that of the parent's with the child's own new anon_vma before it.

    The pages that the child shares are found through the parent's part, those that it makes through its own.
    """
    return implies(
        result == 0 and old.source.anon_vma is not None,
        lambda: new.copy.chain == (new.copy.anon_vma, *old.source.chain),
    )


@state_invariant(
    "AVMA-LIST-010",
    over=Over.WORLD,
    guard=QUIESCENT,
    source=field_2011("base") + rmap("oldest"),
    fields=("vma.anon_vma", *CHAIN),
    functions=("vma_adjust", "find_mergeable_anon_vma", "anon_vma_clone"),
    since=CHAINS,
    implied_by=("AVMA-PREP-007", "AVMA-CLONE-001"),
    interfaces=("ReverseMap",),
)
def same_anon_vma_same_chain(world: Any) -> Truth:
    """Areas that have the same anon_vma MUST have the same chain.

    When two such areas merge, one chain is dropped; what only that one could reach would be lost.
    """
    first: dict[Any, Any] = {}
    pairs = [(first.setdefault(v.anon_vma, v), v) for v in world.vmas if v.anon_vma is not None]
    return every(chain(v) == chain(w) for v, w in pairs if v is not w)


@transition(
    "AVMA-LIST-011",
    over=Over.EVENT,
    on=("link",),
    source=rmap("unlink_anon_vmas"),
    fields=HEAD,
    functions=("anon_vma_chain_link", "unlink_anon_vmas"),
    since=A_MUTEX,
)
def an_emptied_list_stays_empty(event: Event) -> Truth:
    """An anon_vma whose list has become empty MUST NOT get an area again.

    Who emptied it drops the list's reference later, without the mutex; an area that came in between would stand on the list
    of an anon_vma that is freed.
    """
    return not event.emptied


@transition(
    "AVMA-LIST-012",
    over=Over.EVENT,
    on=("free_avc",),
    source=rmap("unlink_anon_vmas", "anon_vma_chain_free"),
    fields=(*CHAIN, *HEAD),
    functions=("anon_vma_chain_free", "unlink_anon_vmas", "anon_vma_prepare"),
    since=CHAINS,
)
def freed_elements_are_on_no_list(event: Event) -> Truth:
    """An element of a chain MUST be off both lists when it is freed.

    Both lists go through the element itself; the next walk would follow a pointer in freed memory.
    """
    avc = event.avc
    vma, anon_vma = getattr(avc, "vma", None), getattr(avc, "anon_vma", None)
    return both(
        not event.linked,
        vma is None or avc not in vma.anon_vma_chain,
        anon_vma is None or avc not in anon_vma.head,
    )

