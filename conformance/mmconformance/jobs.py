"""Profiles as jobs, each in a process of its own: nothing that an implementation does can reach the report."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

import attrs

from mmconformance.adapters.loading import Target
from mmconformance.engines.deadline import Deadline
from mmconformance.verdicts import Result
from mmspec.errors import ImplementationFailure

#: Seconds that a job has, after an interruption, to say what it knows.
LAST_WORDS = 5.0


@attrs.define
class Effort:
    """How much is done per profile, and time and again for as long as a budget lasts."""

    plans: int = 150
    executions: int = 60
    """Executions per scenario of the exhaustive engine; many scenarios need fewer to be complete."""


@attrs.define
class Job:
    """One profile of one target."""

    target: Target
    arch: str
    variant: str
    """"" if the target has none to choose from."""
    engine: str
    seed: int
    effort: Effort
    seconds: float | None
    """How long it may take."""

    @property
    def profile(self) -> str:
        """What reports call it."""
        return f"{self.arch}/{self.variant}" if self.variant else self.arch


@attrs.define
class Done:
    """What became of a job."""

    profile: str
    results: list[Result]
    operations: int
    cut_short: str = ""
    """Why not everything was run; "" if it was."""


Work = Callable[[Job, Deadline], Done]
"""Does a job."""


def run_all(jobs: list[Job], work: Work, workers: int, finished: Callable[[Done], None]) -> bool:
    """Do the jobs, so many at a time.

    After Ctrl-C those under way end with what they know so far. Returns whether that was so.

    :raises ImplementationFailure: if the implementation crashes, hangs or breaks the protocol.
    """
    context = multiprocessing.get_context("fork")
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_run_apart, job, work, context) for job in jobs]
        try:
            for future in as_completed(futures):
                finished(future.result())
        except KeyboardInterrupt:
            under_way = [f for f in futures if not f.done() and not f.cancel()]
            _signal_workers(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                for future in as_completed(under_way, timeout=LAST_WORDS):
                    with contextlib.suppress(ImplementationFailure):
                        finished(future.result())
            _signal_workers(signal.SIGTERM)
            return True
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _signal_workers(signal.SIGTERM)
            raise
    return False


def _signal_workers(number: signal.Signals) -> None:
    for process in multiprocessing.active_children():
        if process.pid is not None:
            # It may end, and be waited for by its own thread, just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _run_apart(job: Job, work: Work, context: Any) -> Done:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, work, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise ImplementationFailure(f"{job.target.name} took the checking process down ({how})") from None
    finally:
        if process.is_alive():
            process.join(timeout=5)
        if process.is_alive():
            process.terminate()
    if isinstance(outcome, ImplementationFailure):
        raise outcome
    done: Done = outcome
    return done


def _send(job: Job, work: Work, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    deadline = Deadline(job.seconds)
    signal.signal(signal.SIGINT, lambda *_: deadline.interrupt())
    sender.send(_outcome(job, work, deadline))


def _end_with_parent() -> None:
    """Nobody would hear what is found after the parent process has been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _outcome(job: Job, work: Work, deadline: Deadline) -> Done | ImplementationFailure:
    """Do a job; what comes back can be sent between processes."""
    try:
        return work(job, deadline)
    except ImplementationFailure as failure:
        return ImplementationFailure(str(failure))
    except Exception as error:
        if job.target.kind == "reference":
            raise
        # What a foreign implementation returns can be of a kind that no predicate is prepared for.
        return ImplementationFailure(f"{job.target.name} cannot be judged: {type(error).__name__}: {error}")
