"""The backbones' encoders: captions to embeddings, JPEGs to embeddings, against `transformers` as one would call it.

    python benchmarks/encoders.py [results.json [text] [photos] [mini]]

The model is a ViT-B/32 CLIP with random weights in the hub's own format; captions are random words, as many as people use; photos are cut from
those that come with scikit-image. Nothing is downloaded.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from side_by_side import DEVICE, Way, best, compare, report
from skimage import data
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

import capdec
from capdec.backbones.huggingface import HuggingFace
from capdec.backbones.mini import Mini
from capdec.corpus import Photos, embed_photos
from capdec.images import LONGEST_SIDE, open_image

CAPTIONS, BASELINE = 10_000, 256
PHOTOS = 256
SMALL = "a the a of in on with and two his near next to some is are sitting holding white black red riding large young"
WORDS = [*(Path(capdec.__file__).parent / "nouns.txt").read_text().split(), *SMALL.split() * 30]


def captions(number: int, seed: int = 0) -> list[str]:
    """8 words and more, 10.5 on average, as in COCO."""
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(WORDS, 8 + draws.poisson(2.5))) + "." for _ in range(number)]


def clip(folder: Path) -> None:
    """CLIP ViT-B/32 with random weights, and a byte-pair encoding of the captions' words."""
    end = "</w>"
    pieces = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix=end))
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, initial_alphabet=letters, end_of_word_suffix=end, special_tokens=["<|startoftext|>", "<|endoftext|>"]
    )
    pieces.train_from_iterator(captions(5000, 1), trainer)
    learned = json.loads(pieces.to_str())["model"]
    vocabulary = learned["vocab"]
    for letter in letters:
        vocabulary.setdefault(letter + end, len(vocabulary))
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in learned["merges"]], model_max_length=77)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')


def jpegs(folder: Path, number: int) -> list[str]:
    """640 x 480, quality 90: crops of photographs, every other one mirrored."""
    draws = np.random.default_rng(0)
    whole = [Image.fromarray(photo()) for photo in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
    for place in range(number):
        photo = whole[place % len(whole)]
        wide = int(min(photo.width, photo.height * 4 / 3) * draws.uniform(0.6, 1))
        left, top = draws.integers(0, photo.width - wide + 1), draws.integers(0, photo.height - wide * 3 // 4 + 1)
        cut = photo.resize((640, 480), Image.Resampling.BICUBIC, (left, top, left + wide, top + wide * 3 // 4))
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if place % 2 else cut
        cut.save(folder / f"{place:03d}.jpg", quality=90)
    return [str(folder / f"{place:03d}.jpg") for place in range(number)]


def worst_cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(F.cosine_similarity(ours.double(), theirs.double()).min())


class Plain:
    """`transformers` in float32, as its documentation calls it."""

    def __init__(self, folder: str):
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval().to(DEVICE)
        self.tokenizer, self.processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")

    @torch.inference_mode()
    def text(self, texts: list[str], batch: int, padding: str = "max_length") -> Tensor:
        parts = []
        for start in range(0, len(texts), batch):
            inputs = self.tokenizer(texts[start : start + batch], padding=padding, truncation=True, return_tensors="pt").to(DEVICE)
            parts.append(self.model.get_text_features(**inputs).pooler_output)
        return torch.cat(parts).cpu()

    @torch.inference_mode()
    def photos(self, paths: list[str], batch: int = 16) -> Tensor:
        parts = []
        for start in range(0, len(paths), batch):
            inputs = self.processor(images=[Image.open(path) for path in paths[start : start + batch]], return_tensors="pt").to(DEVICE)
            parts.append(self.model.get_image_features(**inputs).pooler_output)
        return torch.cat(parts).cpu()


def text_row(folder: str) -> dict[str, Any]:
    texts = captions(CAPTIONS)
    some, plain = texts[:BASELINE], Plain(folder)
    full, half = HuggingFace(folder, device=DEVICE), HuggingFace(folder, device=DEVICE, dtype="bfloat16")
    expected = plain.text(some, 32)
    torch.testing.assert_close(full.encode_text(some, normalize=False).cpu(), expected, rtol=1e-4, atol=1e-4)
    cosine = worst_cosine(half.encode_text(some).cpu(), expected)
    assert cosine >= 0.9999, cosine

    tokens = float(np.mean([len(row) for row in full._tokens(texts)]))
    flops = 2 * tokens * sum(parameter.numel() for parameter in full.model.text_model.encoder.parameters())
    batched = best([Way(f"transformers, float32, {size} at a time, padded to 77", partial(plain.text, some, size), BASELINE) for size in (16, 32)])
    batched.flops, batched.dtype, batched.aim = BASELINE * flops, "float32", 4
    few, many = BASELINE * flops, CAPTIONS * flops
    return compare(
        f"{CAPTIONS} captions, ViT-B/32",
        "captions",
        Way("bfloat16", partial(half.encode_text, texts), CAPTIONS, many),
        [
            Way("transformers, float32, one at a time, padded to 77", partial(plain.text, some, 1), BASELINE, few, dtype="float32", aim=15),
            batched,
            Way(
                "transformers, float32, 64 at a time, padded to the longest", partial(plain.text, some, 64, "longest"), BASELINE, few, dtype="float32"
            ),
            Way("ours, float32", partial(full.encode_text, texts[:1024]), 1024, 1024 * flops, dtype="float32"),
        ],
        rounds=3,
        equal=f"float32: allclose, 1e-4; bfloat16: cosine {cosine:.6f} at least",
        note=f"{tokens:.1f} tokens a caption; a caption's time was taken on {BASELINE} captions for transformers",
    )


def into_stores(paths: list[str], backbone: Any, folder: Path) -> Callable[[], Any]:
    """A run of `embed_photos` into a new store each time."""
    number = count()
    photos = Photos(paths, [partial(open_image, path, at_most=LONGEST_SIDE) for path in paths])
    return lambda: embed_photos(photos, backbone, folder / f"{id(backbone)}-{next(number)}")[0]


def photos_row(folder: str, scratch: Path) -> dict[str, Any]:
    paths = jpegs(scratch, PHOTOS)
    some, plain = paths[:64], Plain(folder)
    full, half = HuggingFace(folder, device=DEVICE), HuggingFace(folder, device=DEVICE, dtype="bfloat16")
    expected, opened = plain.photos(some), [open_image(path) for path in some]
    torch.testing.assert_close(full.encode_image(opened, normalize=False).cpu(), expected, rtol=1e-4, atol=1e-4)
    assert full.frame and half.frame
    steps = np.abs(np.stack([np.int32(full.fit_photo(photo)) - np.int32(half.fit_photo(photo)) for photo in opened]))
    assert steps.max() <= 1
    cosine = worst_cosine(half.encode_image(opened).cpu(), expected)
    assert cosine >= 0.9999, cosine

    tower = full.model.vision_model
    weights = sum(parameter.numel() for parameter in tower.encoder.parameters()) + tower.embeddings.patch_embedding.weight.numel()
    flops = 2 * weights * (tower.embeddings.num_patches + 1)
    pixels = half.frame.pixels([open_image(path) for path in paths]).split(32)

    def alone() -> None:
        for part in pixels:
            half._features(half.model.get_image_features, {"pixel_values": part})

    return compare(
        f"{PHOTOS} JPEGs of 640 x 480, ViT-B/32",
        "photos",
        Way("bfloat16, from files to a store", into_stores(paths, half, scratch), PHOTOS, PHOTOS * flops),
        [
            Way("transformers, float32, 16 at a time", partial(plain.photos, paths[:128]), 128, 128 * flops, dtype="float32", aim=4),
            Way("the encoder alone, bfloat16, pixels in memory", alone, PHOTOS, PHOTOS * flops, aim=0.85),
            Way("ours, float32, from files to a store", into_stores(paths[:128], full, scratch), 128, 128 * flops, dtype="float32"),
        ],
        equal=f"float32: allclose, 1e-4; bfloat16: cosine {cosine:.6f} at least, {(steps > 0).mean():.2%} of the resized bytes one step off",
    )


def mini_row(scratch: Path) -> dict[str, Any]:
    """The embedded backbone."""
    paths = jpegs(scratch, PHOTOS)
    full, half = Mini(device=DEVICE), Mini(device=DEVICE)
    half.dtype = "bfloat16"
    opened = [open_image(path) for path in paths]
    fitted = [full.fit_photo(photo) for photo in opened]
    cosine = worst_cosine(half.encode_image(fitted), full.encode_image(fitted))
    assert cosine >= 0.9999, cosine

    def in_turn() -> None:
        for start in range(0, PHOTOS, 32):
            full.encode_image([open_image(path, at_most=LONGEST_SIDE) for path in paths[start : start + 32]])

    return compare(
        f"{PHOTOS} JPEGs of 640 x 480, mini",
        "photos",
        Way("bfloat16, from files to a store", into_stores(paths, half, scratch), PHOTOS),
        [
            Way("float32, opened and embedded in turn", in_turn, PHOTOS),
            Way("float32, from files to a store", into_stores(paths, full, scratch), PHOTOS),
            Way("the encoder alone, float32, 128 x 128 in memory", partial(full.encode_image, fitted), PHOTOS),
            Way("the encoder alone, bfloat16, 128 x 128 in memory", partial(half.encode_image, fitted), PHOTOS),
        ],
        equal=f"cosine {cosine:.6f} at least",
    )


def main() -> None:
    asked = set(sys.argv[2:]) or {"text", "photos", "mini"}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = scratch / "clip"
        if asked != {"mini"}:
            clip(folder)
        if "text" in asked:
            rows.append(text_row(str(folder)))
        if "photos" in asked:
            rows.append(photos_row(str(folder), scratch))
        if "mini" in asked:
            rows.append(mini_row(scratch))
        report(rows)


if __name__ == "__main__":
    main()
