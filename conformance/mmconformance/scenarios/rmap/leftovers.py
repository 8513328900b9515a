"""What must be gone when everybody has left: shared by runs of single calls and by programs of several threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmreference.kernel.memory import is_freed
from mmreference.machine import Machine
from mmreference.mm.filemap import vmtruncate
from mmreference.mm.ksm import ksm_do_scan
from mmreference.mm.lru import lru_add_drain_all


async def clear_away(kernel: Machine) -> None:
    """No process is left: drop all files, and what is only kept until somebody wants the memory."""
    system = kernel.system
    for mapping in list(system.files):
        await vmtruncate(mapping, 0)
    await lru_add_drain_all(system)
    # The swap cache keeps pages; twice, since they may be young.
    for _ in range(2):
        await kernel.shrink()
    # A node whose page has gone stays until the scanner comes by.
    await ksm_do_scan(system)


def leftovers(system: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id of the invariant that forbids it, and what is left: nothing, if all was given back."""
    yield "AVMA-REF-008", {"anon_vmas": list(system.live_anon_vmas), "chains": list(system.live_chains)}
    # Frames that have failed are never given back. A page that is left may be in swap meanwhile.
    yield "RMAP-MAPCOUNT-007", {
        "pages": [(p, p._count, p.mapping) for p in system.pages if not any(f.PG_hwpoison for f in (p, *p.subpages))]
    }
    if system.swap is not None:
        failed = [slot for slot, page in system.swapper_space.pages.items() if page.PG_hwpoison]
        counts = {slot: system.swap.count(slot) for slot in system.swap.swap_map if slot not in failed or system.swap.count(slot)}
        yield "SWAP-COUNT-001", {"counts": counts, "cached": [slot for slot in system.swap.has_cache if slot not in failed]}
    nodes = {content: node for content, node in system.stable_tree.items() if is_freed(node.page) or not node.page.PG_hwpoison}
    yield "RMAP-MAPCOUNT-007", {"stable_tree": nodes}
