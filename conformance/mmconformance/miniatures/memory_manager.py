"""A right `MemoryManager`, and wrong ones with one mistake each: what the suite says of each is tested."""

import errno

from mmspec.errors import Signal
from mmspec.state import Mapping, PoolCounters

HUGE = 2 << 20


class Page:
    """A huge page outside the pool; `users` are the entries and the page cache that hold it, `charged` has a block."""

    def __init__(self, charged):
        self.value = 0
        self.users = 0
        self.charged = charged


class File:
    """Cached pages by offset, and the offsets that are promised and have no page yet; `number` None is anonymous."""

    def __init__(self, number, size):
        self.number = number
        self.size = size
        self.named = number is not None
        self.pages = {}
        self.promised = set()


class Area:
    """A mapping; `claim` are the addresses that are promised to a private one and not consumed."""

    def __init__(self, start, length, offset, shared, file, writable, claim):
        self.start = start
        self.end = start + length * HUGE
        self.first = offset
        self.shared = shared
        self.file = file
        self.writable = writable
        self.claim = claim

    def offset(self, address):
        return self.first + (address - self.start) // HUGE

    def addresses(self):
        return range(self.start, self.end, HUGE)

    def part(self, start, end):
        """What of it lies in [start, end), with its share of the claim; None if nothing does."""
        start, end = max(start, self.start), min(end, self.end)
        if start >= end:
            return None
        claim = {a for a in self.claim if start <= a < end}
        length = (end - start) // HUGE
        return Area(start, length, self.offset(start), self.shared, self.file, self.writable, claim)


class Right:
    """One thing after the other, as sets and dictionaries; slow, plain, right."""

    capabilities = frozenset({"dontneed", "punch_hole", "fallocate", "mprotect", "page_at", "mappings", "quota_free"})
    huge_page_bytes = HUGE

    def start(self, setup):
        self.nr = self.free = setup.pool
        self.resv = 0
        self.quota = setup.quota
        self.blocks = 0
        self.files = []
        self.areas = {}
        self.entries = {}
        self.pids = 0
        self.next_address = HUGE

    def stop(self):
        self.files, self.areas, self.entries = [], {}, {}

    def counters(self):
        return PoolCounters(self.nr, self.free, self.resv)

    def quota_free(self):
        return None if self.quota is None else self.quota - self.blocks

    def set_quota(self, blocks):
        if blocks is not None and blocks < self.blocks:
            return -errno.EBUSY
        self.quota = blocks
        return 0

    def set_nr_hugepages(self, count):
        reached = max(count, self.nr - self.free + self.resv)
        self.free += reached - self.nr
        self.nr = reached
        return reached

    # Promises and pages

    def reserve(self, file, count):
        """Promise so many pages."""
        if file.number is not None and self.quota is not None and self.blocks + count > self.quota:
            return -errno.ENOSPC
        if self.resv + count > self.free:
            return -errno.ENOMEM
        self.resv += count
        if file.number is not None:
            self.blocks += count
        return 0

    def unreserve(self, file, count):
        self.resv -= count
        if file.number is not None:
            self.blocks -= count

    def take(self, file, promises, key):
        """A page for `key`, from the reserve if it is among the promises; or a signal."""
        charged = file.number is not None
        if key in promises:
            promises.remove(key)
            self.resv -= 1
        else:
            if charged and self.quota is not None and self.blocks >= self.quota:
                return Signal.SIGBUS
            if self.free <= self.resv:
                return Signal.SIGKILL
            self.blocks += charged
        self.free -= 1
        return Page(charged)

    def drop(self, page):
        """Take one user from the page; without any it goes back to the pool."""
        page.users -= 1
        if page.users == 0:
            self.free += 1
            self.blocks -= page.charged

    # Processes

    def spawn(self):
        self.pids += 1
        self.areas[self.pids] = []
        self.entries[self.pids] = {}
        return self.pids

    def fork(self, pid):
        child = self.spawn()
        for a in self.areas[pid]:
            self.areas[child].append(self.inherited(a))
        self.entries[child] = dict(self.entries[pid])
        for page in self.entries[child].values():
            page.users += 1
        return child

    def inherited(self, area):
        copy = area.part(area.start, area.end)
        copy.claim = set()
        return copy

    def exit(self, pid):
        for area in self.areas.pop(pid):
            self.close(pid, area)
        del self.entries[pid]
        return 0

    # Mappings

    def mappings(self, pid):
        return [
            Mapping(a.start, len(a.addresses()), a.first, a.shared, a.file.number)
            for a in sorted(self.areas[pid], key=lambda a: a.start)
        ]

    def mmap(self, pid, length, *, file=None, offset=0, shared=False, noreserve=False, writable=True):
        if length < 1 or offset < 0:
            return -errno.EINVAL
        inode = File(None, offset + length) if file is None else self.files[file]
        area = Area(self.next_address, length, offset, shared, inode, writable, set())
        wanted = set() if noreserve else self.wanted(area)
        failed = self.reserve(inode, len(wanted))
        if failed:
            return failed
        (inode.promised if shared else area.claim).update(wanted)
        if writable:
            inode.size = max(inode.size, offset + length)
        self.next_address += (length + 1) * HUGE
        self.areas[pid].append(area)
        return area.start

    def wanted(self, area):
        """What has to be promised: offsets without page or promise if shared, else every address."""
        if not area.shared:
            return set(area.addresses())
        return {o for o in map(area.offset, area.addresses()) if o not in area.file.promised | area.file.pages.keys()}

    def split(self, pid, address, length):
        """Cut the mappings at both ends of the range; those inside, or None for a range that is no range."""
        end = address + length * HUGE
        if address % HUGE or length < 1:
            return None
        cuts = [(0, address), (address, end), (end, 1 << 64)]
        self.areas[pid] = [p for a in self.areas[pid] for c in cuts if (p := a.part(*c)) is not None]
        return [a for a in self.areas[pid] if address <= a.start < end]

    def munmap(self, pid, address, length):
        inside = self.split(pid, address, length)
        if inside is None:
            return -errno.EINVAL
        for area in inside:
            self.areas[pid].remove(area)
            self.close(pid, area)
        return 0

    def close(self, pid, area):
        self.zap(pid, area.addresses())
        self.unreserve(area.file, len(area.claim))
        self.evict(area.file)

    def zap(self, pid, addresses):
        """Drop the entries for these addresses."""
        for address in addresses:
            page = self.entries[pid].pop(address, None)
            if page is not None:
                self.drop(page)

    def mprotect(self, pid, address, length, writable):
        inside = self.split(pid, address, length)
        if not inside:
            return -errno.EINVAL
        for area in inside:
            area.writable = writable
        return 0

    def dontneed(self, pid, address, length):
        if address % HUGE or length < 1:
            return -errno.EINVAL
        self.zap(pid, range(address, address + length * HUGE, HUGE))
        return 0

    # Files

    def create_file(self, size):
        self.files.append(File(len(self.files), size))
        return len(self.files) - 1

    def truncate(self, file, size):
        if size < 0:
            return -errno.EINVAL
        self.remove(self.files[file], size, 1 << 64)
        self.files[file].size = size
        return 0

    def punch_hole(self, file, offset, length):
        self.remove(self.files[file], offset, offset + length)
        return 0

    def remove(self, file, first, end):
        """Drop what is mapped, cached and promised of a range of the file."""
        for pid, areas in self.areas.items():
            for area in areas:
                if area.file is file:
                    self.zap(pid, [a for a in area.addresses() if first <= area.offset(a) < end])
        for offset in [o for o in file.pages if first <= o < end]:
            self.drop(file.pages.pop(offset))
        gone = {o for o in file.promised if first <= o < end}
        file.promised -= gone
        self.unreserve(file, len(gone))

    def fallocate(self, file, offset, length):
        inode = self.files[file]
        for o in range(offset, offset + length):
            if o not in inode.pages:
                page = self.take(inode, inode.promised, o)
                if isinstance(page, Signal):
                    return -errno.ENOSPC if page == Signal.SIGBUS else -errno.ENOMEM
                inode.pages[o] = page
                page.users += 1
        inode.size = max(inode.size, offset + length)
        return 0

    def close_file(self, file):
        self.files[file].named = False
        self.evict(self.files[file])
        return 0

    def evict(self, file):
        """A file without name and mappings goes, with all that it has."""
        if not file.named and not any(a.file is file for areas in self.areas.values() for a in areas):
            self.remove(file, 0, 1 << 64)

    # Accesses

    def page_at(self, pid, address):
        return self.entries[pid].get(address)

    def read(self, pid, address):
        page = self.fault(pid, address, write=False)
        return page if isinstance(page, Signal) else page.value

    def write(self, pid, address, value):
        page = self.fault(pid, address, write=True)
        if isinstance(page, Signal):
            return page
        page.value = value
        return 0

    def fault(self, pid, address, write):
        """The page at the address, its own one if a private mapping is written; or a signal."""
        area = next((a for a in self.areas[pid] if a.start <= address < a.end), None)
        if area is None or (write and not area.writable):
            return Signal.SIGSEGV
        entries, file, offset = self.entries[pid], area.file, area.offset(address)
        if address not in entries:
            page = self.lookup(area, offset, address)
            if isinstance(page, Signal):
                return page
            entries[address] = page
            page.users += 1
        page = entries[address]
        if write and not area.shared and page.users > 1:
            copy = self.take(file, area.claim, address)
            if isinstance(copy, Signal):
                return copy
            copy.value = page.value
            entries[address] = copy
            copy.users += 1
            self.drop(page)
        return entries[address]

    def lookup(self, area, offset, address):
        """The page for an empty entry: of the file, or a new one."""
        file = area.file
        if offset >= file.size:
            return Signal.SIGBUS
        if offset in file.pages:
            return file.pages[offset]
        if not area.shared:
            return self.take(file, area.claim, address)
        page = self.take(file, file.promised, offset)
        if not isinstance(page, Signal):
            file.pages[offset] = page
            page.users += 1
        return page


# Wrong ones


class ChildInheritsPromises(Right):
    """Fork gives the child the parent's promises as well, without a reserve behind them."""

    def inherited(self, area):
        return area.part(area.start, area.end)


class PromisesTooMuch(Right):
    """What is promised already is forgotten when more is asked for."""

    def reserve(self, file, count):
        promised, self.resv = self.resv, 0
        failed = super().reserve(file, count)
        self.resv += promised
        return failed


class TakesWhatIsPromised(Right):
    """A fault without promise gets the last free page, promised or not."""

    def take(self, file, promises, key):
        promised, self.resv = self.resv, self.resv if key in promises else 0
        page = super().take(file, promises, key)
        if self.resv == 0:
            self.resv = promised
        return page


class KeepsPromisesAtUnmap(Right):
    """What a private mapping did not use of its promise stays reserved."""

    def close(self, pid, area):
        area.claim = set()
        super().close(pid, area)


class SplitKeepsWholePromise(Right):
    """Both parts of a cut mapping have the whole promise."""

    def split(self, pid, address, length):
        whole = {a: area.claim for area in self.areas[pid] for a in area.addresses()}
        inside = super().split(pid, address, length)
        for area in self.areas[pid]:
            area.claim = set(whole[area.start])
        return inside


class KeepsPromisesAtTruncate(Right):
    """Truncation drops the pages and goes on promising what had none yet."""

    def unreserve(self, file, count):
        if not file.promised and file.named:
            return
        super().unreserve(file, count)


class KeepsPagesMapped(Right):
    """A removed part of a file stays mapped where it was."""

    def zap(self, pid, addresses):
        if isinstance(addresses, range):
            super().zap(pid, addresses)


class WritesToEverybody(Right):
    """A private mapping's write reaches all who have the page."""

    def write(self, pid, address, value):
        page = self.fault(pid, address, write=False)
        area = next((a for a in self.areas[pid] if a.start <= address < a.end), None)
        if isinstance(page, Signal) or not area.writable:
            return super().write(pid, address, value)
        page.value = value
        return 0


class CopiesNothing(Right):
    """A process that keeps a page alone after a copy finds it empty."""

    def drop(self, page):
        super().drop(page)
        if page.users == 1:
            page.value = 0


class ShrinksBelowPromises(Right):
    """The pool is made as small as the pages in use allow."""

    def set_nr_hugepages(self, count):
        reached = max(count, self.nr - self.free)
        self.free += reached - self.nr
        self.nr = reached
        return reached


class FailedMapKeepsBlocks(Right):
    """The quota's blocks are taken before the pool is asked, and kept when it refuses."""

    def reserve(self, file, count):
        failed = super().reserve(file, count)
        if failed == -errno.ENOMEM and file.number is not None:
            self.blocks += count
        return failed


class NoQuota(Right):
    """The limit is stored and never looked at."""

    def reserve(self, file, count):
        quota, self.quota = self.quota, None
        failed = super().reserve(file, count)
        self.quota = quota
        return failed


class NoEndOfFile(Right):
    """Accesses beyond the end of a file get a page."""

    def lookup(self, area, offset, address):
        size, area.file.size = area.file.size, offset + 1
        page = super().lookup(area, offset, address)
        area.file.size = size
        return page


class PromisesSharedTwice(Right):
    """A second shared mapping of the same offsets is promised pages of its own."""

    def wanted(self, area):
        return set(area.addresses()) if not area.shared else set(map(area.offset, area.addresses()))


class PromisesNothing(Right):
    """Every mapping is one without reserve."""

    def wanted(self, area):
        return set()


class ExitLeaks(Right):
    """The pages of a process that ends are never seen again."""

    def exit(self, pid):
        self.entries[pid].clear()
        return super().exit(pid)


class FilesLive(Right):
    """A file keeps its pages after its name and its last mapping are gone."""

    def evict(self, file):
        pass


class IgnoresProtection(Right):
    """mprotect answers well and does nothing."""

    def mprotect(self, pid, address, length, writable):
        return 0 if self.split(pid, address, length) else -errno.EINVAL


class StaleContent(Right):
    """A page comes with what its last user has left in it."""

    last = 0

    def drop(self, page):
        super().drop(page)
        if page.users == 0:
            self.last = page.value

    def take(self, file, promises, key):
        page = super().take(file, promises, key)
        if isinstance(page, Page):
            page.value = self.last
        return page


class RefusesNoreserve(Right):
    """A mapping without reserve needs free pages all the same."""

    def mmap(self, pid, length, *, noreserve=False, **options):
        if noreserve and self.free - self.resv < length:
            return -errno.ENOMEM
        return super().mmap(pid, length, noreserve=noreserve, **options)


class RefusesLast(Right):
    """The last free page is never promised."""

    def reserve(self, file, count):
        return -errno.ENOMEM if count and self.resv + count >= self.free else super().reserve(file, count)


class WrongError(Right):
    """A shortage is an invalid argument."""

    def reserve(self, file, count):
        return -errno.EINVAL if super().reserve(file, count) else 0


class ClaimsSize(Right):
    """The pool says that it has the size asked for."""

    def set_nr_hugepages(self, count):
        super().set_nr_hugepages(count)
        return count


class NeverExtends(Right):
    """A writable mapping beyond the end of a file leaves the file as short as it was."""

    def mmap(self, pid, length, *, file=None, **options):
        size = 0 if file is None else self.files[file].size
        address = super().mmap(pid, length, file=file, **options)
        if file is not None:
            self.files[file].size = size
        return address


class UnmapEmptiesFile(Right):
    """A file loses the pages that a shared mapping of it has shown."""

    def close(self, pid, area):
        for offset in map(area.offset, area.addresses()) if area.shared and area.file.named else ():
            if offset in area.file.pages:
                self.drop(area.file.pages.pop(offset))
        super().close(pid, area)


class ReadCopies(Right):
    """A private mapping has a page of its own as soon as it reads one of the file."""

    def lookup(self, area, offset, address):
        cached = area.file.pages.get(offset)
        page = super().lookup(area, offset, address)
        if cached is None or page is not cached or area.shared:
            return page
        page = self.take(area.file, area.claim, address)
        if isinstance(page, Page):
            page.value = cached.value
        return page


class Lacking:
    """Nearly nothing."""

    huge_page_bytes = HUGE

    def start(self, setup):
        pass


class Raising(Right):
    """Cannot fork."""

    def fork(self, pid):
        raise RuntimeError("out of order")


class WrongType(Right):
    """Counts in a plain tuple."""

    def counters(self):
        return (self.nr, self.free, self.resv)


class Talkative(Right):
    """A store answers with how many pages it has written."""

    def write(self, pid, address, value):
        result = super().write(pid, address, value)
        return 1 if result == 0 else result


class Looping(Right):
    """Never comes back from a fault."""

    def lookup(self, area, offset, address):
        while True:
            pass
