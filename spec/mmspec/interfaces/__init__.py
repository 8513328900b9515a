"""What an implementation may provide; each interface carries the contracts that its implementations inherit."""

from mmspec.interfaces.memory_manager import MemoryManager
from mmspec.interfaces.reservation_map import ReservationMap
from mmspec.interfaces.reverse_map import ReverseMap
from mmspec.interfaces.virtual_memory import VirtualMemory

INTERFACES = {
    "MemoryManager": MemoryManager,
    "ReservationMap": ReservationMap,
    "ReverseMap": ReverseMap,
    "VirtualMemory": VirtualMemory,
}

__all__ = ["INTERFACES", "MemoryManager", "ReservationMap", "ReverseMap", "VirtualMemory"]
