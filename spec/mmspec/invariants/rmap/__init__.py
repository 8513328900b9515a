"""Reverse mapping: from a page to the entries that map it, as of Linux 3.2.

One module per subject. Ids are never reused and never change their meaning; `mmspec/published.json` remembers all of
them.
"""
