"""Drives the reference of reverse mapping by system calls, accesses and memory pressure, one call after the other.

Nothing of what the kernel does by itself may be noticed: after each load the value is compared with what the process
must find (:mod:`mmconformance.machines.memory_shadow`), after each call the state as a whole is judged, and in the end
nothing may be left. Features of the kernel are drawn for each example, and so are the allocations that fail.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mmconformance.demands import demand
from mmconformance.hazards import violation_for
from mmconformance.machines.memory_shadow import DONE, Cell, Memory, ShadowFile, Spot
from mmconformance.machines.steps import Step, recorded
from mmconformance.scenarios.rmap.leftovers import clear_away, leftovers
from mmreference.kernel.scheduler import First, Stuck, Task
from mmreference.machine import Machine
from mmreference.mm.mm_struct import VM_HUGETLB, VM_SHARED, Vma
from mmspec.config import FEATURES, features
from mmspec.errors import Signal, Violation
from mmspec.invariant import Judge
from mmspec.invariants.rmap.terms import census
from mmspec.trace import Recorder

PROCESSES = 4
FILES = 2
AREAS = 7

#: One of several things, whose number is known only when the rule is applied.
pick = st.integers(0, 15)
#: A base page of an area, modulo its length.
pages = st.integers(0, 15)
#: Base pages; eight are a page table and a trans-huge page of the model.
lengths = st.sampled_from([1, 1, 2, 3, 4, 8, 16])
values = st.integers(1, 9)
rarely = st.sampled_from([False, False, False, True])
#: Which allocation of a call fails: none, the n-th, or all from the n-th on (as n + ALL).
ALL = 100
failing = st.one_of(st.just(0), st.just(0), st.just(0), st.just(0), st.integers(0, 9), st.sampled_from([ALL, ALL + 1, ALL + 3]))

ADVICE = ("mergeable", "unmergeable", "hugepage", "sequential")

#: Kinds of mappings: what is mapped, and whether it is shared.
KINDS = {
    "anonymous": (None, False),
    "file": (0, False),
    "shared file": (0, True),
    "shared": (None, True),
    "other file": (1, False),
    "other shared file": (1, True),
}


class Failing(First):
    """Nobody interferes; the allocations that were drawn fail."""

    def __init__(self, which: int) -> None:
        self.which = which
        self.asked = 0
        self.failed: list[str] = []

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        self.asked += 1
        fails = self.which == self.asked or (self.which >= ALL and self.asked > self.which - ALL)
        if fails:
            self.failed.append(label)
        return int(fails)


class VirtualMemoryMachine(RuleBasedStateMachine):
    """The rules. `subject` is what is tested; set by the engine on a subclass.

    `log` collects the calls of the example for the report.
    """

    subject: Callable[[], Machine]

    def __init__(self) -> None:
        super().__init__()
        self.kernel = self.subject()
        self.log: list[str] = []
        self.operations = 0
        self.steps: list[Step] = []
        self.context = contextlib.ExitStack()
        self.memory = Memory()
        self.failed: list[str] = []
        """The allocations that failed in the last call."""

    # -- set-up and end --------------------------------------------------------------------------------------------------

    @initialize(without=st.one_of(st.just([]), st.lists(st.sampled_from(list(FEATURES)), unique=True, max_size=5)))
    @recorded
    def start(self, without: list[str]) -> None:
        """A kernel without these features, with one process and two files."""
        booted = self.kernel.system
        config = booted.config - set(without)
        lacking = features(booted.arch, booted.variant) - config
        if config != booted.config:
            self.kernel = type(self.kernel)(booted.arch.name, booted.variant, config)
        if lacking and Judge.active is not None:
            self.context.enter_context(Judge.active.without(lacking))
        self._say(f"boot without {', '.join(sorted(lacking)) or 'nothing'}")
        for size in (6, 3):
            self.memory.files.append(ShadowFile(self.kernel.create_file(size), size))
        self._spawn()

    def teardown(self) -> None:
        """Everybody reads all they have and leaves; then nothing may be left."""
        with self.context:
            if not self.memory.processes or sys.exc_info()[0] is not None:
                return
            self._read_everything()
            for pid in list(self.memory.processes):
                self._exit(pid)
            self._run(clear_away(self.kernel))
            self._quiet()
            for id_, left in leftovers(self.system):
                demand(id_, not any(left.values()), **left)

    @property
    def system(self) -> Any:
        """The world of the kernel."""
        return self.kernel.system

    @property
    def pids(self) -> list[int]:
        """The processes that have not exited."""
        return list(self.memory.processes)

    def _say(self, line: str) -> None:
        self.log.append(line)
        self.operations += 1

    def _quiet(self) -> None:
        if Recorder.active is not None:
            Recorder.active.quiet(self.system)

    def _translated(self, make: Callable[[], Any]) -> Any:
        """What it returns; what the model's kernel reports by itself is a violation."""
        try:
            return make()
        except Stuck as stuck:
            demand("LOCK-ORD-019", False, stuck=str(stuck))
            raise
        except Violation:
            raise
        except Exception as error:
            violation = violation_for(error)
            if violation is None:
                raise
            raise violation from error

    def _run(self, body: Any) -> Any:
        return self._translated(lambda: self.kernel.run(body))

    def _call(self, name: str, *args: Any, fail: int = 0, **kwargs: Any) -> Any:
        """Make a call in which allocations may fail, and judge the state after it."""
        strategy = self.kernel.strategy = Failing(fail)
        given = ", ".join([*(_shown(a) for a in args), *(f"{k}={_shown(v)}" for k, v in kwargs.items())])
        line = f"{name}({given})"
        try:
            result = self._translated(lambda: self.kernel.do(name, *args, **kwargs))
            line = f"{_shown(result)} = {line}"
        finally:
            self.kernel.strategy = None
            self.failed = strategy.failed
            self._say(line + (f"    # {', '.join(self.failed)}" if self.failed else ""))
        self._translated(self._quiet)
        return result

    # -- where things are ------------------------------------------------------------------------------------------------

    @property
    def areas(self) -> list[tuple[int, Vma]]:
        """All areas with their processes."""
        return [(pid, vma) for pid in self.pids for vma in self.kernel.processes[pid].vmas]

    def _pid(self, who: int) -> int:
        return self.pids[who % len(self.pids)]

    def _place(self, which: int, page: int, length: int = 1) -> tuple[int, int, int]:
        """Process, address, and length in pages, cut at the end of the area."""
        found = self.areas
        pid, vma = found[which % len(found)]
        first = page % vma.npages
        if vma.vm_flags & VM_HUGETLB and length > 1:
            # Only whole hugetlb pages can be treated otherwise than their neighbours.
            huge = 1 << self.system.huge_page_order
            first, length = first // huge * huge, -(-length // huge) * huge
        return pid, vma.vm_start + first * self.kernel.page_size, min(length, vma.npages - first)

    def _vpn(self, address: int) -> int:
        return address // self.kernel.page_size

    def _adopt_areas(self, pid: int, vpn: int, length: int) -> None:
        """After a call that failed on its way: nothing is expected where nothing is mapped any more."""
        for v in range(vpn, vpn + length):
            if self.kernel.vma_at(pid, v * self.kernel.page_size) is None:
                self.memory.unmapped(pid, v, 1)

    # -- processes -------------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        pid = self.kernel.spawn()
        self.memory.processes[pid] = {}
        self._say(f"{pid} = spawn()")

    @precondition(lambda self: len(self.pids) < PROCESSES)
    @rule()
    @recorded
    def spawn(self) -> None:
        """A process with nothing mapped."""
        self._spawn()

    @precondition(lambda self: len(self.pids) < PROCESSES)
    @rule(who=pick, fail=failing)
    @recorded
    def fork(self, who: int, fail: int) -> None:
        """A copy of a process."""
        parent = self._pid(who)
        child = self._call("fork", parent, fail=fail)
        if child > 0:
            self.memory.forked(parent, child)

    @precondition(lambda self: len(self.pids) > 1)
    @rule(who=pick)
    @recorded
    def exit(self, who: int) -> None:
        """The end of a process."""
        self._exit(self._pid(who))

    def _exit(self, pid: int) -> None:
        self._call("exit", pid)
        del self.memory.processes[pid]

    @precondition(lambda self: len(self.areas) < AREAS)
    @rule(
        who=pick, length=st.integers(1, 3), written=st.integers(0, 3), shift=st.integers(0, 9),
        between=st.sampled_from(["", "shrink", "migrate"]), fail=failing,
    )  # fmt: skip
    @recorded
    def exec(self, who: int, length: int, written: int, shift: int, between: str, fail: int) -> None:
        """A stack is filled at a temporary place and moved down; without memory for that the process ends."""
        pid = self._pid(who)
        address = self._call("stack", pid, length)
        if address < 0:
            return
        self.memory.mapped(pid, self._vpn(address), [Spot(None, i, False, True) for i in range(length)])
        for number in range(min(written, length)):
            self._write(pid, address + number * self.kernel.page_size, number + 1)
        for _ in range(2):
            if between == "shrink":
                self._call("shrink")
            elif between == "migrate" and self.system.has("MIGRATION"):
                self._call("migrate", pid, address)
        if self._call("exec_stack", pid, shift, fail=fail) == 0:
            self.memory.moved(pid, self._vpn(address), length, self._vpn(address) - shift)
        else:
            self._exit(pid)
            if not self.pids:
                self._spawn()

    # -- areas -----------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.areas) < AREAS)
    @rule(
        who=pick, length=lengths, kind=st.sampled_from(list(KINDS)), offset=st.integers(0, 3), write=st.booleans(),
        beside=st.one_of(st.just(0), st.integers(0, 15)), fail=failing,
    )  # fmt: skip
    @recorded
    def mmap(self, who: int, length: int, kind: str, offset: int, write: bool, beside: int, fail: int) -> None:
        """A mapping in the lowest gap or (`beside` > 0) right behind an area, perhaps instead of another."""
        pid = self._pid(who)
        vmas = self.kernel.processes[pid].vmas
        address = vmas[beside % len(vmas)].vm_end if beside and vmas else None
        file, shared = KINDS[kind]
        if file is None:
            offset = 0
        # Nearly always one can write; what one cannot is made by mprotect.
        result = self._call(
            "mmap", pid, length, file=file, offset=offset, shared=shared, write=write or not offset, address=address, fail=fail
        )
        if result < 0:
            if address is not None:
                self._adopt_areas(pid, self._vpn(address), length)
            return
        behind = self.memory.files[file] if file is not None else ShadowFile(None, length) if shared else None
        spots = [Spot(behind, offset + i, shared, write or not offset) for i in range(length)]
        self.memory.mapped(pid, self._vpn(result), spots)

    @precondition(lambda self: self.system.has("HUGETLB_PAGE") and len(self.areas) < AREAS)
    @rule(who=pick, count=st.integers(1, 2), fail=failing)
    @recorded
    def mmap_hugetlb(self, who: int, count: int, fail: int) -> None:
        """A private mapping of hugetlb pages."""
        pid, size = self._pid(who), 1 << self.system.huge_page_order
        result = self._call("mmap", pid, count * size, huge=True, fail=fail)
        if result >= 0:
            spots = [Spot(None, i, False, True, huge=True, cell=Cell()) for i in range(count)]
            for number, spot in enumerate(spots):
                alike = [Spot(None, number, False, True, huge=True, cell=spot.cell) for _ in range(size)]
                self.memory.mapped(pid, self._vpn(result) + number * size, alike)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, fail=failing)
    @recorded
    def munmap(self, which: int, page: int, length: int, fail: int) -> None:
        """An area, or a part of it, goes."""
        pid, address, length = self._place(which, page, length)
        if self._call("munmap", pid, address, length, fail=fail) == 0:
            self.memory.unmapped(pid, self._vpn(address), length)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, rights=st.sampled_from(["rw", "rw", "r", "r", ""]), fail=failing)
    @recorded
    def mprotect(self, which: int, page: int, length: int, rights: str, fail: int) -> None:
        """Rights are given or taken."""
        pid, address, length = self._place(which, page, length)
        read, write = "r" in rights, "w" in rights
        if self._call("mprotect", pid, address, length, write=write, read=read, fail=fail) == 0:
            for spot in self.memory.inside(pid, self._vpn(address), length):
                spot.read, spot.write = read, write

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, to=st.one_of(st.just(-1), st.integers(-1, 40)), fail=failing)
    @recorded
    def mremap(self, which: int, page: int, length: int, to: int, fail: int) -> None:
        """A part of an area moves, to wherever there is room or to an address, what is there goes."""
        pid, address, length = self._place(which, page, length)
        new = None if to < 0 else (self.system.first_vpn + to) * self.kernel.page_size
        result = self._call("mremap", pid, address, length, new, fail=fail)
        if result >= 0:
            self.memory.moved(pid, self._vpn(address), length, self._vpn(result))
        elif new is not None and result not in (-errno.EINVAL, -errno.EFAULT):
            self._adopt_areas(pid, self._vpn(new), length)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, fail=failing)
    @recorded
    def mlock(self, which: int, page: int, length: int, fail: int) -> None:
        """Pages are locked in memory."""
        pid, address, length = self._place(which, page, length)
        result = self._call("mlock", pid, address, length, fail=fail)
        for v in range(self._vpn(address), self._vpn(address) + length):
            spot = self.memory.spot(pid, v)
            vma = self.kernel.vma_at(pid, v * self.kernel.page_size)
            if spot is not None and not spot.huge:
                spot.locked = result == 0 or (vma is not None and vma.locked)
                spot.copy_perhaps(surely=result == 0)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, fail=failing)
    @recorded
    def munlock(self, which: int, page: int, length: int, fail: int) -> None:
        """Pages are not locked any more."""
        pid, address, length = self._place(which, page, length)
        if self._call("munlock", pid, address, length, fail=fail) == 0:
            for spot in self.memory.inside(pid, self._vpn(address), length):
                spot.locked = False

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, fail=failing)
    @recorded
    def dontneed(self, which: int, page: int, length: int, fail: int) -> None:
        """The contents are given up."""
        pid, address, length = self._place(which, page, length)
        self._call("madvise", pid, address, length, "dontneed", fail=fail)
        for spot in self.memory.inside(pid, self._vpn(address), length):
            if spot.locked or spot.huge:
                break
            if not spot.shared:
                spot.renounce()

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, advice=st.sampled_from(ADVICE), fail=failing)
    @recorded
    def advise(self, which: int, page: int, length: int, advice: str, fail: int) -> None:
        """The kernel may do something that nobody notices."""
        pid, address, length = self._place(which, page, length)
        self._call("madvise", pid, address, length, advice, fail=fail)

    @precondition(lambda self: any(v.vm_file is not None and v.vm_flags & VM_SHARED for _, v in self.areas))
    @rule(which=pick, page=pages, length=st.integers(1, 3), offset=st.integers(0, 7), fail=failing)
    @recorded
    def remap_file_pages(self, which: int, page: int, length: int, offset: int, fail: int) -> None:
        """Pages of a shared mapping are put elsewhere."""
        shared = [n for n, (_, v) in enumerate(self.areas) if v.vm_file is not None and v.vm_flags & VM_SHARED]
        pid, address, length = self._place(shared[which % len(shared)], page, length)
        if self._call("remap_file_pages", pid, address, length, offset, fail=fail) == 0:
            for number, spot in enumerate(self.memory.inside(pid, self._vpn(address), length)):
                spot.index = offset + number

    # -- accesses --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, fail=failing)
    @recorded
    def read(self, which: int, page: int, fail: int) -> None:
        """A load."""
        pid, address, _ = self._place(which, page)
        self._read(pid, address, fail)

    def _read(self, pid: int, address: int, fail: int = 0) -> None:
        got = self._call("read", pid, address, fail=fail)
        self._judge_access(self.memory.readable(pid, self._vpn(address)), got, pid, address)
        self.memory.has_read(pid, self._vpn(address), got)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, value=values, fail=failing)
    @recorded
    def write(self, which: int, page: int, value: int, fail: int) -> None:
        """A store."""
        pid, address, _ = self._place(which, page)
        self._write(pid, address, value, fail)

    def _write(self, pid: int, address: int, value: int, fail: int = 0) -> None:
        got = self._call("write", pid, address, value, fail=fail)
        self._judge_access(self.memory.writable(pid, self._vpn(address)), got, pid, address)
        if got == DONE:
            self.memory.has_written(pid, self._vpn(address), value)

    def _judge_access(self, expected: set[int], got: int, pid: int, address: int) -> None:
        allowed = expected | ({Signal.SIGKILL} if self.failed else set())
        if any("hugetlb" in label for label in self.failed):
            # The pool is empty, not the memory.
            allowed.add(Signal.SIGBUS)
        demand("RMAP-UNMAP-027", got in allowed, process=pid, address=_shown(address), expected=sorted(allowed), got=got)

    @precondition(lambda self: self.areas)
    @rule(who=pick, page=pages, length=lengths)
    @recorded
    def read_around(self, who: int, page: int, length: int) -> None:
        """Loads from several pages, beyond the end of the area as well."""
        pid, address, _ = self._place(who, page)
        for number in range(length):
            self._read(pid, address + number * self.kernel.page_size)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, length=lengths, value=values, same=st.booleans())
    @recorded
    def fill(self, which: int, page: int, length: int, value: int, same: bool) -> None:
        """Stores to several pages, perhaps the same value."""
        pid, address, length = self._place(which, page, length)
        for number in range(length):
            self._write(pid, address + number * self.kernel.page_size, value if same else value + number)

    def _read_everything(self) -> None:
        for pid, pages_ in list(self.memory.processes.items()):
            for vpn in sorted(pages_):
                self._read(pid, vpn * self.kernel.page_size)

    # -- files -----------------------------------------------------------------------------------------------------------

    @rule(file=st.integers(0, FILES - 1), size=st.integers(0, 7), fail=failing)
    @recorded
    def truncate(self, file: int, size: int, fail: int) -> None:
        """A file gets shorter or longer."""
        if self._call("truncate", file, size, fail=fail) == 0:
            self.memory.truncated(self.memory.files[file], size)

    @rule(file=st.integers(0, FILES - 1), fail=failing)
    @recorded
    def writeback(self, file: int, fail: int) -> None:
        """What is dirty of a file is written out."""
        self._call("writeback", file, fail=fail)

    # -- what nobody may notice ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, times=st.integers(1, 2), fail=failing)
    @recorded
    def reclaim(self, which: int, page: int, times: int, fail: int) -> None:
        """A page is reclaimed, if it was not used lately."""
        pid, address, _ = self._place(which, page)
        for _ in range(times):
            self._call("reclaim", pid, address, fail=fail)

    @rule(times=st.integers(1, 2), fail=failing)
    @recorded
    def shrink(self, times: int, fail: int) -> None:
        """All lists are scanned; in the second pass no page is young any more."""
        for _ in range(times):
            self._call("shrink", fail=fail)

    @precondition(lambda self: self.system.swap is not None)
    @rule(fail=failing)
    @recorded
    def swapoff(self, fail: int) -> None:
        """Everything comes back from swap."""
        result = self._call("swapoff", fail=fail)
        if not self.failed:
            # Without a shortage each entry is found.
            demand("RMAP-UNMAP-027", result == 0, expected=0, got=result, swap=dict(self.system.swap.swap_map))

    @precondition(lambda self: self.areas and self.system.has("MIGRATION"))
    @rule(which=pick, page=pages, fail=failing)
    @recorded
    def migrate(self, which: int, page: int, fail: int) -> None:
        """A page moves to another frame."""
        pid, address, _ = self._place(which, page)
        self._call("migrate", pid, address, fail=fail)

    @precondition(lambda self: self.areas and self.system.has("KSM"))
    @rule(which=pick, page=pages, other=pick, other_page=pages, value=st.one_of(st.just(0), values), fail=failing)
    @recorded
    def merge(self, which: int, page: int, other: int, other_page: int, value: int, fail: int) -> None:
        """KSM looks at two pages, into which perhaps the same value was written."""
        pid, address, _ = self._place(which, page)
        other_pid, other_address, _ = self._place(other, other_page)
        places = ((pid, address), (other_pid, other_address))
        for where in places if value else ():
            self._call("madvise", *where, 1, "mergeable")
            self._write(*where, value)
        self._call("merge", *places[0], *places[1], fail=fail)

    @precondition(lambda self: self.areas and self.system.has("TRANSPARENT_HUGEPAGE"))
    @rule(which=pick, page=pages, fail=failing)
    @recorded
    def split(self, which: int, page: int, fail: int) -> None:
        """A trans-huge page falls into base pages."""
        pid, address, _ = self._place(which, page)
        self._call("split", pid, address, fail=fail)

    @precondition(lambda self: self.areas and self.system.has("TRANSPARENT_HUGEPAGE"))
    @rule(which=pick, page=pages, fail=failing)
    @recorded
    def collapse(self, which: int, page: int, fail: int) -> None:
        """Base pages become a trans-huge page."""
        pid, address, _ = self._place(which, page)
        self._call("collapse", pid, address, fail=fail)

    @precondition(lambda self: self.areas and self.system.has("MMU_NOTIFIER"))
    @rule(who=pick, fail=failing)
    @recorded
    def attach_mmu(self, who: int, fail: int) -> None:
        """A process gets a secondary MMU."""
        self._call("attach_mmu", self._pid(who), fail=fail)

    @precondition(lambda self: bool(self.kernel.notifiers))
    @rule(who=pick)
    @recorded
    def detach_mmu(self, who: int) -> None:
        """A process has no secondary MMU any more."""
        found = list(self.kernel.notifiers)
        self._call("detach_mmu", found[who % len(found)])

    @precondition(lambda self: any(pid in self.kernel.notifiers for pid, _ in self.areas))
    @rule(which=pick, page=pages, write=st.booleans(), fail=failing)
    @recorded
    def secondary_access(self, which: int, page: int, write: bool, fail: int) -> None:
        """The secondary MMU wants a page; a store through it is not made."""
        found = [n for n, (pid, _) in enumerate(self.areas) if pid in self.kernel.notifiers]
        pid, address, _ = self._place(found[which % len(found)], page)
        spot = self.memory.spot(pid, self._vpn(address))
        write = write and spot is not None and spot.write
        done = self._call("secondary_access", pid, address, write=write, fail=fail)
        if write and spot is not None:
            spot.copy_perhaps(surely=done)

    # -- failures of memory ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.areas and self.system.has("MEMORY_FAILURE"))
    @rule(which=pick, page=pages, fail=failing)
    @recorded
    def fail_memory(self, which: int, page: int, fail: int) -> None:
        """The frame behind a page fails."""
        pid, address, _ = self._place(which, page)
        frame = self.kernel.page_at(pid, address)
        if frame is not None:
            self._lost(frame.first_page or frame)
        self._call("fail_memory", pid, address, fail=fail)

    def _lost(self, page: Any) -> None:
        """Who maps the frame, or has an entry for its slot in swap, may find it lost; this alone is taken from the tables."""
        frames = page.subpages or [page]
        pids = {mm: pid for pid, mm in self.kernel.processes.items()}
        found = census(self.system)
        places = [place for frame in frames for place in found.of(frame)]
        if page.PG_swapcache:
            places += found.swap.get(page.private, [])
        for place in places:
            span = {"pte": 1, "pmd": self.system.hpage_pmd_nr, "huge": 1 << self.system.huge_page_order}[place.level]
            for vpn in range(place.vpn, place.vpn + span):
                self.memory.failed(pids[place.mm], vpn)
        if page.mapping is not None and not page.mapping.bits:
            for file in self.memory.files:
                if file.number is not None and self.kernel.files[file.number] is page.mapping.pointer:
                    file.lost.add(page.index)

    # Runs of calls that chance alone seldom makes; the history has them one by one.

    @precondition(lambda self: self.areas and len(self.pids) < PROCESSES)
    @rule(which=pick, page=pages, value=values, child_writes=st.booleans(), between=st.sampled_from(["", "shrink", "swapoff"]))
    def copy_on_write(self, which: int, page: int, value: int, child_writes: bool, between: str) -> None:
        """A page is written, inherited, perhaps swapped out, written by one of the two, and read by both."""
        pid, address, _ = self._place(which, page)
        where = pid, address
        self._at(where, self.write, value=value, fail=0)
        self.fork(who=self.pids.index(pid), fail=0)
        child = self.pids[-1], address
        if between:
            self.shrink(times=2, fail=0)
        if between == "swapoff" and self.system.swap is not None:
            self.swapoff(fail=0)
        self._at(child if child_writes else where, self.write, value=value % 9 + 1, fail=0)
        for each in (child, where):
            self._at(each, self.read, fail=0)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, value=values, fail=failing)
    def out_and_in(self, which: int, page: int, value: int, fail: int) -> None:
        """A page is written, reclaimed, and read."""
        pid, address, _ = self._place(which, page)
        self._at((pid, address), self.write, value=value, fail=0)
        self._at((pid, address), self.reclaim, times=2, fail=fail)
        self._at((pid, address), self.read, fail=0)

    @precondition(lambda self: self.areas)
    @rule(which=pick, page=pages, value=values, size=st.integers(0, 3), file=st.integers(0, FILES - 1))
    def cut_under_mapping(self, which: int, page: int, value: int, size: int, file: int) -> None:
        """A page is written, a file is cut, and the page is read."""
        pid, address, _ = self._place(which, page)
        self._at((pid, address), self.write, value=value, fail=0)
        self.truncate(file=file, size=size, fail=0)
        self._at((pid, address), self.read, fail=0)

    def _at(self, where: tuple[int, int], access: Callable[..., None], **arguments: Any) -> None:
        """Apply a rule to an address of a process."""
        pid, address = where
        for number, (owner, vma) in enumerate(self.areas):
            if owner == pid and vma.covers(address):
                access(which=number, page=(address - vma.vm_start) // self.kernel.page_size, **arguments)


def _shown(value: Any) -> str:
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) and value > 1 << 10 else repr(value)
