import json
from dataclasses import asdict
from pathlib import Path

import pytest

from capdec import generation, parts, recipe
from capdec.errors import SettingError

SHIPPED = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
PLAN = {
    "captions": "captions.jsonl",
    "backbone": "mini",
    "bridges": [{"name": "gaussian_noise", "std": 0.1}, "mean_shift"],
    "decoder": {"name": "small_transformer", "layers": 4},
    "training": {"steps": 3000, "learning_rate": 1e-3, "held_out": 0.0, "choose_cosines": [0.9, 0.5]},
}


@pytest.mark.parametrize(
    ("assignment", "place", "value"),
    [
        ("decoder.layers=2", ("decoder", "layers"), 2),
        ("training.steps=10", ("training", "steps"), 10),
        ("training.learning_rate=2e-5", ("training", "learning_rate"), 2e-5),
        ("captions=a=b.csv", ("captions",), "a=b.csv"),
        ("captions=", ("captions",), ""),
        ('captions="3"', ("captions",), "3"),
        ("training.keep=last", ("training", "keep"), "last"),
        ("training.choose_cosines=[0.7, 0.3]", ("training", "choose_cosines"), [0.7, 0.3]),
        ("training.choose_cosines.1=0.4", ("training", "choose_cosines"), [0.9, 0.4]),
        ("bridges.0.std=0.2", ("bridges", 0), {"name": "gaussian_noise", "std": 0.2}),
        ("bridges.1.scale=2", ("bridges", 1), {"name": "mean_shift", "scale": 2}),
        ("bridges.1=memory", ("bridges", 1), "memory"),
        ("backbone.fast=true", ("backbone",), {"name": "mini", "fast": True}),
        ("decoder.name=prefix_lm", ("decoder",), {"name": "prefix_lm", "layers": 4}),
        ("evaluation.beams=3", ("evaluation",), {"beams": 3}),
    ],
)
def test_an_assignment_changes_its_place_and_nothing_else(assignment, place, value):
    result = recipe.override(PLAN, [assignment])
    found = result
    for key in place:
        found = found[key]
    assert found == value
    assert {key: item for key, item in result.items() if key != place[0]} == {key: item for key, item in PLAN.items() if key != place[0]}
    assert PLAN["decoder"]["layers"] == 4 and PLAN["backbone"] == "mini" and PLAN["bridges"][1] == "mean_shift", "the original is left alone"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{path = "a.jsonl", as = "x"}', {"path": "a.jsonl", "as": "x"}), ('["a.txt", {path = "b.txt"}]', ["a.txt", {"path": "b.txt"}]),
        ('{"path": "a.jsonl"}', {"path": "a.jsonl"}), ("{00..09}.tar", "{00..09}.tar"), ("[ab].tar", "[ab].tar"), ("[1]\ny = 2", "[1]\ny = 2"),
    ],
)  # fmt: skip
def test_a_table_or_list_is_json_or_toml_and_a_pattern_is_a_word(text, value):
    assert recipe.read_assignment(f"captions={text}") == ("captions", value)


def test_a_table_that_is_neither_is_an_error():
    with pytest.raises(SettingError, match="neither JSON nor TOML"):
        recipe.read_assignment("captions={path=a.jsonl}")


def test_later_assignments_see_earlier_ones():
    assert recipe.override({}, ["decoder=prefix_lm", "decoder.prefix=10", "decoder.prefix=20"]) == {"decoder": {"name": "prefix_lm", "prefix": 20}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("decoder", "key=value"),
        ("=3", "key=value"),
        ("decoder..layers=3", "key=value"),
        ("training.steps.more=3", r"training\.steps is a plain value"),
        ("training.choose_cosines.0.more=3", r"training\.choose_cosines\.0 is a plain value"),
        ("bridges.2.std=1", "2 places"),
        ("bridges.2=memory", "2 places"),
        ("bridges.std=1", "'std' is not one of the 2 places"),
        ("bridges.-1.std=1", "2 places"),
    ],
)
def test_an_assignment_that_has_no_place_is_an_error_that_says_why(assignment, message):
    with pytest.raises(SettingError, match=message):
        recipe.override(PLAN, [assignment])


def test_what_is_dumped_is_read_back(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.dump(PLAN), encoding="utf-8")
    assert recipe.read(path) == PLAN


def test_what_has_no_value_is_left_out_of_a_dump(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.dump({"sources": None, "bridges": ({"name": "ä", "std": None},)}), encoding="utf-8")
    assert recipe.read(path) == {"bridges": [{"name": "ä"}]}


def test_a_recipe_that_is_missing_or_not_toml_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SettingError, match=r"nowhere\.toml"):
        recipe.read(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("decoder = ")
    with pytest.raises(SettingError, match=r"broken\.toml is not TOML"):
        recipe.read(tmp_path / "broken.toml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_names_parts_and_settings_that_exist(path):
    from capdec.train import settings

    plan = recipe.read(path)
    for key, kind in (("backbone", "backbones"), ("decoder", "decoders"), ("bridges", "bridges"), ("metrics", "metrics")):
        given = plan.get(key, [])
        for spec in given if isinstance(given, list) else [given]:
            table = {"name": spec} if isinstance(spec, str) else dict(spec)
            known = parts.settings(parts.find(kind, table.pop("name")))
            assert table.keys() <= known.keys()
    settings(plan.get("training", {}))
    generation.settings(plan.get("decoding", {}))


@pytest.fixture
def tiny_hub(tmp_path, monkeypatch):
    """A tiny CLIP and GPT-2 in the hub's format, and the samples in tests/data under the names that the recipes use."""
    from capdec.backbones.huggingface import HuggingFace
    from capdec.decoders.prefix_lm import PrefixLM

    (tmp_path / "clip").mkdir()
    HuggingFace.tiny(tmp_path / "clip")
    PrefixLM.tiny(tmp_path)
    data = Path(__file__).parent / "data"
    places = {
        "dataset_coco.json": "coco/dataset_coco.json", "coco": "coco", "dataset_flickr30k.json": "flickr30k/dataset_flickr30k.json",
        "flickr30k-images": "flickr30k", "FlickrStyle_v0.9": "flickr_style", "Flicker8k_Dataset": "flickr_style",
    }  # fmt: skip
    for name, place in places.items():
        (tmp_path / name).symlink_to(data / place)
    monkeypatch.chdir(tmp_path)
    common = [f'backbone={{"name": "huggingface", "model": "{tmp_path / "clip"}"}}', "captions.partial=true"]
    common += ["training.steps=2", "training.batch=2", "training.held_out=0"]
    tiny = tmp_path / "tiny_gpt2"
    common += [f"decoder.model={tiny}", "decoder.prefix=3", "decoder.clip_length=2", "decoder.mapper_layers=1"]
    ownwards = {"decap_coco": [f"decoder.tokenizer={tiny}", "decoder.begin=<|endoftext|>", "decoder.sizes.n_layer=1", "bridges.0.size=5"]}
    ownwards["c3_coco"] = ["unpaired_photos.partial=true"]
    return lambda path: [*common, *ownwards.get(path.stem, ())]


PAPERS = [path for path in SHIPPED if "evaluation" in recipe.read(path)]


@pytest.mark.parametrize("path", [path for path in PAPERS if "decoder" in recipe.read(path)], ids=lambda path: path.stem)
def test_a_recipe_of_the_papers_runs_from_training_to_its_scores(path, tiny_hub, tmp_path):
    from click.testing import CliRunner

    from capdec.cli import main

    def run(*words):
        done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    plan = recipe.read(path)
    run("train", "--recipe", path, "--output", tmp_path / "run", *(word for one in tiny_hub(path) for word in ("--set", one)))
    metrics = ("--metrics", "coco_scores,clip_score", "--max-tokens", 4, "--partial")
    shown = run("evaluate", tmp_path / "run", "--recipe", path, "--output", tmp_path / "run/evaluation", *metrics)
    assert "CIDEr" in shown and "shuffled" in shown
    manifest = json.loads((tmp_path / "run/evaluation/manifest.json").read_text())
    asked = plan["evaluation"]
    assert manifest["decoding"] == {**asdict(generation.settings(plan["decoding"])), "max_tokens": 4}
    assert manifest["dataset"]["opened"]["name"] == asked["dataset"]["name"] and manifest["dataset"]["left_out"] > 0
    same_text = plan["captions"]["name"] == asked["dataset"]["name"]
    assert ("target-domain text" in manifest["supervision"]["itself"]) == same_text


def test_a_second_stage_runs_from_its_recipe(tiny_hub, tmp_path):
    from click.testing import CliRunner

    from capdec.cli import main

    def run(*words):
        done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    first, second = (next(path for path in PAPERS if path.stem == name) for name in ("cgtgan_coco_text", "cgtgan_coco"))
    plan = recipe.read(second)
    run("train", "--recipe", first, "--output", plan["captioner"], *(word for one in tiny_hub(first) for word in ("--set", one)))
    sizes = ("refining.steps=2", "refining.batch=2", "refining.samples=2", "captions.partial=true", "photos.partial=true")
    shown = run("refine", "--recipe", second, "--output", tmp_path / "run", *(word for one in sizes for word in ("--set", one)))
    assert "unpaired images" in shown
    shown = run("evaluate", tmp_path / "run", "--recipe", second, "--output", tmp_path / "out", "--metrics", "coco_scores", "--partial")
    assert "CIDEr" in shown and "unpaired images" in shown
