"""Exhaustive search: each interleaving of a small program is visited, or each inequivalent one.

:func:`explore` runs a program from scratch again and again, each time under another schedule, until none is left.
Two runs are *equivalent* if one can be made the other by swapping neighbouring steps of different tasks whose
footprints do not conflict. With reduction one run of each class is visited (dynamic partial-order reduction with
source sets and sleep sets: Abdulla, Aronis, Jonsson, Sagonas, "Optimal dynamic partial order reduction", POPL 2014).

What the reduction assumes
--------------------------

*No shared access outside announced footprints.* A step must announce each location that it reads or writes and that a
step of another task may write or read: before it (`Access`), or within it (`touched`, `synchronised`). Data that is
only touched under a lock is covered by the lock's own location. The same holds for what monitors look at: a violation
must depend on nothing but locations in the footprint of the step at which it is raised, or in those of earlier
steps of the same task, or behind a lock that the step takes or drops. A monitor that compares two fields which
different tasks change without a common lock sees only some of the intermediate states.

*A task's code before its first step is not part of any race.* It runs when the run starts, in the order of spawning;
a task whose first action matters suspends before it.

*Whether a step can be performed depends on locations in its footprint.* That is so for locks and for `Retry`; other
steps that wait name them in a method `reads()`.

*Tasks that are said to be alike can be exchanged.* They do the same to things that are set up alike, and no invariant
tells them apart. Outcomes and violations are found up to exchanging their names.

How disabled steps are treated
------------------------------

A step that takes a lock cannot be swapped with the one that released it before. It can be swapped with the one that
took the lock, together with all that followed from that. So for a waiting step, races are sought beyond the steps
that made it possible; and when a run ends, or is cut off, steps that still wait are examined as if they came next. A
step that ends the run by a violation conflicts with everything: all other tasks are given the chance to go first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from mmconformance.engines.execution import Abandoned, Execution, Program
from mmreference.kernel.locks import Lock
from mmreference.kernel.scheduler import Location, Retry, Scheduler, Step, Task
from mmspec.errors import UsageError
from mmspec.invariant import Judge

Footprint = dict[Location, bool]

#: Seconds between two calls of `progress`.
PROGRESS_SECONDS: Final = 0.5


class NotDeterministic(Exception):  # noqa: N818
    """The program did not repeat itself under the same decisions; it cannot be explored."""


@attrs.define
class Exploration:
    """What is known after a search, complete or not."""

    scenario: str
    executions: int = 0
    """Runs that came to an end: all tasks ended or were stuck, or a violation ended the run."""
    blocked: int = 0
    """Runs that were cut off because all that could follow had been seen already."""
    steps: int = 0
    """Steps executed, repetitions included."""
    deadlocks: int = 0
    """Runs that ended in a deadlock."""
    endless_retries: int = 0
    """Runs that ended in tasks repeating in vain for ever."""
    limited: int = 0
    """Runs cut off at the program's limit of steps; then nothing is proved."""
    complete: bool = False
    """Whether all interleavings have been covered."""
    why_incomplete: str = ""
    interrupted: bool = False
    outcomes: Counter[str] = attrs.field(factory=Counter)
    """Outcome to the number of runs that ended so, in the order of their first appearance."""
    violations: list[Execution] = attrs.field(factory=list)
    """Per invariant, the easiest run that violates it, in the order of their first appearance."""
    seconds: float = 0.0
    alike: list[list[str]] = attrs.field(factory=list)
    """Names of tasks that were exchanged for each other; outcomes are found up to that."""

    def add(self, execution: Execution) -> None:
        """Count a run."""
        self.executions += 1
        self.outcomes[execution.outcome] += 1
        self.deadlocks += execution.stuck_because == "deadlock"
        self.endless_retries += execution.stuck_because == "endless retry"
        self.limited += execution.limited
        if execution.violation is not None:
            self._keep(execution, execution.violation.invariant.id)

    def _keep(self, execution: Execution, id_: str) -> None:
        for position, known in enumerate(self.violations):
            if known.violation is not None and known.violation.invariant.id == id_:
                if execution.size < known.size:
                    self.violations[position] = execution
                return
        self.violations.append(execution)

    def violation_of(self, id_: str) -> Execution | None:
        """The kept run that violates the invariant."""
        return next((e for e in self.violations if e.violation and e.violation.invariant.id == id_), None)


def explore(
    program: Program,
    *,
    reduction: bool = True,
    budget_seconds: float | None = None,
    max_executions: int | None = None,
    failures: int = 0,
    preemptions: int | None = None,
    stop_at_first: bool = False,
    progress: Callable[[Exploration], None] | None = None,
) -> Exploration:
    """Visit the interleavings of `program`: one of each equivalence class, or (without reduction) all of them.

    :param budget_seconds: stop after that time; the run under way is finished.
    :param max_executions: stop after that many runs, those that were cut off included.
    :param failures: in one run at most so many choices go another way than the usual one.
    :param preemptions: only runs in which at most so many times a task is left although it can go on; this bounds the
        plain search and is no proof.
    :param stop_at_first: stop at the first violation.
    :param progress: called from time to time with what is known so far.
    :raises UsageError: for `preemptions` together with reduction, which does not prove anything.
    :raises NotDeterministic: if the program does not repeat itself.
    """
    if reduction and preemptions is not None:
        raise UsageError("a bound on preemptions needs the plain search: explore(reduction=False, preemptions=...)")
    search = Reduced(failures) if reduction else Plain(failures, preemptions)
    exploration = Exploration(program.name)
    budget = _Budget(budget_seconds, max_executions, stop_at_first, progress)
    try:
        while True:
            execution = search.execute(program)
            exploration.steps += search.depth
            exploration.alike = search.exchanged()
            if execution is None:
                exploration.blocked += 1
            else:
                exploration.add(execution)
            if not search.advance():
                break
            exploration.why_incomplete = budget.exhausted(exploration)
            if exploration.why_incomplete:
                break
    except KeyboardInterrupt:
        exploration.interrupted = True
        exploration.why_incomplete = "interrupted"
    exploration.seconds = budget.seconds
    if exploration.limited and not exploration.why_incomplete:
        exploration.why_incomplete = f"{exploration.limited} runs did not end within the limit of steps"
    if preemptions is not None and not exploration.why_incomplete:
        exploration.why_incomplete = f"only runs with at most {preemptions} preemptions"
    exploration.complete = not exploration.why_incomplete
    return exploration


class _Budget:
    """When a search has to stop."""

    def __init__(
        self,
        seconds: float | None,
        executions: int | None,
        stop_at_first: bool,
        progress: Callable[[Exploration], None] | None,
    ) -> None:
        self._limit = seconds
        self._executions = executions
        self._stop_at_first = stop_at_first
        self._progress = progress
        self._start = self._reported = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def exhausted(self, exploration: Exploration) -> str:
        """Why the search has to stop now, or ""."""
        now = time.monotonic()
        if self._progress is not None and now - self._reported > PROGRESS_SECONDS:
            self._reported = now
            exploration.seconds = now - self._start
            self._progress(exploration)
        if self._stop_at_first and exploration.violations:
            return "stopped at the first violation"
        if self._limit is not None and now - self._start > self._limit:
            return f"the budget of {self._limit:g} seconds is used up"
        if self._executions is not None and exploration.executions + exploration.blocked >= self._executions:
            return f"the budget of {self._executions} runs is used up"
        return ""


# -- the tree of decisions -------------------------------------------------------------------------------------------

#: How a step can be disabled: never, by the holders of a lock, until data has changed, in a way of its own.
_FREE, _ACQUIRE, _RETRY, _OTHER = range(4)

_kinds: dict[type[Step], int] = {}


def _kind(step: Step) -> int:
    cls = type(step)
    kind = _kinds.get(cls)
    if kind is None:
        if issubclass(cls, Retry):
            kind = _RETRY
        elif cls.enabled is Step.enabled:
            kind = _FREE
        elif isinstance(getattr(step, "lock", None), Lock) and hasattr(step, "shared"):
            kind = _ACQUIRE
        else:
            kind = _OTHER
        _kinds[cls] = kind
    return kind


class _Node:
    """A state on the way of the current run, and the step that is taken from it. Sets of tasks are bit masks."""

    __slots__ = (
        "task", "enabled", "todo", "asleep", "sleep", "choices", "failures", "preemptions", "kind", "pending",
        "footprint", "clock", "before", "since", "tried", "inherited", "known",
    )  # fmt: skip

    def __init__(self, task: int, enabled: int, todo: int) -> None:
        self.task = task
        self.enabled = enabled
        self.todo = todo
        """Tasks to be tried from here; a superset of those tried already."""
        self.asleep = 0
        """Tasks that need not be tried (again)."""
        self.sleep: dict[int, Footprint] = {}
        """Task that is asleep to what its next step does when it is taken from here."""
        self.choices: list[list[int]] = []
        """Value and number of alternatives of each choice within the step."""
        self.failures = 0
        """Unusual choices on the way to here."""
        self.preemptions = 0
        """Preemptions on the way to here."""
        self.kind = _FREE
        self.pending: Any = None
        self.footprint: Footprint = {}
        self.clock: list[int] = []
        """Per task, how many of its steps happened before the end of this one (itself included)."""
        self.before: list[int] = []
        """The clock of the same task's step before."""
        self.since = -1
        """The depth of the same task's step before."""
        self.tried: Footprint = {}
        """What the step has done under the choices tried so far."""
        self.inherited = 0
        """Tasks that were asleep from the beginning."""
        self.known: dict[int, Footprint] = {}
        """Task that has been woken since its last step to what that step would have done while it was asleep."""


class _Search:
    """Depth-first search over decisions, by running from scratch. It is the strategy of the runs that it makes."""

    def __init__(self, failures: int) -> None:
        self.max_failures = failures
        self.nodes: list[_Node] = []
        self.prologue = _Node(-1, 0, 0)
        """Stands for what tasks do before their first steps, for the sake of the choices there."""
        self.node = self.prologue
        self.fixed = 0
        """So many first nodes repeat decisions; the last of them is the first that differs from the run before."""
        self.depth = 0
        self.drawn = 0
        self.tasks: list[Task] = []

    def execute(self, program: Program) -> Execution | None:
        """Make one run; None if it was cut off."""
        self.node = self.prologue
        self.depth = self.drawn = 0
        self.tasks = []
        try:
            _rest(self.fixed > 0)
            execution = program(self)
        except Abandoned:
            self.depth -= 1
            return None
        finally:
            _rest(False)
        if self.depth < self.fixed:
            raise NotDeterministic(f"{program.name}: a repeated run ended early")
        self.end(execution)
        return execution

    def choose(self, task: Task, alternatives: int, label: str) -> int:
        """Repeat, or begin with the usual."""
        choices = self.node.choices
        position = self.drawn
        self.drawn += 1
        if position == len(choices):
            choices.append([0, alternatives])
        elif choices[position][1] != alternatives:
            raise NotDeterministic(f"{task.name} chooses differently in a repeated run ({label})")
        return choices[position][0]

    def advance(self) -> bool:
        """Go back to the last decision that can be taken otherwise, and take it; whether there is one."""
        nodes = self.nodes
        while nodes:
            node = nodes[-1]
            self.undo(node)
            if self._next_choice(node) or self._next_task(node):
                self.fixed = len(nodes)
                return True
            nodes.pop()
        self.fixed = 0
        return self._next_choice(self.prologue)

    def _next_choice(self, node: _Node) -> bool:
        while node.choices:
            value, alternatives = node.choices[-1]
            others = node.failures + sum(v != 0 for v, _ in node.choices[:-1])
            if value + 1 < alternatives and others < self.max_failures:
                node.choices[-1][0] += 1
                return True
            node.choices.pop()
        return False

    def _next_task(self, node: _Node) -> bool:
        self.tried(node)
        left = node.todo & ~node.asleep
        if not left:
            return False
        node.task = _lowest(left)
        return True

    def _repeat(self, depth: int, enabled: list[Task]) -> Task:
        node = self.node = self.nodes[depth]
        task = self.tasks[node.task]
        _rest(depth < self.fixed - 1)
        if task not in enabled or (depth == self.fixed - 1 and _mask(enabled) != node.enabled):
            raise NotDeterministic("a repeated run comes to a state in which other tasks can go on")
        return task

    def _extend(self, node: _Node) -> None:
        parent = self.node
        node.failures = parent.failures + sum(value != 0 for value, _ in parent.choices)
        self.nodes.append(node)
        self.node = node

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """Repeat, or extend the run."""
        raise NotImplementedError

    def end(self, execution: Execution) -> None:
        """A run came to an end."""

    def undo(self, node: _Node) -> None:
        """The last node's step is taken back."""

    def tried(self, node: _Node) -> None:
        """All that can follow when the node's task goes on has been seen."""
        node.asleep |= 1 << node.task

    def exchanged(self) -> list[list[str]]:
        """Names of tasks that the search takes for exchangeable."""
        return []


def _rest(resting: bool) -> None:
    """What is repeated has been judged when it first happened."""
    if Judge.active is not None:
        Judge.active.resting = resting


def _mask(tasks: list[Task]) -> int:
    mask = 0
    for task in tasks:
        mask |= 1 << task.index
    return mask


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _tasks_in(mask: int) -> Iterator[int]:
    while mask:
        task = _lowest(mask)
        yield task
        mask &= mask - 1


class Plain(_Search):
    """All interleavings, or all with a bounded number of preemptions."""

    def __init__(self, failures: int, preemptions: int | None) -> None:
        super().__init__(failures)
        self.max_preemptions = preemptions

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """Repeat, or stay with the running task."""
        depth = self.depth
        self.depth = depth + 1
        self.drawn = 0
        if depth == 0:
            self.tasks = _running_scheduler().tasks
        if depth < self.fixed:
            return self._repeat(depth, enabled)
        mask = _mask(enabled)
        staying = last is not None and mask >> last.index & 1
        first = last.index if last is not None and staying else enabled[0].index
        node = _Node(first, mask, mask)
        if depth:
            node.preemptions = self._preemptions(depth)
        if staying and node.preemptions == self.max_preemptions:
            node.todo = 1 << first
        self._extend(node)
        return self.tasks[first]

    def _preemptions(self, depth: int) -> int:
        """Preemptions on the way to `depth`."""
        parent = self.nodes[depth - 1]
        if depth == 1:
            return 0
        before = self.nodes[depth - 2].task
        return parent.preemptions + (parent.task != before and parent.enabled >> before & 1)

    def tried(self, node: _Node) -> None:
        super().tried(node)
        node.choices.clear()


def _running_scheduler() -> Scheduler:
    scheduler = Scheduler.current
    assert scheduler is not None
    return scheduler


# -- partial-order reduction -----------------------------------------------------------------------------------------

_Holders = tuple[int, int]
"""Who holds a lock exclusively and who holds it shared."""

_Entry = tuple[int, int, int, bool, int, _Holders | None]
"""An access to a location: the step's depth, task, number within the task, whether it writes, where in the location's
history the last write up to here is (-1: nowhere), and, for a location known to be a lock, its holders afterwards."""


class Reduced(_Search):
    """One interleaving of each class: source sets and sleep sets."""

    def __init__(self, failures: int) -> None:
        super().__init__(failures)
        self.history: dict[Location, list[_Entry]] = {}
        self.clocks: list[list[int]] = []
        self.since: list[int] = []
        self.locks: dict[Location, Lock] = {}
        self.executed: list[Any] = []
        self.elders: list[int] = []
        """Per task, those like it that come before it."""
        self.entered: dict[int, int] = {}
        """Task that is like others to the depth of the first step with which it keeps others out."""
        self._rivals: list[_Entry] = []

    # -- the strategy ------------------------------------------------------------------------------------------------

    def pick(self, enabled: list[Task], last: Task | None) -> Task:
        """Repeat, or go on with a task that is not asleep; end the run if there is none."""
        depth = self.depth
        self.depth = depth + 1
        self.drawn = 0
        if depth == 0:
            self._start(_running_scheduler())
        if any(self.elders):
            enabled = [t for t in enabled if not self._has_to_wait_for_elders(t)]
        if depth < self.fixed:
            task = self._repeat(depth, enabled)
            if depth == self.fixed - 1:
                self._begin(self.node, task, depth)
            elif self.node.kind == _ACQUIRE:
                self._acquires(task, depth)
            return task
        mask = _mask(enabled)
        node = _Node(-1, mask, 0)
        if depth:
            parent = self.nodes[depth - 1]
            self._happened(parent, depth - 1)
            self._inherit(node, parent)
        awake = mask & ~node.asleep
        if not awake:
            self._waiting(mask)
            raise Abandoned
        chosen = last if last is not None and awake >> last.index & 1 else self.tasks[_lowest(awake)]
        node.task = chosen.index
        node.todo = 1 << chosen.index
        self._extend(node)
        self._begin(node, chosen, depth)
        return chosen

    def _start(self, scheduler: Scheduler) -> None:
        self.tasks = scheduler.tasks
        self.executed = scheduler.executed
        self.locks = {}
        self.entered = {}
        if not self.clocks:
            self.clocks = [[0] * len(self.tasks) for _ in self.tasks]
            self.since = [-1] * len(self.tasks)
            self.elders = [_mask([o for o in self.tasks[: t.index] if o.alike == t.alike != ""]) for t in self.tasks]

    def _begin(self, node: _Node, task: Task, depth: int) -> None:
        pending = task.pending
        assert pending is not None
        node.pending = pending
        kind = node.kind = _kind(pending)
        if kind == _ACQUIRE:
            self._acquires(task, depth)

    def _acquires(self, task: Task, depth: int) -> None:
        lock = task.pending.lock  # type: ignore[union-attr]
        self.locks[lock.name] = lock
        if self._enters(task, task.pending):
            self.entered[task.index] = depth

    @staticmethod
    def _inherit(node: _Node, parent: _Node) -> None:
        """Tasks stay asleep as long as nothing happens that their next step depends on.

        The step of a task that is woken may then do less than it would have done. That it comes first need not be
        tried, because it has been; that something comes first which it would have depended on must be, and would not
        be noticed. So it counts as doing what it would have done, too.
        """
        done = parent.footprint
        for task, footprint in parent.known.items():
            if task != parent.task:
                node.known[task] = footprint
        for task, footprint in parent.sleep.items():
            if not _conflict(footprint, done):
                node.sleep[task] = footprint
                node.asleep |= 1 << task
            elif parent.inherited >> task & 1:
                node.known[task] = _union(footprint, node.known.get(task, {}))
        node.inherited = node.asleep

    def end(self, execution: Execution) -> None:
        if not self.nodes:
            return
        node = self.nodes[-1]
        self._happened(node, len(self.nodes) - 1)
        ended_by = 0
        if execution.violation is not None and not execution.ended:
            # The step that violates hides what others would have done: let each of them go first.
            node.todo |= node.enabled
            ended_by = 1 << node.task
        self._waiting(ended_by)

    def undo(self, node: _Node) -> None:
        for location in node.footprint:
            self.history[location].pop()
        self.clocks[node.task] = node.before
        self.since[node.task] = node.since

    def tried(self, node: _Node) -> None:
        task = node.task
        super().tried(node)
        node.sleep[task] = node.tried
        node.tried = {}

    def exchanged(self) -> list[list[str]]:
        kin: dict[str, list[str]] = {}
        for task in self.tasks:
            kin.setdefault(task.alike, []).append(task.name)
        return [names for alike, names in kin.items() if alike and len(names) > 1]

    # -- what happened before what -----------------------------------------------------------------------------------

    def _happened(self, node: _Node, depth: int) -> None:
        """The node's step has been executed: find its place in the partial order, and the races it is in."""
        task = node.task
        footprint: Footprint = self.executed[depth].footprint
        if node.kind == _OTHER:
            footprint = _union(_announced(self.tasks[task], node.pending, _OTHER), footprint)
        if task in node.known:
            footprint = _union(node.known[task], footprint)
        if self.entered.get(task) == depth:
            footprint = {**footprint, _entry_of(self.tasks[task]): True}
        node.footprint = footprint
        if node.choices:
            node.tried = _union(node.tried, footprint)
        else:
            node.tried = footprint
        node.before = self.clocks[task]
        node.since = self.since[task]
        races: list[_Entry] = []
        if node.kind != _FREE:
            races = self._races_of_waiting(task, footprint, node.pending, node.kind)
        clock = self._join(task, footprint, depth)
        if node.kind == _FREE and self._rivals:
            races = self._latest(self._rivals)
        for race in races:
            self._reverse(race, task, clock, depth)
        node.clock = clock
        self.clocks[task] = clock
        self.since[task] = depth

    def _join(self, task: int, footprint: Footprint, depth: int) -> list[int]:
        """Enter the step into the histories; its clock. Leaves the steps that it directly depends on in `_rivals`."""
        before = self.clocks[task]
        clock = before.copy()
        number = clock[task] = before[task] + 1
        rivals = self._rivals = []
        history, locks = self.history, self.locks
        for location, write in footprint.items():
            past = history.get(location)
            lock = locks.get(location)
            holders = None if lock is None else _holders(lock)
            if not past:
                history[location] = [(depth, task, number, write, 0 if write else -1, holders)]
                continue
            last_write = past[-1][4]
            position = len(past) - 1 if write else last_write
            while position >= 0:
                entry = past[position]
                if entry[2] > before[entry[1]]:
                    rivals.append(entry)
                if entry[3]:
                    break
                position -= 1
            past.append((depth, task, number, write, len(past) if write else last_write, holders))
        nodes = self.nodes
        for entry in rivals:
            clock = list(map(max, clock, nodes[entry[0]].clock))
        return clock

    def _latest(self, rivals: list[_Entry]) -> list[_Entry]:
        """Those that do not happen before another one of them."""
        if len(rivals) == 1:
            return rivals
        nodes = self.nodes
        latest: list[_Entry] = []
        seen = set()
        for entry in sorted(rivals, key=_depth_of, reverse=True):
            depth, task, number = entry[:3]
            if depth not in seen and not any(nodes[other[0]].clock[task] >= number for other in latest):
                seen.add(depth)
                latest.append(entry)
        return latest

    # -- races of steps that may have to wait ------------------------------------------------------------------------

    def _waiting(self, mask: int) -> None:
        """A run is over: tasks not in `mask` that wait race with those that made them wait."""
        depth = len(self.nodes)
        if not depth:
            return
        last = _Node(-1, 0, 0)
        self._inherit(last, self.nodes[-1])
        for task in self.tasks:
            pending = task.pending
            if task.done or pending is None or mask >> task.index & 1:
                continue
            kind = _kind(pending)
            if kind == _FREE:
                continue
            footprint = _union(_announced(task, pending, kind), last.known.get(task.index, {}))
            if self._enters(task, pending):
                footprint[_entry_of(task)] = True
            races = self._races_of_waiting(task.index, footprint, pending, kind)
            clock = self.clocks[task.index].copy()
            for race in races:
                clock = list(map(max, clock, self.nodes[race[0]].clock))
            for race in races:
                self._reverse(race, task.index, clock, depth)

    def _races_of_waiting(self, task: int, footprint: Footprint, pending: Any, kind: int) -> list[_Entry]:
        """The steps that this one, which is the next and may have had to wait, could have come before."""
        before = self.clocks[task]
        found: dict[int, tuple[_Entry, bool]] = {}
        writes = self._news(task, footprint) if kind == _RETRY else []
        for location, write in footprint.items():
            past = self.history.get(location, ())
            for position in range(len(past) - 1, -1, -1):
                entry = past[position]
                written = entry[3]
                if entry[2] <= before[entry[1]]:
                    if written:
                        break
                    continue
                if not (write or written):
                    continue
                sure = self._could_precede(entry, task, pending, kind, writes)
                if sure is not None:
                    found[entry[0]] = (entry, sure)
                    if sure and written:
                        break
        nodes = self.nodes
        surely = [entry for entry, sure in found.values() if sure]
        return [
            entry
            for entry, _ in found.values()
            if not any(o[0] > entry[0] and nodes[o[0]].clock[entry[1]] >= entry[2] for o in surely)
        ]

    def _could_precede(
        self, entry: _Entry, task: int, pending: Any, kind: int, writes: list[tuple[int, int, int]]
    ) -> bool | None:
        """Whether `task` could have gone on before the step `entry`; None if it would still have had to wait.

        False if that is not known.
        """
        depth, other, number = entry[:3]
        if kind == _RETRY:
            nodes = self.nodes
            return any(d != depth and nodes[d].clock[other] < number for d, _, _ in writes) or None
        if kind == _ACQUIRE:
            if self._elders_were_missing(entry, task, pending):
                return None
            answer = self._lock_was_free(entry, task, pending)
            if answer is not None:
                return answer or None
        if self.since[task] > depth or self.nodes[depth].enabled >> task & 1:
            return True
        # It waited there. Steps that do not depend on `entry` might have made it possible all the same.
        end = len(self.nodes) - (self.nodes[-1].pending is pending)
        return False if any(n.clock[other] < number for n in self.nodes[depth + 1 : end]) else None

    # -- tasks that are alike ----------------------------------------------------------------------------------------
    #
    # Exchanging the names of tasks that are alike makes an interleaving another one. Of all that come about in this way
    # one is enough: the one in which they take their first exclusive locks in the order of their numbers. To the
    # search this is a condition of those steps, and they depend on each other.

    def _enters(self, task: Task, step: Any) -> bool:
        """Whether `step`, which the task has not made yet, is the first with which it keeps others out."""
        return (
            task.alike != ""
            and task.index not in self.entered
            and _kind(step) == _ACQUIRE
            and not step.shared
        )

    def _has_to_wait_for_elders(self, task: Task) -> bool:
        elders = self.elders[task.index]
        return bool(elders) and self._enters(task, task.pending) and not all(e in self.entered for e in _tasks_in(elders))

    def _elders_were_missing(self, entry: _Entry, task: int, pending: Any) -> bool:
        """Whether `task`, about to enter, would have had to wait for its elders without `entry` and what follows."""
        depth = self.entered.get(task)
        enters = self._enters(self.tasks[task], pending) if depth is None else self.nodes[depth].pending is pending
        if not enters:
            return False
        _, other, number = entry[:3]
        return any(
            e not in self.entered or self.nodes[self.entered[e]].clock[other] >= number
            for e in _tasks_in(self.elders[task])
        )

    def _lock_was_free(self, entry: _Entry, task: int, pending: Any) -> bool | None:
        """Whether the lock could have been taken without the step `entry` and what follows from it; None: unknown."""
        depth, other, number = entry[:3]
        past = self.history.get(pending.lock.name, [])
        position = len(past) - 1
        while position >= 0 and past[position][0] >= depth:
            position -= 1
        if position < 0:
            return True
        holders = past[position][5]
        if holders is None:
            return None
        for holder in _tasks_in(_against(holders, pending.shared) & ~(1 << task)):
            if holder == other:
                return False
            released = next(
                (
                    e
                    for e in past[position + 1 :]
                    if e[1] == holder and e[5] is not None and not _against(e[5], pending.shared) >> holder & 1
                ),
                None,
            )
            if released is None or self.nodes[released[0]].clock[other] >= number:
                return False
        return True

    def _news(self, task: int, footprint: Footprint) -> list[tuple[int, int, int]]:
        """Depth, task and number of the writes of others, to what `task` has read, since it began its attempt."""
        nodes = self.nodes
        began = self.since[task]
        while began >= 0 and nodes[began].kind != _RETRY:
            began = nodes[began].since
        news: list[tuple[int, int, int]] = []
        for location in footprint:
            writes: list[tuple[int, int, int]] = []
            for entry in reversed(self.history.get(location, ())):
                if entry[0] <= began:
                    break
                if entry[1] != task:
                    if entry[3]:
                        writes.append(entry[:3])
                else:
                    news += writes
                    writes = []
            if began < 0:
                # What was read before the first step has left no trace.
                news += writes
        return news

    # -- backtracking ------------------------------------------------------------------------------------------------

    def _reverse(self, race: _Entry, task: int, clock: list[int], end: int) -> None:
        """See to it that, from the state before the step `race`, the step of `task` with this clock comes before it.

        `end` is the depth of that step. Whoever can begin the way there (the steps in between that do not depend on
        `race`, then that step) will do; nothing needs to be done if one of them has been tried or will be.
        """
        depth, racer, number = race[:3]
        nodes = self.nodes
        node = nodes[depth]
        covered = node.todo | node.asleep
        first: dict[int, int] = {}
        initials = 0
        for position in range(depth + 1, end):
            between = nodes[position]
            other = between.task
            its = between.clock
            if other in first or its[racer] >= number:
                continue
            if all(its[t] < n for t, n in first.items()):
                if covered >> other & 1:
                    return
                initials |= 1 << other
            first[other] = its[other]
        bit = 1 << task
        if task not in first and all(clock[t] < n for t, n in first.items()):
            if covered & bit:
                return
            initials |= bit
        usable = initials & node.enabled
        if usable & bit:
            node.todo |= bit
        elif usable:
            node.todo |= usable & -usable
        else:
            node.todo |= node.enabled


def _entry_of(task: Task) -> Location:
    """Stands for the order in which tasks like this one enter."""
    return ("first exclusive lock of", task.alike)


def _depth_of(entry: _Entry) -> int:
    return entry[0]


def _holders(lock: Lock) -> _Holders:
    return (0 if lock.writer is None else 1 << lock.writer.index, _mask(lock.readers))


def _against(holders: _Holders, shared: bool) -> int:
    """The holders that keep others from taking the lock."""
    return holders[0] if shared else holders[0] | holders[1]


def _announced(task: Task, pending: Any, kind: int) -> Footprint:
    """What a step that waits depends on."""
    if kind == _ACQUIRE:
        return {pending.lock.name: not pending.shared}
    if kind == _RETRY:
        return dict.fromkeys(task.read_versions, False)
    return dict.fromkeys(getattr(pending, "reads", tuple)(), False)


def _conflict(one: Footprint, other: Footprint) -> bool:
    if len(other) < len(one):
        one, other = other, one
    for location, write in one.items():  # noqa: SIM110 - a generator would cost more than the rest
        if location in other and (write or other[location]):
            return True
    return False


def _union(one: Footprint, other: Footprint) -> Footprint:
    both = one.copy()
    for location, write in other.items():
        both[location] = write or both.get(location, False)
    return both
