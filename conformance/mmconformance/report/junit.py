"""JUnit XML, for those whose tools read that."""

from __future__ import annotations

from xml.etree import ElementTree

from mmconformance.verdicts import Report, Verdict


def junit_xml(report: Report) -> str:
    """One test case per invariant and profile."""
    suite = ElementTree.Element("testsuite", name=f"mmspec {report.implementation}", tests=str(len(report.results)))
    suite.set("failures", str(len(report.failures)))
    skipped = 0
    for result in report.results:
        case = ElementTree.SubElement(suite, "testcase", classname=result.profile, name=result.id)
        if result.verdict is Verdict.FAIL and result.trace is not None:
            failure = ElementTree.SubElement(case, "failure", message=result.trace.sentence)
            failure.text = "\n".join([*result.trace.run, result.trace.ledger, result.trace.replay_command])
        elif result.verdict is not Verdict.PASS:
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=str(result.verdict))
    suite.set("skipped", str(skipped))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
