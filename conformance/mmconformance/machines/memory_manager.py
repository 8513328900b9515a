"""Drives any :class:`~mmspec.interfaces.MemoryManager` by system calls and judges what can be seen.

After each call the counters are compared with what the calls so far imply, by the very predicates of the
specification: over the pool as it shows itself, over the shadow of what was promised, and over the call, re-enacted in
the vocabulary of the specification.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Hashable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mmconformance.machines.optional_calls import OptionalCalls, pages, pick, rarely
from mmconformance.machines.reenacted import (
    Blocks,
    Child,
    Content,
    Decided,
    Emptied,
    Ended,
    Enough,
    Places,
    Reenacted,
    Whole,
)
from mmconformance.machines.shadow import VM_NORESERVE, ShadowFile, ShadowVma, ShadowWorld
from mmconformance.machines.steps import Step, recorded
from mmspec.errors import VM_FAULT_MINOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, ImplementationFailure, Signal, VmFault
from mmspec.interfaces import MemoryManager
from mmspec.invariant import REGISTRY, Judge, Over, judging
from mmspec.invariants.hugetlb.terms import (
    NO_PAGE,
    UNMAPPED,
    VM_MAYSHARE,
    VM_WRITE,
    mapped_shared,
    outstanding_private,
    outstanding_shared,
)
from mmspec.invariants.hugetlb.views import AccessView, FaultView, VmaView
from mmspec.state import PoolCounters, Setup
from mmspec.trace import Event, Operation

PROCESSES = 3
FILES = 2
MAPPINGS = 8

#: Short mappings, so that a small pool is enough for several.
lengths = st.sampled_from([1, 1, 2, 2, 3, 4])


class MemoryManagerMachine(OptionalCalls, RuleBasedStateMachine):
    """The rules. `subject` is what is tested; set by the engine on a subclass.

    `log` collects the calls of the example for the report.
    """

    subject: Callable[[], MemoryManager]
    adaptations: frozenset[str] = frozenset()
    """See :attr:`mmconformance.machines.shadow.ShadowWorld.adaptations`."""

    def __init__(self) -> None:
        super().__init__()
        self.mm = self.subject()
        self.log: list[str] = []
        self.pids: list[int] = []
        self.files: list[ShadowFile] = []
        self.operations = 0
        self.steps: list[Step] = []

    # -- set-up and end --------------------------------------------------------------------------------------------------

    @initialize(pool=st.integers(0, 8), quota=st.one_of(st.none(), st.integers(1, 4)))
    @recorded
    def start(self, pool: int, quota: int | None) -> None:
        """A fresh machine with one process."""
        if "quota_free" not in self.mm.capabilities:
            quota = None
        self._say(f"start(pool={pool}, quota={quota})")
        self.mm.start(Setup(pool=pool, quota=quota))
        self.quota = quota
        self.free_blocks: int | None = quota
        self.counters = self._observe()
        self.world = ShadowWorld(self.mm.huge_page_bytes, self.counters, adaptations=self.adaptations)
        self._spawn()

    def teardown(self) -> None:
        """Everybody leaves; the pool must be as it was."""
        if not hasattr(self, "world"):
            return
        # After a violation the shadow may not have followed the last call.
        judge = Judge.active if sys.exc_info()[0] is None else None
        try:
            with judging(judge):
                for pid in list(self.pids):
                    self._exit(pid)
                for file in self.open_files:
                    self._close(file)
                REGISTRY["HTLB-RSV-029"].demand(Emptied.of(self.world, self.mm, self.quota))
                REGISTRY["HTLB-LIV-007"].demand(Ended(self.counters))
        finally:
            self.mm.stop()

    def _say(self, line: str) -> None:
        self.log.append(line)
        self.operations += 1

    def _observe(self) -> PoolCounters:
        counters = self.mm.counters()
        if not isinstance(counters, PoolCounters):
            raise ImplementationFailure(f"counters() returned {type(counters).__name__}, not PoolCounters")
        return counters

    def _after(self, line: str, resizing: Operation | None = None) -> tuple[PoolCounters, PoolCounters]:
        """Look at the counters after a call, and judge what can be judged by them alone."""
        old, new = self.counters, self._observe()
        self._say(f"{line}    # {new.nr_huge_pages} total, {new.free_huge_pages} free, {new.resv_huge_pages} reserved")
        self.counters = self.world.pool = new
        self.world.surplus = old.surplus_huge_pages
        for id_ in ("HTLB-RSV-001", "HTLB-POOL-007", "HTLB-RSV-002", "HTLB-OBS-001", "HTLB-OBS-003"):
            REGISTRY[id_].demand(new)
        REGISTRY["HTLB-POOL-008"].demand(Whole(old, new, resizing))
        self.blocks_before = self.free_blocks
        if self.quota is not None:
            self.free_blocks = self.mm.quota_free()
            REGISTRY["HTLB-QTA-001"].demand(Blocks(self.free_blocks, self.quota))
        return old, new

    def _settle(self) -> None:
        """The shadow has followed; judge the whole."""
        REGISTRY["HTLB-RSV-003"].demand(self.world)
        REGISTRY["HTLB-POOL-003"].demand(Places.of(self.world))

    # -- processes -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.pids) < PROCESSES)
    @rule()
    @recorded
    def spawn(self) -> None:
        """A process with nothing mapped."""
        self._spawn()

    def _spawn(self) -> None:
        pid = self.mm.spawn()
        self.pids.append(pid)
        self._after(f"p{pid} = spawn()")

    @precondition(lambda self: self.pids and len(self.pids) < PROCESSES)
    @rule(which=pick)
    @recorded
    def fork(self, which: int) -> None:
        """A copy of a process."""
        parent = self.pids[which % len(self.pids)]
        child = self._call("fork", parent)
        old, new = self._after(f"p{child} = fork(p{parent})")
        if child > 0:
            self.world.forked(parent, child)
            self.pids.append(child)
            call = Reenacted("dup_mm", old, new)
            call.judge("HTLB-RSV-021", result=Child(self.world.of(child)))
        self._settle()

    @precondition(lambda self: len(self.pids) > 1)
    @rule(which=pick)
    @recorded
    def exit(self, which: int) -> None:
        """The end of a process."""
        self._exit(self.pids[which % len(self.pids)])

    def _exit(self, pid: int) -> None:
        self._call("exit", pid)
        self.pids.remove(pid)
        old, new = self._after(f"exit(p{pid})")
        kept = sum(outstanding_private(v) for v in self.world.of(pid))
        vmas = self.world.of(pid)
        if not self._closing(vmas):
            self._judge_close(old, new, vmas, kept)
        self._settle()

    def _closing(self, vmas: list[ShadowVma]) -> bool:
        """These mappings go; whether a file went with them."""
        files = len(self.world.inodes)
        for vma in vmas:
            self.world.closed(vma)
        return len(self.world.inodes) < files

    def _judge_close(self, old: PoolCounters, new: PoolCounters, vmas: list[ShadowVma], kept: int) -> None:
        """`kept` reservations were outstanding in these mappings."""
        owners = [v for v in vmas if v.map is not None]
        if vmas and not owners and not all(v.shared for v in vmas):
            return
        npages = sum(v.npages for v in owners)
        view = VmaView(not owners, bool(owners), npages, npages - kept, 1, 0, None)
        call = Reenacted("hugetlb_vm_op_close", old, new)
        call.judge("HTLB-RSV-008" if owners else "HTLB-RSV-019", old=view)

    # -- mappings --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.open_files) < FILES)
    @rule(size=st.integers(0, 3))
    @recorded
    def create_file(self, size: int) -> None:
        """A file with nothing in it."""
        number = self.mm.create_file(size)
        self.files.append(ShadowFile(number, size, self.world.new_map(private=False)))
        self.world.inodes.append(self.files[-1])
        self._after(f"f{number} = create_file({size})")

    @property
    def open_files(self) -> list[ShadowFile]:
        """The files that can be mapped."""
        return [f for f in self.files if f.open]

    @precondition(lambda self: self.open_files)
    @rule(which=pick)
    @recorded
    def close_file(self, which: int) -> None:
        """Nobody can map the file any more."""
        self._close(self.open_files[which % len(self.open_files)])

    def _close(self, file: ShadowFile) -> None:
        self._call("close_file", file.number)
        file.open = False
        self.world.maybe_evict(file)
        self._after(f"close_file(f{file.number})")
        self._settle()

    @precondition(lambda self: self.pids and len(self.world.vmas) < MAPPINGS)
    @rule(which=pick, length=lengths, shared=st.booleans(), noreserve=rarely)
    @recorded
    def mmap_anonymous(self, which: int, length: int, shared: bool, noreserve: bool) -> None:
        """A mapping without a file."""
        file = ShadowFile(None, length, self.world.new_map(private=False), open=False)
        self._mmap(self.pids[which % len(self.pids)], length, file, 0, shared, noreserve, readonly=False)

    @precondition(lambda self: self.pids and self.open_files and len(self.world.vmas) < MAPPINGS)
    @rule(
        which=pick,
        length=lengths,
        file=pick,
        offset=st.integers(0, 2),
        shared=st.booleans(),
        noreserve=rarely,
        readonly=rarely,
    )
    @recorded
    def mmap_file(self, which: int, length: int, file: int, offset: int, shared: bool, noreserve: bool, readonly: bool) -> None:
        """A mapping of a file."""
        chosen = self.open_files[file % len(self.open_files)]
        # Whether promises beyond the end survive that the file grows is nobody's law.
        readonly = readonly and offset + length <= chosen.size
        self._mmap(self.pids[which % len(self.pids)], length, chosen, offset, shared, noreserve, readonly)

    def _mmap(self, pid: int, length: int, file: ShadowFile, offset: int, shared: bool, noreserve: bool, readonly: bool) -> None:
        address = self._call(
            "mmap",
            pid,
            length,
            file=file.number,
            offset=offset,
            shared=shared,
            noreserve=noreserve,
            writable=not readonly,
        )
        where = "anonymous" if file.number is None else f"f{file.number}, {offset}"
        kind = ("shared" if shared else "private") + ", noreserve" * noreserve + ", read-only" * readonly
        shown = hex(address) if address > 0 else address
        old, new = self._after(f"{shown} = mmap(p{pid}, {length}, {where}, {kind})")
        flags = VM_WRITE * (not readonly) | VM_MAYSHARE * shared | VM_NORESERVE * noreserve
        self._judge_mmap(old, new, address, file, offset, length, flags, pid)
        self._settle()

    def _judge_mmap(
        self, old: PoolCounters, new: PoolCounters, address: int, file: ShadowFile, offset: int, length: int,
        flags: int, pid: int,
    ) -> None:  # fmt: skip
        result = min(address, 0)
        before = file.resv_map.coverage()
        charge = self.world.charge(file, offset, length, flags)
        vma = ShadowVma(pid, 0, offset, length, flags, file, None, 0, self.world.huge_page_size)
        if address > 0:
            if file not in self.world.inodes:
                self.world.inodes.append(file)
            vma = self.world.mapped(pid, address, length, file, offset, flags)
        call = Reenacted("hugetlb_reserve_pages", old, new, inode=file, frm=offset, to=offset + length, vma=vma, charge=None)
        if not flags & VM_NORESERVE and mapped_shared(vma):
            call.did("prepare")
        call.write(file.resv_map, "regions", before, file.resv_map.coverage())
        call.judge("HTLB-RSV-024", "HTLB-RSV-025", "HTLB-RSV-026", "HTLB-RSV-007", result=result)
        call = Reenacted("hugetlb_reserve_pages", old, new, charge=charge)
        # Releases differ in whose quota an anonymous mapping uses, and in how they say that there is none left.
        no_quota = self.blocks_before is not None and self.blocks_before < charge
        if no_quota and result == -errno.ENOSPC:
            call.called("hugetlb_get_quota", result=1)
        call.judge("HTLB-RSV-027", "HTLB-ERR-004", result=result)
        if result == 0 or not no_quota:
            call = Reenacted("hugetlb_acct_memory", old, new, delta=charge)
            call.decided(old, new)
            call.judge("HTLB-RSV-006", result=result)

    @precondition(lambda self: self.world.vmas)
    @rule(which=pick, first=pages, length=lengths)
    @recorded
    def munmap(self, which: int, first: int, length: int) -> None:
        """A mapping, or a part of it, goes."""
        vma, start, length = self.world.part(which, first, length)
        result = self._call("munmap", vma.pid, start, length)
        old, new = self._after(f"{result} = munmap(p{vma.pid}, {start:#x}, {length})")
        if result == 0:
            middle = vma.start < start and start + length * self.world.huge_page_size < vma.end
            refs = 0 if vma.map is None else vma.map.refs
            inside = self.world.cut(vma.pid, start, length)
            kept = sum(outstanding_private(v) for v in inside)
            if not self._closing(inside):
                self._judge_close(old, new, inside, kept)
            if middle and vma.map is not None:
                call = Reenacted("do_munmap", old, new)
                call.did("split")
                call.did("split")
                call.write(vma.map, "refs", refs, vma.map.refs)
                call.called("hugetlb_vm_op_close", map=vma.map, released=kept)
                call.judge("HTLB-VMA-015", result=result)
        self._settle()

    # -- accesses --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.vmas)
    @rule(which=pick, page=pages)
    @recorded
    def read(self, which: int, page: int) -> None:
        """A load."""
        vma = self.world.vmas[which % len(self.world.vmas)]
        address = vma.start + page % vma.npages * self.world.huge_page_size
        value = self._call("read", vma.pid, address)
        old, new = self._after(f"{value!r} = read(p{vma.pid}, {address:#x})")
        self._judge_access(vma, address, None, value, old, new)

    @precondition(lambda self: self.world.vmas)
    @rule(which=pick, page=pages, value=st.integers(1, 255))
    @recorded
    def write(self, which: int, page: int, value: int) -> None:
        """A store."""
        vma = self.world.vmas[which % len(self.world.vmas)]
        address = vma.start + page % vma.npages * self.world.huge_page_size
        alone = self.world.sole_user(vma, vma.index(address))
        before = self._page_at(vma, address) if alone else None
        result = self._call("write", vma.pid, address, value)
        old, new = self._after(f"{result!r} = write(p{vma.pid}, {address:#x}, {value})")
        if alone and vma.writable:
            call = Reenacted("hugetlb_cow", old, new)
            call.did("sole_user", count=1)
            call.did("pte_mkwrite" if before == self._page_at(vma, address) else "copy")
            call.judge("HTLB-COW-002", result=self._fault_result(result, sigbus_is=VM_FAULT_OOM))
        self._judge_access(vma, address, value, result, old, new)

    @precondition(lambda self: any(v.npages > 2 for v in self.world.vmas))
    @rule(which=pick)
    def munmap_middle(self, which: int) -> None:
        """A mapping falls in two."""
        found = [v for v in self.world.vmas if v.npages > 2]
        vma = found[which % len(found)]
        self._at((vma.pid, vma.start), self.munmap, first=1, length=vma.npages - 2)

    # Runs of calls that chance alone seldom makes; the history has them one by one.

    @precondition(lambda self: self.world.vmas and len(self.pids) < PROCESSES)
    @rule(which=pick, page=pages, value=st.integers(1, 255), child_writes=st.booleans(), child_first=st.booleans())
    def copy_on_write(self, which: int, page: int, value: int, child_writes: bool, child_first: bool) -> None:
        """A page is written, inherited, written by one of the two, and read by both."""
        vma = self.world.vmas[which % len(self.world.vmas)]
        where = vma.pid, vma.start
        self._at(where, self.write, page=page, value=value)
        self.fork(which=self.pids.index(vma.pid))
        child = self.pids[-1], vma.start
        self._at(child if child_writes else where, self.write, page=page, value=value % 255 + 1)
        for each in (child, where) if child_first else (where, child):
            self._at(each, self.read, page=page)

    @precondition(lambda self: self._of_open_files())
    @rule(which=pick, page=pages, value=st.integers(1, 255), size=st.integers(0, 4))
    def cut_under_mapping(self, which: int, page: int, value: int, size: int) -> None:
        """A page of a file is written, the file is cut, and the page is read."""
        found = self._of_open_files()
        vma = found[which % len(found)]
        where = vma.pid, vma.start
        self._at(where, self.write, page=page, value=value)
        self.truncate(which=self.open_files.index(vma.vm_file), size=size)
        self._at(where, self.read, page=page)

    @precondition(lambda self: self.pids and len(self.world.vmas) < MAPPINGS and self._of_open_files())
    @rule(which=pick, who=pick, page=pages, shared=st.booleans(), noreserve=rarely, instead=st.booleans())
    def map_again(self, which: int, who: int, page: int, shared: bool, noreserve: bool, instead: bool) -> None:
        """The same part of a file is mapped once more, beside the first mapping or instead of it, and read."""
        found = self._of_open_files()
        vma = found[which % len(found)]
        file, offset, length = self.open_files.index(vma.vm_file), vma.lo, vma.npages
        if instead:
            self._at((vma.pid, vma.start), self.munmap, first=0, length=length)
        before = list(self.world.vmas)
        self.mmap_file(
            which=who, length=length, file=file, offset=offset, shared=shared, noreserve=noreserve, readonly=False
        )
        for new in [v for v in self.world.vmas if v not in before]:
            self._at((new.pid, new.start), self.read, page=page)

    def _of_open_files(self) -> list[ShadowVma]:
        return [v for v in self.world.vmas if v.vm_file.open]

    def _at(self, where: tuple[int, int], access: Callable[..., None], **arguments: int) -> None:
        """Apply a rule to the mapping of a process at an address."""
        access(which=[(v.pid, v.start) for v in self.world.vmas].index(where), **arguments)

    def _page_at(self, vma: ShadowVma, address: int) -> Hashable:
        return self.mm.page_at(vma.pid, address) if "page_at" in self.mm.capabilities else None

    def _judge_access(
        self, vma: ShadowVma, address: int, value: int | None, result: int, old: PoolCounters, new: PoolCounters
    ) -> None:
        view = AccessView(value is None or vma.writable)
        Reenacted("access", old, new).judge("HTLB-ERR-008", result=result, old=view, new=view)
        if view.allowed:
            self._judge_fault(vma, address, value, result, old, new)
        self._settle()

    def _judge_fault(
        self, vma: ShadowVma, address: int, value: int | None, result: int, old: PoolCounters, new: PoolCounters
    ) -> None:
        idx = vma.index(address)
        beyond = idx >= vma.vm_file.size
        robbed = bool(vma.vm_private_data & UNMAPPED) and idx not in vma.pages
        need = self.world.needs_page(vma, idx, value is not None)
        view = self._fault_view(vma, idx)
        no_quota = need and not view.reserved and self.blocks_before == 0
        fault = self._fault_result(result, sigbus_is=VM_FAULT_SIGBUS if beyond or robbed or no_quota else VM_FAULT_OOM)
        call = Reenacted("hugetlb_fault", old, new, vma=vma, address=address, write=value is not None)
        if need and not beyond and not robbed:
            call.did("availability_test")
        call.did("size_test", idx=idx, size=vma.vm_file.size)
        if no_quota:
            call.did("quota_exhausted")
        if robbed:
            call.did("unmapped_for_owner")
        if need and old.free_huge_pages <= old.resv_huge_pages:
            call.called("alloc_huge_page", result=NO_PAGE)
        call.judge("HTLB-FLT-008", "HTLB-ERR-002", "HTLB-RSV-022", "HTLB-ERR-005", result=fault, old=view, new=view)
        if not need or old.free_huge_pages > old.resv_huge_pages:
            # There was a page to be had, so nobody had to fail.
            REGISTRY["HTLB-FLT-029"].demand(Enough(call.operation))
        if result >= 0:
            took = new.free_huge_pages < old.free_huge_pages
            if took:
                REGISTRY["HTLB-RSV-023"].demand(Decided(old, new, drew=view.reserved))
            page = self.world.touched(vma, idx, value is not None, took_page=took)
            self._judge_content(call, page, value, result)

    @staticmethod
    def _fault_result(result: int, *, sigbus_is: VmFault) -> VmFault:
        """What the fault must have answered; SIGBUS also stands for a shortage in releases from 2.6.34 on."""
        if result >= 0:
            return VM_FAULT_MINOR
        return sigbus_is if result == Signal.SIGBUS else VM_FAULT_OOM

    def _fault_view(self, vma: ShadowVma, idx: int) -> FaultView:
        from mmspec.invariants.hugetlb.terms import reserved

        outstanding = reserved(vma, idx)
        consumed = vma.map is not None and idx in vma.map.covered
        return FaultView(outstanding, outstanding, idx, vma.vm_file.size, consumed)

    def _judge_content(self, call: Reenacted, page: Any, value: int | None, result: int) -> None:
        if value is not None:
            page.content = value
            return
        known = page.content
        event = Event("copied", call.operation, (), 0, {"before": known, "after": result, "new": page, "old": page})
        if known == 0:
            fresh = Event("cache_insert", call.operation, (), 0, {"page": Content(result)})
            REGISTRY["HTLB-FLT-006"].demand(fresh)
        call.recorder.current.events.append(event)
        call.did("pte_replace", mm=call.operation.vma.pid)
        call.operation.arguments["mm"] = call.operation.vma.pid
        call.judge("HTLB-COW-011")

    # -- files and the pool ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.open_files)
    @rule(which=pick, size=st.integers(0, 4))
    @recorded
    def truncate(self, which: int, size: int) -> None:
        """The file gets shorter or longer."""
        file = self.open_files[which % len(self.open_files)]
        blocks = self.free_blocks
        result = self._call("truncate", file.number, size)
        before, cached, promised = file.resv_map.coverage(), len(file.pages), outstanding_shared(file)
        charged = self.world.charged(file)
        old, new = self._after(f"{result} = truncate(f{file.number}, {size})")
        if result == 0:
            restored = self.world.truncated(file, size)
            call = Reenacted("hugetlb_vmtruncate", old, new, inode=file)
            call.write(file.resv_map, "regions", before, file.resv_map.coverage())
            for _ in range(cached - len(file.pages)):
                call.did("cache_remove")
            if not restored:
                call.judge("HTLB-RSV-028")
            if not restored and blocks is not None:
                call.write("sb", "free_blocks", blocks, self.free_blocks)
                call.called("hugetlb_unreserve_pages", dropped=promised - outstanding_shared(file), freed=0)
                for _ in range(charged - self.world.charged(file)):
                    call.called("free_huge_page", was_charged=True)
                call.judge("HTLB-TRN-006")
        self._settle()

    @precondition(lambda self: self.world.vmas)
    @rule(count=st.integers(0, 8))
    @recorded
    def set_nr_hugepages(self, count: int) -> None:
        """The pool is resized."""
        reached = self._call("set_nr_hugepages", count)
        call = Reenacted("set_max_huge_pages", self.counters, self.counters, count=count)
        old, new = self._after(f"{reached} = set_nr_hugepages({count})", call.operation)
        REGISTRY["HTLB-POOL-010"].demand(Whole(old, new, call.operation))
        call.decided(old, new)
        call.judge("HTLB-POOL-018", result=reached)
        self._settle()


#: What this machine can judge, whatever the implementation shows.
OBSERVED = tuple(i.id for i in REGISTRY if "MemoryManager" in i.interfaces and i.over is not Over.RUN)
