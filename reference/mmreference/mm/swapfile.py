"""Swap slots and their counts, the swap cache, and swapoff.

The count of a slot is kept in one byte of the map up to SWAP_MAP_MAX; what does not fit is kept in continuation pages,
which hold further digits. A slot in the swap cache carries a flag beside the count.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from mmreference.kernel.scheduler import Retry, may_fail, touched
from mmreference.mm.address_space import AddressSpace
from mmreference.mm.memcontrol import mem_cgroup_uncharge_swapcache
from mmreference.mm.page import Page, get_page, put_page
from mmspec.contracts import operation
from mmspec.trace import emit, note, wrote

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Mm, Vma
    from mmreference.mm.system import System

#: The largest count that fits into the byte of the map.
SWAP_MAP_MAX: Final = 0x3E
#: Base of the digits in continuation pages.
SWAP_CONT_MAX: Final = 0x7F
#: log2 of the number of swap types; the topmost ones are taken by entries that are no swap entries.
MAX_SWAPFILES_SHIFT: Final = 5


def nr_special_types(system: System) -> int:
    """Swap types that stand for something else in this kernel: two for migration, one for poison."""
    return (2 if system.has("MIGRATION") else 0) + (1 if system.has("MEMORY_FAILURE") else 0)


def max_swapfiles(system: System) -> int:
    """How many swap devices there can be."""
    return (1 << MAX_SWAPFILES_SHIFT) - nr_special_types(system)


class SwapDevice:
    """The swap area: a map byte per slot, continuation digits, and what the slots hold."""

    name = "swap"

    def __init__(self, system: System, slots: int) -> None:
        self.system = system
        self.type = 0
        self.swap_map: dict[int, int] = {}
        """Slot to the low digit; a slot that is not in use is not in the map."""
        self.continuations: dict[int, list[int]] = {}
        """Slot to its further digits, lowest first."""
        self.has_cache: dict[int, None] = {}
        self.data: dict[int, int] = {}
        self.slots = slots
        self.continuation_accesses = 0
        self.low_digit_wraps = 0
        self.writeok = True

    def count(self, slot: int) -> int:
        """The exact count of the slot."""
        count, weight = self.swap_map.get(slot, 0), SWAP_MAP_MAX + 1
        for digit in self.continuations.get(slot, ()):
            count += digit * weight
            weight *= SWAP_CONT_MAX + 1
        return count

    def location(self, slot: int) -> tuple[str, int]:
        """What footprints call the slot."""
        return ("swap_map", slot)


@operation()
def swapon_type(system: System, taken: int) -> int:
    """The type for one more swap device if `taken` are in use: its number, or -EPERM."""
    return taken if taken < max_swapfiles(system) else -errno.EPERM


async def get_swap_page(system: System) -> int | None:
    """A free slot, marked as being in the swap cache; None if there is none."""
    swap = system.swap
    if swap is None or not swap.writeok:
        return None
    async with system.swap_lock:
        free = next((s for s in range(swap.slots) if s not in swap.swap_map and s not in swap.has_cache), None)
        if free is not None:
            touched(swap.location(free))
            swap.has_cache[free] = None
    return free


@operation()
async def swap_duplicate(system: System, slot: int) -> int:
    """One more entry refers to the slot: 0, or -ENOMEM if the count does not fit and no continuation page can be had.

    May be called with a spinlock held.
    """
    swap = system.swap
    assert swap is not None
    async with system.swap_lock:
        touched(swap.location(slot))
        note(count_before=swap.count(slot), accesses_before=swap.continuation_accesses)
        digit = swap.swap_map.get(slot, 0)
        if digit < SWAP_MAP_MAX:
            _write(swap, slot, digit + 1)
            return 0
        swap.low_digit_wraps += 1
        return await _carry(swap, slot)


async def _carry(swap: SwapDevice, slot: int) -> int:
    digits = swap.continuations.setdefault(slot, [])
    for place, digit in enumerate(digits):
        swap.continuation_accesses += 1
        if digit < SWAP_CONT_MAX:
            digits[:place] = [0] * place
            digits[place] += 1
            _write(swap, slot, 0)
            return 0
    swap.continuation_accesses += 1
    emit("alloc", what="swap count continuation", may_reclaim=False)
    if await may_fail("swap count continuation"):
        return -errno.ENOMEM
    digits[:] = [0] * len(digits) + [1]
    _write(swap, slot, 0)
    return 0


def _write(swap: SwapDevice, slot: int, digit: int) -> None:
    before = swap.swap_map.get(slot, 0)
    swap.swap_map[slot] = digit
    further = tuple(swap.continuations.get(slot, ()))
    accesses = swap.continuation_accesses
    emit("swap_map", slot=slot, old=before, new=digit, further=further, count=swap.count(slot), accesses=accesses)


@operation()
async def swap_free(system: System, slot: int) -> None:
    """One entry less refers to the slot."""
    async with system.swap_lock:
        _swap_entry_free(system, slot)


def _swap_entry_free(system: System, slot: int) -> None:
    swap = system.swap
    assert swap is not None
    touched(swap.location(slot))
    note(count_before=swap.count(slot), accesses_before=swap.continuation_accesses)
    digit = swap.swap_map.get(slot, 0)
    if digit == 0 and any(swap.continuations.get(slot, ())):
        swap.low_digit_wraps += 1
        digits = swap.continuations[slot]
        for place, value in enumerate(digits):
            swap.continuation_accesses += 1
            if value:
                digits[place] -= 1
                digits[:place] = [SWAP_CONT_MAX] * place
                break
        _write(swap, slot, SWAP_MAP_MAX)
    else:
        _write(swap, slot, digit - 1)
    _release(swap, slot)


def _release(swap: SwapDevice, slot: int) -> None:
    """Forget a slot that nobody refers to."""
    if swap.count(slot) == 0 and slot not in swap.has_cache:
        swap.swap_map.pop(slot, None)
        swap.continuations.pop(slot, None)
        swap.data.pop(slot, None)
        emit("swap_slot_free", slot=slot)


# -- swap cache ---------------------------------------------------------------------------------------------------------


async def add_to_swap(page: Page) -> bool:
    """Give a locked anonymous page a slot and enter it into the swap cache; whether that was possible."""
    system = page.system
    slot = await get_swap_page(system)
    if slot is None:
        return False
    emit("alloc", what="radix tree node", may_reclaim=False)
    if await may_fail("radix tree node"):
        async with system.swap_lock:
            assert system.swap is not None
            del system.swap.has_cache[slot]
        return False
    await _insert(page, slot)
    page.PG_dirty = True
    return True


async def _insert(page: Page, slot: int) -> None:
    space: AddressSpace = page.system.swapper_space
    async with space.tree_lock:
        get_page(page)
        touched((space.name, "pages", slot))
        page.private = slot
        page.PG_swapcache = True
        space.pages[slot] = page
        wrote(space, "pages", None, page)


async def delete_from_swap_cache(page: Page) -> None:
    """Take a locked page out of the swap cache; its slot goes with the last entry."""
    system, slot = page.system, page.private
    async with system.swapper_space.tree_lock:
        touched((system.swapper_space.name, "pages", slot))
        del system.swapper_space.pages[slot]
        page.PG_swapcache = False
        page.private = None
        wrote(system.swapper_space, "pages", page, None)
    async with system.swap_lock:
        assert system.swap is not None
        touched(system.swap.location(slot))
        del system.swap.has_cache[slot]
        _release(system.swap, slot)
    await mem_cgroup_uncharge_swapcache(page)
    await put_page(page)


async def lookup_swap_cache(system: System, slot: int) -> Page | None:
    """The cached page of the slot with a reference, or None."""
    async with system.swapper_space.tree_lock:
        touched((system.swapper_space.name, "pages", slot), write=False)
        page = system.swapper_space.pages.get(slot)
        if page is not None:
            get_page(page)
    return page


async def read_swap_cache(system: System, slot: int) -> Page | None:
    """The page of the slot with a reference, read from swap if it is not cached; None without memory."""
    from mmreference.mm.lru import lru_cache_add_lru

    swap = system.swap
    assert swap is not None
    while True:
        found = await lookup_swap_cache(system, slot)
        if found is not None:
            return found
        page = await system.alloc_page("page for swap-in")
        if page is None:
            return None
        async with system.swap_lock:
            touched(swap.location(slot))
            if slot not in swap.has_cache and swap.count(slot):
                swap.has_cache[slot] = None
                mine = True
            else:
                mine = False
        if not mine:
            await put_page(page)
            if not swap.count(slot):
                return None
            # Somebody is just entering it, or taking it out.
            await Retry(f"look for slot {slot} again")
            continue
        await page.lock.lock()
        page.PG_swapbacked = True
        page.content = swap.data[slot]
        page.PG_uptodate = True
        await _insert(page, slot)
        await lru_cache_add_lru(page, "inactive_anon")
        page.lock.unlock()
        return page


async def try_to_free_swap(page: Page) -> bool:
    """Give up the slot of a locked page that nobody refers to by entry any more; whether that was so."""
    if not page.PG_swapcache or page.PG_writeback:
        return False
    swap = page.system.swap
    assert swap is not None
    if swap.count(page.private):
        return False
    await delete_from_swap_cache(page)
    page.PG_dirty = True
    return True


async def reuse_swap_page(page: Page) -> bool:
    """Whether a locked page is used by one mapping only, entries in swap included; its slot is given up then."""
    from mmreference.mm.page import PageKsm, page_mapcount

    if PageKsm(page):
        return False
    count = page_mapcount(page)
    if count <= 1 and page.PG_swapcache:
        swap = page.system.swap
        assert swap is not None
        touched(swap.location(page.private), write=False)
        count += swap.count(page.private)
        if count == 1 and not page.PG_writeback:
            await delete_from_swap_cache(page)
            page.PG_dirty = True
    return count <= 1


async def free_swap_and_cache(system: System, slot: int) -> None:
    """An entry for the slot goes: one reference less, and the cached page with the last one."""
    from mmreference.mm.page import page_mapped

    await swap_free(system, slot)
    page = await lookup_swap_cache(system, slot)
    if page is None:
        return
    if page.lock.trylock():
        assert system.swap is not None
        if page.PG_swapcache and page.private == slot and not system.swap.count(slot) and not page_mapped(page):
            await delete_from_swap_cache(page)
            page.PG_dirty = True
        page.lock.unlock()
    await put_page(page)


async def free_page_and_swap_cache(page: Page) -> None:
    """Drop the reference of a mapping that is gone; with the last one the slot in swap is given up as well."""
    from mmreference.mm.page import page_mapped

    if page.PG_swapcache and not page_mapped(page) and page.lock.trylock():
        await try_to_free_swap(page)
        page.lock.unlock()
    await put_page(page)


# -- swapoff ------------------------------------------------------------------------------------------------------------


@operation()
async def swapoff(system: System) -> int:
    """Bring all pages back from the device: 0, or -ENOMEM with the device in use again."""
    swap = system.swap
    assert swap is not None
    swap.writeok = False
    try:
        while True:
            slot = next(iter([*swap.swap_map, *swap.has_cache]), None)
            if slot is None:
                return 0
            error = await _unuse(system, slot)
            if error:
                return error
    finally:
        swap.writeok = True


async def _unuse(system: System, slot: int) -> int:
    swap = system.swap
    assert swap is not None
    page = await read_swap_cache(system, slot)
    if page is None:
        return -errno.ENOMEM if swap.count(slot) else 0
    await page.lock.lock()
    # One pass over the list of address spaces finds all entries.
    # What was merged when it went out may be needed at other places than those that can be computed.
    error = 0
    for everywhere in (False, True):
        for mm in [m for m in system.mms if m.on_mmlist]:
            if swap.count(slot) and page.PG_swapcache and page.private == slot:
                error = error or await _unuse_mm(mm, slot, page, everywhere=everywhere)
    found_all = swap.count(slot) == 0
    emit("swapoff_pass", slot=slot, found_all=found_all, error=error)
    if found_all and page.PG_swapcache:
        await delete_from_swap_cache(page)
        page.PG_dirty = True
    page.lock.unlock()
    await put_page(page)
    return 0 if found_all else -errno.ENOMEM


async def _unuse_mm(mm: Mm, slot: int, page: Page, *, everywhere: bool) -> int:
    """Replace the entries of one address space by the locked page: 0 or -ENOMEM.

    `everywhere` searches areas also for places other than the page's own.
    """
    from mmreference.mm.page import PageAnon, PageKsm
    from mmreference.mm.rmap.address import page_address_in_vma

    system = mm.system
    if not mm.mmap_sem.trylock(shared=True):
        # The page lock is the inner one.
        page.lock.unlock()
        await mm.mmap_sem.down_read()
        await page.lock.lock()
    error = 0
    for vma in list(mm.vmas):
        if vma.anon_vma is None or error:
            continue
        where = page_address_in_vma(page, vma) if PageAnon(page) and not PageKsm(page) else -errno.EFAULT
        if where >= 0:
            note(found_by_address=True)
        # A place that cannot be computed has to be searched for.
        for vpn in [where // system.page_size] if where >= 0 and not everywhere else vma.vpns:
            if page.PG_swapcache and page.private == slot and not error:
                error = await _unuse_pte(mm, vma, vpn, slot, page)
    mm.mmap_sem.up_read()
    return error


async def _unuse_pte(mm: Mm, vma: Vma, vpn: int, slot: int, page: Page) -> int:
    from mmreference.mm.ksm import ksm_might_need_to_copy
    from mmreference.mm.memcontrol import commit_charge
    from mmreference.mm.mm_struct import add_mm_counter
    from mmreference.mm.pagetable import Present, SwapEntry, entry_under_lock, prot_none, pte_lockptr, set_pte_at
    from mmreference.mm.rmap.mapcount import page_add_anon_rmap, page_add_new_anon_rmap

    entry = entry_under_lock(mm, vpn)
    if not isinstance(entry, SwapEntry) or entry.slot != slot:
        return 0
    address = vpn * mm.system.page_size
    mapped = await ksm_might_need_to_copy(page, vma, address)
    if mapped is None:
        return -errno.ENOMEM
    ptl = pte_lockptr(mm, vpn)
    await ptl.lock()
    entry = entry_under_lock(mm, vpn)
    found = isinstance(entry, SwapEntry) and entry.slot == slot
    if found:
        # With the page locked nobody else maps it, so it is charged before it is mapped.
        if mapped.memcg is None and mm.memcg is not None:
            commit_charge(mapped, mm.memcg)
        mm.swapents -= 1
        add_mm_counter(mm, "rss_anon", 1)
        await set_pte_at(mm, vma, vpn, Present(mapped, none=prot_none(vma)))
        if mapped is page:
            get_page(page)
            await page_add_anon_rmap(page, vma, address)
        else:
            await page_add_new_anon_rmap(mapped, vma, address)
        await swap_free(mm.system, slot)
    ptl.unlock()
    if mapped is not page:
        mapped.lock.unlock()
        if not found:
            await put_page(mapped)
    return 0
