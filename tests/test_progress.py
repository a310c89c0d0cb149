import io
import re
import sys

import pytest

from capdec.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Terminal, io.StringIO])
def test_rate_and_note_are_told_on_a_terminal_and_elsewhere(monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with Progress("rows", 10) as progress:
        progress.update(5, "1 error")
    told = sys.stderr.getvalue()
    assert "5/10" in told and "1 error" in told and re.search(r"\d/s", told)
