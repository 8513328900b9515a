"""Miniature implementations, right ones and wrong ones, by which the suite is tested itself.

They are as plain as can be, and know nothing of the reference. `mmspec check mmconformance.miniatures.NAME:CLASS`
judges one of them like any other implementation.
"""
