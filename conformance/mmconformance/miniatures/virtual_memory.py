"""A right `VirtualMemory`, and wrong ones with one mistake each: what the suite says of each is tested."""

from mmspec.errors import Signal
from mmspec.state import PageState, Resident

PAGE = 4096


class Cell:
    """A page of memory, or its copy in swap."""

    def __init__(self, value=0):
        self.value = value
        self.swapped = False


class File:
    """Pages by index."""

    def __init__(self, size):
        self.size = size
        self.pages = {}


class Place:
    """A mapped page: private memory, or a view of a file."""

    def __init__(self, file, index, shared, writable):
        self.file = file
        self.index = index
        self.shared = shared
        self.writable = writable
        self.locked = False
        self.cell = None
        self.seen = False

    def copy(self):
        """What fork gives to the child."""
        copy = Place(self.file, self.index, self.shared, self.writable)
        copy.cell, copy.seen = self.cell, self.seen
        if self.cell is not None:
            copy.cell = Cell(self.cell.value)
            copy.cell.swapped = self.cell.swapped
        return copy


class Right:
    """Each process has its own copy of everything private, from fork on; wasteful, plain, right."""

    capabilities = frozenset(
        {
            "protect_pages", "move_pages", "lock_pages", "advise_pages", "create_page_file", "reclaim", "swap_off",
            "page_state", "resident", "peak", "statistics",
        }
    )  # fmt: skip
    page_bytes = PAGE

    def start(self):
        self.files = []
        self.processes = {}
        self.peaks = {}
        self.pids = 0
        self.next = 16

    def stop(self):
        self.processes = {}

    def spawn(self):
        self.pids += 1
        self.processes[self.pids] = {}
        self.peaks[self.pids] = 0
        return self.pids

    def fork(self, pid):
        child = self.spawn()
        self.processes[child] = {v: p.copy() for v, p in self.processes[pid].items()}
        return child

    def exit(self, pid):
        del self.processes[pid]
        return 0

    def map_pages(self, pid, length, *, file=None, offset=0, shared=False, writable=True):
        behind = self.files[file] if file is not None else File(length) if shared else None
        start, self.next = self.next, self.next + length + 1
        for i in range(length):
            self.processes[pid][start + i] = Place(behind, offset + i, shared, writable)
        return start * PAGE

    def places(self, pid, address, length):
        pages = self.processes[pid]
        return [pages[v] for v in range(address // PAGE, address // PAGE + length) if v in pages]

    def unmap_pages(self, pid, address, length):
        for v in range(address // PAGE, address // PAGE + length):
            self.processes[pid].pop(v, None)
        return 0

    def protect_pages(self, pid, address, length, writable):
        for place in self.places(pid, address, length):
            place.writable = writable
        return 0

    def move_pages(self, pid, address, length):
        start, self.next = self.next, self.next + length + 1
        for i in range(length):
            self.processes[pid][start + i] = self.processes[pid].pop(address // PAGE + i)
        return start * PAGE

    def lock_pages(self, pid, address, length):
        for place in self.places(pid, address, length):
            place.locked = True
        return 0

    def unlock_pages(self, pid, address, length):
        for place in self.places(pid, address, length):
            place.locked = False
        return 0

    def advise_pages(self, pid, address, length, advice):
        for place in self.places(pid, address, length) if advice == "dontneed" else ():
            self.forget(place)
        return 0

    def forget(self, place):
        place.cell, place.seen = None, False

    def create_page_file(self, size):
        self.files.append(File(size))
        return len(self.files) - 1

    def truncate_page_file(self, file, size):
        self.files[file].size = size
        self.files[file].pages = {i: v for i, v in self.files[file].pages.items() if i < size}
        for pages in self.processes.values():
            for place in pages.values():
                if place.file is self.files[file] and place.index >= size:
                    self.forget(place)
        return 0

    # Accesses

    def read(self, pid, address):
        place = self.processes[pid].get(address // PAGE)
        if place is None:
            return Signal.SIGSEGV
        if place.cell is not None:
            self.swap_in(place.cell)
            return place.cell.value
        if place.file is None:
            return 0
        if self.beyond(place):
            return Signal.SIGBUS
        place.seen = True
        return place.file.pages.get(place.index, 0)

    def beyond(self, place):
        return place.index >= place.file.size

    def swap_in(self, cell):
        cell.swapped = False

    def write(self, pid, address, value):
        place = self.processes[pid].get(address // PAGE)
        if place is None or not place.writable:
            return Signal.SIGSEGV
        if place.cell is None and place.file is not None and self.beyond(place):
            return Signal.SIGBUS
        self.note_peak(pid)
        if place.shared:
            place.seen = True
            place.file.pages[place.index] = value
            return 0
        if place.cell is None:
            place.cell, place.seen = Cell(), False
        self.swap_in(place.cell)
        place.cell.value = value
        return 0

    def reclaim(self, pid, address):
        place = self.processes[pid].get(address // PAGE)
        if place is None or self.keeps(place):
            return False
        if place.cell is not None:
            self.swap_out(place.cell)
        found = place.cell is not None or place.seen
        place.seen = False
        return found

    def keeps(self, place):
        return place.locked

    def swap_out(self, cell):
        cell.swapped = True

    def swap_off(self):
        for pages in self.processes.values():
            for place in pages.values():
                if place.cell is not None:
                    place.cell.swapped = False
        return 0

    # What is told

    def page_state(self, pid, address):
        place = self.processes[pid].get(address // PAGE)
        if place is None or (place.cell is None and not place.seen):
            return None
        if place.cell is not None and place.cell.swapped:
            return PageState(0, swapped=True, locked=place.locked)
        return PageState(1, "anon" if place.cell is not None else "file", locked=place.locked)

    def resident(self, pid):
        states = [self.page_state(pid, v * PAGE) for v in self.processes[pid]]
        swap = sum(1 for s in states if s is not None and s.swapped)
        anon = sum(1 for s in states if s is not None and s.kind == "anon") - swap
        return Resident(anon, sum(1 for s in states if s is not None and s.kind == "file"), swap)

    def statistics(self):
        told = [Right.resident(self, pid) for pid in self.processes]
        return {"NR_ANON_PAGES": sum(t.anon for t in told), "NR_FILE_MAPPED": sum(t.file for t in told)}

    def note_peak(self, pid):
        told = Right.resident(self, pid)
        self.peaks[pid] = max(self.peaks[pid], told.anon + told.file)

    def peak(self, pid):
        self.note_peak(pid)
        return self.peaks[pid]


class SwapLosesContent(Right):
    """What comes back from swap is empty."""

    def swap_in(self, cell):
        if cell.swapped:
            cell.value = 0
        super().swap_in(cell)


class ForkShares(Right):
    """Parent and child go on writing to the same private memory."""

    def fork(self, pid):
        child = super().fork(pid)
        for v, place in self.processes[child].items():
            place.cell = self.processes[pid][v].cell
        return child


class ForkForgetsSwapped(Right):
    """A child finds nothing of what its parent has in swap."""

    def fork(self, pid):
        child = super().fork(pid)
        for place in self.processes[child].values():
            if place.cell is not None and place.cell.swapped:
                place.cell = None
        return child


class WritesThrough(Right):
    """A private mapping's write goes to the file."""

    def write(self, pid, address, value):
        place = self.processes[pid].get(address // PAGE)
        result = super().write(pid, address, value)
        if result == 0 and place.file is not None:
            place.file.pages[place.index] = value
        return result


class MoveLosesPages(Right):
    """A moved page is empty."""

    def move_pages(self, pid, address, length):
        start = super().move_pages(pid, address, length)
        for place in self.places(pid, start, length):
            place.cell = None
        return start


class ReclaimsLocked(Right):
    """A page that is locked in memory is reclaimed like any other."""

    def keeps(self, place):
        return False


class KeepsUnneeded(Right):
    """`dontneed` answers well and does nothing."""

    def advise_pages(self, pid, address, length, advice):
        return 0


class NoEndOfFile(Right):
    """What is beyond the end of a file reads as zeros."""

    def beyond(self, place):
        return False


class IgnoresProtection(Right):
    """The right to write is never taken."""

    def protect_pages(self, pid, address, length, writable):
        return 0


class CountsSwapped(Right):
    """Pages in swap count as resident."""

    def resident(self, pid):
        told = super().resident(pid)
        return Resident(told.anon + told.swap, told.file, told.swap)


class PeakIsNow(Right):
    """The peak is the resident set of this moment."""

    def peak(self, pid):
        told = self.resident(pid)
        return told.anon + told.file
