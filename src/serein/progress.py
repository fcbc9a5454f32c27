"""Progress of long work: bars with rate and score on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

Progress = Callable[[int, int], None]  # done, total
Report = Callable[[str, int, int, str], None]  # label, done, total, detail; done == total ends the bar


class Bars:
    """A `Report` that draws one bar per label on stderr; without a terminal, it prints a line when one ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.is_live = console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.is_live,
            redirect_stdout=sys.stdout.isatty(),  # otherwise output for a program would go to the bars
        )
        self.tasks: dict[str, Any] = {}

    def __call__(self, label: str, done: int, total: int, detail: str) -> None:
        if label not in self.tasks:
            self.tasks[label] = self.progress.add_task(label, total=total, detail=detail)
        self.progress.update(self.tasks[label], completed=done, total=total, detail=detail)
        if done >= total:
            self.progress.remove_task(self.tasks.pop(label))
            self.say(f"{label} {detail}" if label.endswith(":") else f"{label}  {detail}")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        if self.is_live:
            self.progress.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
