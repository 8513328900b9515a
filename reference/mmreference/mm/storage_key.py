"""Storage keys: on s390 it is the physical page, not the entry, that knows whether it was written or used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.scheduler import touched
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.page import Page


def page_test_and_clear_dirty(page: Page, *, mapped: bool) -> bool:
    """Whether the page was written, clearing that in one go; always False without storage keys."""
    if not page.system.storage_keys:
        return False
    touched((page.name, "key"))
    dirty = page.key_dirty
    emit("key_clear", page=page, which="dirty", was=dirty, mapped=mapped)
    page.key_dirty = False
    return dirty


def page_test_and_clear_young(page: Page) -> bool:
    """Whether the page was used, clearing that in one go; always False without storage keys."""
    if not page.system.storage_keys:
        return False
    touched((page.name, "key"))
    young = page.key_young
    emit("key_clear", page=page, which="young", was=young, mapped=True)
    page.key_young = False
    return young


def page_set_key(page: Page, *, dirty: bool) -> None:
    """What the hardware does at each access."""
    if page.system.storage_keys:
        touched((page.name, "key"))
        page.key_young = True
        if dirty:
            page.key_dirty = True
