"""System calls and memory accesses on raw addresses, from Python without a compiler. Standard library only.

Lengths, offsets and addresses are in bytes. Every function answers as the kernel does: a result that is not negative,
or a negative `errno`; an access answers with a negative signal number.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable

# PyDLL and not CDLL: the processes have one thread, so giving up the interpreter lock around each call is only cost.
_libc = ctypes.PyDLL(None, use_errno=True)

_mmap = _libc.mmap
_mmap.restype = ctypes.c_ssize_t
_mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_mprotect = _libc.mprotect
_mprotect.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 0x01, 0x02, 0x20, 0x4000
MAP_HUGETLB, MAP_FIXED_NOREPLACE, MAP_HUGE_SHIFT = 0x40000, 0x100000, 26
MFD_HUGETLB = 0x0004
MADV_DONTNEED = 4
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02
PR_SET_PDEATHSIG = 1
CLONE_PARENT = 0x8000

#: Number of clone(2), whose first argument is the flags on all of these.
CLONE_NUMBERS = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120}
SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 430, 431, 432
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 1, 6


def _answer(result: int) -> int:
    return result if result >= 0 else -ctypes.get_errno()


def mmap_huge(
    address: int,
    length: int,
    huge_page: int,
    *,
    fd: int = -1,
    offset: int = 0,
    shared: bool,
    noreserve: bool,
    writable: bool,
) -> int:
    """Map huge pages of `huge_page` bytes at `address`, which must be free; anonymous unless `fd` is given."""
    flags = MAP_FIXED_NOREPLACE | (MAP_SHARED if shared else MAP_PRIVATE) | (MAP_NORESERVE if noreserve else 0)
    if fd < 0:
        flags |= MAP_ANONYMOUS | MAP_HUGETLB | (huge_page.bit_length() - 1) << MAP_HUGE_SHIFT
    return _answer(_mmap(address, length, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0), flags, fd, offset))


def munmap(address: int, length: int) -> int:
    """Unmap a range."""
    return _answer(_munmap(address, length))


def dontneed(address: int, length: int) -> int:
    """`madvise(MADV_DONTNEED)`."""
    return _answer(_madvise(address, length, MADV_DONTNEED))


def mprotect(address: int, length: int, writable: bool) -> int:
    """Allow or forbid to write in a range."""
    return _answer(_mprotect(address, length, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)))


def fallocate(fd: int, offset: int, length: int, *, punch_hole: bool = False) -> int:
    """Instantiate a range of a file, or drop it (`punch_hole`)."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE if punch_hole else 0
    while (result := _answer(_fallocate(fd, mode, offset, length))) == -errno.EINTR:
        pass
    return result


def ftruncate(fd: int, size: int) -> int:
    """Set the size of a file."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        return -(error.errno or errno.EIO)
    return 0


def detached_hugetlbfs(huge_page: int, size: int | None) -> int:
    """A directory descriptor of a hugetlbfs of its own, limited to `size` bytes unless None.

    It is mounted nowhere (Linux 5.2), so that it goes with its last descriptor and mapping, whoever dies how.
    """
    context = _answer(_syscall(SYS_FSOPEN, b"hugetlbfs", 1))
    if context < 0:
        return context
    try:
        options = {b"pagesize": huge_page} if size is None else {b"pagesize": huge_page, b"size": size}
        for name, value in options.items():
            if _syscall(SYS_FSCONFIG, context, FSCONFIG_SET_STRING, name, str(value).encode(), 0) < 0:
                return -ctypes.get_errno()
        if _syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            return -ctypes.get_errno()
        return _answer(_syscall(SYS_FSMOUNT, context, 1, 0))
    finally:
        os.close(context)


def huge_memfd(huge_page: int) -> int:
    """An unnamed file of huge pages."""
    flags = os.MFD_CLOEXEC | MFD_HUGETLB | (huge_page.bit_length() - 1) << MAP_HUGE_SHIFT
    try:
        return os.memfd_create("mmspec", flags)
    except OSError as error:
        return -(error.errno or errno.EIO)


def clone_sibling() -> int:
    """fork(2), except that the child's parent is the caller's parent: 0 in the child, its pid in the caller.

    The parent of all processes can then wait for each of them, and takes each along when it dies.
    """
    number = CLONE_NUMBERS[platform.machine()]
    return _answer(_syscall(number, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies, and now if it is dead already."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


# -- accesses --------------------------------------------------------------------------------------------------

Load = Callable[[int], int]
Store = Callable[[int, int], int]


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


SA_SIGINFO = 4
_stub: mmap.mmap | None = None


def _x86_64_code() -> tuple[bytes, int, int, int]:
    """Machine code of a load, a store and a handler for their faults, with the offsets of the three.

    The handler makes the interrupted load or store return the negated signal number. A fault anywhere else ends the
    process with status 128 + signal. 168 and 144 are the places of RIP and RAX in the x86_64 `ucontext_t`.
    """
    load = bytes.fromhex("0fb607 c3")  # movzx eax, byte [rdi]; ret
    store = bytes.fromhex("408837 31c0 c3")  # mov [rdi], sil; xor eax, eax; ret
    landing = bytes.fromhex("c3")  # ret, with RAX as the handler left it
    code = bytearray(load + store + landing)
    handler = len(code)

    def lea_rcx(target: int) -> None:
        code.extend(bytes.fromhex("488d0d") + struct.pack("<i", target - (len(code) + 7)))

    ours = bytes.fromhex("488d0d 00000000 48898aa8000000 4863c7 48f7d8 48898290000000 c3")
    foreign = bytes.fromhex("81c780000000 b8e7000000 0f05")  # exit_group(128 + signal)
    code += bytes.fromhex("488b82a8000000")  # mov rax, [rdx + 168]
    lea_rcx(0)
    code += bytes.fromhex("4839c8 74") + bytes([7 + 3 + 2 + len(foreign)])  # cmp rax, rcx; je ours
    lea_rcx(len(load))
    code += bytes.fromhex("4839c8 74") + bytes([len(foreign)])
    code += foreign
    lea_rcx(len(load) + len(store))
    code += ours[7:]  # mov [rdx + 168], rcx; movsxd rax, edi; neg rax; mov [rdx + 144], rax; ret
    return bytes(code), 0, len(load), handler


def _catch(action: _SigAction) -> _SigAction:
    """Set what happens on SIGBUS and SIGSEGV; what it was."""
    old = _SigAction()
    for number in (signal.SIGBUS, signal.SIGSEGV):
        _libc.sigaction(int(number), ctypes.byref(action), ctypes.byref(old))
    return old


def native_accesses() -> tuple[Load, Store]:
    """A load and a store of one byte by the process's own instructions, faults reported as negative signal numbers.

    This is the true path of a user fault. It needs code bytes for the architecture and an executable mapping.

    :raises OSError: where there is none of one of them.
    """
    global _stub
    if platform.machine() != "x86_64" or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, "no access code for this architecture")
    code, load, store, handler = _x86_64_code()
    _stub = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    _stub.write(code)
    base = ctypes.addressof(ctypes.c_char.from_buffer(_stub))
    _catch(_SigAction(handler=base + handler, flags=SA_SIGINFO))
    return (
        ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_size_t)(base + load),
        ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_size_t, ctypes.c_int)(base + store),
    )


def copying_accesses() -> tuple[Load, Store]:
    """A load and a store of one byte by the kernel on the process's behalf, through a pipe.

    The fault is taken in kernel mode: a failed one is EFAULT and no signal, so which signal a user access would have
    got is told from the process's map: SIGBUS where the access was allowed, SIGSEGV where not.
    """
    reader, writer = os.pipe()
    copy_out, copy_in = _libc.write, _libc.read
    for function in (copy_out, copy_in):
        function.restype = ctypes.c_ssize_t
        function.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t]

    def signal_for(address: int, right: str) -> int:
        with open("/proc/self/maps") as maps:
            for line in maps:
                span, rights = line.split(maxsplit=2)[:2]
                start, end = (int(word, 16) for word in span.split("-"))
                if start <= address < end and right in rights:
                    return -signal.SIGBUS
        return -signal.SIGSEGV

    def load(address: int) -> int:
        if copy_out(writer, address, 1) != 1:
            return signal_for(address, "r")
        return os.read(reader, 1)[0]

    def store(address: int, value: int) -> int:
        os.write(writer, bytes([value]))
        if copy_in(reader, address, 1) != 1:
            os.read(reader, 1)
            return signal_for(address, "w")
        return 0

    return load, store


def fatal_access(load: Load, store: Store, address: int, value: int | None) -> int:
    """The access once more without the handlers: where it fails, the process dies of its signal."""
    old = _catch(_SigAction())
    result = load(address) if value is None else store(address, value)
    _catch(old)
    return result
