"""SPICE (Anderson et al. 2016) by its own program, where the user has it whole: pycocoevalcap brings the program, and Stanford CoreNLP 3.6.0 with its
models (385 MB) has to be put beside it by hand. capdec downloads nothing: without them SPICE is not computed.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from capdec.errors import CapdecError
from capdec.protocols import Predictions, Score
from capdec.ptb import tokenize

MODELS = "stanford-corenlp-3.6.0-models.jar"
WHERE = "nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"


class Spice:
    """Times 100: the mean over images of the F1 of propositions. `folder` holds spice-1.0.jar and lib/ (default: CAPDEC_SPICE, else pycocoevalcap's);
    `memory` is Java's. A Score.missing where Java, the program or its models are not there, or the captions are not in English. Raises CapdecError
    where the program fails."""

    def __init__(self, folder: str | None = None, memory: str = "8G", language: str = "en"):
        self.folder, self.memory, self.language = Path(folder or os.environ.get("CAPDEC_SPICE") or _packaged()), memory, language

    def score(self, predictions: Predictions) -> dict[str, Score]:
        if self.language != "en":
            return {"SPICE": Score.missing(f"its program parses English, and the captions are in {self.language!r}")}
        if shutil.which("java") is None:
            return {"SPICE": Score.missing("it runs on Java, and there is no `java` on the path")}
        if not (self.folder / "spice-1.0.jar").is_file() or not (self.folder / "lib" / MODELS).is_file():
            return {"SPICE": Score.missing(f"no spice-1.0.jar with lib/{MODELS} in {self.folder.name or 'pycocoevalcap'}/ ({WHERE})")}
        rows = [
            {"image_id": key, "test": tokenize(text), "refs": [tokenize(reference) for reference in predictions.references[key]]}
            for key, text in predictions.captions.items()
        ]
        with tempfile.TemporaryDirectory() as name:
            asked, answered = Path(name) / "captions.json", Path(name) / "scores.json"
            asked.write_text(json.dumps(rows), encoding="utf-8")
            command = ["java", "-jar", f"-Xmx{self.memory}", "spice-1.0.jar", str(asked), "-cache", name, "-out", str(answered), "-subset", "-silent"]
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
            if done.returncode or not answered.is_file():
                raise CapdecError(f"SPICE's program ended with status {done.returncode}: {done.stderr.strip()[-500:]}. Leave spice out, or mend it.")
            found = {str(row["image_id"]): row["scores"]["All"]["f"] for row in json.loads(answered.read_text(encoding="utf-8"))}
        each = np.array([found[key] for key in predictions.captions], np.float64)
        return {"SPICE": Score.mean_of(100 * np.nan_to_num(each))}

    @classmethod
    def tiny(cls, folder: Path) -> "Spice":
        return cls(str(folder))


def _packaged() -> str:
    package = importlib.util.find_spec("pycocoevalcap")
    return str(Path(next(iter(package.submodule_search_locations or []))) / "spice") if package else ""
