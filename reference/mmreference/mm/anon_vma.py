"""anon_vma and anon_vma_chain: which areas may map an anonymous page, and how a page finds them without a lock.

Each area has a chain of anon_vmas, its own (the newest) first and the oldest, the root of the tree, last. Each
anon_vma has a list of areas, in which a parent stands before the children that fork copied from it. One mutex, that of
the root, protects all lists of a tree.

Corrections to the code of 3.2: the last put tears down the child before its root (upstream 624483f3ea82); a pin taken in
the lookup is dropped outside of the RCU section; a failed clone leaves no copied pointer behind.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from mmreference.kernel.atomics import Atomic
from mmreference.kernel.bug import bug_on
from mmreference.kernel.locks import Mutex, might_sleep
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import Access, touched
from mmreference.mm.page import PAGE_MAPPING_ANON, PAGE_MAPPING_FLAGS, Page, page_mapped_now
from mmspec.contracts import operation
from mmspec.invariant import Over
from mmspec.invariants.rmap.views import anon_vma_view, chain_view, clone_view, fork_view
from mmspec.trace import Recorder, emit, note

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Vma
    from mmreference.mm.system import System

GFP_KERNEL: Final = "GFP_KERNEL"
GFP_NOWAIT: Final = "GFP_NOWAIT"


@watched("root", "refcount")
class AnonVma(KernelObject):
    """`struct anon_vma`; its memory stays an anon_vma, but perhaps another one, through an RCU section."""

    over = Over.ANON_VMA

    def __init__(self, name: str, system: System) -> None:
        super().__init__(name)
        self.system = system
        self.root: AnonVma = self
        self.refcount = 0
        self.ref = Atomic(self, "refcount")
        self.mutex = Mutex("anon_vma_mutex", self, system.order, f"{name}.mutex")
        self.head: list[AnonVmaChain] = []
        """The `same_anon_vma` list, in order of insertion at the tail."""
        # Ghosts.
        self.allocated = False
        self.depth = 0
        """How many forks it is away from the root."""
        self.parent: AnonVma | None = None
        self.pins: dict[str, int] = {}
        """References that neither the list nor a child holds, by holder."""
        self.emptied = False
        """Whether its list was filled and is empty again."""
        self.linked_before = False
        """Whether an area has been linked since it was allocated."""
        self.lookup: int | None = None
        """Of a root: which successful lock by a lookup holds its mutex, by a number of its own."""
        self.lookups = 0
        self.lookup_at_last_put: int | None = None
        """Which of them held the root's mutex when the last reference went."""
        self.be_born()

    @property
    def generation(self) -> int:
        """Which incarnation of this memory it is."""
        return self.system.anon_vmas.generation(self)

    @property
    def address(self) -> int:
        """Where it lies in memory; slab objects are aligned to a machine word."""
        return (int("".join(c for c in self.name if c.isdigit()) or 0) + 1) * 8 * (self.system.arch.word_bits // 8)

    @property
    def list(self) -> list[Vma]:
        """The areas on its list, in order."""
        touched((self.name, "head"), write=False)
        return [avc.vma for avc in self.head]


class AnonVmaChain(KernelObject):
    """`struct anon_vma_chain`: one edge between an area and an anon_vma."""

    over = Over.CHAIN

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.vma: Vma
        self.anon_vma: AnonVma
        self.linked = False
        self.be_born()


def chain(vma: Vma) -> list[AnonVma]:
    """The anon_vmas of an area, newest first."""
    return [avc.anon_vma for avc in vma.anon_vma_chain]


def pin(anon_vma: AnonVma, holder: str) -> None:
    """Ghost: a reference has been taken on behalf of `holder`."""
    anon_vma.pins[holder] = anon_vma.pins.get(holder, 0) + 1
    emit("pin_anon_vma", anon_vma=anon_vma, holder=holder)


def unpin(anon_vma: AnonVma, holder: str) -> None:
    """Ghost: the reference of `holder` is about to be dropped."""
    left = anon_vma.pins.pop(holder, 1) - 1
    if left:
        anon_vma.pins[holder] = left
    emit("unpin_anon_vma", anon_vma=anon_vma, holder=holder)


# -- allocation and references ------------------------------------------------------------------------------------------


@operation()
async def anon_vma_alloc(system: System) -> AnonVma | None:
    """A new anon_vma, its own root, with the reference of the list that it is going to have; None without memory."""
    might_sleep("allocating an anon_vma")
    emit("alloc", what="anon_vma", may_reclaim=True)
    anon_vma = await system.anon_vmas.alloc()
    if anon_vma is None:
        return None
    touched((anon_vma.name, "allocated"))
    anon_vma.allocated = True
    anon_vma.depth, anon_vma.parent, anon_vma.pins = 0, None, {}
    anon_vma.emptied = anon_vma.linked_before = False
    system.live_anon_vmas[anon_vma] = None
    touched((anon_vma.name, "refcount"))
    anon_vma.refcount = 1
    touched((anon_vma.name, "root"))
    anon_vma.root = anon_vma
    emit("anon_vma_allocated", anon_vma=anon_vma)
    return anon_vma


@operation()
async def anon_vma_free(anon_vma: AnonVma) -> None:
    """Give the memory back, once nobody who got the mutex through a lookup is at work any more; may sleep."""
    bug_on(anon_vma.refcount != 0, f"{anon_vma.name} is freed with references", "AVMA-REF-002")
    # A lookup takes the mutex first and asks whether the page is mapped then; we have dropped the last reference and
    # look at the mutex then. One of us sees the other.
    root = anon_vma.root
    await Access(root.mutex.name, f"mutex_is_locked {root.mutex.name}")
    emit("root_mutex_test", anon_vma=anon_vma, root=root, root_allocated=root.allocated, locked=root.mutex.is_locked())
    if root.mutex.is_locked():
        await root.mutex.lock()
        root.mutex.unlock()
    touched((root.name, "lookup"), write=False)
    emit("free_anon_vma", anon_vma=anon_vma, users=_users(anon_vma), waited_for=anon_vma.lookup_at_last_put, lookup=root.lookup)
    touched((anon_vma.name, "allocated"))
    anon_vma.allocated = False
    anon_vma.system.live_anon_vmas.pop(anon_vma, None)
    if Recorder.active is not None:
        Recorder.active.forget(anon_vma)
    anon_vma.system.anon_vmas.free(anon_vma)


def _users(anon_vma: AnonVma) -> tuple[str, ...]:
    """Ghost: the threads that work on the list by virtue of a lookup."""
    touched((anon_vma.name, "users"), write=False)
    return tuple(h.removeprefix("walk ") for h in anon_vma.pins if h.startswith("walk "))


def get_anon_vma(anon_vma: AnonVma) -> None:
    """Take a reference; the caller has a stable one already."""
    touched((anon_vma.name, "refcount"))
    emit("get_anon_vma", anon_vma=anon_vma, stable=anon_vma.refcount > 0 and anon_vma.allocated)
    anon_vma.refcount += 1


async def put_anon_vma(anon_vma: AnonVma) -> None:
    """Drop a reference; the last one frees, which may sleep."""
    emit("put_anon_vma", anon_vma=anon_vma, root=anon_vma.root)
    if await anon_vma.ref.dec_and_test():
        await __put_anon_vma(anon_vma)


@operation()
async def __put_anon_vma(anon_vma: AnonVma) -> None:
    """The last reference is gone: tear it down, then drop its reference on the root.

    The root's mutex is looked at while the child is freed, so the root must outlive that.
    """
    root = anon_vma.root
    _last_put(anon_vma)
    await anon_vma_free(anon_vma)
    if root is not anon_vma and await _drop_root(root):
        _last_put(root)
        await anon_vma_free(root)


async def _drop_root(root: AnonVma) -> bool:
    emit("put_root", anon_vma=root)
    return await root.ref.dec_and_test()


def _last_put(anon_vma: AnonVma) -> None:
    """Ghost: note which lookup has the mutex at the moment when the last reference is gone."""
    touched((anon_vma.root.name, "lookup"), write=False)
    anon_vma.lookup_at_last_put = anon_vma.root.lookup
    emit("last_put", anon_vma=anon_vma, root=anon_vma.root)


async def anon_vma_chain_alloc(system: System, gfp: str) -> AnonVmaChain | None:
    """An unlinked chain element, or None without memory; with GFP_KERNEL it may sleep and reclaim."""
    if gfp == GFP_KERNEL:
        might_sleep("allocating an anon_vma_chain")
    emit("alloc", what="anon_vma_chain", may_reclaim=gfp == GFP_KERNEL)
    avc = await system.anon_vma_chains.alloc()
    if avc is not None:
        system.live_chains[avc] = None
    return avc


def anon_vma_chain_free(system: System, avc: AnonVmaChain) -> None:
    """Free a chain element, which is on no list."""
    emit("free_avc", avc=avc, linked=avc.linked)
    system.live_chains.pop(avc, None)
    system.anon_vma_chains.free(avc)


# -- the lock of a tree -------------------------------------------------------------------------------------------------


@operation()
async def lock_anon_vma_root(root: AnonVma | None, anon_vma: AnonVma) -> AnonVma:
    """Have the mutex of the tree: `root` is what is held already; the root that is held now."""
    new_root = anon_vma.root
    if new_root is not root:
        if root is not None:
            emit("warn", what="anon_vmas of two trees on one chain")
            root.mutex.unlock()
        emit("lock_root", root=new_root)
        await new_root.mutex.lock()
    return new_root


@operation()
def unlock_anon_vma_root(root: AnonVma | None) -> None:
    """Give the mutex of the tree back, if it is held."""
    if root is not None:
        root.mutex.unlock()


# -- linking ------------------------------------------------------------------------------------------------------------


def anon_vma_chain_link(vma: Vma, avc: AnonVmaChain, anon_vma: AnonVma) -> None:
    """Connect an area and an anon_vma, with the mutex of the tree held.

    New areas go to the tail: a walk that runs while fork copies must meet the parent before the child.
    """
    avc.vma = vma
    avc.anon_vma = anon_vma
    touched((vma.name, "anon_vma_chain"))
    vma.anon_vma_chain.insert(0, avc)
    touched((anon_vma.name, "head"))
    before = anon_vma.list
    anon_vma.head.append(avc)
    avc.linked = True
    emit("link", avc=avc, vma=vma, anon_vma=anon_vma, before=before, after=anon_vma.list, emptied=anon_vma.emptied)
    anon_vma.linked_before = True
    _touch(vma, anon_vma)


def _touch(vma: Vma, anon_vma: AnonVma) -> None:
    vma.changes += 1
    anon_vma.root.changes += 1
    if Recorder.active is not None:
        Recorder.active.touch(vma)
        Recorder.active.touch(anon_vma)


async def find_mergeable_anon_vma(vma: Vma) -> AnonVma | None:
    """The anon_vma of a neighbour with which this area could be merged, if the neighbour has no other."""
    from mmreference.mm.mmap import anon_vma_compatible

    vmas = vma.mm.vmas
    where = vmas.index(vma)
    for near in (*vmas[where + 1 : where + 2], *vmas[max(where - 1, 0) : where]):
        await Access((near.name, "anon_vma"), f"read {near.name}.anon_vma")
        if near.anon_vma is not None and anon_vma_compatible(vma, near) and len(near.anon_vma_chain) == 1:
            note(reused_from=near, reused_chain=len(near.anon_vma_chain))
            return near.anon_vma
    return None


@operation(view=chain_view)
async def anon_vma_prepare(vma: Vma) -> int:
    """Make sure that the area has an anon_vma: 0, or -ENOMEM and nothing changed.

    With `mmap_sem` held, for read suffices; threads that fault at once may both come here.
    """
    might_sleep("anon_vma_prepare")
    await Access((vma.name, "anon_vma"), f"read {vma.name}.anon_vma")
    if vma.anon_vma is not None:
        return 0
    mm, system = vma.mm, vma.mm.system
    avc = await anon_vma_chain_alloc(system, GFP_KERNEL)
    if avc is None:
        return -errno.ENOMEM
    anon_vma = await find_mergeable_anon_vma(vma)
    allocated = None
    if anon_vma is None:
        anon_vma = allocated = await anon_vma_alloc(system)
        if anon_vma is None:
            anon_vma_chain_free(system, avc)
            return -errno.ENOMEM
    # Even a new one: a stale lookup may be using the lock of what its memory was before.
    async with anon_vma.root.mutex:
        async with mm.page_table_lock:
            touched((vma.name, "anon_vma"), write=False)
            if vma.anon_vma is None:
                touched((vma.name, "anon_vma"))
                vma.anon_vma = anon_vma
                anon_vma_chain_link(vma, avc, anon_vma)
                emit("install", vma=vma, anon_vma=anon_vma)
                allocated = avc = None
    if allocated is not None:
        await put_anon_vma(allocated)
    if avc is not None:
        anon_vma_chain_free(system, avc)
    return 0


@operation(view=clone_view)
async def anon_vma_clone(dst: Vma, src: Vma) -> int:
    """Link `dst` to all anon_vmas of `src`: 0, or -ENOMEM and `dst` has no chain.

    Oldest first, so that inserting at the front gives the same order.
    """
    system = src.mm.system
    root: AnonVma | None = None
    for pavc in reversed(src.anon_vma_chain):
        avc = await anon_vma_chain_alloc(system, GFP_NOWAIT)
        if avc is None:
            # Reclaim may need the mutex.
            unlock_anon_vma_root(root)
            root = None
            avc = await anon_vma_chain_alloc(system, GFP_KERNEL)
            if avc is None:
                await unlink_anon_vmas(dst)
                # A copied pointer without a chain would be taken for a reference.
                dst.anon_vma = None
                return -errno.ENOMEM
        root = await lock_anon_vma_root(root, pavc.anon_vma)
        anon_vma_chain_link(dst, avc, pavc.anon_vma)
    unlock_anon_vma_root(root)
    return 0


@operation(view=fork_view)
async def anon_vma_fork(vma: Vma, pvma: Vma) -> int:
    """Give the child's area all anon_vmas of the parent's, and one of its own: 0 or -ENOMEM."""
    if pvma.anon_vma is None:
        return 0
    system = vma.mm.system
    if await anon_vma_clone(vma, pvma):
        return -errno.ENOMEM
    anon_vma = await anon_vma_alloc(system)
    avc = None
    if anon_vma is not None:
        avc = await anon_vma_chain_alloc(system, GFP_KERNEL)
        if avc is None:
            await put_anon_vma(anon_vma)
    if anon_vma is None or avc is None:
        await unlink_anon_vmas(vma)
        vma.anon_vma = None
        return -errno.ENOMEM
    root = pvma.anon_vma.root
    touched((anon_vma.name, "root"))
    anon_vma.root = root
    anon_vma.parent, anon_vma.depth = pvma.anon_vma, pvma.anon_vma.depth + 1
    # The root has to live as long as we use its lock.
    get_anon_vma(root)
    touched((vma.name, "anon_vma"))
    vma.anon_vma = anon_vma
    emit("publish_vma_anon_vma", vma=vma, anon_vma=anon_vma)
    async with root.mutex:
        anon_vma_chain_link(vma, avc, anon_vma)
    return 0


@operation(view=anon_vma_view)
async def unlink_anon_vmas(vma: Vma) -> None:
    """Take the area off all lists and drop the anon_vmas that have no area any more; no entry of it may be left."""
    system = vma.mm.system
    root: AnonVma | None = None
    empty: list[AnonVmaChain] = []
    # Newest to oldest, so that the root goes last.
    for avc in list(vma.anon_vma_chain):
        anon_vma = avc.anon_vma
        root = await lock_anon_vma_root(root, anon_vma)
        touched((anon_vma.name, "head"))
        anon_vma.head.remove(avc)
        emit("list_del_same_anon_vma", vma=vma, anon_vma=anon_vma, left=len(anon_vma.head))
        _touch(vma, anon_vma)
        if not anon_vma.head:
            anon_vma.emptied = True
            empty.append(avc)
            continue
        vma.anon_vma_chain.remove(avc)
        avc.linked = False
        anon_vma_chain_free(system, avc)
    unlock_anon_vma_root(root)
    # Freeing takes the mutex, so the references go without it.
    for avc in empty:
        touched((vma.name, "anon_vma_chain"))
        vma.anon_vma_chain.remove(avc)
        avc.linked = False
        emit("put_chain_ref", vma=vma, anon_vma=avc.anon_vma)
        await put_anon_vma(avc.anon_vma)
        anon_vma_chain_free(system, avc)


def anon_vma_moveto_tail(dst: Vma) -> None:
    """Move the area to the tail of all its lists, with the mutex of the tree held.

    Entries are about to be moved into it: a walk must meet the place that they come from first.
    """
    for avc in reversed(dst.anon_vma_chain):
        touched((avc.anon_vma.name, "head"))
        avc.anon_vma.head.remove(avc)
        avc.anon_vma.head.append(avc)
        emit("moveto_tail", vma=dst, anon_vma=avc.anon_vma)
        _touch(dst, avc.anon_vma)


# -- from a page to its anon_vma ----------------------------------------------------------------------------------------


def _holder(what: str) -> str:
    recorder = Recorder.active
    return f"{what} {recorder.current.name}" if recorder is not None else what


@operation()
async def page_get_anon_vma(page: Page) -> AnonVma | None:
    """A reference on the page's anon_vma, to be dropped with :func:`put_anon_vma`; None if the page is not mapped.

    Needs no lock. The anon_vma might have been the page's at some instant of the call, no more than that.
    """
    system = page.system
    async with system.rcu.read():
        sampled = await _sample_mapping(page)
        if sampled is None or not await page_mapped_now(page):
            return None
        touched((sampled.name, "allocated"), write=False)
        if not await sampled.ref.inc_not_zero():
            return None
        pin(sampled, _holder("pin"))
        # If it is still mapped, what we have pinned was the page's all along.
        still_mapped = await page_mapped_now(page)
    if still_mapped:
        return sampled
    # Not within the section: the last put may sleep.
    unpin(sampled, _holder("pin"))
    await put_anon_vma(sampled)
    return None


async def unpin_anon_vma(anon_vma: AnonVma) -> None:
    """Drop what :func:`page_get_anon_vma` has given to this thread."""
    unpin(anon_vma, _holder("pin"))
    await put_anon_vma(anon_vma)


async def _sample_mapping(page: Page) -> AnonVma | None:
    """`mapping`, read once; None unless it says anon_vma."""
    await Access((page.name, "mapping"), f"read {page.name}.mapping")
    mapping = page.mapping
    emit("load_mapping", page=page, mapping=mapping)
    note(sampled=mapping)
    if mapping is None or mapping.bits & PAGE_MAPPING_FLAGS != PAGE_MAPPING_ANON:
        return None
    anon_vma: AnonVma = mapping.pointer
    return anon_vma


@operation()
async def page_lock_anon_vma(page: Page) -> AnonVma | None:
    """The page's anon_vma with the mutex of its tree held; None, and nothing held, if the page is not mapped."""
    system = page.system
    await system.rcu.read_lock()
    anon_vma = await _sample_mapping(page)
    if anon_vma is None or not await page_mapped_now(page):
        system.rcu.read_unlock()
        return None
    # Once: by the time we unlock it may be another anon_vma, of another tree.
    await Access((anon_vma.name, "root"), f"read {anon_vma.name}.root")
    root = anon_vma.root
    emit("load_root", anon_vma=anon_vma, root=root)
    await Access(root.mutex.name, f"mutex_trylock {root.mutex.name}", write=True)
    if root.mutex.trylock():
        emit("trylock_root", anon_vma=anon_vma, root=root)
        _lookup_locked(root)
        # If it is still mapped, what we have locked was the page's all along, and stays until we unlock.
        if not await page_mapped_now(page):
            _lookup_unlocked(anon_vma, root)
            root.mutex.unlock()
            anon_vma = None
        system.rcu.read_unlock()
        return _walking(page, anon_vma)
    # Somebody has the mutex, and we cannot sleep here: take a reference.
    if not await anon_vma.ref.inc_not_zero():
        system.rcu.read_unlock()
        return None
    pin(anon_vma, _holder("pin"))
    still_mapped = await page_mapped_now(page)
    system.rcu.read_unlock()
    if not still_mapped:
        unpin(anon_vma, _holder("pin"))
        await put_anon_vma(anon_vma)
        return None
    emit("lock_root", root=anon_vma.root)
    await anon_vma.root.mutex.lock()
    _lookup_locked(anon_vma.root)
    unpin(anon_vma, _holder("pin"))
    if await anon_vma.ref.dec_and_test():
        # Ours was the last reference: all areas have gone. Freeing takes the mutex.
        _lookup_unlocked(anon_vma, anon_vma.root)
        anon_vma.root.mutex.unlock()
        await __put_anon_vma(anon_vma)
        return None
    return _walking(page, anon_vma)


def _lookup_locked(root: AnonVma) -> None:
    """Ghost: a lookup has got the mutex."""
    touched((root.name, "lookup"))
    root.lookups += 1
    root.lookup = root.lookups


def _lookup_unlocked(anon_vma: AnonVma, root: AnonVma) -> None:
    """Ghost: the lookup is about to give the mutex back."""
    touched((root.name, "lookup"))
    root.lookup = None
    emit("unlock_root", anon_vma=anon_vma, root=root)


def _walking(page: Page, anon_vma: AnonVma | None) -> AnonVma | None:
    """Ghost: from here to the unlock the running thread works on the list."""
    if anon_vma is not None:
        touched((anon_vma.name, "users"))
        touched((anon_vma.name, "allocated"), write=False)
        anon_vma.pins[_holder("walk")] = 0
        emit(
            "lookup_done", page=page, anon_vma=anon_vma, root=anon_vma.root, allocated=anon_vma.allocated,
            generation=anon_vma.generation, owner_generation=page.anon_generation,
        )  # fmt: skip
    return anon_vma


def page_unlock_anon_vma(anon_vma: AnonVma) -> None:
    """Give back what :func:`page_lock_anon_vma` has locked."""
    touched((anon_vma.name, "users"))
    anon_vma.pins.pop(_holder("walk"), None)
    _lookup_unlocked(anon_vma, anon_vma.root)
    anon_vma.root.mutex.unlock()
