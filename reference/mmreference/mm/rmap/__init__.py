"""Reverse mapping: from a page to the entries that map it, all of `mm/rmap.c` as of Linux 3.2.

`address` finds where an area would map a page and whether it does, `mapcount` adds and removes mappings, `referenced`,
`mkclean`, `unmap` (with `nonlinear`) and `walk` go through all mappings of a page.

Corrections to the code of 3.2 are noted where they are made.
"""
