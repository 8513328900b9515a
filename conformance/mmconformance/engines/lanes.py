"""A run as lanes: one column per task, one line per step, as text and as a picture."""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

import attrs

from mmconformance.engines.execution import Execution

#: Characters in front of the lanes, for the number of the step.
_MARGIN = 6
_BAR = " │ "
#: In front of the first step after a switch, of a step, of what a step chose, of the last line of a task that waits.
_SWITCH, _STAY, _CHOICE, _WAIT, _WRONG = "▶ ", "  ", "  ↯ ", "⧗ ", "✗ "


@attrs.frozen
class Row:
    """One line of the picture."""

    number: int | None
    """The step's number, from 1; None if it is no step."""
    lane: int
    mark: str
    text: str
    switch: bool = False
    """Whether another task moved before."""


def rows(execution: Execution, *, merge: bool = False) -> list[Row]:
    """The lines of the run, from top to bottom; with `merge`, what a task does in one go is one line."""
    lanes = {task.name: lane for lane, task in enumerate(execution.tasks)}
    unusual: dict[int, list[Row]] = {}
    for choice in execution.choices:
        if choice.value:
            label = choice.label if choice.value == 1 else f"{choice.label} ({choice.value})"
            unusual.setdefault(choice.begun, []).append(Row(None, lanes[choice.task], _CHOICE, label))
    found = unusual.get(0, []).copy()
    for number, step in enumerate(execution.executed, 1):
        lane = lanes[step.task.name]
        before = found[-1].lane if number > 1 else lane
        label = step.label
        if merge and found and found[-1].number is not None and before == lane:
            found[-1] = attrs.evolve(found[-1], text=f"{found[-1].text}; {label}")
        else:
            found.append(Row(number, lane, _SWITCH if before != lane else _STAY, label, switch=before != lane))
        found += unusual.get(number, ())
    if execution.violation is not None and not execution.ended and execution.executed:
        lane = lanes[execution.executed[-1].task.name]
        found.append(Row(None, lane, _WRONG, execution.violation.invariant.id))
    for task in execution.tasks:
        if task.name in execution.stuck and task.pending is not None:
            found.append(Row(None, lanes[task.name], _WAIT, f"waits for ever: {task.pending.label}"))
    return found


def verdict(execution: Execution) -> str:
    """How the run ended, in one or two sentences."""
    parts = []
    if execution.stuck_because:
        parts.append(f"{execution.stuck_because}: {', '.join(execution.stuck)}")
    if execution.limited:
        parts.append(f"no end after {execution.steps} steps")
    if execution.violation is not None:
        parts.append(f"violates {execution.violation}")
    elif execution.outcome:
        parts.append(execution.outcome)
    return ". ".join(parts)


def text_lanes(execution: Execution, *, width: int = 110, merge: bool = False) -> str:
    """The run as text of at most `width` columns; labels that are too long are clipped.

    ▶ is a context switch, ↯ an unusual choice, ✗ where an invariant broke, ⧗ who can never go on.
    """
    tasks = execution.tasks
    lane_width = max(8, (width - _MARGIN - len(_BAR) * max(0, len(tasks) - 1)) // max(1, len(tasks)))
    lines = [" " * _MARGIN + _BAR.join(_fit(task.name, lane_width) for task in tasks)]
    lines.append("─" * _MARGIN + "─┼─".join("─" * lane_width for _ in tasks))
    for row in rows(execution, merge=merge):
        cells = [_fit(row.mark + row.text if lane == row.lane else "", lane_width) for lane in range(len(tasks))]
        number = "" if row.number is None else str(row.number)
        lines.append(f"{number:>{_MARGIN - 2}}  " + _BAR.join(cells))
    lines.append("")
    lines += textwrap.wrap(verdict(execution), width)
    return "\n".join(line.rstrip() for line in lines)


def _fit(text: str, width: int) -> str:
    clipped = text if len(text) <= width else text[: width - 1] + "…"
    return clipped.ljust(width)


# -- the same as a picture -------------------------------------------------------------------------------------------

#: Pixels.
_LINE, _CHARACTER, _TOP, _LEFT = 20, 7.3, 34, 44

_STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; }
.name { font-weight: bold; } .number { fill: #8c959f; text-anchor: end; }
.wrong, .verdict { fill: #b42318; } .chosen { fill: #9a6700; }
.box { fill: #eef4fb; stroke: #b6c8dc; } .box.broken { fill: #fdeceb; stroke: #e5a19b; }
.lane { stroke: #d0d7de; } .switch { stroke: #57606a; fill: none; }
"""


def svg_lanes(execution: Execution, *, merge: bool = False, characters: int = 34) -> str:
    """The run as a standalone SVG; a lane holds labels of so many `characters`, longer ones are clipped."""
    lane_width = (characters + 5) * _CHARACTER
    lines = rows(execution, merge=merge)
    tasks = execution.tasks
    width = _LEFT + lane_width * max(1, len(tasks)) + 10
    below = textwrap.wrap(verdict(execution), max(20, int((width - 20) / _CHARACTER)))
    height = _TOP + _LINE * (len(lines) + len(below) + 1) + 10
    middle = [_LEFT + lane_width * (lane + 0.5) for lane in range(len(tasks))]
    bottom = _TOP + _LINE * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{escape(f'{execution.program}: {verdict(execution)}')}</title>",
        f"<style>{_STYLE}</style>",
    ]
    for x, task in zip(middle, tasks, strict=True):
        parts.append(f'<text class="name" x="{x:.0f}" y="20" text-anchor="middle">{escape(task.name)}</text>')
        parts.append(f'<line class="lane" x1="{x:.0f}" y1="26" x2="{x:.0f}" y2="{bottom}"/>')
    before: Row | None = None
    for position, row in enumerate(lines):
        y = _TOP + _LINE * position
        if row.switch and before is not None:
            parts.append(
                f'<path class="switch" d="M{middle[before.lane]:.0f} {y - 3} L{middle[row.lane]:.0f} {y + 1}"/>'
            )
        parts += _svg_row(row, middle[row.lane], y, lane_width, characters)
        before = row
    for position, line in enumerate(below):
        kind = "verdict" if execution.violation is not None or execution.stuck else "outcome"
        parts.append(f'<text class="{kind}" x="10" y="{bottom + _LINE * (position + 1)}">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _svg_row(row: Row, middle: float, y: int, lane_width: float, characters: int) -> list[str]:
    wrong = row.mark in (_WRONG, _WAIT)
    kind = "wrong" if wrong else "chosen" if row.mark == _CHOICE else "step"
    label = _fit((row.mark if row.number is None else "") + row.text, characters).strip()
    parts = []
    if row.number is not None or wrong:
        left, width = middle - lane_width / 2 + 4, lane_width - 8
        broken = " broken" if wrong else ""
        parts.append(
            f'<rect class="box{broken}" x="{left:.0f}" y="{y + 1}" width="{width:.0f}" height="{_LINE - 3}" rx="3"/>'
        )
    if row.number is not None:
        parts.append(f'<text class="number" x="{_LEFT - 10}" y="{y + 14}">{row.number}</text>')
    parts.append(f'<text class="{kind}" x="{middle:.0f}" y="{y + 14}" text-anchor="middle">{escape(label)}</text>')
    return parts
