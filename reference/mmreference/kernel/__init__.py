"""The coroutine kernel: tasks, locks, atomics and memory whose every interleaving an engine can choose.

Kernel functions are `async def` and suspend where others can interfere: at each lock operation and at each access to
memory that is read or written without a lock. Everything between two suspensions is one atomic step.
"""
