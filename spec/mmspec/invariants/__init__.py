"""The invariants themselves: importing this package fills the registry."""

from mmspec.invariants import hugetlb

__all__ = ["hugetlb"]
