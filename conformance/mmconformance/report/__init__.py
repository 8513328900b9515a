"""Verdicts, explorations and invariants as text, JSON and JUnit XML."""

from mmconformance.report.documents import SCHEMAS, exploration_document
from mmconformance.report.invariants import cite_invariant, show_invariant
from mmconformance.report.junit import junit_xml
from mmconformance.report.terminal import print_execution, print_exploration, terminal

__all__ = [
    "SCHEMAS",
    "cite_invariant",
    "exploration_document",
    "junit_xml",
    "print_execution",
    "print_exploration",
    "show_invariant",
    "terminal",
]
