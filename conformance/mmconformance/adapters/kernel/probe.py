"""Whether, and how far, the running kernel can be the subject here."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from mmconformance.adapters.kernel import syscalls
from mmconformance.adapters.kernel.settings import SettingsGuard, holders, pool_directory


def kernel_release() -> tuple[int, int]:
    """Version and patch level of the running kernel, (6, 18) for 6.18.44."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def host_profile() -> str:
    """The name of the architecture profile that the machine has."""
    machine, granule = platform.machine(), f"{os.sysconf('SC_PAGESIZE') >> 10}k"
    known = {"aarch64": f"arm64-{granule}", "ppc64le": "powerpc64", "ppc64": "powerpc64", "riscv64": "riscv64-sv39"}
    return known.get(machine, machine)


def _memory_available() -> int:
    """Bytes that could be used now."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def available(huge_page: int = 2 << 20, max_pool: int = 64) -> str | None:
    """One line that says why the running kernel cannot be the subject; None when it can.

    :param huge_page: the huge page's size in bytes.
    :param max_pool: how many of them may be asked for.
    """
    directory = pool_directory(huge_page)
    if not sys.platform.startswith("linux"):
        return f"the running kernel is {sys.platform}: only Linux has these interfaces"
    if platform.machine() not in syscalls.CLONE_NUMBERS:
        return f"forking on {platform.machine()} is not known here: add its clone number to syscalls.CLONE_NUMBERS"
    if kernel_release() < (5, 3):
        return f"Linux {platform.release()} has no pidfd_open, by which the settings are guarded: 5.3 is needed"
    if os.geteuid() != 0:
        return "not root: changing the huge-page pool needs root"
    if not directory.is_dir():
        return f"no huge pages of {huge_page // 1024} KiB: {directory} does not exist"
    try:
        os.close(os.open(directory / "nr_hugepages", os.O_RDWR))
    except OSError as error:
        return f"{directory / 'nr_hugepages'} cannot be written: {error.strerror}"
    if SettingsGuard.taken():
        return "another run of mmspec uses the huge-page pool: wait for its end"
    total, free, resv, surplus = (
        int((directory / f"{name}_hugepages").read_text()) for name in ("nr", "free", "resv", "surplus")
    )
    if resv or surplus or free != total:
        pids = ", ".join(map(str, holders())) or "unknown"
        return (
            f"the huge-page pool is in use (total {total}, free {free}, reserved {resv}, surplus {surplus}; "
            f"processes: {pids}): end its users or take another machine"
        )
    needed = (max_pool + 64) * huge_page
    if _memory_available() + free * huge_page < needed:
        return f"{_memory_available() >> 20} MiB of memory are not enough: {needed >> 20} MiB are needed"
    return None


def capabilities(huge_page: int = 2 << 20) -> frozenset[str]:
    """The optional operations that work here, and `quota` where files can have one."""
    release = kernel_release()
    found = {"mprotect", "mappings", "set_overcommit"}
    if release >= (4, 3):
        found |= {"fallocate", "punch_hole"}
    if release >= (5, 18):
        found.add("dontneed")
    if os.geteuid() == 0:
        found.add("page_at")
    directory = syscalls.detached_hugetlbfs(huge_page, None)
    if directory >= 0:
        os.close(directory)
        found |= {"quota", "quota_free"}
    return frozenset(found)
