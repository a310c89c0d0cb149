import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capdec import evaluate as job
from capdec.captioner import Captioner
from capdec.confidence import Confidence, Signal
from capdec.errors import DataError, MismatchError, SettingError
from capdec.evaluate import evaluate
from capdec.protocols import Decoding

FAST = {"decoding": Decoding(max_tokens=6), "metrics": ("coco_scores", "diversity", "unseen_nouns", "clip_score"), "resamples": 50}


@pytest.fixture
def memory(tmp_path):
    (tmp_path / "memory.txt").write_text("a man 1\na red car\ntwo dogs\n")
    return {"path": str(tmp_path / "memory.txt"), "dataset": "elsewhere"}


def read(folder):
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "scores.json").read_text()), json.loads((folder / "manifest.json").read_text())


def test_an_evaluation_sets_the_captions_beside_the_baselines_and_keeps_a_record(tmp_path, tiny_captioner, shard, memory):
    scores = evaluate(tiny_captioner, shard, tmp_path / "out", memory=memory, **FAST)
    assert list(scores["systems"]) == ["itself", "shuffled", "nearest", "constant", "person"]
    for figures in scores["systems"].values():
        assert all(
            figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"] for name in ("CIDEr", "BLEU-4", "ROUGE-L", "R@1", "length")
        )
    rows, saved, manifest = read(tmp_path / "out")
    assert saved == json.loads(json.dumps(scores))
    assert [row["image_id"] for row in rows] == [f"p{n}" for n in range(6)] == manifest["dataset"]["image_ids"]
    assert sorted(row["others"]["shuffled"]["caption"] for row in rows) == sorted(row["caption"] for row in rows)
    assert {row["others"]["nearest"]["caption"] for row in rows} <= {"a man 1", "a red car", "two dogs"}
    assert rows[3]["others"]["person"]["caption"] == "a man 3" and rows[3]["references"] == ["a man 3", "two dogs"]
    mean = np.mean([row["figures"]["CIDEr"] for row in rows])
    assert mean == pytest.approx(scores["systems"]["itself"]["CIDEr"]["value"], abs=0.01)
    for key in ("capdec", "commit", "time", "decoding", "tokens", "backbone", "judge", "seed", "bootstrap", "supervision", "seconds"):
        assert key in manifest
    assert manifest["dataset"]["n"] == 6 and manifest["dataset"]["name"] == "tiny" and manifest["dataset"]["split"] == "val"
    assert manifest["captioner"]["bridges"] == [{"name": "gaussian_noise", "std": 0.1}]
    assert not list((tmp_path / "out").glob(".captions*")) and not (tmp_path / "out/embeddings").exists()


def test_twice_gives_the_same_figures(tmp_path, tiny_captioner, shard, memory):
    first, second = (evaluate(tiny_captioner, shard, tmp_path / name, memory=memory, **FAST) for name in ("first", "second"))
    assert first == second
    assert (tmp_path / "first/predictions.jsonl").read_bytes() == (tmp_path / "second/predictions.jsonl").read_bytes()


def test_supervision_is_computed_from_what_was_used(tmp_path, tiny_captioner, shard, memory):
    tiny_captioner.text = ("tiny", "other")
    words = evaluate(tiny_captioner, shard, tmp_path / "out", memory=memory, **FAST)["supervision"]
    assert words["itself"] == words["shuffled"] == "text + target-domain text + backbone trained on this dataset's pairs"
    assert words["nearest"] == "text + backbone trained on this dataset's pairs" and words["constant"] == "text only"
    unnamed = evaluate(tiny_captioner, shard["path"], tmp_path / "unnamed", memory=memory, **FAST)["supervision"]
    assert unnamed["itself"] == "text only (more may be so: the dataset has no name)"
    both = evaluate(tiny_captioner, {**shard, "dataset": "big+tiny"}, tmp_path / "both", memory=memory, **FAST)["supervision"]
    assert both["itself"] == words["itself"]


def test_a_judge_of_its_own_is_named_and_the_captioners_backbone_is_marked(tmp_path, tiny_captioner, shard):
    from capdec.backbones.mini import Mini

    own = evaluate(tiny_captioner, shard, tmp_path / "own", **FAST)["systems"]
    assert own["itself"]["R@1"]["note"].endswith("the captioner's own backbone")
    assert own["person"]["R@1"]["note"] == f"by {tiny_captioner.backbone.fingerprint}"
    (tmp_path / "judge").mkdir()
    judge = Mini.tiny(tmp_path / "judge")
    foreign = evaluate(tiny_captioner, shard, tmp_path / "foreign", judge=judge, **FAST)["systems"]
    assert foreign["itself"]["R@1"]["note"] == f"by {judge.fingerprint}"
    assert read(tmp_path / "foreign")[2]["judge"] == {"fingerprint": judge.fingerprint, "is_own_backbone": False}


def test_an_evaluation_that_was_cut_off_goes_on_with_the_photos_that_have_no_caption(tmp_path, tiny_captioner, shard, monkeypatch):
    expected = evaluate(tiny_captioner, shard, tmp_path / "whole", batch=2, **FAST)
    generate, asked = Captioner.caption_embeddings, []

    def counted(self, vectors, *more, **settings):
        asked.append(len(vectors))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate(self, vectors, *more, **settings)

    monkeypatch.setattr(Captioner, "caption_embeddings", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_captioner, shard, tmp_path / "cut", batch=2, **FAST)
    assert not (tmp_path / "cut/scores.json").exists()
    with (tmp_path / "cut/.captions.jsonl").open("a") as file:
        file.write('{"text": "half a li')
    with pytest.raises(MismatchError, match="something else"):
        evaluate(tiny_captioner, shard, tmp_path / "cut", batch=2, **{**FAST, "decoding": Decoding(max_tokens=3)})
    tiny_captioner.confidence = Confidence({"score": Signal(0.0, 1.0, 1.0)}, 0.0, 0.5, FAST["decoding"])
    with pytest.raises(MismatchError, match="something else"):  # captions without a confidence beside others with one
        evaluate(tiny_captioner, shard, tmp_path / "cut", batch=2, **FAST)
    tiny_captioner.confidence = None
    asked.clear()
    assert evaluate(tiny_captioner, shard, tmp_path / "cut", batch=2, **FAST) == expected and asked == [2]


def test_groups_are_scored_on_their_own(tmp_path, tiny_captioner):
    sample = Path(__file__).parent / "data/nocaps"
    dataset = {"name": "nocaps", "path": str(sample / "nocaps_val_4500_captions.json"), "images": str(sample), "partial": True}
    scores = evaluate(tiny_captioner, dataset, tmp_path / "out", **FAST)
    assert set(scores["groups"]) == {"in-domain", "near-domain", "out-domain"}
    assert sum(group["n"] for group in scores["groups"].values()) == scores["n"]
    assert read(tmp_path / "out")[2]["dataset"]["left_out"] == 4500 - scores["n"]


def test_examples_without_photos_are_refused(tmp_path, tiny_captioner, captions_file):
    with pytest.raises(DataError, match="80 of 80 examples have none"):
        evaluate(tiny_captioner, str(captions_file), tmp_path / "out")


def test_a_photo_that_cannot_be_opened_is_named_and_never_left_out_in_silence(tmp_path, tiny_captioner, shard, monkeypatch):
    broken = job.scoring.read_references

    def with_one_broken(dataset):
        examples = broken(dataset)
        return {key: replace(one, open_image=examples["p1"].open_image if key != "p2" else fail) for key, one in examples.items()}

    def fail():
        from capdec.errors import ImageError

        raise ImageError("no photo")

    monkeypatch.setattr(job.scoring, "read_references", with_one_broken)
    with pytest.warns(UserWarning, match="could not be opened"), pytest.raises(DataError, match=r"1 of 6 photos could not be opened: p2"):
        evaluate(tiny_captioner, shard, tmp_path / "out", **FAST)
    with pytest.warns(UserWarning, match="could not be opened"):
        scores = evaluate(tiny_captioner, shard, tmp_path / "part", partial=True, **FAST)
    assert scores["n"] == 5 and scores["left_out"] == 1 and read(tmp_path / "part")[2]["dataset"]["left_out"] == 1
    monkeypatch.undo()
    assert evaluate(tiny_captioner, shard, tmp_path / "out", **FAST)["n"] == 6, "it was mended"


def test_a_captioners_own_folder_is_not_written_into(tmp_path, tiny_captioner, shard):
    tiny_captioner.save(tmp_path / "mine")
    with pytest.raises(SettingError, match="holds a captioner"):
        evaluate(tiny_captioner, shard, tmp_path / "mine", **FAST)


def test_a_memory_without_a_name_may_be_of_the_target_domain(tmp_path, tiny_captioner, shard, memory):
    words = evaluate(tiny_captioner, shard, tmp_path / "out", memory=memory["path"], **FAST)["supervision"]
    assert words["constant"] == "text only (more may be so: the memory has no name)"
    assert words["itself"].endswith("(more may be so: the text it learned from has no name)"), "a file without a name may be of the same dataset"
    tiny_captioner.text = ("elsewhere",)
    assert "more may be" not in evaluate(tiny_captioner, shard, tmp_path / "named", memory=memory, **FAST)["supervision"]["itself"]
    assert read(tmp_path / "out")[2]["memory"]["digest"]


def test_a_german_captioner_is_scored_in_german_and_its_nearest_caption_is_found_by_sources(tmp_path, tiny_captioner, shard, memory):
    tiny_captioner.language = "de"
    (tmp_path / "german.jsonl").write_text(json.dumps({"image_id": "x", "captions": ["Ein Mann!", "Zwei Hunde."]}), encoding="utf-8")
    (tmp_path / "english.jsonl").write_text(json.dumps({"image_id": "x", "captions": ["a man", "two dogs"]}), encoding="utf-8")
    german, english = str(tmp_path / "german.jsonl"), str(tmp_path / "english.jsonl")
    with pytest.raises(SettingError, match="--memory-sources"):
        evaluate(tiny_captioner, shard, tmp_path / "refused", memory=german, **FAST)
    scores = evaluate(tiny_captioner, shard, tmp_path / "out", memory=german, memory_sources=english, **FAST)
    rows, saved, manifest = read(tmp_path / "out")
    assert saved["language"] == manifest["language"] == "de" and manifest["tokens"].startswith("Moses (de)")
    assert manifest["memory"]["sources"] == english and manifest["judge"] is None and saved["backbone_recall"] is None
    assert scores["systems"]["itself"]["unseen nouns"]["value"] is None and "CLIPScore" not in scores["systems"]["itself"]
    vectors = tiny_captioner.backbone.encode_text(["a man", "two dogs"])
    with tarfile.open(shard["path"]) as tar:
        photos = [Image.open(tar.extractfile(f"p{n}.jpg")).copy() for n in range(6)]
    nearest = (tiny_captioner.backbone.encode_image(photos) @ vectors.T).argmax(1).tolist()
    assert [row["others"]["nearest"]["caption"] for row in rows] == [("Ein Mann!", "Zwei Hunde.")[place] for place in nearest]
    asked = evaluate(tiny_captioner, shard, tmp_path / "english", language="en", **FAST)
    assert asked["language"] == "en" and "R@1" in asked["systems"]["itself"]


def test_what_the_captioner_does_not_know_is_refused_before_photos_are_embedded(tmp_path, tiny_captioner, shard):
    with pytest.raises(SettingError, match="no style 'loud'"):
        evaluate(tiny_captioner, shard, tmp_path / "out", decoding=Decoding(style="loud"))
    with pytest.raises(SettingError, match="no memory was given"):
        evaluate(tiny_captioner, shard, tmp_path / "out", memory_sources=shard)
    assert not (tmp_path / "out").exists()
