"""Runs as lanes, in text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from toy import Body, toy

from mmconformance.engines.execution import Execution, TaskProgram
from mmconformance.engines.lanes import rows, svg_lanes, text_lanes
from mmconformance.engines.schedules import Drawn


def torn() -> Execution:
    one: Body = [("choice", [], [("pause",)]), ("copy", "x", "y")]
    other: Body = [("inc", "x"), ("check", "y", 0, "TOY-A")]
    return toy("torn", one, other)(Drawn([0, 1], choices=[1]))


def test_text_shows_steps_switches_choices_and_the_violation() -> None:
    assert text_lanes(torn(), width=70).splitlines() == [
        "      T0                             │ T1",
        "─────────────────────────────────────┼───────────────────────────────",
        "        ↯ unusual                    │",
        "   1    pause                        │",
        "   2                                 │ ▶ atomic_add cells.x",
        "   3                                 │   atomic_read cells.y",
        "                                     │ ✗ TOY-A",
        "",
        "violates TOY-A: A test's invariant MUST hold.",
    ]


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_text_fits(tasks: int) -> None:
    long: Body = [("inc", "x")]
    program = toy("long", *[long] * tasks)
    execution = program(Drawn([1] * 9))
    for step in execution.executed:
        step.label = "a label that is rather too long to fit into any lane whatever " * 2
    text = text_lanes(execution)
    assert max(map(len, text.splitlines())) <= 110
    assert text.count("…") == tasks


def test_steps_of_one_go_are_merged_only_if_asked() -> None:
    execution = toy("two", [("inc", "x"), ("inc", "y")], [("inc", "z")])(Drawn([]))
    assert [row.text for row in rows(execution)] == [
        "atomic_add cells.x", "atomic_add cells.y", "atomic_add cells.z",
    ]  # fmt: skip
    merged = rows(execution, merge=True)
    assert [(row.number, row.text) for row in merged] == [
        (1, "atomic_add cells.x; atomic_add cells.y"), (3, "atomic_add cells.z"),
    ]  # fmt: skip
    assert [row.switch for row in merged] == [False, True]


def test_who_is_stuck_says_what_it_waits_for() -> None:
    program = toy("stuck", [("lock", "M", [("lock", "S", [])])], [("lock", "S", [("lock", "M", [])])])
    text = text_lanes(program(Drawn([0, 1])))
    assert "⧗ waits for ever: down S" in text
    assert "⧗ waits for ever: mutex_lock M" in text
    assert "deadlock: T0, T1" in text


def test_the_picture_is_standalone_and_shows_the_same() -> None:
    execution = torn()
    execution.executed[0].label = "a < b & c"
    root = ET.fromstring(svg_lanes(execution))
    texts = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for expected in ("T0", "T1", "a < b & c", "atomic_add cells.x", "↯ unusual", "✗ TOY-A", "1", "3"):
        assert expected in texts
    assert any("violates TOY-A" in text for text in texts)
    assert len(root.findall("{http://www.w3.org/2000/svg}path")) == 1


def test_a_run_without_steps_can_be_drawn() -> None:
    def build(scheduler, recorder):  # type: ignore[no-untyped-def]
        return lambda run: "nothing"

    execution = TaskProgram("empty", build)(Drawn([]))
    assert "nothing" in text_lanes(execution)
    ET.fromstring(svg_lanes(execution))
