import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from capdec.corpus import open_dataset
from capdec.errors import DataError
from capdec.evaluate import evaluate
from capdec.metrics.coco_scores import CocoScores
from capdec.protocols import Decoding

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the PTB tokenizer needs Java")


@pytest.fixture
def shard(tmp_path):
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for n in range(6):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(buffer, "JPEG")
            for suffix, data in (
                ("jpg", buffer.getvalue()),
                ("json", json.dumps({"image_id": f"p{n}", "captions": [f"a man {n}", "two dogs"]}).encode()),
            ):
                info = tarfile.TarInfo(f"p{n}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(tmp_path / "photos.tar")


@needs_java
def test_an_evaluation_sets_the_captions_beside_the_baselines(tmp_path, tiny_captioner, shard):
    report = evaluate(
        tiny_captioner,
        open_dataset(shard, dataset="tiny"),
        tmp_path / "out",
        memory=["a man 1", "a red car", "two dogs"],
        decoding=Decoding(max_tokens=6),
        resamples=50,
    )
    assert list(report["scores"]) == ["itself", "shuffled", "nearest training caption", "constant caption"]
    assert report["n"] == 6 and report["supervision"] == "text + backbone trained on this dataset's pairs"
    for values in report["scores"].values():
        assert values["CIDEr"]["low"] <= values["CIDEr"]["value"] <= values["CIDEr"]["high"]
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == [f"p{n}" for n in range(6)]
    assert sorted(row["shuffled"] for row in rows) == sorted(row["itself"] for row in rows)
    assert json.loads((tmp_path / "out/scores.json").read_text()) == json.loads(json.dumps(report))


def test_examples_without_photos_are_refused(tiny_captioner, captions_file):
    with pytest.raises(DataError, match="lacks"):
        evaluate(tiny_captioner, open_dataset(str(captions_file)))


@needs_java
def test_a_caption_equal_to_all_its_references_scores_full_marks_and_unrelated_words_none():
    references = {"1": ["a man rides a horse on the beach"] * 2, "2": ["two dogs run over green grass together"] * 2}
    right = CocoScores().score({"1": "A man rides a horse on the beach.", "2": "Two dogs run over green grass, together"}, references)
    assert right["BLEU-4"].value == pytest.approx(100, abs=0.01) and right["ROUGE-L"].value == pytest.approx(100)
    assert right["CIDEr"].value == pytest.approx(1000, abs=1)
    wrong = CocoScores().score({"1": "blue", "2": "seven"}, references)
    assert wrong["CIDEr"].value == pytest.approx(0, abs=1e-6)
    assert right["CIDEr"].each is not None and np.mean(list(right["CIDEr"].each.values())) == pytest.approx(right["CIDEr"].value)
