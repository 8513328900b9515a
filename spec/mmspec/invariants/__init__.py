"""The invariants themselves: importing this package fills the registry."""

from mmspec.invariants import hugetlb, rmap

__all__ = ["hugetlb", "rmap"]
