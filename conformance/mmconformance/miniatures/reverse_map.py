"""Right `ReverseMap`s, of three kinds, and wrong ones with one mistake each: what the suite says of each is tested."""

import errno


class Area:
    """A mapping `[start, end)` in base pages; `chain` are its anon_vmas, newest first."""

    def __init__(self, number, mm, start, end, pgoff, file, shared):
        self.number = number
        self.mm = mm
        self.start = start
        self.end = end
        self.pgoff = pgoff
        self.file = file
        self.chain = []

    def index(self, address):
        return address - self.start + self.pgoff


class AnonVma:
    """A list of areas; `root` is None for a root."""

    def __init__(self, number, root=None):
        self.number = number
        self.root = root or self
        self.areas = []
        self.children = 0


class Page:
    """A page: how often it is mapped, and whose it is."""

    def __init__(self, file, index):
        self.count = 0
        self.file = file
        self.index = index
        self.owner = None


class Right:
    """Chains of anon_vmas, as in Linux since 2.6.34; plain, right."""

    capabilities = frozenset(
        {
            "page_move_anon_rmap", "anon_vma", "chain", "areas", "root", "refcount", "live_anon_vmas", "page_anon_vma",
            "statistics",
        }
    )  # fmt: skip

    def __init__(self):
        self.vmas = {}
        self.files = {}
        self.anon_vmas = {}
        self.pages = {}
        self.made = 0
        self.stat = {"NR_ANON_PAGES": 0, "NR_FILE_MAPPED": 0}

    # Areas

    def new_area(self, vma, mm, start, end, pgoff, file=None, shared=False):
        self.vmas[vma] = Area(vma, mm, start, end, pgoff, file, shared)
        if file is not None:
            self.files.setdefault(file, []).append(self.vmas[vma])

    def new_anon_vma(self, root=None):
        self.made += 1
        made = self.anon_vmas[self.made] = AnonVma(self.made, root)
        if root is not None:
            root.children += 1
        return made

    def link(self, area, anon_vma):
        """To the front of the chain, to the tail of the list."""
        area.chain.insert(0, anon_vma)
        anon_vma.areas.append(area)

    def unlink(self, area):
        """Off all lists, newest first; an anon_vma without area and children goes, and perhaps its root with it."""
        for anon_vma in area.chain:
            anon_vma.areas.remove(area)
            self.release(anon_vma)
        area.chain = []

    def release(self, anon_vma):
        if anon_vma.areas or anon_vma.children or anon_vma.number not in self.anon_vmas:
            return
        del self.anon_vmas[anon_vma.number]
        if anon_vma.root is not anon_vma:
            anon_vma.root.children -= 1
            self.release(anon_vma.root)

    def anon_vma_prepare(self, vma):
        area = self.vmas[vma]
        if not area.chain:
            self.link(area, self.neighbours(area) or self.new_anon_vma())
        return 0

    def neighbours(self, area):
        """The anon_vma of an area beside, if it is the only one there and the two could be one."""
        for other in self.vmas.values():
            low, high = sorted((area, other), key=lambda a: a.start)
            together = low.mm == high.mm and low.end == high.start and low.file == high.file
            if together and low.index(low.end) == high.pgoff and len(other.chain) == 1:
                return other.chain[0]
        return None

    def clone(self, area, source):
        for anon_vma in reversed(source.chain):
            self.link(area, anon_vma)

    def anon_vma_fork(self, vma, pvma):
        area, parent = self.vmas[vma], self.vmas[pvma]
        if parent.chain:
            self.clone(area, parent)
            self.link(area, self.new_anon_vma(parent.chain[0].root))
        return 0

    def split_vma(self, vma, new, at):
        area = self.vmas[vma]
        self.new_area(new, area.mm, at, area.end, area.index(at), area.file)
        self.clone(self.vmas[new], area)
        area.end = at
        return 0

    def vma_merge(self, vma, next):  # noqa: A002
        area, following = self.vmas[vma], self.vmas[next]
        self.take_over(area, following)
        area.end = following.end
        self.unlink_anon_vmas(next)
        return 0

    def take_over(self, area, following):
        """What is mapped in the one comes to the other."""
        if not area.chain:
            self.clone(area, following)

    def unlink_anon_vmas(self, vma):
        area = self.vmas.pop(vma)
        self.unlink(area)
        if area.file is not None:
            self.files[area.file].remove(area)

    # Pages

    def new_page(self, page, file=None, index=0):
        self.pages[page] = Page(file, index)

    def free_page(self, page):
        del self.pages[page]

    def count(self, page, change):
        """One mapping more or less; the first and the last one show in the statistics."""
        before = page.count > 0
        page.count += change
        self.stat["NR_FILE_MAPPED" if page.owner is None else "NR_ANON_PAGES"] += (page.count > 0) - before

    def own(self, page, area, address, owner):
        page.owner = owner
        page.index = area.index(address)

    def page_add_new_anon_rmap(self, page, vma, address):
        area = self.vmas[vma]
        self.own(self.pages[page], area, address, area.chain[0])
        self.count(self.pages[page], 1)

    def page_add_anon_rmap(self, page, vma, address, exclusive):
        area = self.vmas[vma]
        if self.pages[page].owner is None:
            self.own(self.pages[page], area, address, area.chain[0] if exclusive else area.chain[0].root)
        self.count(self.pages[page], 1)

    def page_add_file_rmap(self, page, vma, address):
        self.count(self.pages[page], 1)

    def page_dup_rmap(self, page, vma, address):
        self.count(self.pages[page], 1)

    def page_remove_rmap(self, page, vma, address):
        self.count(self.pages[page], -1)

    def page_move_anon_rmap(self, page, vma, address):
        self.pages[page].owner = self.vmas[vma].chain[0]

    def page_mapcount(self, page):
        return self.pages[page].count

    # Questions

    def page_address_in_vma(self, page, vma):
        page, area = self.pages[page], self.vmas[vma]
        if not self.related(page, area):
            return -errno.EFAULT
        return self.inside(area, area.start + page.index - area.pgoff)

    def related(self, page, area):
        """Whether the area is of the page's tree, or of its file."""
        if page.owner is None:
            return area.file is not None and area.file == page.file
        return bool(area.chain) and area.chain[0].root is page.owner.root

    def inside(self, area, address):
        return address if area.start <= address < area.end else -errno.EFAULT

    def rmap_areas(self, page):
        page = self.pages[page]
        return [a.number for a in (self.files.get(page.file, []) if page.owner is None else page.owner.areas)]

    def anon_vma(self, vma):
        chain = self.vmas[vma].chain
        return chain[0].number if chain else None

    def chain(self, vma):
        return [a.number for a in self.vmas[vma].chain]

    def areas(self, anon_vma):
        return [a.number for a in self.anon_vmas[anon_vma].areas]

    def root(self, anon_vma):
        return self.anon_vmas[anon_vma].root.number

    def refcount(self, anon_vma):
        anon_vma = self.anon_vmas[anon_vma]
        return bool(anon_vma.areas) + anon_vma.children

    def live_anon_vmas(self):
        return list(self.anon_vmas)

    def page_anon_vma(self, page):
        owner = self.pages[page].owner
        return None if owner is None else owner.number

    def statistics(self):
        return dict(self.stat)


class OneList(Right):
    """One list for each family, as until 2.6.33: all find all, and nobody has less to look at. Right, but slow."""

    capabilities = frozenset({"statistics"})

    def anon_vma_fork(self, vma, pvma):
        self.clone(self.vmas[vma], self.vmas[pvma])
        return 0


class Direct(Right):
    """Each page has a list of its mappings, as until 2.6.6; areas only know their family."""

    capabilities = frozenset({"statistics"})

    def anon_vma_fork(self, vma, pvma):
        self.clone(self.vmas[vma], self.vmas[pvma])
        return 0

    def new_page(self, page, file=None, index=0):
        super().new_page(page, file, index)
        self.pages[page].places = []

    def add(self, page, vma, address):
        area = self.vmas[vma]
        self.pages[page].places.append((area.mm, address))

    def page_add_new_anon_rmap(self, page, vma, address):
        super().page_add_new_anon_rmap(page, vma, address)
        self.add(page, vma, address)

    def page_add_anon_rmap(self, page, vma, address, exclusive):
        super().page_add_anon_rmap(page, vma, address, exclusive)
        self.add(page, vma, address)

    def page_add_file_rmap(self, page, vma, address):
        super().page_add_file_rmap(page, vma, address)
        self.add(page, vma, address)

    def page_dup_rmap(self, page, vma, address):
        super().page_dup_rmap(page, vma, address)
        self.add(page, vma, address)

    def page_remove_rmap(self, page, vma, address):
        super().page_remove_rmap(page, vma, address)
        self.pages[page].places.remove((self.vmas[vma].mm, address))

    def rmap_areas(self, page):
        areas = self.vmas.values()
        return [
            a.number for mm, address in self.pages[page].places for a in areas if a.mm == mm and a.start <= address < a.end
        ]


class DirectForgetsFork(Direct):
    """What fork copies is counted and not listed."""

    def page_dup_rmap(self, page, vma, address):
        self.count(self.pages[page], 1)

    def page_remove_rmap(self, page, vma, address):
        place = (self.vmas[vma].mm, address)
        if place not in self.pages[page].places:
            self.count(self.pages[page], -1)
        else:
            super().page_remove_rmap(page, vma, address)


class DirectLeavesPlaces(Direct):
    """A mapping that is removed stays on the page's list."""

    def page_remove_rmap(self, page, vma, address):
        self.count(self.pages[page], -1)


class ChildIsAlone(Right):
    """A child's area is not on the lists of its parent's."""

    def anon_vma_fork(self, vma, pvma):
        if self.vmas[pvma].chain:
            self.link(self.vmas[vma], self.new_anon_vma(self.vmas[pvma].chain[0].root))
        return 0


class ChildHasNone(Right):
    """A child's area is on the parent's lists only, and has none of its own."""

    def anon_vma_fork(self, vma, pvma):
        self.clone(self.vmas[vma], self.vmas[pvma])
        return 0


class NewAreasFirst(Right):
    """A new area comes to the head of the lists."""

    def link(self, area, anon_vma):
        area.chain.insert(0, anon_vma)
        anon_vma.areas.insert(0, area)


class ChainReversed(Right):
    """Cloning turns the chain round."""

    def clone(self, area, source):
        for anon_vma in source.chain:
            self.link(area, anon_vma)


class RootNotInherited(Right):
    """A child's anon_vma is a root of its own."""

    def anon_vma_fork(self, vma, pvma):
        area, parent = self.vmas[vma], self.vmas[pvma]
        if parent.chain:
            self.clone(area, parent)
            self.link(area, self.new_anon_vma())
        return 0


class RootIsParent(Right):
    """The root of a child's anon_vma is the parent's, whatever that one's root is."""

    def anon_vma_fork(self, vma, pvma):
        area, parent = self.vmas[vma], self.vmas[pvma]
        if parent.chain:
            self.clone(area, parent)
            self.link(area, self.new_anon_vma(parent.chain[0]))
        return 0


class CountsFromZero(Right):
    """A page that is made counts as mapped once."""

    def new_page(self, page, file=None, index=0):
        super().new_page(page, file, index)
        self.pages[page].count = 1


class CountsMappings(Right):
    """The statistics count mappings, not pages."""

    def count(self, page, change):
        page.count += change
        self.stat["NR_FILE_MAPPED" if page.owner is None else "NR_ANON_PAGES"] += change


class AllAreFilePages(Right):
    """The last mapping of an anonymous page is taken from the pages of files."""

    def page_remove_rmap(self, page, vma, address):
        super().page_remove_rmap(page, vma, address)
        if self.pages[page].owner is not None and not self.pages[page].count:
            self.stat["NR_ANON_PAGES"] += 1
            self.stat["NR_FILE_MAPPED"] -= 1


class ForkCountsNothing(Right):
    """An entry that fork copies is not counted."""

    def page_dup_rmap(self, page, vma, address):
        pass


class LastUnmapForgetsOwner(Right):
    """A page that nothing maps is nobody's."""

    def page_remove_rmap(self, page, vma, address):
        super().page_remove_rmap(page, vma, address)
        if not self.pages[page].count:
            self.pages[page].owner = None


class NewestForShared(Right):
    """A page that comes back from swap belongs to whoever is the first to use it, as in 2.6.34-rc."""

    def page_add_anon_rmap(self, page, vma, address, exclusive):
        super().page_add_anon_rmap(page, vma, address, True)


class OldestForAll(Right):
    """A page that comes back from swap belongs to the root, also if only one process can have it."""

    def page_add_anon_rmap(self, page, vma, address, exclusive):
        super().page_add_anon_rmap(page, vma, address, False)


class OwnerChanges(Right):
    """A page in the swap cache belongs to whoever maps it next."""

    def page_add_anon_rmap(self, page, vma, address, exclusive):
        if not self.pages[page].count and self.pages[page].owner is not None:
            self.pages[page].owner = self.vmas[vma].chain[0]
        super().page_add_anon_rmap(page, vma, address, exclusive)


class MovesToRoot(Right):
    """A page that has only one user left belongs to the root."""

    def page_move_anon_rmap(self, page, vma, address):
        self.pages[page].owner = self.vmas[vma].chain[0].root


class PrepareReplaces(Right):
    """Each prepare makes a new anon_vma."""

    def anon_vma_prepare(self, vma):
        area = self.vmas[vma]
        if len(area.chain) == 1 and len(area.chain[0].areas) == 1 and area.chain[0].root is area.chain[0]:
            self.unlink(area)
        return super().anon_vma_prepare(vma)


class SharesForkedAnonVma(Right):
    """An area takes the newest anon_vma of its neighbour, whatever else that one has on its chain, as in 2.6.34-rc."""

    def neighbours(self, area):
        for other in self.vmas.values():
            low, high = sorted((area, other), key=lambda a: a.start)
            together = low.mm == high.mm and low.end == high.start and low.file == high.file
            if together and low.index(low.end) == high.pgoff and other.chain:
                return other.chain[0]
        return None


class UnlinkLeavesArea(Right):
    """An area that goes stays on the list of the oldest of its anon_vmas, if that has others."""

    def unlink(self, area):
        last = area.chain[-1] if area.chain else None
        super().unlink(area)
        if last is not None and last.areas:
            last.areas.append(area)


class UnlinkTakesOthers(Right):
    """With an area, the others go from its newest list."""

    def unlink(self, area):
        newest = area.chain[0] if area.chain else None
        super().unlink(area)
        for other in list(newest.areas) if newest is not None else ():
            newest.areas.remove(other)
            other.chain.remove(newest)


class RootGoesEarly(Right):
    """A root goes with the process that made it, whoever else is of its tree."""

    def unlink(self, area):
        root = area.chain[-1] if area.chain else None
        first = root is not None and root.areas[0] is area
        super().unlink(area)
        if first:
            self.anon_vmas.pop(root.number, None)


class Leaks(Right):
    """The anon_vma of a child is never freed."""

    def release(self, anon_vma):
        if anon_vma.root is anon_vma:
            super().release(anon_vma)


class ReferencesRoot(Right):
    """A child's anon_vma holds two references on the root."""

    def refcount(self, anon_vma):
        return super().refcount(anon_vma) + self.anon_vmas[anon_vma].children


class AddressOffByOne(Right):
    """The address is that of the next page, where there is one."""

    def inside(self, area, address):
        found = super().inside(area, address)
        return found + 1 if area.start <= found < area.end - 1 else found


class AddressUnchecked(Right):
    """An address is computed for each area of the tree, inside of it or not."""

    def inside(self, area, address):
        return address


class EveryTree(Right):
    """Whose tree it is is not asked."""

    def related(self, page, area):
        return bool(area.chain) if page.owner is not None else super().related(page, area)


class EveryFile(Right):
    """Which file it is is not asked."""

    def related(self, page, area):
        return area.file is not None if page.owner is None else super().related(page, area)


class SplitForgetsClone(Right):
    """The upper part of an area that is split is on no list."""

    def split_vma(self, vma, new, at):
        super().split_vma(vma, new, at)
        self.unlink(self.vmas[new])
        return 0


class MergeForgetsChain(Right):
    """An area that swallows its neighbour does not take its anon_vmas over."""

    def take_over(self, area, following):
        pass


class FileForgetsSplit(Right):
    """The upper part of an area of a file that is split is not on the file's list."""

    def split_vma(self, vma, new, at):
        super().split_vma(vma, new, at)
        if self.vmas[new].file is not None:
            self.files[self.vmas[new].file].remove(self.vmas[new])
            self.vmas[new].file = None
        return 0


class Lacking:
    """Nearly nothing."""

    def new_area(self, vma, mm, start, end, pgoff, file=None, shared=False):
        pass


class Raising(Right):
    """Cannot fork."""

    def anon_vma_fork(self, vma, pvma):
        raise RuntimeError("out of order")


class WrongType(Right):
    """Counts in words."""

    def page_mapcount(self, page):
        return "one"


class Looping(Right):
    """Never comes back from a walk."""

    def rmap_areas(self, page):
        while True:
            pass
