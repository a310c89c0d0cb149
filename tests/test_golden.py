"""Figures that others have published or measured, and ours beside them.

Our own captions, scored once by the reference pipeline, are always compared. Files of others are compared where a folder with them is named,
CAPDEC_GOLDEN=dir, and are not part of this project:

captions_val2014_fakecap_results.json, captions_val2014.json     tylin/coco-caption's example and COCO's annotations
good_captions.json, bad_captions.json, refs.json                 jmhessel/clipscore's example
dataset_coco.json, dataset_flickr30k.json                        Karpathy's splits
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from capdec import scoring
from capdec.corpus import open_dataset
from capdec.protocols import Predictions

OURS = json.loads((Path(__file__).parent / "data/golden/pipeline.json").read_text(encoding="utf-8"))
FOLDER = Path(os.environ.get("CAPDEC_GOLDEN", "/nowhere"))
JAVA = ("meteor",) if shutil.which("java") else ()


def golden(*names):
    there = all((FOLDER / name).is_file() for name in names)
    return pytest.mark.skipif(not there, reason=f"CAPDEC_GOLDEN names no folder with {', '.join(names)}")


def figures(captions, references):
    return {name: one.value for name, one in scoring.score(scoring.build(("coco_scores", *JAVA), None), Predictions(captions, references)).items()}


def test_our_own_captions_get_the_figures_of_the_reference_pipeline():
    captions = {row["image_id"]: row["caption"] for row in OURS["images"]}
    references = {row["image_id"]: row["references"] for row in OURS["images"]}
    found = scoring.score(scoring.build(("coco_scores", *JAVA), None), Predictions(captions, references))
    for name in found:
        assert found[name].value == pytest.approx(OURS["figures"][name], abs=1e-9), name
    for name in ("CIDEr", "BLEU-4", *map(str.upper, JAVA)):
        assert found[name].each.tolist() == pytest.approx([row[name] for row in OURS["images"]], abs=1e-9), name


def test_our_own_captions_get_the_tokens_of_the_reference_pipeline():
    from capdec.ptb import tokenize

    for row in OURS["images"]:
        assert tokenize(row["caption"]) == row["tokens"]
        assert [tokenize(text) for text in row["references"]] == row["reference_tokens"]


@golden("captions_val2014_fakecap_results.json", "captions_val2014.json")
def test_the_example_of_coco_caption():
    captions = scoring.read_predictions(FOLDER / "captions_val2014_fakecap_results.json")
    everything = scoring.read_references(open_dataset(str(FOLDER / "captions_val2014.json")))
    found = figures(captions, {key: everything[key].captions for key in captions})
    expected = {"BLEU-1": 57.9, "BLEU-2": 40.4, "BLEU-3": 27.9, "BLEU-4": 19.1, "ROUGE-L": 39.6, "CIDEr": 60.0, "METEOR": 19.5}
    assert len(captions) == 1000 and found == pytest.approx({name: expected[name] for name in found}, abs=0.051)


@golden("captions_val2014_fakecap_results.json", "dataset_coco.json")
def test_the_part_of_that_example_that_is_in_karpathys_val_and_test():
    captions = scoring.read_predictions(FOLDER / "captions_val2014_fakecap_results.json")
    references = {}
    for split in ("val", "test"):
        dataset = open_dataset({"name": "coco", "path": str(FOLDER / "dataset_coco.json"), "split": split})
        references |= {key: one.captions for key, one in scoring.read_references(dataset).items() if key in captions}
    found = figures({key: captions[key] for key in references}, references)
    expected = {"BLEU-1": 56.7543, "BLEU-2": 38.1649, "BLEU-3": 25.2586, "BLEU-4": 16.5193, "ROUGE-L": 38.067, "CIDEr": 56.6958, "METEOR": 18.5651}
    assert len(references) == 251 and found == pytest.approx({name: expected[name] for name in found}, abs=6e-4)


@golden("dataset_coco.json")
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("a man", {"CIDEr": 2.78}),
        ("a man riding a wave on top of a surfboard", {"BLEU-1": 44.0, "BLEU-4": 7.4, "METEOR": 11.2, "ROUGE-L": 34.3, "CIDEr": 6.72}),
    ],
)
def test_one_caption_for_all_of_coco(said, expected):
    examples = scoring.read_references(open_dataset({"name": "coco", "path": str(FOLDER / "dataset_coco.json"), "split": "test"}))
    found = figures(dict.fromkeys(examples, said), {key: one.captions for key, one in examples.items()})
    assert {key: found[key] for key in expected if key in found} == pytest.approx({k: v for k, v in expected.items() if k in found}, abs=0.051)


@golden("good_captions.json", "bad_captions.json", "refs.json")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good", {"BLEU-1": 66.67, "BLEU-2": 48.99, "BLEU-3": 34.69, "ROUGE-L": 42.80, "CIDEr": 56.37, "METEOR": 34.44}),
        ("bad", {"BLEU-1": 48.15, "BLEU-2": 24.04, "BLEU-3": 13.59, "ROUGE-L": 31.21, "CIDEr": 27.90, "METEOR": 18.61}),
    ],
)
def test_the_example_of_clipscore(name, expected):
    captions, references = (json.loads((FOLDER / file).read_text()) for file in (f"{name}_captions.json", "refs.json"))
    found = figures(captions, {key: references[key] for key in captions})
    assert {key: found[key] for key in expected if key in found} == pytest.approx({k: v for k, v in expected.items() if k in found}, abs=0.006)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        pytest.param(
            "coco", {"BLEU-1": 63.6, "BLEU-4": 19.9, "METEOR": 24.4, "ROUGE-L": 47.3, "CIDEr": 89.3}, marks=golden("dataset_coco.json"), id="coco"
        ),
        pytest.param(
            "flickr30k",
            {"BLEU-1": 50.4, "BLEU-4": 15.0, "METEOR": 25.5, "ROUGE-L": 43.6, "CIDEr": 53.5},
            marks=golden("dataset_flickr30k.json"),
            id="flickr30k",
        ),
    ],
)
def test_one_person_against_the_others(dataset, expected):
    examples = scoring.read_references(open_dataset({"name": dataset, "path": str(FOLDER / f"dataset_{dataset}.json"), "split": "test"}))
    found = figures({key: one.captions[0] for key, one in examples.items()}, {key: one.captions[1:5] for key, one in examples.items()})
    assert {key: found[key] for key in expected if key in found} == pytest.approx({k: v for k, v in expected.items() if k in found}, abs=0.051)
