"""The small concurrent programs that are explored exhaustively."""

from __future__ import annotations

from mmconformance.scenarios.hugetlb.stage import Stage
from mmconformance.scenarios.staging import conditions


def _shared_racers(stage: Stage, threads: int, pool: int = 1, *, alike: bool = False) -> None:
    stage.start(pool)
    file = stage.manager.create_file(1)
    for number in range(threads):
        pid = stage.manager.spawn()
        address = stage.manager.mmap(pid, 1, file=file, shared=True)
        # Each has a byte of its own: in which order they store is no question to the kernel.
        stage.race(f"P{number}", "write", pid, address + number, number + 1, alike="P" if alike else "")
    stage.facts["excess"] = 0


@conditions(failures=1)
def shared_last_page_2(stage: Stage) -> None:
    """Two processes fault the same offset of a shared mapping; there is one page, and it is reserved."""
    _shared_racers(stage, 2)


def shared_last_page_3(stage: Stage) -> None:
    """Three processes fault the same offset of a shared mapping; there is one page, and it is reserved."""
    _shared_racers(stage, 3, alike=True)


def _private_racers(stage: Stage, threads: int, *, noreserve: bool, alike: bool = False) -> None:
    stage.start(1)
    pid = stage.manager.spawn()
    address = stage.manager.mmap(pid, 1, noreserve=noreserve)
    for number in range(threads):
        stage.race(f"T{number}", "write", pid, address + number, number + 1, alike="T" if alike else "")
    stage.facts["excess"] = 0


def private_last_page_2(stage: Stage) -> None:
    """Two threads of a process write the same offset of a private mapping that has the last page reserved."""
    _private_racers(stage, 2, noreserve=False)


def private_last_page_3(stage: Stage) -> None:
    """Three threads of a process write the same offset of a private mapping that has the last page reserved."""
    _private_racers(stage, 3, noreserve=False, alike=True)


@conditions(failures=1)
def private_noreserve_last_page(stage: Stage) -> None:
    """Two threads write the same offset of a private mapping without reservation; one page is free."""
    _private_racers(stage, 2, noreserve=True)


def noreserve_shared_last_page(stage: Stage) -> None:
    """Two processes fault one offset of a file that nobody has reserved; one page is free, and one block of quota."""
    stage.start(1, quota=1)
    file = stage.manager.create_file(1)
    for number in range(2):
        pid = stage.manager.spawn()
        address = stage.manager.mmap(pid, 1, file=file, shared=True, noreserve=True)
        stage.race(f"P{number}", "read", pid, address)
    stage.facts["excess"] = 0


def true_shortage(stage: Stage) -> None:
    """Two processes each write a private page of their own; there is one page. Exactly one of them fails."""
    stage.start(1)
    for number in range(2):
        pid = stage.manager.spawn()
        address = stage.manager.mmap(pid, 1, noreserve=True)
        stage.race(f"P{number}", "write", pid, address, number + 1)
    stage.facts["excess"] = 1


def _cow_racers(stage: Stage, pool: int) -> None:
    stage.start(pool)
    parent = stage.manager.spawn()
    address = stage.manager.mmap(parent, 1)
    stage.manager.write(parent, address, 7)
    child = stage.manager.fork(parent)
    stage.race("parent", "write", parent, address, 1)
    stage.race("child", "write", child, address, 2)


def cow_parent_and_child(stage: Stage) -> None:
    """Parent and child write the page that they share after fork; one page is free, which is enough."""
    _cow_racers(stage, 2)
    stage.facts["excess"] = 0


def cow_empty_pool(stage: Stage) -> None:
    """Parent and child write the page that they share after fork, and no page is free."""
    _cow_racers(stage, 1)


def cow_two_threads(stage: Stage) -> None:
    """Two threads of the parent write the page that an idle child shares; one page is free."""
    stage.start(2)
    parent = stage.manager.spawn()
    address = stage.manager.mmap(parent, 1)
    stage.manager.write(parent, address, 7)
    stage.manager.fork(parent)
    stage.race("T0", "write", parent, address, 1)
    stage.race("T1", "write", parent, address, 2)
    stage.facts["excess"] = 0


def fault_against_truncate(stage: Stage) -> None:
    """A process faults an offset of a file while another one truncates the file below it; a second file has a
    reservation that nobody must take.
    """
    stage.start(2)
    file, other = stage.manager.create_file(1), stage.manager.create_file(1)
    pid = stage.manager.spawn()
    address = stage.manager.mmap(pid, 1, file=file, shared=True)
    stage.manager.mmap(pid, 1, file=other, shared=True)
    stage.race("fault", "read", pid, address)
    stage.race("truncate", "truncate", file, 0)
    stage.facts["serial_outcomes"] = (
        "fault=0 truncate=0 free=2 resv=1",
        "fault=SIGBUS truncate=0 free=2 resv=1",
    )


def private_fault_against_truncate(stage: Stage) -> None:
    """A private write of a file's offset while another process truncates the file below it."""
    stage.start(2)
    file = stage.manager.create_file(1)
    pid = stage.manager.spawn()
    address = stage.manager.mmap(pid, 1, file=file)
    stage.race("fault", "write", pid, address, 1)
    stage.race("truncate", "truncate", file, 0)


@conditions(failures=1)
def fault_against_munmap(stage: Stage) -> None:
    """A thread writes the middle page of a private mapping while another one unmaps it."""
    stage.start(3)
    pid = stage.manager.spawn()
    address = stage.manager.mmap(pid, 3)
    middle = address + stage.manager.huge_page_bytes
    stage.race("fault", "write", pid, middle, 1)
    stage.race("munmap", "munmap", pid, middle, 1)


@conditions(failures=1)
def fork_between_reserve_and_fault(stage: Stage) -> None:
    """A thread of a process with a private reservation faults while another one forks."""
    stage.start(2)
    pid = stage.manager.spawn()
    address = stage.manager.mmap(pid, 1)
    stage.race("fault", "write", pid, address, 1)
    stage.race("fork", "fork", pid)


def resize_against_reserve(stage: Stage) -> None:
    """The pool is shrunk while a mapping reserves its last pages."""
    stage.start(2)
    pid = stage.manager.spawn()
    stage.race("resize", "set_nr_hugepages", 0)
    stage.race("mmap", "mmap", pid, 2)


@conditions(failures=1)
def two_reserves(stage: Stage) -> None:
    """Two mappings reserve at once; only one of them fits."""
    stage.start(2)
    for number in range(2):
        pid = stage.manager.spawn()
        stage.race(f"P{number}", "mmap", pid, 2)


def reserve_against_noreserve_fault(stage: Stage) -> None:
    """One process maps a file with reservation while another one, without, faults an offset of it."""
    stage.start(3)
    file = stage.manager.create_file(2)
    one, two = stage.manager.spawn(), stage.manager.spawn()
    address = stage.manager.mmap(two, 2, file=file, shared=True, noreserve=True)
    stage.race("mmap", "mmap", one, 2, file=file, shared=True)
    stage.race("fault", "read", two, address)


def victim_of_a_race(stage: Stage) -> None:
    """Two processes race for an offset of one file while a third faults its own reserved offset of another."""
    stage.start(2)
    file, other = stage.manager.create_file(1), stage.manager.create_file(1)
    for number in range(2):
        pid = stage.manager.spawn()
        address = stage.manager.mmap(pid, 1, file=file, shared=True)
        stage.race(f"P{number}", "read", pid, address)
    pid = stage.manager.spawn()
    stage.race("victim", "read", pid, stage.manager.mmap(pid, 1, file=other, shared=True))
    stage.facts["excess"] = 0


@conditions(failures=1)
def surplus_against_free(stage: Stage) -> None:
    """A mapping reserves by surplus pages while another process frees pages and a third takes one."""
    stage.start(1, overcommit=2)
    one, two = stage.manager.spawn(), stage.manager.spawn()
    address = stage.manager.mmap(one, 1)
    stage.manager.write(one, address, 1)
    stage.race("mmap", "mmap", two, 2)
    stage.race("exit", "exit", one)


def two_free_pages(stage: Stage) -> None:
    """Two threads write one unreserved private offset with a page free for each; one page comes back."""
    stage.start(2)
    pid = stage.manager.spawn()
    address = stage.manager.mmap(pid, 1, noreserve=True)
    for number in range(2):
        stage.race(f"T{number}", "write", pid, address, number + 1)
    stage.facts["excess"] = 0


def insertion_race(stage: Stage) -> None:
    """Two processes fault one unreserved offset of a file with a page free for each; one insertion fails."""
    stage.start(2)
    file = stage.manager.create_file(1)
    for number in range(2):
        pid = stage.manager.spawn()
        address = stage.manager.mmap(pid, 1, file=file, shared=True, noreserve=True)
        stage.race(f"P{number}", "read", pid, address)
    stage.facts["excess"] = 0


def lost_copy(stage: Stage) -> None:
    """Two threads of the parent copy the page that an idle child shares, with a page free for each."""
    stage.start(3)
    parent = stage.manager.spawn()
    address = stage.manager.mmap(parent, 1)
    stage.manager.write(parent, address, 7)
    stage.manager.fork(parent)
    stage.race("T0", "write", parent, address, 1)
    stage.race("T1", "write", parent, address, 2)
    stage.facts["excess"] = 0
