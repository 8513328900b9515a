"""MMU notifiers: a secondary MMU follows the page tables, and holds no references to pages."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from mmreference.kernel.bug import bug_on
from mmreference.kernel.memory import KernelObject
from mmreference.kernel.scheduler import Access, may_fail, touched
from mmreference.mm.mm_struct import vpn_range
from mmspec.contracts import operation
from mmspec.invariant import Over
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Mm
    from mmreference.mm.page import Page


@attrs.frozen(slots=True)
class Spte:
    """A secondary translation."""

    page: Page
    write: bool
    young: bool = True


class MmuNotifier(KernelObject):
    """One secondary MMU on an address space, such as a virtual machine's."""

    over = Over.NOTIFIER

    def __init__(self, name: str, mm: Mm) -> None:
        super().__init__(name)
        self.mm = mm
        self.sptes: dict[int, Spte] = {}
        """Base page number to translation."""
        self.invalidating: list[range] = []
        """Ranges (base page numbers) that are being invalidated; no fault is answered in them."""
        self.sequence = 0
        """How many invalidations have ended."""
        self.calls = 0
        self.be_born()

    @property
    def location(self) -> tuple[str, str]:
        """What footprints call its translations."""
        return (self.name, "sptes")

    def drop(self, vpn: int) -> None:
        """Forget one translation."""
        touched(self.location)
        self.calls += 1
        self.sequence += 1
        if self.sptes.pop(vpn, None) is not None:
            emit("spte_drop", mm=self.mm, vpn=vpn)


@operation()
async def mmu_notifier_register(mm: Mm) -> MmuNotifier | int:
    """Attach a secondary MMU, with all locks of the address space: the notifier, or -EINTR or -ENOMEM."""
    emit("alloc", what="mmu_notifier_mm", may_reclaim=True)
    if await may_fail("mmu_notifier_mm"):
        return -errno.ENOMEM
    async with mm.mmap_sem.write():
        taken = await mm_take_all_locks(mm)
        if taken is None:
            return -errno.EINTR
        notifier = MmuNotifier(mm.system.new_name("notifier"), mm)
        mm.notifiers.append(notifier)
        emit("notifier_register", mm=mm, notifier=notifier)
        mm_drop_all_locks(taken)
    return notifier


@operation()
async def mmu_notifier_unregister(notifier: MmuNotifier) -> None:
    """Detach a secondary MMU; cannot fail."""
    mm = notifier.mm
    touched(notifier.location)
    for vpn in list(notifier.sptes):
        notifier.drop(vpn)
    mm.notifiers.remove(notifier)
    emit("notifier_unregister", mm=mm, notifier=notifier)


@operation()
async def mm_take_all_locks(mm: Mm) -> list[object] | None:
    """Take each file's and each tree's mutex of the address space once: the mutexes, or None after a signal."""
    if await may_fail("signal pending"):
        return None
    files = {v.vm_file: None for v in mm.vmas if v.vm_file is not None}
    roots = {avc.anon_vma.root: None for v in mm.vmas for avc in v.anon_vma_chain}
    taken: list[object] = []
    for mapping in files:
        await mapping.i_mmap_mutex.lock(nested=bool(taken))
        taken.append(mapping.i_mmap_mutex)
    for number, root in enumerate(roots):
        await root.mutex.lock(nested=number > 0)
        taken.append(root.mutex)
    emit("took_all_locks", mm=mm, taken=taken, wanted=[f.i_mmap_mutex for f in files] + [r.mutex for r in roots])
    return taken


def mm_drop_all_locks(taken: list[object]) -> None:
    """Give back what :func:`mm_take_all_locks` took."""
    for mutex in reversed(taken):
        mutex.unlock()  # type: ignore[attr-defined]


async def mmu_notifier_invalidate_page(mm: Mm, vpn: int) -> None:
    """One page is no longer mapped, or with less rights."""
    for notifier in mm.notifiers:
        await Access(notifier.location, f"{notifier.name} drops {vpn - mm.system.first_vpn}", write=True)
        notifier.drop(vpn)
    emit("notifier_invalidate", mm=mm, vpn=vpn, notifiers=len(mm.notifiers))


async def mmu_notifier_invalidate_range_start(mm: Mm, start: int, end: int) -> None:
    """Entries for `[start, end)` (bytes) are about to go: no secondary translation, and no new one until the end."""
    for notifier in mm.notifiers:
        await Access(notifier.location, f"{notifier.name} invalidate_range_start", write=True)
        vpns = vpn_range(mm, start, end)
        notifier.invalidating.append(vpns)
        for vpn in [v for v in notifier.sptes if v in vpns]:
            notifier.drop(vpn)
    if mm.notifiers:
        emit("notifier_range_start", mm=mm, start=start, end=end)


async def mmu_notifier_invalidate_range_end(mm: Mm, start: int, end: int) -> None:
    """The entries are gone and their pages are freed."""
    for notifier in mm.notifiers:
        await Access(notifier.location, f"{notifier.name} invalidate_range_end", write=True)
        notifier.invalidating.remove(vpn_range(mm, start, end))
        notifier.sequence += 1
    if mm.notifiers:
        emit("notifier_range_end", mm=mm, start=start, end=end)


async def mmu_notifier_clear_flush_young(mm: Mm, vpn: int) -> bool:
    """Whether a secondary MMU has used the page since it was last asked; the translation is dropped with it."""
    young = False
    for notifier in mm.notifiers:
        await Access(notifier.location, f"{notifier.name} clear_flush_young", write=True)
        spte = notifier.sptes.get(vpn)
        if spte is not None:
            young |= spte.young
            notifier.sptes[vpn] = attrs.evolve(spte, young=False)
        emit("notifier_clear_young", mm=mm, vpn=vpn, young=spte is not None and spte.young)
    return young


@operation()
async def secondary_fault(notifier: MmuNotifier, vpn: int, *, write: bool) -> bool:
    """The secondary MMU wants a translation of a base page number: whether it got one.

    The reference of the page is held only until the translation stands; if an invalidation came in between, the
    translation is not set and the fault is repeated by whoever wants it.
    """
    from mmreference.mm.gup import get_user_page
    from mmreference.mm.page import Page, put_page

    mm = notifier.mm
    await Access(notifier.location, f"{notifier.name} reads its sequence")
    sequence = notifier.sequence
    async with mm.mmap_sem.read():
        page = await get_user_page(mm, vpn * mm.system.page_size, write=write)
    if not isinstance(page, Page):
        return False
    if page.huge:
        # One translation for all of it.
        vpn = vpn >> mm.system.huge_page_order << mm.system.huge_page_order
    await Access(notifier.location, f"{notifier.name} sets {vpn - mm.system.first_vpn}", write=True)
    blocked = any(vpn in vpns for vpns in notifier.invalidating) or notifier.sequence != sequence
    if not blocked:
        bug_on(page._count <= 0, f"{page.name} is mapped by {notifier.name} without a reference")
        notifier.sptes[vpn] = Spte(page, write)
        emit("spte_establish", mm=mm, vpn=vpn, page=page, invalidating=any(vpn in v for v in notifier.invalidating))
    await put_page(page)
    return not blocked
