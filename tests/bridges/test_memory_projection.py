"""DeCap's projection: exact, honest about what it leaves out, and its temperature found without an image."""

import json

import pytest
import torch
import torch.nn.functional as F

from capdec.bridges.memory_projection import DECAP, TEMPERATURES, MemoryProjection
from capdec.captioner import Captioner
from capdec.corpus import Embeddings, Pairs
from capdec.errors import DataError, MismatchError, SettingError
from capdec.protocols import Condition
from capdec.train import train
from conftest import DECODER

DIM = 16


class Store(Embeddings):
    """Rows that are there, in place of files."""

    def __init__(self, rows):
        self.rows = rows

    changes = ()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        return self.rows[rows].clone()


class Text:
    """Photos of ten kinds with three captions each: captions lie around their photo, photos around their kind."""

    def __init__(self, photos=60, spread=0.15, ids=True):
        generator = torch.Generator().manual_seed(0)
        kinds = torch.randn(10, DIM, generator=generator).repeat(photos // 10, 1)
        centres = F.normalize(kinds + 0.6 * torch.randn(photos, DIM, generator=generator), dim=-1).repeat_interleave(3, 0)
        self.embeddings = Store(F.normalize(centres + spread * torch.randn(centres.shape, generator=generator), dim=-1))
        names = [f"photo {row // 3}" if ids else None for row in range(3 * photos)]
        texts = [f"caption {row}" for row in range(3 * photos)]
        self.pairs = Pairs(texts, texts, names)
        self.backbone = self.digest = ""

    def __len__(self):
        return len(self.pairs)

    def siblings(self):
        if self.pairs.image_ids[0] is None:
            return {}
        return {row: [other for other in range(3 * (row // 3), 3 * (row // 3) + 3) if other != row] for row in range(len(self))}


def fitted(text, **settings):
    bridge = MemoryProjection(DIM, **settings)
    bridge.fit(text)
    return bridge


def project(bridge, embeddings, rows=None):
    return bridge.from_image(Condition.of(embeddings, rows), None).embeddings.squeeze(1)


def queries(count=7):
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(3)), dim=-1)


def test_it_is_the_softmax_weighted_mean_of_the_memory_at_unit_length():
    text = Text()
    rows = text.embeddings.rows.bfloat16().float()
    found = project(fitted(text, temperature=0.05), queries() * 3)  # of any length
    torch.testing.assert_close(found, F.normalize(((queries() @ rows.T) / 0.05).softmax(-1) @ rows, dim=-1))


def test_with_all_rows_top_k_is_exact_and_with_few_it_is_off_by_at_most_what_it_says():
    text = Text()
    exact = fitted(text, temperature=0.05)
    torch.testing.assert_close(project(fitted(text, temperature=0.05, top_k=len(text)), queries()), project(exact, queries()))
    rows = text.embeddings.rows.bfloat16().float()
    weights = ((queries() @ rows.T) / 0.05).softmax(-1)
    kept, places = weights.topk(10)
    few = (kept / kept.sum(1, keepdim=True)).unsqueeze(1) @ rows[places]
    assert ((few.squeeze(1) - weights @ rows).norm(dim=-1) <= 2 * (1 - kept.sum(1)) + 1e-6).all()
    torch.testing.assert_close(project(fitted(text, temperature=0.05, top_k=10), queries()), F.normalize(few.squeeze(1), dim=-1))


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_caption_of_the_corpus_does_not_see_its_own_photo(top_k):
    text = Text()
    bridge = fitted(text, temperature=0.01, top_k=top_k)
    row = torch.tensor([4])
    own = text.embeddings[row]
    assert (project(bridge, own) @ own.T).item() > 0.99, "an image may resemble any caption, and this one lies on its own"
    others = [place for place in range(len(text)) if place not in (3, 4, 5)]
    rows = text.embeddings.rows[others].bfloat16().float()
    weights = ((own @ rows.T) / 0.01).softmax(-1)
    if top_k:
        weights = weights * (weights >= weights.topk(top_k).values[:, -1:])
    torch.testing.assert_close(project(bridge, own, row), F.normalize(weights @ rows, dim=-1), atol=1e-4, rtol=1e-4)


def test_training_sees_clean_text_unless_it_is_asked_for_projections():
    text = Text()
    condition = Condition.of(text.embeddings[torch.arange(5)], torch.arange(5))
    assert fitted(text, temperature=0.05).from_text(condition, None) is condition
    bridge = fitted(text, temperature=0.05, in_training=True)
    torch.testing.assert_close(bridge.from_text(condition, None).embeddings, bridge.from_image(condition, None).embeddings)


def test_the_temperature_is_found_on_text_and_grows_with_how_far_siblings_lie_apart():
    near, far = (fitted(Text(photos=1000, spread=spread)) for spread in (0.02, 0.15))
    assert near.chosen["temperature"] < far.chosen["temperature"]
    assert TEMPERATURES[0] < near.temperature and far.temperature < TEMPERATURES[-1], "neither is at the edge of what was tried"
    assert fitted(Text(ids=False)).chosen == {"temperature": DECAP}, "without siblings there is nothing to find it on"


def test_a_smaller_memory_is_a_part_of_the_corpus():
    text = Text()
    bridge = fitted(text, size=20, temperature=0.05)
    assert bridge.memory.rows.shape == (20, DIM) and bridge.memory.rows.dtype == torch.bfloat16
    assert all((row == text.embeddings.rows.bfloat16()).all(1).any() for row in bridge.memory.rows)


@pytest.mark.parametrize(("settings", "message"), [({"temperature": 0}, "above 0"), ({"temperature": "warm"}, "auto"), ({"top_k": -1}, "top_k")])
def test_values_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        MemoryProjection(DIM, **settings)


def test_without_a_memory_nothing_is_projected():
    with pytest.raises(SettingError, match="no memory"):
        MemoryProjection(DIM, temperature=0.1).from_image(Condition.of(queries()), None)


FAST = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}
NOISE = {"name": "gaussian_noise", "target_cosine": 0.6}


def test_a_captioner_keeps_its_memory_and_the_temperature_that_was_chosen(tmp_path, tiny_backbone, captions_file):
    bridges = [NOISE, {"name": "memory_projection", "in_training": True}]
    trained = train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=bridges, decoder=DECODER, training=FAST)
    loaded = Captioner.load(tmp_path / "run")
    assert loaded.spec["bridges"][1]["temperature"] == trained.bridges[1].temperature in [round(one, 4) for one in TEMPERATURES]
    assert loaded.bridges[1].memory.rows.dtype == torch.bfloat16 and loaded.fingerprint == trained.fingerprint
    assert loaded.supervision.words() == "text only"
    vectors = torch.randn(4, DIM)
    assert [c.text for c in loaded.caption_embeddings(vectors)] == [c.text for c in trained.caption_embeddings(vectors)]


def test_a_named_memory_is_not_copied_and_is_missed_when_it_changes(tmp_path, tiny_backbone, captions_file):
    plain = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST}
    train(str(captions_file), tmp_path / "first", bridges=[NOISE], embeddings=tmp_path / "rows", **plain)
    named = [{"name": "memory_projection", "memory": str(tmp_path / "rows"), "temperature": 0.05}]
    trained = train(str(captions_file), tmp_path / "run", bridges=named, **plain)
    inside = train(str(captions_file), tmp_path / "inside", bridges=[{"name": "memory_projection", "temperature": 0.05}], **plain)
    vectors = torch.randn(4, DIM)
    assert [c.text for c in trained.caption_embeddings(vectors)] == [c.text for c in inside.caption_embeddings(vectors)]
    assert (tmp_path / "run/weights.safetensors").stat().st_size < (tmp_path / "inside/weights.safetensors").stat().st_size
    assert Captioner.load(tmp_path / "run").fingerprint == trained.fingerprint
    other = [{"image_id": str(n), "captions": [f"a poem number {n}"]} for n in range(60)]
    (tmp_path / "poems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    for file in (tmp_path / "rows").iterdir():
        file.unlink()
    train(str(tmp_path / "poems.jsonl"), tmp_path / "second", bridges=[NOISE], embeddings=tmp_path / "rows", **plain)
    with pytest.raises(MismatchError, match="not the one"):
        Captioner.load(tmp_path / "run")
    with pytest.raises(DataError, match="holds no embeddings"):
        MemoryProjection(DIM, temperature=0.1, memory=str(tmp_path / "nowhere")).fit(Text())
    with pytest.raises(MismatchError, match="16 wide"):
        MemoryProjection(32, temperature=0.1, memory=str(tmp_path / "rows")).fit(Text())
    other = Text()
    other.backbone = "another"
    with pytest.raises(MismatchError, match="the backbone is another"):
        MemoryProjection(DIM, temperature=0.1, memory=str(tmp_path / "rows")).fit(other)
    manifest = json.loads((tmp_path / "rows/manifest.json").read_text())
    for change, said in (({"rows": 999}, "not finished"), ({"text": None}, "not of text")):
        kept = {key: value for key, value in {**manifest, **change}.items() if value is not None}
        (tmp_path / "rows/manifest.json").write_text(json.dumps(kept))
        with pytest.raises(DataError, match=said):
            MemoryProjection(DIM, temperature=0.1, memory=str(tmp_path / "rows")).fit(Text())


def test_a_named_memory_of_the_same_text_hides_a_captions_own_photo_too(tmp_path, tiny_backbone, captions_file, monkeypatch):
    plain = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST}
    own = {"name": "memory_projection", "temperature": 0.05}
    first = train(str(captions_file), tmp_path / "first", bridges=[own], embeddings=tmp_path / "r", **plain)
    monkeypatch.chdir(tmp_path)
    named = train(str(captions_file), tmp_path / "named", bridges=[{**own, "memory": "r"}], **plain)
    assert torch.equal(named.bridges[0].memory.groups, first.bridges[0].memory.groups)
    told = train(str(captions_file), tmp_path / "told", bridges=[{**own, "memory": "r", "dataset": "flickr30k+coco"}], **plain)
    assert [one.supervision_on("coco").words() for one in (named, told)] == ["text only", "text + target-domain text"]
    with pytest.raises(SettingError, match="no memory was named"):
        MemoryProjection(DIM, dataset="coco")
    monkeypatch.chdir("/")
    assert len(Captioner.load(tmp_path / "named").bridges[0].memory.rows) == 240, "its path is whole"
    behind = MemoryProjection(16, temperature=0.05, memory=str(tmp_path / "r"))
    corpus = Text()
    corpus.embeddings.changes = (lambda rows: -rows,)
    with pytest.raises(SettingError, match="bridge that moves text"):
        behind.fit(corpus)


def test_without_photos_equal_texts_are_one():
    text = Text(ids=False)
    text.pairs = Pairs(["a dog", "a dog", *text.pairs.sources[2:]], text.pairs.targets, text.pairs.image_ids)
    bridge = fitted(text, temperature=0.05)
    assert bridge.memory.groups[0] == bridge.memory.groups[1] != bridge.memory.groups[2]
