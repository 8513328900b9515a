"""Where the running kernel keeps other rules than those of 2006 and 2008 that the reference follows.

An oracle for the running kernel asks :func:`adaptations` which rules to exchange. Rows of kind :attr:`Kind.MISTAKE`
are no rules: an oracle keeps to the law there, a run that meets one is a finding, and the row only gives it a name.

Each row has a demonstration, a run whose last result and counters tell the two rules apart; the tests replay it on
kernels in its range. Mainline releases are meant; distributions port changes back.
"""

from __future__ import annotations

import errno
from enum import Enum

import attrs

from mmconformance.adapters.kernel.operations import Operation, Step, parse_all
from mmspec.errors import Signal
from mmspec.state import Setup

#: Version and patch level; the 2.6 series has its third number: (2, 6, 34).
Release = tuple[int, ...]


class Kind(Enum):
    """What a row is."""

    RULE = "rule"
    """The kernel's design. The oracle takes it over."""
    ABSENT = "absent"
    """The operation is new; the row says from when on. The oracle uses the rules of its own for it."""
    MISTAKE = "mistake"
    """A bug. The oracle keeps to the law, and the run is a finding."""


class Adaptation(Enum):
    """What an oracle exchanges, by name."""

    SHORTAGE_IS_SIGBUS = "report SIGBUS where the rules of 2006 report VM_FAULT_OOM"
    OWNER_TAKES_FROM_OTHERS = "owner's COW with no page: unmap the page elsewhere and mark those mappings UNMAPPED"
    UNMAP_RESTORES_RESERVATION = "zapping an owner's private page un-consumes its offset, unless surplus pages exist"
    DONTNEED = "MADV_DONTNEED zaps entries; a shared page stays in the file"
    FALLOCATE = "fallocate instantiates pages, using up promises, and extends the file; -ENOSPC on shortage"
    PUNCH_KEEPS_EMPTY_PROMISES = "a hole drops pages and the promises behind them, not promises without a page"
    QUOTA_MMAP_IS_ENOMEM = "mmap beyond the quota: -ENOMEM"
    ANONYMOUS_OUTSIDE_QUOTA = "anonymous mappings never charge the file system"
    NONE = "nothing"


@attrs.frozen(slots=True)
class Difference:
    """One row. `since` is the first release that has it, `until` the first that has it no more; None is open."""

    key: str
    kind: Kind
    since: Release | None
    until: Release | None
    sentence: str
    source: str
    adaptation: Adaptation
    setup: Setup
    demonstration: tuple[Operation, ...] = attrs.field(converter=parse_all)
    result: int = 0
    #: (total, free, reserved, surplus) in huge pages after the last operation.
    counters: tuple[int, int, int, int] = (0, 0, 0, 0)
    #: Free blocks of the quota after the last operation.
    quota_free: int | None = None

    def covers(self, release: Release) -> bool:
        """Whether a kernel of that release has the difference."""
        return (self.since is None or release >= self.since) and (self.until is None or release < self.until)

    def shown_by(self, last: Step) -> bool:
        """Whether the last step of the demonstration went as this row says."""
        seen = last.counters
        counters = (seen.nr_huge_pages, seen.free_huge_pages, seen.resv_huge_pages, seen.surplus_huge_pages)
        return (last.result, counters, last.quota_free) == (self.result, self.counters, self.quota_free)


TABLE: tuple[Difference, ...] = (
    Difference(
        key="shortage-sigbus",
        kind=Kind.RULE,
        since=(2, 6, 34),
        until=None,
        sentence="A fault that finds no huge page ends with SIGBUS; before, the out-of-memory killer was called.",
        source="'hugetlbfs: kill applications that use MAP_NORESERVE with SIGBUS instead of OOM-killer', 2010",
        adaptation=Adaptation.SHORTAGE_IS_SIGBUS,
        setup=Setup(1),
        demonstration="spawn(); mmap(p1, 1); mmap(p1, 1, noreserve=True); write(p1, m2, 1)",
        result=Signal.SIGBUS,
        counters=(1, 1, 1, 0),
    ),
    Difference(
        key="owner-takes-page",
        kind=Kind.RULE,
        since=(2, 6, 27),
        until=None,
        sentence="When the owner of a private mapping must copy and no page is left, it takes the page from its "
        "children, whose next access to it ends with SIGBUS.",
        source="'hugetlb: guarantee that COW faults for a process that called mmap(MAP_PRIVATE) on hugetlbfs will succeed', 2008",
        adaptation=Adaptation.OWNER_TAKES_FROM_OTHERS,
        setup=Setup(1),
        demonstration="spawn(); mmap(p1, 1); write(p1, m1, 1); fork(p1); write(p1, m1, 2); read(p2, m1)",
        result=Signal.SIGBUS,
        counters=(1, 0, 0, 0),
    ),
    Difference(
        key="unmap-restores",
        kind=Kind.RULE,
        since=(6, 9),
        until=None,
        sentence="Zapping a private page of an owner that stays mapped makes its reservation outstanding again, "
        "provided that the pool has no surplus page; before, a consumed reservation stayed consumed.",
        source="'mm/hugetlb: restore the reservation if needed' (df7a6d1f6405), 2024",
        adaptation=Adaptation.UNMAP_RESTORES_RESERVATION,
        setup=Setup(2),
        demonstration="spawn(); mmap(p1, 1); write(p1, m1, 1); dontneed(p1, m1, 1)",
        counters=(2, 2, 1, 0),
    ),
    Difference(
        key="unmap-restores-not-with-surplus",
        kind=Kind.RULE,
        since=(6, 9),
        until=None,
        sentence="While the pool has a surplus page, zapping a private page does not restore its reservation.",
        source="'mm/hugetlb: restore the reservation if needed' (df7a6d1f6405), 2024",
        adaptation=Adaptation.UNMAP_RESTORES_RESERVATION,
        setup=Setup(1, overcommit=1),
        demonstration="spawn(); mmap(p1, 2); write(p1, m1, 1); write(p1, m1+1, 1); dontneed(p1, m1, 2)",
        counters=(1, 1, 0, 0),
    ),
    Difference(
        key="truncate-restores",
        kind=Kind.RULE,
        since=(6, 9),
        until=None,
        sentence="Truncating a file makes the reservations of the private pages outstanding again that it zaps.",
        source="'mm/hugetlb: restore the reservation if needed' (df7a6d1f6405), 2024",
        adaptation=Adaptation.UNMAP_RESTORES_RESERVATION,
        setup=Setup(2),
        demonstration="spawn(); create_file(1); mmap(p1, 1, file=f0); write(p1, m1, 1); truncate(f0, 0)",
        counters=(2, 2, 1, 0),
    ),
    Difference(
        key="unmap-restores-what-others-map",
        kind=Kind.MISTAKE,
        since=(6, 9),
        until=None,
        sentence="An owner that unmaps a page which its child still maps gives back a reservation that it has used: "
        "the reserve goes below zero until the page is freed.",
        source="'mm/hugetlb: restore the reservation if needed' (df7a6d1f6405), 2024; seen on 6.18",
        adaptation=Adaptation.NONE,
        setup=Setup(3),
        demonstration="spawn(); mmap(p1, 1); write(p1, m1, 1); fork(p1); exit(p1)",
        counters=(3, 2, -1, 0),
    ),
    Difference(
        key="unmap-restores-robs-bystander",
        kind=Kind.MISTAKE,
        since=(6, 9),
        until=None,
        sentence="The reservation given back twice is a bystander's: a process that has never forked and whose mmap "
        "succeeded gets SIGBUS at its first access.",
        source="'mm/hugetlb: restore the reservation if needed' (df7a6d1f6405), 2024; seen on 6.18",
        adaptation=Adaptation.NONE,
        setup=Setup(2),
        demonstration="spawn(); mmap(p1, 1); write(p1, m1, 1); spawn(); mmap(p2, 1); fork(p1); exit(p1);"
        "spawn(); mmap(p4, 1, noreserve=True); write(p4, m3, 1); write(p2, m2, 1)",
        result=Signal.SIGBUS,
        counters=(2, 0, 0, 0),
    ),
    Difference(
        key="dontneed",
        kind=Kind.ABSENT,
        since=(5, 18),
        until=None,
        sentence="MADV_DONTNEED works on huge pages; before, it ends with EINVAL. A shared page stays in its file.",
        source="'mm: enable MADV_DONTNEED for hugetlb mappings', 2022",
        adaptation=Adaptation.DONTNEED,
        setup=Setup(1),
        demonstration="spawn(); create_file(1); mmap(p1, 1, file=f0, shared=True); write(p1, m1, 9);"
        "dontneed(p1, m1, 1); read(p1, m1)",
        result=9,
        counters=(1, 0, 0, 0),
    ),
    Difference(
        key="fallocate",
        kind=Kind.ABSENT,
        since=(4, 3),
        until=None,
        sentence="fallocate instantiates pages, uses up the promises for them, and extends the file.",
        source="'hugetlbfs: add hugetlbfs_fallocate()', 2015",
        adaptation=Adaptation.FALLOCATE,
        setup=Setup(3),
        demonstration="spawn(); create_file(1); mmap(p1, 2, file=f0, shared=True); fallocate(f0, 0, 3)",
        counters=(3, 0, 0, 0),
    ),
    Difference(
        key="fallocate-shortage",
        kind=Kind.ABSENT,
        since=(4, 3),
        until=None,
        sentence="fallocate that finds no page ends with ENOSPC.",
        source="'hugetlbfs: add hugetlbfs_fallocate()', 2015",
        adaptation=Adaptation.FALLOCATE,
        setup=Setup(2),
        demonstration="spawn(); create_file(1); mmap(p1, 2); fallocate(f0, 0, 1)",
        result=-errno.ENOSPC,
        counters=(2, 2, 2, 0),
    ),
    Difference(
        key="punch-drops-used-promise",
        kind=Kind.ABSENT,
        since=(4, 3),
        until=None,
        sentence="A hole over a page frees it and forgets its promise: the next fault there has no claim.",
        source="'hugetlbfs: New huge_add_to_page_cache helper routine' and the hole-punch series of 4.3, 2015",
        adaptation=Adaptation.PUNCH_KEEPS_EMPTY_PROMISES,
        setup=Setup(2),
        demonstration="spawn(); create_file(1); mmap(p1, 1, file=f0, shared=True); write(p1, m1, 1);"
        "punch_hole(f0, 0, 1); mmap(p1, 2); read(p1, m1)",
        result=Signal.SIGBUS,
        counters=(2, 2, 2, 0),
    ),
    Difference(
        key="punch-keeps-unused-promise",
        kind=Kind.ABSENT,
        since=(4, 3),
        until=None,
        sentence="A hole where no page has been instantiated leaves the promise outstanding.",
        source="observed on 6.18; the walk of the hole visits pages of the file only",
        adaptation=Adaptation.PUNCH_KEEPS_EMPTY_PROMISES,
        setup=Setup(2),
        demonstration="spawn(); create_file(1); mmap(p1, 1, file=f0, shared=True); punch_hole(f0, 0, 1)",
        counters=(2, 2, 1, 0),
    ),
    Difference(
        key="quota-mmap-enomem",
        kind=Kind.RULE,
        since=None,
        until=None,
        sentence="A mapping that the quota refuses ends with ENOMEM: the file system turns each failed reservation into that.",
        source="the mmap method of hugetlbfs, every release; observed on 6.18",
        adaptation=Adaptation.QUOTA_MMAP_IS_ENOMEM,
        setup=Setup(2, quota=1),
        demonstration="spawn(); create_file(2); mmap(p1, 2, file=f0, shared=True)",
        result=-errno.ENOMEM,
        counters=(2, 2, 0, 0),
        quota_free=1,
    ),
    Difference(
        key="anonymous-outside-quota",
        kind=Kind.RULE,
        since=(2, 6, 32),
        until=None,
        sentence="An anonymous mapping belongs to an internal file system without limit.",
        source="'hugetlb: add MAP_HUGETLB for mmaping pseudo-anonymous huge page regions', 2009",
        adaptation=Adaptation.ANONYMOUS_OUTSIDE_QUOTA,
        setup=Setup(2, quota=1),
        demonstration="spawn(); mmap(p1, 2)",
        counters=(2, 2, 2, 0),
        quota_free=1,
    ),
    Difference(
        key="failed-fallocate-maps-beyond-end",
        kind=Kind.MISTAKE,
        since=(6, 18),
        until=None,
        sentence="A page that a failed fallocate has left beyond the end of the file can be mapped and read there, "
        "where a fault ends with SIGBUS.",
        source="seen on 6.18, and not looked for on others; the size is compared only where the file has no page",
        adaptation=Adaptation.NONE,
        setup=Setup(2),
        demonstration="spawn(); create_file(0); mmap(p1, 1, file=f0, offset=2); truncate(f0, 0); fallocate(f0, 2, 2);"
        "read(p1, m1)",
        result=0,
        counters=(2, 1, 1, 0),
    ),
    Difference(
        key="failed-fault-keeps-quota",
        kind=Kind.MISTAKE,
        since=(6, 15),
        until=None,
        sentence="A fault without a promise that finds no page keeps the block of the quota that it has taken, for as "
        "long as the file system lives.",
        source="'mm: hugetlb: fix incorrect fallback for subpool' (a833a693a490), 2025; repairs posted in 2026",
        adaptation=Adaptation.NONE,
        setup=Setup(0, quota=2),
        demonstration="spawn(); create_file(1); mmap(p1, 1, file=f0, noreserve=True); write(p1, m1, 1)",
        result=Signal.SIGBUS,
        counters=(0, 0, 0, 0),
        quota_free=1,
    ),
    Difference(
        key="failed-fallocate-keeps-quota",
        kind=Kind.MISTAKE,
        since=(6, 15),
        until=None,
        sentence="A fallocate that finds no page keeps the block of the quota that it has taken, as such a fault does.",
        source="'mm: hugetlb: fix incorrect fallback for subpool' (a833a693a490), 2025; seen on 6.18",
        adaptation=Adaptation.NONE,
        setup=Setup(0, quota=1),
        demonstration="spawn(); create_file(0); fallocate(f0, 0, 1)",
        result=-errno.ENOSPC,
        counters=(0, 0, 0, 0),
        quota_free=0,
    ),
)


def differences(release: Release) -> tuple[Difference, ...]:
    """The rows for a kernel of that release."""
    return tuple(row for row in TABLE if row.covers(release))


def adaptations(release: Release) -> frozenset[Adaptation]:
    """What an oracle for a kernel of that release exchanges."""
    return frozenset(row.adaptation for row in differences(release)) - {Adaptation.NONE}
