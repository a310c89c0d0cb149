"""CgT-GAN's second stage: rewards that are those of the paper, a gradient that is the policy's, and what it was given."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from capdec.backbones.mini import Mini
from capdec.captioner import Captioner
from capdec.checkpoint import read_tensors
from capdec.confidence import Confidence, Signal
from capdec.corpus import embed, open_dataset, read_pairs
from capdec.errors import MismatchError, SettingError
from capdec.protocols import Caption, Condition, Decoding, Supervision
from capdec.refine import Discriminator, Refining, _Refinement, refine
from capdec.train import train
from conftest import DECODER

FAST = {"steps": 12, "batch": 16, "warmup": 2, "evaluate_every": 4, "held_out": 0.2}
SHORT = {"steps": 4, "batch": 4, "samples": 3, "warmup": 1, "temperature": 0.1}


@pytest.fixture
def trained(captions_file, tiny_backbone, tmp_path):
    train(str(captions_file), tmp_path / "first", backbone=tiny_backbone, bridges=[], decoder=DECODER, training=FAST)
    return tmp_path / "first"


def weights(folder):
    return read_tensors(folder / "weights.safetensors")[0]


def refinement(trained, captions_file, folder, **plan):
    captioner = Captioner.load(trained)
    corpus = embed(read_pairs(open_dataset(str(captions_file))), captioner.backbone, folder / "store")
    return _Refinement(captioner, corpus, None, Refining(**{**SHORT, **plan}), "cpu")


def test_photos_change_the_captioner_and_are_counted_as_unpaired(trained, captions_file, photos, tmp_path):
    made = refine(trained, str(captions_file), tmp_path / "second", photos=photos, refining=SHORT)
    assert made.supervision == Supervision.UNPAIRED_IMAGES
    loaded, vectors = Captioner.load(tmp_path / "second"), torch.randn(3, 16)
    assert [c.text for c in loaded.caption_embeddings(vectors)] == [c.text for c in made.caption_embeddings(vectors)]
    assert loaded.supervision.words() == "text + unpaired images"
    before, after = weights(trained), weights(tmp_path / "second")
    assert before.keys() == after.keys() and not torch.equal(before["decoder.words.weight"], after["decoder.words.weight"])
    lines = [json.loads(line) for line in (tmp_path / "second/refining/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all(0 <= line["person"] <= 1 for line in lines)
    assert ", without their captions" in (tmp_path / "second/README.md").read_text()
    assert 'photos = "' in (tmp_path / "second/recipe.toml").read_text()


def test_without_photos_no_image_is_ever_looked_at(trained, captions_file, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("text alone, and encode_image was called")

    monkeypatch.setattr(Mini, "encode_image", fail)
    monkeypatch.setattr(Mini, "encode_regions", fail)
    assert refine(trained, str(captions_file), tmp_path / "second", refining=SHORT).supervision == Supervision(0)


def test_the_confidence_of_the_captioner_that_it_was_is_left_behind(trained, captions_file, tmp_path):
    sure = Confidence({"score": Signal(0.0, 1.0, 1.0)}, 0.0, 0.5, Captioner.load(trained).decoding)
    (trained / "confidence.json").write_text(json.dumps(sure.as_json()))
    assert Captioner.load(trained).confidence == sure
    made = refine(trained, str(captions_file), tmp_path / "second", refining=SHORT)
    assert made.confidence is None and made.supervision == Supervision(0) and Captioner.load(tmp_path / "second").confidence is None


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(trained, captions_file, tmp_path):
    refine(trained, str(captions_file), tmp_path / "whole", refining={**SHORT, "steps": 40})
    code = f"""
import torch
torch.set_num_threads(1)
from capdec.refine import refine
refine({str(trained)!r}, {str(captions_file)!r}, {str(tmp_path / "cut")!r}, refining={ ({**SHORT, "steps": 40})!r}, minutes_between_checkpoints=0)
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    metrics, patience = tmp_path / "cut/refining/metrics.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < patience:
        if metrics.is_file() and metrics.read_text().count("\n") >= 5:
            break
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read().decode()
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_rewards_are_those_of_the_paper(trained, captions_file, tmp_path):
    one = refinement(trained, captions_file, tmp_path)
    target = F.normalize(torch.randn(2, 16), dim=-1)
    said = [Caption(text, 0.0) for text in ("a man", "two dogs", "a man runs", "a red car", "a man", "grass")]
    one.models.eval()
    clip, person = one._rewards(said, target, 2)
    told, wanted = one.captioner.backbone.encode_text([c.text for c in said]), target[[0, 0, 1, 1, 0, 1]]
    torch.testing.assert_close(clip, 0.5 * F.cosine_similarity(told, wanted) + 0.5 * (1 - (told - wanted).abs().mean(1)))
    assert clip[0] == clip[4] and ((person > 0) & (person < 1)).all()


def test_the_target_of_a_caption_is_made_without_those_of_its_photo(trained, captions_file, tmp_path):
    one = refinement(trained, captions_file, tmp_path)
    rows, corpus = torch.tensor([0, 4]), one.corpus.embeddings
    seen = F.normalize(corpus[rows] + 0.05, dim=-1)
    others = torch.tensor([[row // 3 != own // 3 for row in range(240)] for own in rows.tolist()])
    expected = torch.softmax((seen @ corpus[torch.arange(240)].T / 0.1).masked_fill(~others, -torch.inf), -1) @ corpus[torch.arange(240)]
    found = one.target.from_image(Condition.of(seen, rows), None).embeddings[:, 0]
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), rtol=0, atol=5e-3)  # the memory is in bfloat16


def test_the_discriminator_learns_to_tell_texts_apart_and_not_by_a_space_before_a_period():
    torch.manual_seed(0)
    people, machine = [f"A man number {n} sees a dog ." for n in range(40)], [f"a a man man {n} a" for n in range(40)]
    judge = Discriminator([*people, *machine], vocabulary=300, width=32)
    torch.testing.assert_close(judge.eval()(["A dog .", "A dog."])[0], judge(["A dog ."])[0])
    assert judge(["A dog .", ""])[1].isfinite() and judge(["A dog ."]).item() == pytest.approx(judge(["A dog."]).item())
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-3)
    for _ in range(30):
        loss = F.binary_cross_entropy_with_logits(judge([*people, *machine]), torch.tensor([1.0] * 40 + [0.0] * 40))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((judge.eval()([*people, *machine]) > 0) == torch.tensor([True] * 40 + [False] * 40)).float().mean() > 0.95


def test_what_is_rewarded_becomes_likelier(captions_file, tiny_backbone, tmp_path, monkeypatch):
    """With a reward for few letters alone, captions become short."""
    trained = tmp_path / "speaks"
    plan = {**FAST, "steps": 120, "evaluate_every": 120, "learning_rate": 3e-3}
    train(str(captions_file), trained, backbone=tiny_backbone, bridges=[], decoder=DECODER, training=plan)
    sizes = {"steps": 40, "batch": 16, "samples": 4, "learning_rate": 3e-3, "weight": 1.0, "discriminator_steps": 0, "rising_steps": 0}
    one = refinement(trained, captions_file, tmp_path, **sizes)

    def rewards(captions, target, samples):
        return torch.tensor([-float(len(caption.text)) for caption in captions]), torch.zeros(len(captions))

    def length():
        vectors = F.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(3)), dim=-1)
        said = one.captioner.caption_embeddings(vectors, Decoding("nucleus", top_p=1.0, max_tokens=24))
        return sum(len(caption.text) for caption in said) / 60

    monkeypatch.setattr(one, "_rewards", rewards)
    before = length()
    for step in range(40):
        one.step(step)
    assert length() < before / 2


def test_what_cannot_be_is_said(trained, captions_file, tmp_path):
    with pytest.raises(SettingError, match="refining has no setting 'stepps'"):
        refine(trained, str(captions_file), tmp_path / "second", refining={"stepps": 3})
    with pytest.raises(SettingError, match="samples are 1 or more"):
        refine(trained, str(captions_file), tmp_path / "second", refining={"samples": 0})
    stylish = Captioner.load(trained)
    stylish.styles = ("", "loud")
    with pytest.raises(SettingError, match="one way of speaking"):
        refine(stylish, str(captions_file), tmp_path / "second", refining=SHORT)
    with pytest.raises(SettingError, match="another making"):
        refine(trained, str(captions_file), trained, refining=SHORT)
    refine(trained, str(captions_file), tmp_path / "second", refining=SHORT)
    with pytest.raises(MismatchError, match="recipe"):
        refine(trained, str(captions_file), tmp_path / "second", refining={**SHORT, "samples": 2})


def test_photos_need_no_captions(trained, captions_file, tmp_path):
    with tarfile.open(tmp_path / "bare.tar", "w") as tar:
        for n in range(5):
            buffer = io.BytesIO()
            Image.new("RGB", (20, 20), (50 * n, 90, 30)).save(buffer, "PNG")
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    made = refine(trained, str(captions_file), tmp_path / "second", photos=str(tmp_path / "bare.tar"), refining=SHORT)
    assert made.supervision == Supervision.UNPAIRED_IMAGES


def test_the_target_of_a_photo_is_made_without_what_was_said_of_it(trained, captions_file, tmp_path):
    captioner = Captioner.load(trained)
    corpus = embed(read_pairs(open_dataset(str(captions_file))), captioner.backbone, tmp_path / "store")
    images, rows = corpus.embeddings[torch.tensor([4, 4])].unsqueeze(1), torch.tensor([3, -1])  # as near as can be to a caption of its own
    one = _Refinement(captioner, corpus, Condition.of(images, rows), Refining(**{**SHORT, "temperature": 0.001}), "cpu")
    near = (one.targets * images[:, 0]).sum(1)
    assert near[1] > near[0] and near[1] > 0.999


@pytest.mark.parametrize("name", ["memory_projection", "retrieval"])
def test_a_captioners_own_memory_does_not_tell_a_caption_of_itself(captions_file, tiny_backbone, tmp_path, name):
    """Nor after it was saved and loaded."""
    train(str(captions_file), tmp_path / "first", backbone=tiny_backbone, bridges=[{"name": name}], decoder=DECODER, training=FAST)
    one = refinement(tmp_path / "first", captions_file, tmp_path, target_cosine=1.0)
    memory, rows = one.captioner.memories[0], torch.arange(0, 240, 7)
    _, groups, unseen = memory.queries(one.corpus.condition(rows))
    assert torch.equal(groups[rows], unseen) and len(set(groups.tolist())) == 80


def test_a_caption_that_stands_in_for_a_photo_moves_as_text_does(captions_file, tiny_backbone, photos, tmp_path):
    plan = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST, "unpaired_photos": photos}
    train(str(captions_file), tmp_path / "first", bridges=[{"name": "mean_shift"}], **plan)
    one = refinement(tmp_path / "first", captions_file, tmp_path, target_cosine=1.0)
    condition, _ = one._seen(torch.Generator().manual_seed(5))
    rows = torch.randint(240, (4,), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(condition.embeddings, one.captioner.bridges[0].from_text(one.corpus.condition(rows), None).embeddings)
