"""How far a long job is: a bar on a terminal, a line every ten seconds elsewhere, nothing in the other processes of a group. Goes to stderr."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    def __init__(self, name: str, total: int, shown: bool = True, start: int = 0):
        self.name, self.total, self.start, self.done, self.note = name, total, start, start, ""
        self.shown, self.began = shown, time.monotonic()
        self.bar: Bar | None = None
        self.printed = self.began - 8  # the first line comes after two seconds

    def __enter__(self) -> "Progress":
        if self.shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Bar(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, completed=self.start, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """`done` of the total are done."""
        self.done, self.note = done, note
        if self.bar:
            self.bar.update(self.task, completed=done, note=f"{self._rate():.1f}/s{', ' + note if note else ''}")
        elif self.shown and time.monotonic() - self.printed > 10:
            self.printed = time.monotonic()
            self._line()

    def _rate(self) -> float:
        seconds = time.monotonic() - self.began
        return (self.done - self.start) / seconds if seconds else 0.0

    def _line(self) -> None:
        rate = self._rate()
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        print(f"{self.name}: {self.done}/{self.total}{', ' + self.note if self.note else ''}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()
        elif self.shown and self.done > self.start:
            self._line()
