import json
import tomllib

import pytest

from capdec import sweep as job
from capdec.captioner import Captioner
from capdec.errors import DataError, SettingError
from capdec.sweep import sweep
from conftest import DECODER

FAST = {"steps": 8, "batch": 16, "warmup": 2, "evaluate_every": 4, "held_out": 0.2}
COSINE = "bridges.0.target_cosine"


@pytest.fixture
def recipe(tiny_backbone, captions_file):
    bridges = [{"name": "gaussian_noise", "target_cosine": 0.5}]
    return {"captions": str(captions_file), "backbone": tiny_backbone, "bridges": bridges, "decoder": DECODER, "training": FAST}


def test_without_photos_held_out_siblings_decide(tmp_path, recipe):
    points = sweep(recipe, tmp_path / "out", {COSINE: [1.0, 0.5]}, seeds=[0, 1])
    assert [point["target_cosine"] for point in points] == [1.0, 0.5] and all(len(point["runs"]) == 2 for point in points)
    best = max(points, key=lambda point: point["value"])
    written = tomllib.loads((tmp_path / "out/best.toml").read_text())
    assert written["bridges"][0]["target_cosine"] == best["target_cosine"] and written["chosen"]["pairs"] is False
    assert json.loads((tmp_path / "out/sweep.json").read_text())["points"] == json.loads(json.dumps(points))
    assert (tmp_path / "out/sweep.svg").read_text().startswith("<?xml")
    assert Captioner.load(tmp_path / "out/target_cosine=0.5,seed=1").supervision.words() == "text only"


def test_with_photos_the_figure_decides_and_the_recipe_says_so(tmp_path, recipe, shard):
    points = sweep(recipe, tmp_path / "out", {COSINE: [1.0, 0.5]}, dataset=shard)
    assert all(point["low"] <= point["value"] <= point["high"] and len(point["each"]) == 1 for point in points)
    table = tomllib.loads((tmp_path / "out/best.toml").read_text())
    assert table["chosen"]["pairs"] is True and table["chosen"]["on"] == shard
    from capdec.train import train

    assert train(**table, output=tmp_path / "best").supervision.words() == "text + settings chosen on pairs"
    with pytest.raises(SettingError, match="CIDEr"):
        sweep(recipe, tmp_path / "out", {COSINE: [1.0, 0.5]}, dataset=shard, metric="CIDer")


def test_finished_runs_are_kept_and_runs_of_the_same_text_share_its_embeddings(tmp_path, recipe, monkeypatch):
    trained = []
    train = job.train
    monkeypatch.setattr(job, "train", lambda **table: trained.append(table["output"].name) or train(**table))
    first = sweep(recipe, tmp_path / "out", {COSINE: [1.0]})
    assert sweep(recipe, tmp_path / "out", {COSINE: [1.0, 0.5]})[0] == first[0]
    assert trained == ["target_cosine=1.0,seed=0", "target_cosine=0.5,seed=0"]
    assert len(list((tmp_path / "out/embeddings").iterdir())) == 1
    sweep({**recipe, "training": {**FAST, "steps": 4}}, tmp_path / "other", {"training.captions": [60, 120]})
    assert len(list((tmp_path / "other/embeddings").iterdir())) == 2


def test_any_setting_can_be_tried(tmp_path, recipe):
    points = sweep(recipe, tmp_path / "out", {"decoder.dropout": [0.0, 0.2], "sources": ["siblings"]})
    assert [point["settings"] for point in points] == [
        {"decoder.dropout": 0.0, "sources": "siblings"},
        {"decoder.dropout": 0.2, "sources": "siblings"},
    ]
    assert points[0]["runs"] == ["dropout=0.0,sources=siblings,seed=0"]


def test_a_noise_that_is_tried_takes_the_place_of_the_recipes(tmp_path, recipe):
    (point,) = sweep({**recipe, "bridges": [{"name": "gaussian_noise", "variance": 0.016}]}, tmp_path / "out", {"bridges.0.std": [0.1]})
    assert point["std"] == 0.1
    assert tomllib.loads((tmp_path / "out/best.toml").read_text())["bridges"] == [{"name": "gaussian_noise", "std": 0.1}]


def test_a_noise_without_a_cosine_of_its_own_is_swept_by_its_scale(tmp_path, recipe):
    plan = {**recipe, "bridges": [{"name": "covariance_noise", "target_cosine": 0.5}]}
    points = sweep(plan, tmp_path / "out", {"bridges.0.scale": [0.5, 1.0]})
    assert [point["settings"]["bridges.0.scale"] for point in points] == [0.5, 1.0] and "target_cosine" not in points[0]


def test_what_it_is_to_be_scored_on_is_looked_at_before_anything_is_trained(tmp_path, recipe, shard):
    with pytest.raises(SettingError, match="CIDEr"):
        sweep(recipe, tmp_path / "out", dataset=shard, metric="CLIPScore")
    with pytest.raises(DataError, match="No such file"):
        sweep(recipe, tmp_path / "out", dataset=str(tmp_path / "nowhere.tar"))
    assert not (tmp_path / "out").exists()


def test_nothing_to_try_is_an_error(tmp_path, recipe):
    with pytest.raises(SettingError, match="nothing to try for bridges"):
        sweep(recipe, tmp_path / "out", {COSINE: []})
