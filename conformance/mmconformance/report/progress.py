"""How far long work has got: a bar on a terminal, plain lines elsewhere.

Progress goes to standard error, so that standard output is the result alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Say = Callable[..., None]
"""`say(line, done=3, total=22)`: what has just been finished, and how much of it all is."""


@contextmanager
def progress(what: str) -> Iterator[Say]:
    """Show how far `what` has got, for as long as the block lasts."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda line, done=0, total=None: console.print(line, markup=False)
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def say(line: str, done: int = 0, total: int | None = None) -> None:
            bar.update(task, description=line, completed=done, total=total)

        yield say
