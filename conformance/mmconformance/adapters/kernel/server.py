"""The processes of the running-kernel subject: a server that forks them, and the loop in which each obeys.

Runs as a program of its own that imports nothing but the standard library, so that forking is cheap and nothing of
the caller (threads, descriptors, signal handlers) is inherited. All processes are children of the server, the forked
ones too, and are killed by the kernel when it dies; the server ends when the caller's end of its socket is closed.

Messages are packets: :data:`REQUEST` there, :data:`REPLY` back.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import os
import signal
import socket
import struct
from collections.abc import Callable

from mmconformance.adapters.kernel import syscalls

#: Operation code and five arguments.
REQUEST = struct.Struct("=6q")
#: One result.
REPLY = struct.Struct("=q")

LOAD, STORE, MMAP, MUNMAP, DONTNEED, MPROTECT, FORK, FATAL_LOAD, FATAL_STORE = range(9)
#: Requests to the server itself; SPAWN comes with the descriptors of the new processes' channels.
SPAWN, WAIT = range(2)

SHARED, NORESERVE, WRITABLE = 1, 2, 4

#: How many processes one SPAWN may ask for.
BATCH = 16


def serve(channel: int, server: int, huge_page: int, driver: int, native: bool) -> None:
    """Obey until the other end of `channel` is closed; never returns."""
    load, store = syscalls.native_accesses() if native else syscalls.copying_accesses()

    def mmap(address: int, length: int, flags: int, number: int, offset: int) -> int:
        fd = -1
        if number >= 0:
            # A description of its own, closed at once: only the mapping keeps the file, as if it were anybody's.
            fd = os.open(f"/proc/{driver}/fd/{number}", os.O_RDWR)
        try:
            return syscalls.mmap_huge(
                address, length, huge_page, fd=fd, offset=offset,
                shared=bool(flags & SHARED), noreserve=bool(flags & NORESERVE), writable=bool(flags & WRITABLE),
            )  # fmt: skip
        finally:
            if fd >= 0:
                os.close(fd)

    def fork(*_: int) -> int:
        nonlocal channel
        fresh = receive_descriptors(channel)[0]
        pid = syscalls.clone_sibling()
        if pid == 0:
            syscalls.die_with_parent(server)
            fresh, channel = channel, fresh
        os.close(fresh)
        # The child has nobody to answer to yet.
        return pid

    operations: dict[int, Callable[[int, int, int, int, int], int]] = {
        LOAD: lambda a, b, c, d, e: load(a),
        STORE: lambda a, b, c, d, e: store(a, b),
        MMAP: mmap,
        MUNMAP: lambda a, b, c, d, e: syscalls.munmap(a, b),
        DONTNEED: lambda a, b, c, d, e: syscalls.dontneed(a, b),
        MPROTECT: lambda a, b, c, d, e: syscalls.mprotect(a, b, bool(c)),
        FORK: fork,
        FATAL_LOAD: lambda a, b, c, d, e: syscalls.fatal_access(load, store, a, None),
        FATAL_STORE: lambda a, b, c, d, e: syscalls.fatal_access(load, store, a, b),
    }
    read, write, unpack, pack = os.read, os.write, REQUEST.unpack, REPLY.pack
    while packet := read(channel, REQUEST.size):
        code, a, b, c, d, e = unpack(packet)
        result = operations[code](a, b, c, d, e)
        if code == FORK and result == 0:
            continue
        write(channel, pack(result))
    os._exit(0)


def receive_descriptors(channel: int) -> list[int]:
    """The descriptors that come with the next packet."""
    with socket.socket(fileno=os.dup(channel)) as peer:
        _, fds, _, _ = socket.recv_fds(peer, REQUEST.size, BATCH)
    return fds


def main(control: int, huge_page: int, driver: int, native: bool) -> None:
    """The server: fork processes and wait for them, as told over the socket `control`."""
    server = os.getpid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Collections would only write to pages that all processes share.
    gc.disable()
    gc.freeze()
    peer = socket.socket(fileno=control)
    while True:
        packet, ancillary, _, _ = peer.recvmsg(REQUEST.size, socket.CMSG_SPACE(BATCH * array.array("i").itemsize))
        if not packet:
            # The caller hung up on everybody: leave last, so that whoever waits for us has waited for all.
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()
            return
        code, argument, *_ = REQUEST.unpack(packet)
        if code == WAIT:
            status = -errno.ECHILD
            with contextlib.suppress(ChildProcessError):
                status = os.waitpid(argument, 0)[1]
            peer.send(REPLY.pack(status))
            continue
        channels = array.array("i")
        for _, _, data in ancillary:
            channels.frombytes(data)
        for channel in channels:
            pid = os.fork()
            if pid == 0:
                peer.close()
                for other in channels:
                    if other != channel:
                        with contextlib.suppress(OSError):
                            os.close(other)
                syscalls.die_with_parent(server)
                serve(channel, server, huge_page, driver, native)
            os.close(channel)
            peer.send(REPLY.pack(pid))
