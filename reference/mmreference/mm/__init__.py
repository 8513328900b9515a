"""The memory manager itself, function by function under the kernel's names, with its races visible.

Each module reads beside the module of the same subject in :mod:`mmspec.invariants`.
"""
