"""Several styles, lengths, and training that begins with a captioner."""

import json
from pathlib import Path

import pytest
import torch

from capdec import parts
from capdec.captioner import Captioner
from capdec.checkpoint import read_tensors
from capdec.corpus import embed, open_dataset, read_pairs
from capdec.decoders.prefix_lm import PrefixLM
from capdec.errors import DataError, SettingError
from capdec.protocols import Decoding
from capdec.train import train
from conftest import DECODER

NOISE = [{"name": "gaussian_noise", "target_cosine": 0.8}]
TRAINING = {"steps": 60, "batch": 32, "warmup": 5, "evaluate_every": 60, "held_out": 0.1, "learning_rate": 5e-3}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "weights.safetensors")[0]


@pytest.fixture
def loud(tmp_path: Path, captions_file: Path) -> Path:
    """A caption for every fourth photo, in another manner."""
    rows = [json.loads(line) for line in captions_file.read_text().splitlines()][::4]
    path = tmp_path / "loud.jsonl"
    path.write_text("".join(json.dumps({"image_id": row["image_id"], "captions": [f"wow , {row['captions'][0]} !"]}) + "\n" for row in rows))
    return path


@pytest.fixture
def plain(tmp_path: Path, tiny_backbone: dict, captions_file: Path) -> Captioner:
    return train(
        str(captions_file), tmp_path / "begin", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=TRAINING, decoding={"beams": 2}
    )


def test_one_captioner_learns_several_styles_and_is_asked_for_one(tmp_path, tiny_backbone, captions_file, loud):
    captions = [str(captions_file), {"path": str(loud), "as": "loud"}]
    train(captions, tmp_path / "run", sources=str(captions_file), backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=TRAINING)
    captioner = Captioner.load(tmp_path / "run")
    assert captioner.styles == ("", "loud") and captioner.decoding.style == ""
    vectors = captioner.backbone.encode_text(["a man runs on grass", "two dogs look up"])
    assert all(caption.text.startswith("wow") for caption in captioner.caption_embeddings(vectors, Decoding(style="loud")))
    assert not any("wow" in caption.text for caption in captioner.caption_embeddings(vectors))
    with pytest.raises(SettingError, match=r"no style 'quiet'\. It has loud, and a plain one"):
        captioner.caption_embeddings(vectors, Decoding(style="quiet"))
    assert "plain, loud" in (tmp_path / "run/README.md").read_text()


def test_where_every_caption_has_a_style_the_first_is_the_captioners_own(tmp_path, tiny_backbone, captions_file, loud):
    captions = [{"path": str(loud), "as": "loud"}, {"path": str(captions_file), "as": "factual"}]
    made = train(captions, tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=TRAINING)
    assert made.decoding.style == "loud"
    vectors = made.backbone.encode_text(["a man runs on grass"])
    assert made.caption_embeddings(vectors, Decoding()) == made.caption_embeddings(vectors, Decoding(style="loud"))
    assert made.caption_embeddings(vectors, Decoding()) != made.caption_embeddings(vectors, Decoding(style="factual"))


def test_each_style_is_learned_as_often_and_has_its_own_siblings(tmp_path, tiny_backbone, captions_file, loud):
    pairs = read_pairs(open_dataset([str(captions_file), {"path": str(loud), "as": "loud"}]))
    corpus = embed(pairs, parts.build("backbones", tiny_backbone), tmp_path / "store")
    rows = corpus.evened(torch.arange(len(corpus)))
    assert [sum(corpus.style(row) == style for row in rows.tolist()) for style in ("", "loud")] == [240, 240]
    assert len(set(rows.tolist())) == len(corpus) == 260
    assert not any(corpus.style(row) == "loud" for row in corpus.siblings()), "a photo has one loud caption"
    assert torch.equal(corpus.evened(torch.arange(240)), torch.arange(240)), "nothing changes where there is one style"
    some = corpus.evened(torch.arange(199, len(corpus)))
    assert [sum(corpus.style(row) == style for row in some.tolist()) for style in ("", "loud")] == [41, 41], "41 and 20 are not far apart"


def test_a_style_is_told_from_every_factual_caption_of_its_photo(captions_file, loud):
    pairs = read_pairs(open_dataset(str(loud)), open_dataset(str(captions_file)))
    assert len(pairs) == 60 and len({*zip(pairs.image_ids, pairs.targets, strict=True)}) == 20
    assert pairs.sources[:3] == json.loads(captions_file.read_text().splitlines()[0])["captions"] and len(set(pairs.targets[:3])) == 1


def test_captions_without_a_source_are_told_of_and_a_style_without_any_is_an_error(tmp_path, tiny_backbone, captions_file, loud):
    made, lines = (
        {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER, "training": {**TRAINING, "steps": 2}},
        loud.read_text().splitlines(),
    )
    captions = [str(captions_file), {"path": str(loud), "as": "loud"}]
    loud.write_text("".join(line.replace('"image_id": "', '"image_id": "x') + "\n" for line in lines))
    with pytest.raises(DataError, match="of the style 'loud' no caption has a source"):
        train(captions, tmp_path / "none", sources=str(captions_file), **made)
    loud.write_text("".join(line.replace('"image_id": "', '"image_id": "' + "x" * (n < 5)) + "\n" for n, line in enumerate(lines)))
    with pytest.warns(UserWarning, match="5 captions are of no photo that the sources speak of, and are left out"):
        train(captions, tmp_path / "some", sources=str(captions_file), **made)
    assert json.loads((tmp_path / "some/scores.json").read_text())["without_source"] == 5
    assert "5 of photos that no source speaks of" in (tmp_path / "some/README.md").read_text()


def test_a_length_that_was_learned_can_be_asked_for(tmp_path, tiny_backbone):
    rows = []
    for photo in range(60):
        what = ["a man runs", "two dogs sit", "a child jumps"][photo % 3]
        rows.append({"image_id": str(photo), "captions": [what, f"{what} on the grass", f"{what} on the grass near a red car and a tree"]})
    path = tmp_path / "lengths.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = {**TRAINING, "lengths": True, "steps": 150}
    train(str(path), tmp_path / "run", backbone=tiny_backbone, bridges=NOISE, decoder=DECODER, training=plan)
    captioner = Captioner.load(tmp_path / "run")
    vectors = captioner.backbone.encode_text(["a man runs", "two dogs sit on the grass"])
    said = {}
    for length in ("short", "medium", "long"):
        said[length] = [len(one.text.split()) for one in captioner.caption_embeddings(vectors, Decoding(length=length))]
    assert max(said["short"]) < min(said["medium"]) and max(said["medium"]) < min(said["long"])


def test_a_length_that_was_not_learned_is_refused_with_what_any_captioner_takes(tiny_captioner):
    with pytest.raises(SettingError, match=r"did not learn lengths.*min_tokens"):
        tiny_captioner.caption_embeddings(torch.randn(1, 16), Decoding(length="long"))
    with pytest.raises(SettingError, match="min_tokens lies between"):
        tiny_captioner.check(Decoding(min_tokens=12, max_tokens=11))
    assert len(tiny_captioner.caption_embeddings(torch.randn(1, 16), Decoding(min_tokens=12, max_tokens=14))[0].tokens) >= 11
    most = DECODER["max_tokens"]
    assert len(tiny_captioner.caption_embeddings(torch.randn(1, 16), Decoding(min_tokens=39))[0].tokens) >= most - 1, "as much as the decoder can say"


def test_a_training_begins_with_a_captioner_and_has_its_settings(tmp_path, plain, captions_file, loud):
    made = train(str(loud), tmp_path / "run", sources=str(captions_file), start=str(tmp_path / "begin"), training=TRAINING)
    assert made.spec["bridges"] == NOISE and made.decoding == Decoding(beams=2)
    vectors = made.backbone.encode_text(["a man runs on grass"])
    assert made.caption_embeddings(vectors)[0].text.startswith("wow")
    assert "begins as" in (tmp_path / "run/README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()]
    scratch = [json.loads(line) for line in (tmp_path / "begin/training/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] < scratch[0]["loss"]


@pytest.mark.parametrize("learn", ["mapper", "lora"])
def test_a_part_of_the_decoder_learns_and_the_rest_stays(tmp_path, plain, captions_file, loud, learn):
    plan = {**TRAINING, "learn": learn, "lora_rank": 2, "steps": 8}
    train(str(loud), tmp_path / "run", sources=str(captions_file), start=str(tmp_path / "begin"), training=plan)
    before, after = _weights(tmp_path / "begin"), _weights(tmp_path / "run")
    assert before.keys() == after.keys(), "what was added is in the weights"
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in before if ".layers." in name and before[name].ndim == 2 and "mapper" not in name}
    assert moved == ({name for name in before if ".mapper." in name} if learn == "mapper" else matrices)
    if learn == "lora":
        change = after["decoder.layers.0.qkv.weight"] - before["decoder.layers.0.qkv.weight"]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    loaded = Captioner.load(tmp_path / "run")
    assert loaded.caption_embeddings(torch.randn(1, 16))


def test_a_language_model_of_the_hub_learns_by_low_rank(tmp_path, tiny_backbone, captions_file, loud):
    pytest.importorskip("peft")
    PrefixLM.tiny(tmp_path)
    small = {"prefix": 2, "clip_length": 2, "mapper_layers": 1, "mapper_heads": 2}
    decoder = {"name": "prefix_lm", "model": str(tmp_path / "tiny_gpt2"), **small}
    plan = {**TRAINING, "steps": 3, "evaluate_every": 3}
    train(str(captions_file), tmp_path / "begin", backbone=tiny_backbone, bridges=NOISE, decoder=decoder, training=plan)
    train(str(loud), tmp_path / "run", start=str(tmp_path / "begin"), training={**plan, "learn": "lora"})
    before, after = _weights(tmp_path / "begin"), _weights(tmp_path / "run")
    moved = {name.removeprefix("decoder.lm.transformer.h.") for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"{layer}.{part}.weight" for layer in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert Captioner.load(tmp_path / "run").caption_embeddings(torch.randn(1, 16))


def test_an_adaptation_that_was_cut_off_goes_on_to_the_same_weights(tmp_path, plain, captions_file, loud, monkeypatch):
    import capdec.train as module

    arguments = {"sources": str(captions_file), "start": str(tmp_path / "begin")}
    plan = {**TRAINING, "learn": "lora", "steps": 6, "evaluate_every": 3}
    train(str(loud), tmp_path / "whole", training=plan, **arguments)
    step = module._step

    def cut_off(*given):
        if given[3] == 4:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(module, "_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(str(loud), tmp_path / "cut", training=plan, **arguments)
    monkeypatch.setattr(module, "_step", step)
    train(str(loud), tmp_path / "cut", training=plan, **arguments)
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_what_cannot_begin_is_refused(tmp_path, plain, captions_file):
    with pytest.raises(SettingError, match="an untrained one says nothing"):
        train(str(captions_file), tmp_path / "run", training={"learn": "mapper"})
    with pytest.raises(SettingError, match="has its backbone and its decoder"):
        train(str(captions_file), tmp_path / "run", start=str(tmp_path / "begin"), decoder=DECODER)
    with pytest.raises(SettingError, match="empty list"):
        open_dataset([])


def test_a_style_and_a_length_that_are_not_learned_are_no_captioners_own(tmp_path, tiny_backbone, captions_file, loud):
    plan, made = {**TRAINING, "steps": 2, "evaluate_every": 2}, {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER}
    captions = [str(captions_file), {"path": str(loud), "as": "loud"}]
    decoding = {"style": "loud", "length": "short"}
    begun = train(captions, tmp_path / "begin", training={**plan, "lengths": True}, decoding=decoding, **made)
    assert (begun.decoding.style, begun.decoding.length) == ("loud", "short")
    with pytest.warns(UserWarning, match="will forget them: loud"):
        plain = train(str(captions_file), tmp_path / "plain", start=str(tmp_path / "begin"), training=plan)
    assert plain.decoding == Decoding() and plain.caption_embeddings(torch.randn(1, 16)), "what it has from the captioner it begins with"
    with pytest.raises(SettingError, match="'loud' is no style of these captions"):
        train(str(captions_file), tmp_path / "named", start=str(tmp_path / "begin"), training=plan, decoding=decoding)
    again = train(captions, tmp_path / "again", start=str(tmp_path / "begin"), training=plan)
    assert again.decoding == Decoding(style="loud")
    for wrong, why in (({"style": "lowd"}, "'lowd' is no style of these captions. There is loud"), ({"length": "long"}, "training.lengths = true")):
        with pytest.raises(SettingError, match=why):
            train(captions, tmp_path / "wrong", training=plan, decoding=wrong, **made)
    assert not (tmp_path / "wrong").exists(), "known before anything is embedded"


def test_a_style_with_the_name_of_a_length_is_refused_where_lengths_are_learned(tmp_path, tiny_backbone, captions_file, loud):
    captions, made = [str(captions_file), {"path": str(loud), "as": "short"}], {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER}
    with pytest.raises(SettingError, match="a style cannot be called 'short'"):
        train(captions, tmp_path / "run", training={**TRAINING, "lengths": True}, **made)


def test_what_is_asked_of_the_decoding_is_added_to_that_of_the_captioner_it_begins_with(tmp_path, plain, captions_file):
    plan = {**TRAINING, "steps": 2, "evaluate_every": 2}
    assert plain.decoding == Decoding(beams=2)
    made = train(str(captions_file), tmp_path / "run", start=str(tmp_path / "begin"), training=plan, decoding={"max_tokens": 9})
    assert made.decoding == Decoding(beams=2, max_tokens=9)
    with pytest.raises(SettingError, match="'beam'"):
        train(str(captions_file), tmp_path / "wrong", start=str(tmp_path / "begin"), training=plan, decoding={"beam": 9})


def test_a_rerank_that_no_bridge_can_serve_is_refused_before_training(tmp_path, tiny_backbone, captions_file):
    made = {"backbone": tiny_backbone, "bridges": NOISE, "decoder": DECODER, "training": TRAINING}
    with pytest.raises(SettingError, match="keep_texts = true in a bridge"):
        train(str(captions_file), tmp_path / "run", decoding={"rerank": "neighbours", "candidates": 3}, **made)
    assert not (tmp_path / "run").exists()
