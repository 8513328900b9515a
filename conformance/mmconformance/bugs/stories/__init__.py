"""The mutants of all systems, each with its story."""

from mmconformance.bugs.stories import hugetlb, rmap

ALL = (*hugetlb.ALL, *rmap.ALL)
