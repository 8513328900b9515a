"""`address_space`: the pages of a file (or of the swap cache) and the areas that map it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmreference.kernel.locks import Mutex, SpinLock
from mmreference.kernel.memory import KernelObject, watched
from mmreference.kernel.scheduler import touched
from mmspec.invariant import Over
from mmspec.trace import emit

if TYPE_CHECKING:
    from mmreference.mm.mm_struct import Vma
    from mmreference.mm.page import Page
    from mmreference.mm.system import System


@watched("i_size")
class AddressSpace(KernelObject):
    """`struct address_space` with the inode that it belongs to. Sizes and indices are in base pages."""

    over = Over.FILE

    def __init__(self, name: str, system: System, size: int) -> None:
        super().__init__(name)
        order = system.order
        self.system = system
        self.i_size = size
        self.pages: dict[int, Page] = {}
        """The page cache, by index; of the swap cache, by slot."""
        self.i_mmap: dict[Vma, None] = {}
        """The linear areas that map the file."""
        self.i_mmap_nonlinear: dict[Vma, None] = {}
        self.i_mutex = Mutex("i_mutex", self, order)
        self.i_mmap_mutex = Mutex("i_mmap_mutex", self, order)
        self.tree_lock = SpinLock("tree_lock", self, order)
        self.private_lock = SpinLock("private_lock", self, order)
        self.i_lock = SpinLock("i_lock", self, order)
        self.wb_list_lock = SpinLock("wb_list_lock", self, order)
        self.sb_lock = SpinLock("sb_lock", self, order)
        self.disk: dict[int, int] = {}
        """What is on disk, by index; elsewhere the file reads as zeros."""
        self.inode_dirty = False
        self.open = True
        self.be_born()

    @property
    def address(self) -> int:
        """Where it lies in memory; inodes are aligned to a machine word."""
        return (int("".join(c for c in self.name if c.isdigit()) or 0) + 1) * 512

    def prio_tree(self, pgoff: int) -> list[Vma]:
        """The linear areas that cover the index (base pages), as the tree finds them."""
        touched((self.name, "i_mmap"), write=False)
        return [v for v in self.i_mmap if v.vm_pgoff <= pgoff < v.vm_pgoff + v.npages]


def vma_link_file(vma: Vma) -> None:
    """Enter the area into its file's tree or list, with `i_mmap_mutex` held."""
    if vma.vm_file is None:
        return
    touched((vma.vm_file.name, "i_mmap"))
    (vma.vm_file.i_mmap_nonlinear if vma.nonlinear else vma.vm_file.i_mmap)[vma] = None
    vma.vm_file.changes += 1
    emit("i_mmap_insert", mapping=vma.vm_file, vma=vma, nonlinear=vma.nonlinear)


def vma_unlink_file(vma: Vma) -> None:
    """Take the area out of its file's tree or list, with `i_mmap_mutex` held."""
    if vma.vm_file is None:
        return
    touched((vma.vm_file.name, "i_mmap"))
    (vma.vm_file.i_mmap_nonlinear if vma.nonlinear else vma.vm_file.i_mmap).pop(vma)
    vma.vm_file.changes += 1
    emit("i_mmap_remove", mapping=vma.vm_file, vma=vma, nonlinear=vma.nonlinear)
