"""What an implementation may provide; each interface carries the contracts that its implementations inherit."""

from mmspec.interfaces.memory_manager import MemoryManager
from mmspec.interfaces.reservation_map import ReservationMap

INTERFACES = {"MemoryManager": MemoryManager, "ReservationMap": ReservationMap}

__all__ = ["INTERFACES", "MemoryManager", "ReservationMap"]
