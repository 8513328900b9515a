"""Programs for reverse mapping."""

from mmconformance.scenarios.rmap import drills, races, stage

__all__ = ["drills", "races", "stage"]
