import runpy
import sys
from pathlib import Path

from PIL import Image

from capdec.train import train
from conftest import DECODER

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_captions_come_from_stored_embeddings(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (64, 48), "green").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example", "photo.png"])
    runpy.run_path(str(EXAMPLES / "caption_stored_embeddings.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_bridge_of_ones_own_trains(tmp_path, tiny_backbone, captions_file):
    bridge = {"name": f"{EXAMPLES / 'own_bridge.py'}:ManyLevels", "least": 0.4}
    training = {"steps": 3, "batch": 8, "evaluate_every": 3}
    captioner = train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=[bridge], decoder=DECODER, training=training)
    assert captioner.bridges[0].least == 0.4
