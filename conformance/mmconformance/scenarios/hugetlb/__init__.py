"""Programs for huge-page reservations."""

from mmconformance.scenarios.hugetlb import drills, races, stage

__all__ = ["drills", "races", "stage"]
