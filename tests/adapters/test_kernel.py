"""The running kernel as a subject; see `--running-kernel` for the tests that need it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import COMMAND

from mmconformance.adapters.kernel import RunningKernel, available
from mmconformance.adapters.kernel.differences import TABLE, Adaptation, Difference, Kind, adaptations
from mmconformance.adapters.kernel.operations import Operation, Player, Symbol, parse, parse_all, replay
from mmconformance.adapters.kernel.probe import kernel_release
from mmconformance.adapters.kernel.program import Finding, write_program
from mmconformance.adapters.kernel.settings import SettingsGuard, pool_directory
from mmspec.errors import ImplementationFailure, Signal, UsageError
from mmspec.state import Mapping, PoolCounters, Setup

HUGE = 2 << 20
POOL = pool_directory(HUGE)

needs_kernel = pytest.mark.running_kernel


def settings() -> tuple[int, int]:
    """The pool's persistent size and overcommit limit now."""
    return int((POOL / "nr_hugepages").read_text()), int((POOL / "nr_overcommit_hugepages").read_text())


@pytest.fixture
def kernel() -> Iterator[RunningKernel]:
    before = settings()
    with RunningKernel() as subject:
        yield subject
    assert settings() == before
    assert not SettingsGuard.taken()


def seen(subject: RunningKernel) -> tuple[int, int, int, int]:
    counters = subject.counters()
    return (
        counters.nr_huge_pages,
        counters.free_huge_pages,
        counters.resv_huge_pages,
        counters.surplus_huge_pages,
    )


# -- operations ------------------------------------------------------------------------------------------------


@needs_kernel
class TestOperations:
    def test_a_mapping_reserves_touching_consumes_unmapping_returns(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(4))
        pid = kernel.spawn()

        address = kernel.mmap(pid, 2)
        assert seen(kernel) == (4, 4, 2, 0)

        assert kernel.write(pid, address, 7) == 0
        assert seen(kernel) == (4, 3, 1, 0)
        assert kernel.read(pid, address) == 7

        assert kernel.munmap(pid, address + HUGE, 1) == 0
        assert seen(kernel) == (4, 3, 0, 0)
        assert kernel.exit(pid) == 0
        assert seen(kernel) == (4, 4, 0, 0)

    def test_fork_copies_on_write(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(4))
        parent = kernel.spawn()
        address = kernel.mmap(parent, 1)
        kernel.write(parent, address, 1)

        child = kernel.fork(parent)
        assert kernel.page_at(child, address) == kernel.page_at(parent, address)

        assert kernel.write(child, address, 2) == 0
        assert (kernel.read(parent, address), kernel.read(child, address)) == (1, 2)
        assert kernel.page_at(child, address) != kernel.page_at(parent, address)
        assert seen(kernel) == (4, 2, 0, 0)

        kernel.exit(child)
        assert seen(kernel) == (4, 3, 0, 0)

    def test_grandchildren_outlive_their_parents(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(2))
        first = kernel.spawn()
        address = kernel.mmap(first, 1, shared=True)
        second = kernel.fork(first)
        third = kernel.fork(second)
        kernel.exit(first)
        kernel.exit(second)
        assert kernel.write(third, address, 3) == 0
        assert kernel.read(third, address) == 3

    def test_shared_anonymous_memory_is_inherited(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(2))
        parent = kernel.spawn()
        address = kernel.mmap(parent, 1, shared=True)
        child = kernel.fork(parent)
        kernel.write(child, address, 9)
        assert kernel.read(parent, address) == 9
        assert seen(kernel) == (2, 1, 0, 0)

    def test_access_beyond_the_end_of_the_file_is_sigbus(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(2))
        pid = kernel.spawn()
        file = kernel.create_file(2)
        address = kernel.mmap(pid, 2, file=file, shared=True)
        assert kernel.truncate(file, 1) == 0
        assert kernel.read(pid, address + HUGE) is Signal.SIGBUS
        assert kernel.write(pid, address, 1) == 0

    def test_access_without_right_or_mapping_is_sigsegv(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(2))
        pid = kernel.spawn()
        address = kernel.mmap(pid, 1, writable=False)
        assert kernel.write(pid, address, 1) is Signal.SIGSEGV
        assert kernel.read(pid, address + HUGE) is Signal.SIGSEGV
        assert kernel.mprotect(pid, address, 1, True) == 0
        assert kernel.write(pid, address, 1) == 0

    def test_accesses_by_the_kernel_report_the_same(self) -> None:
        with RunningKernel(native=False) as kernel:
            kernel.start(Setup(1))
            pid = kernel.spawn()
            address = kernel.mmap(pid, 1, writable=False)
            assert kernel.write(pid, address, 1) is Signal.SIGSEGV
            kernel.mprotect(pid, address, 1, True)
            assert (kernel.write(pid, address, 200), kernel.read(pid, address)) == (0, 200)
            poor = kernel.mmap(pid, 1, noreserve=True)
            assert kernel.write(pid, poor, 1) is Signal.SIGBUS

    def test_a_fatal_access_kills_the_process_with_the_reported_signal(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        pid = kernel.spawn()
        address = kernel.mmap(pid, 1)
        assert kernel.fatal_access(pid, address, 5) == 0
        assert kernel.fatal_access(pid, address) == 5
        assert kernel.write(pid, address + HUGE, 1) is Signal.SIGSEGV
        poor = kernel.mmap(pid, 1, noreserve=True)
        assert kernel.fatal_access(pid, poor) is Signal.SIGBUS
        assert seen(kernel) == (1, 1, 0, 0)

    def test_mmap_beyond_the_pool_is_refused(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(2))
        pid = kernel.spawn()
        assert kernel.mmap(pid, 3) == -errno.ENOMEM
        assert seen(kernel) == (2, 2, 0, 0)

    def test_overcommit_gives_surplus_pages(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        pid = kernel.spawn()
        assert kernel.set_overcommit(1) == 0
        address = kernel.mmap(pid, 2)
        assert seen(kernel) == (2, 2, 2, 1)
        kernel.munmap(pid, address, 2)
        assert seen(kernel) == (1, 1, 0, 0)

    def test_the_pool_is_resized(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        assert kernel.set_nr_hugepages(3) == 3
        assert kernel.set_nr_hugepages(0) == 0

    def test_mappings_tell_files_and_offsets(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(4))
        pid = kernel.spawn()
        kernel.create_file(1)
        file = kernel.create_file(4)
        address = kernel.mmap(pid, 3, file=file, offset=1, shared=True)
        kernel.munmap(pid, address + HUGE, 1)
        anonymous = kernel.mmap(pid, 1)
        assert kernel.mappings(pid) == [
            Mapping(address, 1, 1, True, file),
            Mapping(address + 2 * HUGE, 1, 3, True, file),
            Mapping(anonymous, 1, 0, False, None),
        ]

    def test_a_closed_file_goes_with_its_last_mapping(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        pid = kernel.spawn()
        file = kernel.create_file(1)
        address = kernel.mmap(pid, 1, file=file, shared=True)
        kernel.write(pid, address, 1)
        assert kernel.close_file(file) == 0
        assert seen(kernel) == (1, 0, 0, 0)
        kernel.munmap(pid, address, 1)
        assert seen(kernel) == (1, 1, 0, 0)

    def test_files_without_a_file_system_of_our_own(self, kernel: RunningKernel) -> None:
        kernel.capabilities -= {"quota", "quota_free"}
        kernel.start(Setup(1))
        pid = kernel.spawn()
        address = kernel.mmap(pid, 1, file=kernel.create_file(1), shared=True)
        assert (kernel.write(pid, address, 4), kernel.read(pid, address)) == (0, 4)
        with pytest.raises(UsageError, match="quota"):
            kernel.start(Setup(1, quota=1))

    def test_two_runs_hand_out_the_same_names(self, kernel: RunningKernel) -> None:
        def run() -> list[int]:
            kernel.start(Setup(3))
            pid = kernel.spawn()
            file = kernel.create_file(1)
            return [pid, file, kernel.mmap(pid, 1, file=file), kernel.fork(pid), kernel.mmap(pid, 1)]

        assert run() == run()


@needs_kernel
class TestQuota:
    def test_a_quota_limits_files(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(3, quota=1))
        pid = kernel.spawn()
        file = kernel.create_file(2)
        assert kernel.mmap(pid, 2, file=file, shared=True) == -errno.ENOMEM
        assert kernel.quota_free() == 1
        address = kernel.mmap(pid, 2, file=file, shared=True, noreserve=True)
        assert kernel.write(pid, address, 1) == 0
        assert kernel.quota_free() == 0
        assert kernel.write(pid, address + HUGE, 1) is Signal.SIGBUS
        kernel.truncate(file, 0)
        assert kernel.quota_free() == 1

    def test_a_quota_can_be_set_before_the_first_file(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        assert kernel.quota_free() is None
        assert kernel.set_quota(2) == 0
        assert kernel.quota_free() == 2
        kernel.create_file(1)
        with pytest.raises(UsageError, match="before creating files"):
            kernel.set_quota(1)


# -- life and death --------------------------------------------------------------------------------------------


HOLDER = """
import os, sys, time
from mmconformance.adapters.kernel import RunningKernel
from mmspec.state import Setup

kernel = RunningKernel()
kernel.start(Setup(5, overcommit=2))
pid = kernel.spawn()
address = kernel.mmap(pid, 2)
kernel.write(pid, address, 1)
child = kernel.fork(pid)
print(kernel.os_pid(pid), kernel.os_pid(child), kernel._server.os_pid, flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def wait_until(condition: object, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@needs_kernel
class TestLifeAndDeath:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    def test_settings_come_back_when_the_program_is_ended(self, number: signal.Signals) -> None:
        before = settings()
        program = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert program.stdout is not None
        pids = [int(word) for word in program.stdout.readline().split()]
        assert settings() == (5, 2)
        reason = available()
        assert reason is not None and "another run" in reason

        # To the whole group, as a terminal sends it.
        os.killpg(program.pid, number)
        program.wait(10)
        program.stdout.close()

        assert wait_until(lambda: settings() == before)
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert wait_until(lambda: available() is None)

    def test_settings_come_back_when_the_program_dies_at_once(self) -> None:
        before = settings()
        hasty = "kernel.start(Setup(5, overcommit=2))\nos.kill(os.getpid(), 9)"
        for _ in range(5):
            program = HOLDER.partition("kernel.start")[0] + hasty
            assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
            assert wait_until(lambda: settings() == before)
            assert wait_until(lambda: available() is None)

    def test_a_killed_process_is_reported_and_leaves_nothing(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(3))
        pid = kernel.spawn()
        address = kernel.mmap(pid, 2)
        kernel.write(pid, address, 1)
        other = kernel.fork(pid)
        os.kill(kernel.os_pid(pid), signal.SIGKILL)
        with pytest.raises(ImplementationFailure, match="died"):
            kernel.read(pid, address)
        assert kernel.read(other, address) == 1

        kernel.start(Setup(3))
        assert seen(kernel) == (3, 3, 0, 0)
        assert kernel.spawn() == 1

    def test_a_killed_server_takes_all_processes_along(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(3))
        pid = kernel.spawn()
        address = kernel.mmap(pid, 1)
        child = kernel.fork(pid)
        assert kernel._server is not None
        pids = [kernel.os_pid(pid), kernel.os_pid(child)]
        os.kill(kernel._server.os_pid, signal.SIGKILL)
        assert wait_until(lambda: seen(kernel)[2] == 0)
        with pytest.raises(ImplementationFailure):
            kernel.read(pid, address)
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

        kernel.start(Setup(1))
        assert kernel.spawn() == 1

    def test_stop_gives_the_pool_back_and_start_takes_it_again(self, kernel: RunningKernel) -> None:
        before = settings()
        kernel.start(Setup(2, overcommit=1))
        kernel.mmap(kernel.spawn(), 2)
        kernel.stop()
        assert settings() == before
        kernel.start(Setup(1))
        assert settings() == (1, 0)

    def test_an_exception_restores(self) -> None:
        before = settings()
        with pytest.raises(ZeroDivisionError), RunningKernel() as kernel:
            kernel.start(Setup(2))
            raise ZeroDivisionError
        assert settings() == before

    def test_two_users_exclude_each_other(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        with pytest.raises(UsageError, match="another run"):
            RunningKernel().start(Setup(1))

    def test_more_than_the_allowed_pool_is_refused(self, kernel: RunningKernel) -> None:
        with pytest.raises(UsageError, match="max_pool"):
            kernel.start(Setup(60, overcommit=5))

    def test_a_foreign_user_of_the_pool_is_noticed(self, kernel: RunningKernel) -> None:
        kernel.start(Setup(1))
        pid = kernel.spawn()
        kernel.write(pid, kernel.mmap(pid, 1), 1)
        # Somebody whom the next run does not know.
        kernel._tasks.clear()
        with pytest.raises(ImplementationFailure, match="not at rest"):
            kernel.start(Setup(1))


# -- operations as text, programs, differences -----------------------------------------------------------------


class TestText:
    @pytest.mark.parametrize(
        "text", ["spawn()", "mmap(p1, 2, file=f0, shared=True)", "write(p1, m2+1, 7)", "mprotect(p2, m1, 1, False)"]
    )
    def test_text_and_operation_are_the_same(self, text: str) -> None:
        assert str(parse(text)) == text

    def test_symbols(self) -> None:
        assert parse("write(p1, m2+1, 7)") == Operation("write", (Symbol("p", 1), Symbol("m", 2, 1), 7))

    @pytest.mark.parametrize("text", ["", "reboot()", "write(x1, m1, 2)", "spawn", "write(p1, m1-1, 2)"])
    def test_other_text_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="no operation"):
            parse(text)

    def test_a_program_is_python_and_names_no_module_of_ours(self) -> None:
        text = write_program(Setup(1), parse_all("spawn(); mmap(p1, 1)"))
        compile(text, "run.py", "exec")
        assert "mmconformance" not in text and "import mmspec" not in text


@needs_kernel
class TestReplay:
    RUN = "spawn(); create_file(2); mmap(p1, 2, file=f0, shared=True); write(p1, m1+1, 7); fork(p1); munmap(p2, m1, 1)"

    def test_what_was_noted_can_be_replayed(self, kernel: RunningKernel) -> None:
        player = Player(kernel)
        player.start(Setup(3))
        pid = player.call("spawn")
        file = player.call("create_file", 2)
        address = player.call("mmap", pid, 2, file=file, shared=True)
        player.call("write", pid, address + HUGE, 7)
        child = player.call("fork", pid)
        player.call("munmap", child, address, 1)
        counters = kernel.counters()
        assert "; ".join(map(str, player.operations)) == self.RUN
        assert replay(kernel, Setup(3), player.operations)[-1].counters == counters

    def run_alone(self, tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
        before = settings()
        program = tmp_path / "run.py"
        program.write_text(text)
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(program)], capture_output=True, text=True, timeout=60, env={}
        )
        assert settings() == before
        return done

    def test_a_standalone_program_does_the_same(self, tmp_path: Path, kernel: RunningKernel) -> None:
        operations = parse_all(self.RUN + "; read(p2, m1+1); read(p2, m1); exit(p1); truncate(f0, 0); mmap(p2, 4)")
        steps = replay(kernel, Setup(3), operations)
        kernel.close()
        done = self.run_alone(tmp_path, write_program(Setup(3), operations, expected=steps))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "read(p2, m1) = SIGSEGV" in done.stdout
        assert f"mmap(p2, 4) = -{errno.ENOMEM}" in done.stdout

    def test_a_standalone_program_names_what_is_broken(self, tmp_path: Path, kernel: RunningKernel) -> None:
        steps = replay(kernel, Setup(1), parse_all("spawn(); mmap(p1, 1)"))
        kernel.close()
        operations = parse_all("spawn(); mmap(p1, 1, noreserve=True)")
        done = self.run_alone(tmp_path, write_program(Setup(1), operations, expected=steps))
        assert done.returncode == 1, done.stdout + done.stderr
        assert "BROKEN expectation: result 0, (total, free, reserved, surplus) (1, 1, 1, 0)" in done.stdout

    @pytest.mark.parametrize(("result", "status"), [(0, 1), (-errno.ENOMEM, 0)])
    def test_a_standalone_program_shows_what_was_found(self, tmp_path: Path, result: int, status: int) -> None:
        operations = parse_all("spawn(); mmap(p1, 1)")
        finding = Finding(2, result, PoolCounters(1, 1, 1), "HTLB-RSV-024", "a sentence")
        done = self.run_alone(tmp_path, write_program(Setup(1), operations, finding=finding))
        assert done.returncode == status, done.stdout + done.stderr
        assert ("BROKEN HTLB-RSV-024: a sentence" in done.stdout) is bool(status)


class TestDifferences:
    def test_keys_are_unique(self) -> None:
        keys = [row.key for row in TABLE]
        assert len(keys) == len(set(keys))

    def test_mistakes_change_no_rule(self) -> None:
        assert {row.adaptation for row in TABLE if row.kind is Kind.MISTAKE} == {Adaptation.NONE}

    def test_old_kernels_have_fewer(self) -> None:
        assert Adaptation.OWNER_TAKES_FROM_OTHERS not in adaptations((2, 6, 26))
        assert Adaptation.UNMAP_RESTORES_RESERVATION not in adaptations((6, 8))
        assert Adaptation.UNMAP_RESTORES_RESERVATION in adaptations((6, 18))

    @needs_kernel
    @pytest.mark.parametrize("row", TABLE, ids=lambda row: row.key)
    def test_the_running_kernel_shows_it(self, kernel: RunningKernel, row: Difference) -> None:
        if not row.covers(kernel_release()):
            pytest.skip(f"Linux {kernel_release()} is outside of {row.since} to {row.until}")
        last = replay(kernel, row.setup, row.demonstration)[-1]
        if row.kind is Kind.MISTAKE and not row.shown_by(last):
            pytest.skip("this kernel has the mistake repaired")
        assert row.shown_by(last), last


# -- the command -----------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


@needs_kernel
class TestCommand:
    @pytest.fixture
    def checking(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        before = settings()
        process = subprocess.Popen(
            [*COMMAND, "check", "kernel", "--budget", "60", "--json", "r.json"], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert wait_until(lambda: settings()[0] > 0, seconds=20)
        yield process
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()
        assert wait_until(lambda: settings() == before)
        assert wait_until(lambda: available() is None)

    def test_ctrl_c_gives_the_verdicts_so_far(self, checking: subprocess.Popen[str], tmp_path: Path) -> None:
        time.sleep(5)
        checking.send_signal(signal.SIGINT)
        _, errors = checking.communicate(timeout=20)
        assert checking.returncode == 130
        assert errors.strip().splitlines()[-1] == "mmspec: interrupted"
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["interrupted"] and report["summary"]["pass"] > 5

    def test_a_killed_checking_process_is_a_failure(self, checking: subprocess.Popen[str]) -> None:
        os.kill(children(checking.pid)[0], signal.SIGKILL)
        _, errors = checking.communicate(timeout=20)
        assert checking.returncode == 3
        assert errors.strip().splitlines()[-1].endswith("(SIGKILL)")

    def test_the_killed_command_leaves_nothing(self, checking: subprocess.Popen[str]) -> None:
        workers = children(checking.pid)
        checking.kill()
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
