import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from capdec import recipe
from capdec.backbones.mini import Mini
from capdec.captioner import Captioner
from capdec.checkpoint import read_tensors
from capdec.errors import DataError, MismatchError, SettingError
from capdec.protocols import Decoding
from capdec.train import Training, settings, train
from conftest import DECODER

FAST = {"steps": 12, "batch": 16, "warmup": 2, "evaluate_every": 4, "held_out": 0.2, "choose_steps": 4, "choose_cosines": [0.9, 0.5]}
NOISE = [{"name": "gaussian_noise", "target_cosine": 0.5}]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "weights.safetensors")[0]


def test_training_writes_a_captioner_that_loads_and_says_the_same(tmp_path, tiny_backbone, captions_file):
    trained = train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST)
    loaded = Captioner.load(tmp_path / "run")
    vectors = torch.randn(3, 16)
    assert [c.text for c in loaded.caption_embeddings(vectors)] == [c.text for c in trained.caption_embeddings(vectors)]
    for name in ("config.json", "README.md", "recipe.toml", "scores.json", "training/metrics.jsonl"):
        assert (tmp_path / "run" / name).is_file()
    lines = [json.loads(line) for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert "sibling" in lines[3]["held_out"]


def test_the_resolved_recipe_trains_the_same_captioner_again(tmp_path, tiny_backbone, captions_file):
    train(str(captions_file), tmp_path / "first", backbone=tiny_backbone, decoder=DECODER, training=FAST, decoding={"beams": 3})
    table = recipe.read(tmp_path / "first/recipe.toml")
    assert table["bridges"][0]["target_cosine"] in FAST["choose_cosines"], "what was chosen is written down"
    assert train(output=tmp_path / "second", **table).decoding == Captioner.load(tmp_path / "first").decoding == Decoding(beams=3)
    first, second = _weights(tmp_path / "first"), _weights(tmp_path / "second")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_noise_is_chosen_by_held_out_siblings_and_without_them_is_the_backbones_default(tmp_path, tiny_backbone, captions_file):
    train(str(captions_file), tmp_path / "siblings", backbone=tiny_backbone, decoder=DECODER, training=FAST)
    noise = json.loads((tmp_path / "siblings/scores.json").read_text())["noise"]
    best = max(noise["candidates"], key=lambda cosine: noise["candidates"][cosine]["sibling"])
    assert noise["target_cosine"] == float(best)
    (tmp_path / "plain.txt").write_text("\n".join(f"a man sees {n} dogs" for n in range(60)))
    train(str(tmp_path / "plain.txt"), tmp_path / "plain", backbone=tiny_backbone, decoder=DECODER, training=FAST)
    assert json.loads((tmp_path / "plain/scores.json").read_text())["noise"]["target_cosine"] == Mini.target_cosine


def test_no_image_is_ever_looked_at(tmp_path, tiny_backbone, captions_file, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a text-only recipe called encode_image")

    monkeypatch.setattr(Mini, "encode_image", fail)
    captioner = train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST)
    assert captioner.supervision.words() == "text only"


@pytest.mark.parametrize(
    "bridge", [{"name": "mean_shift"}, {"name": "gaussian_noise", "std": 0.0, "modality_offset": True}], ids=lambda one: one["name"]
)
def test_held_out_text_is_scored_where_the_decoder_learned_to_read_it(tmp_path, tiny_backbone, captions_file, photos, bridge, monkeypatch):
    """Text moves as text does: the images' mean would be subtracted from it otherwise."""
    plan = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST, "unpaired_photos": photos}
    made = train(str(captions_file), tmp_path / "run", bridges=[bridge], **plan)
    log_prob, asked = type(made.decoder).log_prob, []
    monkeypatch.setattr(type(made.decoder), "log_prob", lambda self, condition, *rest: asked.append(condition) or log_prob(self, condition, *rest))
    data = _held_out_data(captions_file, tiny_backbone, tmp_path / "rows")
    data.evaluate(made.decoder, made.bridges, settings(FAST))
    clean = data.corpus.condition(data.own)
    torch.testing.assert_close(asked[0].embeddings, made.bridges[0].from_text(clean, None).embeddings)
    assert (asked[0].embeddings - made.bridges[0].from_image(clean, None).embeddings).abs().max() > 0.01


def _held_out_data(captions_file, tiny_backbone, folder):
    from capdec import parts
    from capdec.corpus import embed, open_dataset, read_pairs
    from capdec.train import _Data, _held_out

    corpus = embed(read_pairs(open_dataset(str(captions_file))), parts.build("backbones", tiny_backbone), folder)
    learn, held = corpus.split(0.2, 0)
    return _Data(corpus, learn, *_held_out(corpus, held), siblings_of={}, images=None, bounds={})


@pytest.mark.parametrize("clip", [1e9, 0.01])
def test_a_step_takes_the_mean_over_tokens_and_clips_it(tmp_path, tiny_backbone, captions_file, clip):
    from capdec.decoders.small_transformer import SmallTransformer
    from capdec.train import _step, _Worker

    data, plan = _held_out_data(captions_file, tiny_backbone, tmp_path / "rows"), settings({**FAST, "clip": clip, "accumulate": 2})
    torch.manual_seed(0)
    decoder = SmallTransformer.tiny(tmp_path)
    decoder.fit(data.corpus.pairs.targets)
    rows = next(data.batches(plan))
    total, tokens = decoder.log_prob(data.corpus.condition(rows), data.corpus.targets(rows), plan.label_smoothing)
    loss = -total.sum() / tokens.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), clip)
    wanted = [p.detach() - p.grad for p in decoder.parameters()]
    plain = torch.optim.SGD(decoder.parameters(), lr=1.0)
    assert _step(decoder, plain, rows, 0, data, [], plan, _Worker("cpu", plan)) == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close([p.detach() for p in decoder.parameters()], wanted, rtol=1e-4, atol=1e-6)


def test_held_out_photos_are_not_learned_from(tmp_path, tiny_backbone, captions_file):
    from capdec import parts
    from capdec.corpus import embed, open_dataset, read_pairs

    corpus = embed(read_pairs(open_dataset(str(captions_file))), parts.build("backbones", tiny_backbone), tmp_path / "store")
    learn, held = corpus.split(0.2, seed=0)
    ids = corpus.pairs.image_ids
    assert len(learn) + len(held) == len(corpus) and len(held) > 0
    assert not {ids[row] for row in learn.tolist()} & {ids[row] for row in held.tolist()}


def test_sentences_can_be_left_out_by_the_length_of_their_embeddings(tmp_path, tiny_backbone, captions_file):
    """DeCap's filter: by what the backbone says before it is brought to unit length."""
    from capdec import parts
    from capdec.corpus import open_dataset, read_pairs

    lengths = parts.build("backbones", tiny_backbone).encode_text(read_pairs(open_dataset(str(captions_file))).sources, normalize=False).norm(dim=1)
    middle = lengths.median().item()
    plan = {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER}
    train(str(captions_file), tmp_path / "run", training={**FAST, "norms": [0, middle]}, **plan)
    report = json.loads((tmp_path / "run/scores.json").read_text())
    assert report["captions"] == (lengths <= middle).sum() and report["left_out_by_norm"] == (lengths > middle).sum()
    assert f"{report['left_out_by_norm']} left out by their norm" in (tmp_path / "run/README.md").read_text()
    with pytest.raises(DataError, match=r"no embedding is between 900.* long: 90 % are between"):
        train(str(captions_file), tmp_path / "none", training={**FAST, "norms": [900, 901]}, **plan)
    with pytest.raises(SettingError, match="two lengths"):
        train(str(captions_file), tmp_path / "one", training={**FAST, "norms": [3]}, **plan)
    with pytest.raises(SettingError, match="nor with a memory"):
        bridges = [{"name": "memory_projection", "memory": "somewhere"}]
        train(str(captions_file), tmp_path / "two", training={**FAST, "norms": [1, 3]}, **{**plan, "bridges": bridges})


def test_what_a_decoder_begins_with_counts(tmp_path, tiny_backbone, captions_file, photos):
    """A language model that learned from pairs, and from what text, is part of what a captioner was given."""
    told, plan = {"path": str(captions_file), "dataset": "walls"}, {"backbone": tiny_backbone, "bridges": [], "training": FAST}
    train(told, tmp_path / "words", paired_photos=photos, decoder=DECODER, **plan)
    start = {**DECODER, "start": str(tmp_path / "words"), "frozen": True}
    made = train(str(captions_file), tmp_path / "run", decoder=start, **plan)
    assert Captioner.load(tmp_path / "run").supervision_on("walls").words() == "text + target-domain text + pairs"
    before, after = _weights(tmp_path / "words"), _weights(tmp_path / "run")
    assert torch.equal(before["decoder.words.weight"], after["decoder.words.weight"]) and made.decoder.start == start["start"]


def test_what_bridges_were_given_counts_for_a_captioner_that_begins_with_theirs(tmp_path, tiny_backbone, captions_file, photos):
    plan = {"training": FAST, "unpaired_photos": photos}
    train(str(captions_file), tmp_path / "begin", backbone=tiny_backbone, bridges=[{"name": "mean_shift"}], decoder=DECODER, **plan)
    made = train(str(captions_file), tmp_path / "run", start=str(tmp_path / "begin"), bridges=NOISE, training=FAST)
    assert made.supervision.words() == "text + unpaired image statistics" == Captioner.load(tmp_path / "run").supervision.words()


def test_a_captioner_is_not_trained_on_in_its_own_folder(tmp_path, tiny_backbone, captions_file):
    train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST)
    before = _weights(tmp_path / "run")
    with pytest.raises(SettingError, match="would be lost"):
        train(str(captions_file), tmp_path / "run", start=f"{tmp_path}/./run", training=FAST)
    assert all(torch.equal(tensor, before[name]) for name, tensor in _weights(tmp_path / "run").items())


def test_a_finished_training_run_again_keeps_how_sure_it_may_be(tmp_path, tiny_backbone, captions_file):
    from capdec.confidence import Confidence, Signal

    plan = {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER}
    made = train(str(captions_file), tmp_path / "run", training=FAST, **plan)
    made.confidence = Confidence({"score": Signal(-1, 0.5, 1)}, 0.0, 0.5, made.decoding, record={"captioner": made.fingerprint})
    made.save(tmp_path / "run")
    assert train(str(captions_file), tmp_path / "run", training=FAST, **plan).confidence == made.confidence
    assert Captioner.load(tmp_path / "run").confidence == made.confidence


def test_a_memory_is_of_captions(tmp_path, tiny_backbone, captions_file, photos):
    plan = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST, "paired_photos": photos}
    with pytest.raises(SettingError, match="a memory would be of photos"):
        train(str(captions_file), tmp_path / "run", bridges=[{"name": "memory_projection"}], **plan)


def test_a_target_can_differ_from_its_source(tmp_path, tiny_backbone, captions_file):
    targets = tmp_path / "german.jsonl"
    targets.write_text("".join(json.dumps({"image_id": f"photo-{n}", "captions": [f"ein Hund Nummer {n}"]}) + "\n" for n in range(60)))
    train(str(targets), tmp_path / "run", sources=str(captions_file), backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST)
    report = json.loads((tmp_path / "run/scores.json").read_text())
    assert report["captions"] == 180 and "told from" in (tmp_path / "run/README.md").read_text()


def test_another_recipe_or_corpus_in_the_same_folder_is_refused(tmp_path, tiny_backbone, captions_file):
    common = {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER}
    train(str(captions_file), tmp_path / "run", training=FAST, **common)
    with pytest.raises(MismatchError, match="recipe"):
        train(str(captions_file), tmp_path / "run", training={**FAST, "learning_rate": 0.5}, **common)
    captions_file.write_text(captions_file.read_text().replace("a man", "an old man"))
    with pytest.raises(MismatchError, match="something else"):
        train(str(captions_file), tmp_path / "run", training=FAST, **common)


def test_settings_that_cannot_be_are_refused_before_any_work(tmp_path, tiny_backbone, captions_file):
    with pytest.raises(SettingError, match="learning_rate"):
        settings({"learning_speed": 1})
    with pytest.raises(SettingError, match="below 1"):
        settings({"batch": 0})
    with pytest.raises(SettingError, match="no_repeat_ngram_size"):
        train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, decoder=DECODER, decoding={"no_repeat": 3})
    with pytest.raises(SettingError, match="cannot be shared"):
        train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, decoder=DECODER, training={**FAST, "batch": 15, "accumulate": 2})
    assert not (tmp_path / "run").exists()


def test_a_decoder_that_cannot_be_built_is_refused_before_the_corpus_is_embedded(tmp_path, tiny_backbone, captions_file):
    with pytest.raises(SettingError, match="layer"):
        train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, decoder={"name": "small_transformer", "layer": 2}, training=FAST)
    with pytest.raises(SettingError, match="target_cosine"):
        train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=[{"name": "gaussian_noise", "target_cosine": 7}], training=FAST)
    assert not (tmp_path / "run").exists()


def test_a_small_corpus_gets_fewer_steps():
    assert Training().settled(2000).steps == 312 and Training().settled(10**6).steps == 3000 and Training(steps=7).settled(2000).steps == 7
    assert Training().settled(2000).choose_steps == 156


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    plan = Training(steps=100, warmup=10, learning_rate=1.0)
    assert plan.rate(0) == pytest.approx(0.1) and plan.rate(9) == pytest.approx(1.0) and plan.rate(99) < 1e-3
    assert Training(steps=100, warmup=10, learning_rate=1.0, schedule="linear").rate(55) == pytest.approx(0.5)


def test_accumulated_parts_give_the_update_of_the_whole_batch(tmp_path, tiny_backbone, captions_file):
    still = {**DECODER, "dropout": 0.0}
    for name, accumulate in (("whole", 1), ("parts", 4)):
        train(
            str(captions_file), tmp_path / name, backbone=tiny_backbone, bridges=NOISE, decoder=still,
            training={**FAST, "accumulate": accumulate, "keep": "last"}, embeddings=tmp_path / "store",
        )  # fmt: skip
    whole, parted = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    for name in whole:
        torch.testing.assert_close(whole[name], parted[name], rtol=1e-3, atol=1e-4)


def test_bfloat16_learns_too(tmp_path, tiny_backbone, captions_file):
    train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training={**FAST, "dtype": "bfloat16"})
    lines = [json.loads(line) for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in _weights(tmp_path / "run").values() if tensor.is_floating_point())


def _command(captions: Path, output: Path, backbone: dict, *more: str, decoder: dict = DECODER) -> list[str]:
    training = {**FAST, "steps": 40, "keep": "best"}
    sets = [f"backbone={json.dumps(backbone)}", f"bridges={json.dumps(NOISE)}", f"decoder={json.dumps(decoder)}", f"training={json.dumps(training)}"]
    return ["-m", "capdec", "train", str(captions), "--output", str(output), *more, *(word for one in sets for word in ("--set", one))]


def test_a_run_killed_twice_ends_with_the_weights_of_an_undisturbed_one(tmp_path, tiny_backbone, captions_file):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    metrics = tmp_path / "killed/training/metrics.jsonl"
    for reached in (6, 17):
        process = subprocess.Popen(
            [sys.executable, *_command(captions_file, tmp_path / "killed", tiny_backbone)], env=environment, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.is_file() and metrics.read_text().count("\n") >= reached:
                break
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed/config.json").exists()
    for name in ("killed", "undisturbed"):
        subprocess.run([sys.executable, *_command(captions_file, tmp_path / name, tiny_backbone)], env=environment, check=True, capture_output=True)
    killed, undisturbed = _weights(tmp_path / "killed"), _weights(tmp_path / "undisturbed")
    assert all(torch.equal(killed[name], undisturbed[name]) for name in undisturbed)
    strip = [
        [{**json.loads(line), "time": 0} for line in (tmp_path / run / "training/metrics.jsonl").read_text().splitlines()]
        for run in ("killed", "undisturbed")
    ]
    assert strip[0] == strip[1]


def test_ctrl_c_waits_for_the_step_and_loses_nothing(tmp_path, tiny_backbone, captions_file, monkeypatch):
    import os
    import signal

    from capdec import train as module

    plan = {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER, "training": FAST}
    train(str(captions_file), tmp_path / "whole", **plan)
    take, taken = module._step, []

    def step(*given):
        taken.append(0)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return take(*given)

    monkeypatch.setattr(module, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(str(captions_file), tmp_path / "cut", **plan)
    assert len(taken) == 3 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(str(captions_file), tmp_path / "cut", **plan)
    assert len(taken) == FAST["steps"], "none is taken twice"
    whole, cut = (_weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())


def test_two_processes_train_what_one_does(tmp_path, tiny_backbone, captions_file):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    still = {**DECODER, "dropout": 0.0}
    two = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *_command(captions_file, tmp_path / "two", tiny_backbone, decoder=still),
    ]
    for command in (two, _command(captions_file, tmp_path / "one", tiny_backbone, decoder=still)):
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    identity = json.loads(read_tensors(tmp_path / "two/training/state.safetensors")[1]["identity"])
    assert identity["processes"] == 2
    one, both = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], both[name], rtol=1e-3, atol=1e-4)


def test_captions_told_from_siblings_are_never_told_from_themselves(tmp_path, tiny_backbone, captions_file, monkeypatch):
    from capdec import train as job

    seen = []
    told_from = job._Data.told_from

    def spy(self, rows, generator):
        sources = told_from(self, rows, generator)
        seen.append((rows, sources, self))
        return sources

    monkeypatch.setattr(job._Data, "told_from", spy)
    train(str(captions_file), tmp_path / "run", sources="siblings", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST)
    texts, ids = seen[0][2].corpus.pairs.targets, seen[0][2].corpus.pairs.image_ids
    for rows, sources, _ in seen:
        assert all(ids[row] == ids[source] and texts[row] != texts[source] for row, source in zip(rows.tolist(), sources.tolist(), strict=True))
    assert len({tuple(sources.tolist()) for _, sources, _ in seen}) == len(seen)
    (tmp_path / "plain.txt").write_text("\n".join(f"a man sees {n} dogs" for n in range(60)))
    with pytest.raises(SettingError, match="several captions"):
        train(str(tmp_path / "plain.txt"), tmp_path / "no", sources="siblings", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST)


def test_the_paired_upper_bound_is_told_from_photos_and_says_so(tmp_path, tiny_backbone, captions_file, photos):
    with pytest.warns(UserWarning, match="1 of 40 photos"):
        captioner = train(
            str(captions_file), tmp_path / "run", paired_photos=photos, backbone=tiny_backbone, decoder=DECODER, bridges=[], training=FAST
        )
    report = json.loads((tmp_path / "run/scores.json").read_text())
    assert report["captions"] == 39 * 3
    assert captioner.supervision.words() == "text + pairs" == Captioner.load(tmp_path / "run").supervision.words()
    corpus_rows = np.load(tmp_path / "run/embeddings/paired_photos/00000.npy")
    from capdec import parts

    blue = parts.build("backbones", tiny_backbone).encode_image([Image.new("RGB", (16, 12), (0, 120, 250))])
    np.testing.assert_allclose(corpus_rows[0], blue[0].numpy(), atol=1e-4)


def test_the_modality_offset_is_learned_from_unpaired_photos_and_says_so(tmp_path, tiny_backbone, captions_file, photos):
    offset = [{"name": "gaussian_noise", "std": 0.1, "modality_offset": True}]
    with pytest.warns(UserWarning, match="could not be opened"):
        captioner = train(
            str(captions_file), tmp_path / "run", unpaired_photos=photos, backbone=tiny_backbone, bridges=offset, decoder=DECODER, training=FAST
        )
    rows = torch.from_numpy(np.load(tmp_path / "run/embeddings/unpaired_photos/00000.npy"))
    texts = torch.from_numpy(np.load(tmp_path / "run/embeddings/00000.npy"))
    expected = rows[rows.norm(dim=1) > 0].mean(0) - texts.mean(0)
    torch.testing.assert_close(captioner.bridges[0].offset, expected, rtol=1e-4, atol=1e-5)
    again = Captioner.load(tmp_path / "run")
    assert again.supervision.words() == "text + unpaired image statistics"
    torch.testing.assert_close(again.bridges[0].offset, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match="unpaired_photos"):
        train(str(captions_file), tmp_path / "none", backbone=tiny_backbone, bridges=offset, decoder=DECODER, training=FAST)


def test_settings_chosen_on_pairs_are_kept_with_the_captioner(tmp_path, tiny_backbone, captions_file):
    captioner = train(
        str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=FAST, chosen={"pairs": True}
    )
    assert captioner.supervision.words() == "text + settings chosen on pairs" == Captioner.load(tmp_path / "run").supervision.words()


def test_a_smaller_corpus_is_whole_photos_of_a_larger_one(captions_file):
    from capdec.corpus import open_dataset, read_pairs

    pairs = read_pairs(open_dataset(str(captions_file)))
    few, more = pairs.at_most(30, seed=1), pairs.at_most(90, seed=1)
    assert len(few) == 30 and len(more) == 90 and len(pairs.at_most(10**6, seed=1)) == 240
    assert set(few.image_ids) < set(more.image_ids) and set(few.image_ids) != set(pairs.at_most(30, seed=2).image_ids)
    assert all(few.image_ids.count(image) == 3 for image in few.image_ids)


def test_a_small_part_of_a_corpus_is_not_the_part_that_is_held_out(captions_file, tiny_backbone, tmp_path):
    from capdec import parts
    from capdec.corpus import embed, open_dataset, read_pairs

    pairs = read_pairs(open_dataset(str(captions_file))).at_most(30, seed=0)
    learn, held = embed(pairs, parts.build("backbones", tiny_backbone), tmp_path / "store").split(0.2, seed=0)
    assert len(learn) > len(held)


def test_a_language_is_kept_with_the_captioner_and_what_the_backbone_does_not_read_is_refused(tmp_path, tiny_backbone):
    german = tmp_path / "german.jsonl"
    rows = [{"image_id": str(n), "captions": [f"Ein Mädchen läuft über die Straße {n}", f"Zwei Bären, groß, Nr. {n}"]} for n in range(40)]
    german.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    english = tmp_path / "english.jsonl"
    english.write_text("".join(json.dumps({"image_id": str(n), "captions": [f"a girl runs {n}"]}) + "\n" for n in range(40)))
    same = {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER, "training": FAST, "language": "de"}
    with pytest.raises(SettingError, match="name sources in a language that it reads"):
        train(str(german), tmp_path / "run", **same)
    with pytest.raises(SettingError, match="'de', and Mini is not said to read that"):
        train(str(german), tmp_path / "run", sources=str(english), decoding={"rerank": "clip", "candidates": 3}, **same)
    trained = train(str(german), tmp_path / "run", sources=str(english), decoding={"rerank": "consensus", "candidates": 3}, **same)
    loaded = Captioner.load(tmp_path / "run")
    assert trained.language == loaded.language == recipe.read(tmp_path / "run/recipe.toml")["language"] == "de"
    assert "Language: de" in (tmp_path / "run/README.md").read_text()
    vectors = torch.randn(2, 16)
    assert len(loaded.caption_embeddings(vectors)) == 2
    with pytest.raises(SettingError, match="neighbours or consensus"):
        loaded.caption_embeddings(vectors, Decoding(rerank="clip", candidates=3))
