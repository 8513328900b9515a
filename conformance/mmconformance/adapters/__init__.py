"""Subjects that are not Python objects in this process."""
