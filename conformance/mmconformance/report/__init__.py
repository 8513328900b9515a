"""Verdicts, explorations and invariants as text, JSON, JUnit XML and HTML."""

from mmconformance.report.documents import SCHEMAS, exploration_document
from mmconformance.report.html import html_page
from mmconformance.report.invariants import cite_invariant, show_invariant
from mmconformance.report.junit import junit_xml
from mmconformance.report.progress import progress
from mmconformance.report.terminal import print_claims, print_execution, print_exploration, terminal

__all__ = [
    "SCHEMAS",
    "cite_invariant",
    "exploration_document",
    "html_page",
    "junit_xml",
    "print_claims",
    "print_execution",
    "print_exploration",
    "progress",
    "show_invariant",
    "terminal",
]
