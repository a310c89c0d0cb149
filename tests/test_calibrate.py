import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from capdec.calibrate import calibrate
from capdec.caption import caption_files
from capdec.captioner import Captioner
from capdec.cli import main
from capdec.coverage import coverage
from capdec.errors import DataError, SettingError
from capdec.evaluate import evaluate
from capdec.protocols import Decoding, Supervision

SHORT = Decoding(max_tokens=8)


@pytest.fixture
def calibration(tmp_path):
    """60 photos, a man on a horse in every second one."""
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "calibration.tar", "w") as tar:
        for n in range(60):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(buffer, "PNG")
            captions = ["a man rides a horse", "a horse"] if n % 2 else ["a zebra", "nothing"]
            record = json.dumps({"image_id": f"p{n}", "captions": captions}).encode()
            for suffix, data in (("png", buffer.getvalue()), ("json", record)):
                info = tarfile.TarInfo(f"p{n:02}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return {"path": str(tmp_path / "calibration.tar"), "dataset": "tiny", "split": "val"}


@pytest.fixture
def telling(tiny_captioner):
    """It sees a man on a horse in every photo, and its score is as random as its weights."""
    tiny_captioner.decoding = SHORT
    generate = tiny_captioner.decoder.generate
    tiny_captioner.decoder.generate = lambda *given: [[replace(one, text="a man on a horse") for one in captions] for captions in generate(*given)]
    return tiny_captioner


@pytest.fixture
def calibrated(tmp_path, telling, calibration):
    telling.confidence = calibrate(telling, calibration, tmp_path / "confidence.json", coverage=0.5)
    return telling


def test_calibration_writes_what_a_captioner_reads_with_its_folder(tmp_path, tiny_captioner, calibrated):
    saved = json.loads((tmp_path / "confidence.json").read_text())
    assert set(saved["signals"]) == {"score", "cosine"}, "it names as many things each time: nothing to learn from"
    record = saved["calibration"]
    assert record["dataset"]["n"] == 60 and record["share_right"] == 0.5 and record["cross_validated"]["coverage"] == 0.5
    calibrated.save(tmp_path / "saved")
    loaded = Captioner.load(tmp_path / "saved")
    assert loaded.confidence == type(loaded.confidence).read(tmp_path) and Supervision.PAIRS_FOR_SETTINGS in loaded.supervision
    loaded.confidence = None
    loaded.save(tmp_path / "saved")
    assert Captioner.load(tmp_path / "saved").confidence is None, "that of other weights is not left behind"


def test_a_calibration_of_other_weights_is_passed_over_with_a_warning(tmp_path, tiny_captioner, calibrated):
    calibrated.save(tmp_path / "captioner")
    assert Captioner.load(tmp_path / "captioner").confidence is not None
    table = json.loads((tmp_path / "captioner/confidence.json").read_text())
    table["calibration"]["captioner"] = "0123456789abcdef"
    (tmp_path / "captioner/confidence.json").write_text(json.dumps(table))
    with pytest.warns(UserWarning, match="calibrated for other weights"):
        assert Captioner.load(tmp_path / "captioner").confidence is None


def test_a_damaged_calibration_is_passed_over_with_a_warning_and_can_be_made_again(tmp_path, calibrated):
    calibrated.save(tmp_path / "captioner")
    (tmp_path / "captioner/confidence.json").write_text("{")
    with pytest.warns(UserWarning, match=r"cannot be used.*Calibrate again.*no confidence until then"):
        assert Captioner.load(tmp_path / "captioner").confidence is None


def test_captions_get_confidence_from_the_decoding_that_was_calibrated_and_from_no_other(calibrated):
    vectors = torch.randn(5, 16)
    captions = calibrated.caption_embeddings(vectors)
    assert all(0 < caption.confidence < 1 for caption in captions)
    assert [caption.unsure for caption in captions] == [caption.confidence < calibrated.confidence.threshold for caption in captions]
    one_by_one = calibrated.caption_embeddings(vectors, batch=1)
    assert [caption.confidence for caption in one_by_one] == pytest.approx([caption.confidence for caption in captions], abs=1e-5)
    assert all(caption.confidence is None for caption in calibrated.caption_embeddings(vectors, replace(SHORT, beams=2)))


def test_a_captioner_that_was_not_calibrated_says_the_same_as_before(calibrated):
    vectors = torch.randn(3, 16)
    with_it = calibrated.caption_embeddings(vectors)
    calibrated.confidence = None
    assert calibrated.caption_embeddings(vectors) == [replace(caption, confidence=None, unsure=False) for caption in with_it]


def test_with_draws_agreement_is_among_the_signals(tmp_path, tiny_captioner):
    vectors = torch.randn(4, 16)
    told = tiny_captioner.caption_embeddings(vectors, SHORT)
    assert set(tiny_captioner.signals(told, vectors)) == {"score", "cosine", "things"}
    found = tiny_captioner.signals(told, vectors, draws=2)["agreement"]
    assert ((found >= 0) & (found <= 1)).all()
    assert (found == tiny_captioner.signals(told, vectors, draws=2)["agreement"]).all()


def test_draws_are_in_the_style_and_length_of_the_captions_that_they_are_to_agree_with(tiny_captioner, monkeypatch):
    tiny_captioner.styles, tiny_captioner.lengths, told = ("", "a"), {"": (2, 3), "a": (2, 3)}, []
    generate = tiny_captioner.decoder.generate
    monkeypatch.setattr(
        tiny_captioner.decoder, "generate", lambda condition, decoding: (told.append(condition.prompts), generate(condition, decoding))[1]
    )
    vectors, decoding = torch.randn(2, 16), replace(SHORT, style="a", length="long")
    captions = tiny_captioner.caption_embeddings(vectors, decoding)
    tiny_captioner.signals(captions, vectors, draws=2, decoding=decoding)
    assert told == [("a long", "a long")] * 2


@pytest.mark.parametrize("seed", [0, 7])
def test_a_caption_that_was_drawn_is_not_among_the_draws_that_it_is_to_agree_with(tiny_captioner, monkeypatch, seed):
    found, generate = [], tiny_captioner.decoder.generate
    monkeypatch.setattr(tiny_captioner.decoder, "generate", lambda *given: (found.append(generate(*given)), found[-1])[1])
    vectors, decoding = torch.randn(6, 16), Decoding("nucleus", max_tokens=40, top_p=1.0, seed=seed)
    tiny_captioner.signals(tiny_captioner.caption_embeddings(vectors, decoding), vectors, draws=1, decoding=decoding)
    told, further = ([caption.tokens for (caption,) in captions] for captions in found)
    assert not any(one == other for one, other in zip(told, further, strict=True))


def test_signals_do_not_depend_on_batches_where_a_bridge_draws(tiny_captioner):
    from capdec import parts

    memory = parts.build("bridges", {"name": "memory_projection", "temperature": 0.1}, dim=16)
    memory.memory.rows = torch.nn.functional.normalize(torch.randn(12, 16), dim=-1).bfloat16()
    tiny_captioner.bridges = [parts.build("bridges", {"name": "region_noise", "std": 0.5}, dim=16), memory]
    vectors = torch.randn(4, 16)
    captions = tiny_captioner.caption_embeddings(vectors, SHORT)
    whole = tiny_captioner.signals(captions, vectors)["known"]
    parted = [tiny_captioner.signals(captions[at : at + 2], vectors[at : at + 2], start=at)["known"] for at in (0, 2)]
    assert np.concatenate(parted) == pytest.approx(whole)


def test_photos_of_a_kind_far_from_the_memory_are_less_known(tmp_path, tiny_captioner):
    from capdec import parts

    bridge = parts.build("bridges", {"name": "memory_projection", "temperature": 0.1}, dim=16)
    bridge.memory.rows = torch.nn.functional.one_hot(torch.zeros(12, dtype=torch.long), 16).bfloat16()
    tiny_captioner.bridges.append(bridge)
    vectors = torch.eye(16)[:2]
    known = tiny_captioner.signals(tiny_captioner.caption_embeddings(vectors, SHORT), vectors)["known"]
    assert known == pytest.approx([1, 0])


def test_what_cannot_be_learned_is_an_error_that_says_why(tmp_path, telling, calibration, shard):
    with pytest.raises(DataError, match="of 6 captions 0 name only what a reference names: of both kinds 20 are needed"):
        calibrate(telling, shard, tmp_path / "c.json")
    with pytest.raises(SettingError, match="Ask for less"):
        calibrate(telling, calibration, tmp_path / "c.json", precision=0.99)
    with pytest.raises(SettingError, match="shares between 0 and 1"):
        calibrate(telling, calibration, tmp_path / "c.json", coverage=1.5)
    telling.language = "de"
    with pytest.raises(SettingError, match="known in English alone, and this captioner speaks 'de'"):
        calibrate(telling, calibration, tmp_path / "c.json", coverage=0.5)
    assert not (tmp_path / "c.json").exists()


def test_the_threshold_keeps_captions_equally_sure_together():
    from capdec.calibrate import _shares, _threshold

    sure, right = np.array([0.9] * 20 + [0.5] * 40 + [0.1] * 40), np.array([True] * 20 + [True, False] * 10 + [False] * 60)
    assert _threshold(sure, right, 0.6, None) == 0.9, "of all 60 half are right, and of 50 of them more"
    assert _threshold(sure, right, 0.5, None) == 0.5 and _threshold(sure, right, 0.5, 0.3) == 0.5
    assert _threshold(np.linspace(0, 1, 30), np.zeros(30, bool), 0.5, None) == np.inf
    tied, some = np.array([0.9] * 10 + [0.5] * 40), np.array([True] * 18 + [False] * 32)
    assert _threshold(tied, some, 0.6, None) == np.inf and _shares(tied, some).max() == pytest.approx(0.36), (
        "ten are too few, and beyond them all are alike"
    )


def test_photos_that_cannot_be_opened_are_left_out_where_that_is_asked_for(tmp_path, telling, calibration):
    broken = tmp_path / "broken.tar"
    with tarfile.open(calibration["path"]) as whole, tarfile.open(broken, "w") as part:
        for info in whole:
            content = b"no picture" if info.name == "p05.png" else whole.extractfile(info).read()
            info.size = len(content)
            part.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"1 photos cannot be opened.*--partial"):
        calibrate(telling, {**calibration, "path": str(broken)}, tmp_path / "c.json", coverage=0.5)
    made = calibrate(telling, {**calibration, "path": str(broken)}, tmp_path / "c.json", coverage=0.5, partial=True)
    assert (made.record["dataset"]["n"], made.record["dataset"]["left_out"]) == (59, 1)
    with pytest.raises(SettingError, match="shares between 0 and 1"):
        calibrate(telling, calibration, tmp_path / "c.json", coverage=0.0)


def test_photos_that_it_may_have_learned_from_are_warned_of(tmp_path, telling, calibration, calibrated):
    telling.text = ("tiny",)
    with pytest.warns(UserWarning, match="surer than it is"):
        calibrate(telling, {**calibration, "split": "train"}, tmp_path / "c.json", coverage=0.5)
    evaluate(calibrated, calibration, tmp_path / "out", metrics=("coco_scores", "unseen_nouns"), baselines=(), resamples=20)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["confidence"] == json.loads(json.dumps(calibrated.confidence.as_json()))
    with pytest.warns(UserWarning, match="the photos it was calibrated on"):
        coverage(tmp_path / "out", resamples=20)


def test_where_all_captions_are_right_nothing_is_said_of_their_order(tmp_path, calibrated, calibration):
    fast = {"metrics": ("coco_scores", "unseen_nouns"), "baselines": (), "resamples": 20}
    evaluate(calibrated, calibration, tmp_path / "out", **fast)
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    (tmp_path / "out/manifest.json").unlink()
    (tmp_path / "out/predictions.jsonl").write_text("".join(json.dumps({**row, "references": ["a man", "a horse"]}) + "\n" for row in rows))
    assert coverage(tmp_path / "out", resamples=20)["reliability"]["auroc"] == {"value": None}
    assert CliRunner().invoke(main, ["coverage", str(tmp_path / "out")]).exit_code == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    (tmp_path / "out/scores.json").write_text(json.dumps({**scores, "language": "de"}))
    with pytest.raises(DataError, match="English alone"):
        coverage(tmp_path / "out")


def test_unsure_captions_are_withheld_where_that_is_asked_for(tmp_path, calibrated):
    paths = []
    for n in range(6):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        paths.append(str(tmp_path / f"{n}.png"))
    all_said = list(caption_files(calibrated, paths))
    least = sorted(record.caption.confidence for record in all_said)[3]
    records = list(caption_files(calibrated, paths, least=least))
    assert [record.withheld for record in records] == [record.caption.confidence < least for record in all_said]
    assert sum(record.withheld for record in records) == 3
    for line in (json.loads(record.as_json()) for record in records):
        assert (line["caption"] is None) == (line["confidence"] < round(least, 4)) and (line["caption"] is not None or line["unsure"])
    with pytest.raises(SettingError, match="calibrated for another decoding"):
        next(caption_files(calibrated, paths, replace(SHORT, beams=2), least=0.5))


def test_the_curve_is_of_the_evaluation_and_needs_confidence(tmp_path, calibrated, calibration):
    fast = {"metrics": ("coco_scores", "unseen_nouns", "clip_score"), "baselines": (), "resamples": 20}
    evaluate(calibrated, calibration, tmp_path / "out", **fast)
    found = coverage(tmp_path / "out", resamples=50)
    assert found == json.loads(json.dumps(found)) == json.loads((tmp_path / "out/coverage.json").read_text())
    assert found["n"] == 60 and found["right"] == 0.5 and (tmp_path / "out/coverage.svg").read_text().startswith("<?xml")
    whole, *_, few = found["by"]["confidence"]
    scores = json.loads((tmp_path / "out/scores.json").read_text())["systems"]["itself"]
    assert whole["figures"]["CIDEr"]["value"] == pytest.approx(scores["CIDEr"]["value"], abs=0.01)
    assert whole["figures"]["captions with unseen nouns"]["value"] == 50 and few["coverage"] == 0.2
    assert found["aurc"]["best"]["value"] < found["aurc"]["confidence"]["value"] and found["aurc"]["none"]["value"] == 0.5
    calibrated.confidence = None
    evaluate(calibrated, calibration, tmp_path / "without", **fast)
    with pytest.raises(DataError, match="have no confidence"):
        coverage(tmp_path / "without")


def test_the_commands_calibrate_a_folder_and_say_nothing_they_are_unsure_of(tmp_path, tiny_captioner, calibration):
    run = CliRunner().invoke
    refused = run(main, ["calibrate", "flickr", "--dataset", calibration["path"]])
    assert refused.exit_code == 2 and "--output" in refused.output
    tiny_captioner.decoding = SHORT
    tiny_captioner.save(tmp_path / "captioner")
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    unknown = run(main, ["caption", str(tmp_path / "x.png"), "--captioner", str(tmp_path / "captioner"), "--sure"])
    assert unknown.exit_code == 2 and "not calibrated" in unknown.output
    nothing = {"score": {"mean": 0.0, "deviation": 1.0, "weight": 0.0}}
    made = {"format_version": 1, "signals": nothing, "bias": -2.0, "threshold": 0.5, "draws": 0, "decoding": SHORT.__dict__, "calibration": {}}
    (tmp_path / "captioner/confidence.json").write_text(json.dumps(made))
    words = ["caption", str(tmp_path / "x.png"), "--captioner", str(tmp_path / "captioner"), "--write", "txt", "--dtype", "float32"]
    silent = run(main, [*words, "--sure"])
    line = json.loads(silent.stdout)
    assert (line["caption"], line["confidence"], line["unsure"]) == (None, 0.1192, True) and not (tmp_path / "x.txt").exists()
    said = json.loads(run(main, [*words, "--min-confidence", "0.1"]).stdout)
    assert said["caption"] is not None and said["unsure"] and (tmp_path / "x.txt").exists()
