import os
import stat

import pytest

from capdec.errors import CapdecError
from capdec.metrics.spice import MODELS, Spice
from capdec.protocols import Predictions

PREDICTIONS = Predictions({"1": "A man.", "2": "two dogs"}, {"1": ["a man rides"], "2": ["dogs"]})


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A folder that looks like SPICE's, and a `java` that answers as its program does: F1 of 0.5 and of NaN."""

    def make(answer):
        (tmp_path / "lib").mkdir(exist_ok=True)
        for name in ("spice-1.0.jar", f"lib/{MODELS}"):
            (tmp_path / name).touch()
        java = tmp_path / "bin" / "java"
        java.parent.mkdir(exist_ok=True)
        java.write_text(f"#!/bin/sh\n{answer}\n")
        java.chmod(java.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{java.parent}:{os.environ['PATH']}")
        return Spice(str(tmp_path))

    return make


def test_the_program_is_asked_with_tokens_and_its_answers_are_the_figures(program, tmp_path):
    rows = '[{"image_id": "2", "scores": {"All": {"f": NaN}}}, {"image_id": "1", "scores": {"All": {"f": 0.5}}}]'
    found = program(f"""cp "$4" {tmp_path}/asked.json; echo '{rows}' > "$8" """).score(PREDICTIONS)["SPICE"]
    assert found.each.tolist() == [50, 0] and found.value == 25
    assert '"test": "a man"' in (tmp_path / "asked.json").read_text()


def test_a_program_that_fails_is_an_error_with_its_words(program):
    with pytest.raises(CapdecError, match="status 3: out of memory"):
        program("echo out of memory >&2; exit 3").score(PREDICTIONS)


def test_without_its_models_it_is_not_computed_and_says_where_they_are(tmp_path):
    found = Spice(str(tmp_path)).score(PREDICTIONS)["SPICE"]
    assert found.value is None and "not computed" in found.note
