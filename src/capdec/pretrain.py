"""Train a `mini` backbone: distil an image tower from a teacher, then make it and a text tower contrastive.

1. cache   every photo is read once: its pixels and the teacher's grid of features for the whole photo are kept, one pair of files a shard.
2. words   the text tower learns that captions of one photo belong together (InfoNCE, text alone).
3. head    a linear layer on the teacher's features and the text tower learn which captions belong to which photos (InfoNCE both ways, Radford et al.
           2021): cheap, since no pixel is looked at, and it tells the next stage what in the teacher's features matters for captions.
4. distil  each step cuts random windows out of photos; the target is the same window of the teacher's cached grid (the idea of ReLabel, Yun et al.
           2021: one pass of the teacher serves any number of crops), its embedding by the head, and how well each of many captions fits it.
5. align   the pair itself, photos and their captions, with the teacher's grid as an anchor. Nothing of the teacher stays in the weights.

Every stage can be killed and started again. A machine that cannot hold all photos takes the shards in several loads: `init` starts from the weights
that an earlier run wrote (one half-precision file, under 16 MB).
"""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from capdec.backbones.mini import DualEncoder, as_pixels, encode_tokens, save_mini
from capdec.checkpoint import between_steps, load_module, load_state, read_tensors, replacing, save_state, write_json
from capdec.errors import DataError
from capdec.nearest import recall
from capdec.parts import load_object
from capdec.tokens import train_bpe

STORED = 144  # pixels a side of a cached photo
TEACHER = 224  # pixels a side the teacher sees


def pretrain(
    photos: Sequence[str],
    texts: Sequence[str],
    calibration: Sequence[str],
    teacher: str,
    output: str,
    *,
    architecture: dict | None = None,
    vocabulary: int = 4096,
    word_steps: int = 400,
    head_steps: int = 400,
    distil_steps: int = 3600,
    align_steps: int = 400,
    batch: int = 128,
    word_batch: int = 256,
    align_batch: int = 128,
    sizes: Sequence[int] = (96, 128),
    small_share: float = 0.75,
    distil_rate: float = 2e-3,
    word_rate: float = 1e-3,
    align_rate: float = 3e-4,
    anchor: float = 0.5,
    trained_on_pairs: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    compile: bool = False,
    init: str | None = None,
    cache: str | None = None,
    minutes_between_checkpoints: float = 3.0,
) -> dict[str, float]:
    """Returns the calibration photos' recall. `photos` and `calibration` are WebDataset shards (`KEY.jpg`, optionally `KEY.json` with `captions`);
    `texts` are JSONL files of `{"image_id", "captions"}`; `teacher` names a class as `file.py:Class` or `package.module:Class` whose instance maps
    Float["B 3 224 224"] in [-1, 1] to a dict with `grid`: Float["B C h w"], 0 <= grid <= 6. `cache` keeps the photos' pixels and
    features (default: in `output`), for further runs to share."""
    folder = Path(output)
    siblings = [captions for captions in read_caption_groups(texts) if len(captions) > 1]
    tokenizer = train_bpe((caption.lower() for captions in siblings for caption in captions), vocabulary, ["<pad>"])
    architecture = {"vocabulary": tokenizer.get_vocab_size(), **(architecture or {})}
    torch.manual_seed(seed)
    model = DualEncoder(**architecture)
    if init:
        load_module(model, read_tensors(init)[0], init)
    pixels, grids, captions = cache_photos(photos, teacher, Path(cache or folder / "work"), device)
    student = Student(model, grids).to(device)
    if compile:
        model.image.compile(dynamic=False)
    names = {"photos": [Path(shard).name for shard in photos], "texts": [Path(text).name for text in texts]}
    identity = {"architecture": architecture, **names, "seed": seed, "init": init}
    stages = Stages(folder / "work", identity, student, device, dtype, minutes_between_checkpoints)

    def sibling_loss(step: int) -> Tensor:
        generator = seeded(seed + 1, step)
        rows = epoch_rows(len(siblings), word_batch, step, seed + 1)
        pairs = [[siblings[row][i] for i in torch.randperm(len(siblings[row]), generator=generator)[:2]] for row in rows.tolist()]
        first, second = (model.text(encode_tokens(tokenizer, side).to(device)) for side in zip(*pairs, strict=True))
        return contrast(first, second, model.log_scale)

    stages.run("words", [(model.text, word_rate)], word_steps, sibling_loss, {"batch": word_batch})

    captioned = torch.tensor([row for row, texts in enumerate(captions) if texts])
    if not len(captioned):
        raise DataError(f"none of the {len(captions)} photos has captions: put KEY.json with a list `captions` beside KEY.jpg in some shard")

    def photos_and_captions(step: int, rows_a_step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        generator = seeded(seed + 2, step)
        rows = captioned[epoch_rows(len(captioned), rows_a_step, step, seed + 2)]
        chosen = [captions[row][int(torch.randint(len(captions[row]), (), generator=generator))] for row in rows.tolist()]
        return rows, model.text(encode_tokens(tokenizer, chosen).to(device)), generator

    def head(step: int) -> Tensor:
        rows, texts, generator = photos_and_captions(step, word_batch)
        windows = windows_of(len(rows), generator, smallest=0.5)
        pooled = student.teacher(grids[rows], windows, 4)[1]
        return contrast(student.head(pooled), texts, model.log_scale) + 0.5 * sibling_loss(word_steps + step)

    stages.run("head", [(student.head, word_rate), (model.text, word_rate)], head_steps, head, {"batch": word_batch})

    with torch.no_grad():
        texts_seen = [captions[row][0] for row in captioned.tolist()][:4096]
        model.text.eval()
        bank = [model.text(encode_tokens(tokenizer, texts_seen[i : i + 256]).to(device)) for i in range(0, len(texts_seen), 256)]
        scaled_bank = model.log_scale.exp() * F.normalize(torch.cat(bank), dim=-1)  # (4096, D)

    def distil(step: int) -> Tensor:
        generator = seeded(seed + 3, step)
        rows = epoch_rows(len(pixels), batch, step, seed + 3)
        size = sizes[0] if step < small_share * distil_steps else sizes[-1]
        windows = windows_of(len(rows), generator)
        features, pooled, distance = student.distillation(photos_through(pixels[rows], windows, size, generator).to(device), grids[rows], windows)
        target = F.normalize(student.head(pooled).detach(), dim=-1)
        embeddings = F.normalize(model.project(features.mean((2, 3))).float(), dim=-1)
        wanted, said = (target @ scaled_bank.T).softmax(-1), (embeddings @ scaled_bank.T).log_softmax(-1)
        return 2 * (1 - (embeddings * target).sum(-1).mean()) + F.kl_div(said, wanted, reduction="batchmean") + anchor * distance

    settings: dict = {"batch": batch, "sizes": list(sizes), "small_share": small_share, "anchor": anchor}
    groups = [(model.image, distil_rate), (student.predict, distil_rate), (model.project, distil_rate)]
    stages.run("distil", groups, distil_steps, distil, settings)

    def align(step: int) -> Tensor:
        rows, texts, generator = photos_and_captions(step, align_batch)
        windows = windows_of(len(rows), generator, smallest=0.5)
        images = photos_through(pixels[rows], windows, sizes[-1], generator)
        features, _, distance = student.distillation(images.to(device), grids[rows], windows)
        pairs = contrast(model.project(features.mean((2, 3))), texts, model.log_scale)
        return pairs + 0.5 * sibling_loss(word_steps + head_steps + step) + anchor * distance

    groups = [(model.image, align_rate), (student.predict, align_rate), (model.project, align_rate), (model.text, align_rate)]
    stages.run("align", groups, align_steps, align, {"batch": align_batch}, freeze_statistics=True)

    save_mini(folder, model, architecture, tokenizer, trained_on_pairs)
    scores = retrieval(model.eval(), tokenizer, calibration, device)
    write_json(folder / "pretrain.json", {**stages.identity, "calibration": scores, "parameters": sum(p.numel() for p in model.parameters())})
    return scores


class Student(nn.Module):
    """The dual encoder and, for training only, what ties it to the teacher: a head on the teacher's features, a guess of them from its own."""

    def __init__(self, model: DualEncoder, grids: Tensor):
        super().__init__()
        self.model = model
        channels = grids.shape[1]
        self.predict = nn.Conv2d(model.project.in_features, channels, 1)
        self.head = nn.Linear(channels, model.project.out_features)
        sample = grids[torch.linspace(0, len(grids) - 1, min(len(grids), 512)).long()].float() / GRID_STEP
        self.mean: Tensor
        self.std: Tensor
        self.pooled_std: Tensor
        self.register_buffer("mean", sample.mean((0, 2, 3)))
        self.register_buffer("std", sample.std((0, 2, 3)) + 1e-3)
        self.register_buffer("pooled_std", sample.mean((2, 3)).std(0) + 1e-3)

    def teacher(self, grids: Tensor, windows: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The teacher's features in windows of photos, each channel in units of its own spread: (B, C, side, side), and the windows' means (B, C)."""
        places = F.affine_grid(windows, [len(grids), 1, 2 * side, 2 * side], align_corners=False).to(self.mean.device)
        values = F.grid_sample(grids.to(self.mean.device).float() / GRID_STEP, places, padding_mode="border", align_corners=False)
        values = F.avg_pool2d(values, 2) - self.mean[:, None, None]
        return values / self.std[:, None, None], values.mean((2, 3)) / self.pooled_std

    def distillation(self, images: Tensor, grids: Tensor, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The student's features (B, features, h, w), the teacher's means (B, C), and the squared distance of the guess from theirs."""
        features = self.model.image(images)
        target, pooled = self.teacher(grids, windows, features.shape[2])
        guess = self.predict(features).float()
        distance = F.mse_loss(guess, target) + F.mse_loss(guess.mean((2, 3)) * self.std / self.pooled_std, pooled)
        return features, pooled, distance


GRID_STEP = 255 / 6  # the teacher's features lie in [0, 6]; one byte each


class Stages:
    """Runs one stage after the other; each is skipped where it is finished and continued where it was cut off."""

    def __init__(self, folder: Path, identity: dict, student: Student, device: str, dtype: str, minutes: float):
        self.folder, self.identity, self.student, self.device = folder, identity, student, device
        self.dtype, self.seconds = getattr(torch, dtype), 60 * minutes

    def run(
        self,
        name: str,
        groups: list[tuple[nn.Module, float]],
        steps: int,
        loss_of: Callable[[int], Tensor],
        settings: dict,
        freeze_statistics: bool = False,
    ) -> None:
        """AdamW with a learning rate for each group, linear warm-up over a twentieth, cosine decay to 0."""
        rates = [rate for _, rate in groups]
        self.identity = {**self.identity, name: {"steps": steps, "rates": rates, **settings}}
        optimizer = torch.optim.AdamW([{"params": list(module.parameters())} for module, _ in groups], weight_decay=0.05, fused=True)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        path, step = self.folder / f"{name}.safetensors", 0
        if path.is_file():
            step = load_state(path, self.student, optimizer, self.identity)
        self.student.train()
        for layer in self.student.modules():
            if freeze_statistics and isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        saved = time.monotonic()
        with between_steps() as interrupted:
            while step < steps:
                warm, done = max(1, steps // 20), step / steps
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * min((step + 1) / warm, 0.5 * (1 + float(np.cos(np.pi * done))))
                torch.manual_seed(self.identity["seed"] * 1_000_003 + step)  # dropout
                with torch.autocast(self.device.split(":")[0], self.dtype, enabled=self.dtype != torch.float32):
                    loss = loss_of(step)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 5.0)
                optimizer.step()
                step, stop = step + 1, interrupted()
                if step % 20 == 0 or step == steps:
                    print(
                        json.dumps({"stage": name, "step": step, "of": steps, "loss": round(loss.item(), 4), "time": round(time.time(), 1)}),
                        flush=True,
                    )
                if time.monotonic() - saved > self.seconds or step == steps or stop:
                    save_state(path, self.student, optimizer, step, self.identity)
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt


def contrast(first: Tensor, second: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE between rows of the same number."""
    logits = log_scale.exp().clamp(max=50) * F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def windows_of(count: int, generator: torch.Generator, smallest: float = 0.3) -> Tensor:
    """Affine maps of random windows, Float["B 2 3"]: mirrored half of the time, a quarter of them the whole photo."""
    whole = _uniform(count, 0, 1, generator) < 0.25
    area, ratio = _uniform(count, smallest, 1, generator), _uniform(count, -0.28, 0.28, generator).exp()
    width = torch.where(whole, 1.0, (area * ratio).sqrt().clamp(max=1))
    height = torch.where(whole, 1.0, (area / ratio).sqrt().clamp(max=1))
    left, top = _uniform(count, -1, 1, generator) * (1 - width), _uniform(count, -1, 1, generator) * (1 - height)
    mirror = torch.where(_uniform(count, 0, 1, generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    return torch.stack([torch.stack([width * mirror, zero, left], 1), torch.stack([zero, height, top], 1)], 1)


def photos_through(photos: Tensor, windows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Uint8["B 3 H W"] -> Float["B 3 size size"] in [0, 1], seen through the windows, with brightness, contrast and saturation shifted."""
    count = len(photos)
    places = F.affine_grid(windows, [count, 3, size, size], align_corners=False)
    images = F.grid_sample(photos.float() / 255, places, padding_mode="border", align_corners=False)
    saturation, brightness, contrast = (_uniform(count, low, 2 - low, generator)[:, None, None, None] for low in (0.6, 0.7, 0.7))
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * saturation
    middle = images.mean((1, 2, 3), keepdim=True)
    return (middle * brightness + (images - middle) * contrast).clamp(0, 1)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty(count).uniform_(low, high, generator=generator)


def seeded(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def epoch_rows(count: int, batch: int, step: int, seed: int) -> Tensor:
    """The rows of one step: every row once an epoch, in an order that only (seed, epoch) decides."""
    batch = min(batch, count)
    epoch, index = divmod(step, count // batch)
    order = torch.randperm(count, generator=seeded(seed + 7, epoch))
    return order[index * batch : (index + 1) * batch]


def read_shard(shard: str) -> Iterator[tuple[str, Image.Image, list[str]]]:
    """Key, photo and captions (perhaps none) of each example of a WebDataset shard whose members of one key stand together."""
    with tarfile.open(shard) as archive:
        key, image = "", None
        captions: list[str] = []
        for member in archive:
            name, _, suffix = member.name.rpartition(".")
            if name != key:
                if image is not None:
                    yield key, image, captions
                key, image, captions = name, None, []
            data = archive.extractfile(member)
            if data is None:
                continue
            if suffix in ("jpg", "jpeg", "png"):
                image = Image.open(io.BytesIO(data.read())).convert("RGB")
            elif suffix == "json":
                captions = json.load(data).get("captions", [])
        if image is not None:
            yield key, image, captions


def cache_photos(shards: Sequence[str], teacher: str, folder: Path, device: str) -> tuple[Tensor, Tensor, list[list[str]]]:
    """Uint8["N 3 144 144"] pixels, Uint8["N C h w"] teacher features and the captions of every photo."""
    model = None
    pixels, grids, captions = [], [], []
    for shard in shards:
        stem = folder / Path(shard).stem
        paths = [stem.with_suffix(suffix) for suffix in (".pixels.npy", ".grid.npy", ".captions.json")]
        if not all(path.is_file() for path in paths):
            model = model or load_object(teacher)().eval().to(device, memory_format=torch.channels_last)
            examples = list(read_shard(shard))
            squares = torch.cat([as_pixels([image], STORED) for _, image, _ in examples])
            parts = []
            for start in range(0, len(squares), 64):
                inputs = F.interpolate(squares[start : start + 64].to(device).float(), (TEACHER, TEACHER), mode="bicubic", antialias=True)
                inputs = (inputs.clamp(0, 255) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
                with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16):
                    parts.append((model(inputs)["grid"].float() * GRID_STEP).round().clamp(0, 255).byte().cpu())
            for path, array in zip(paths[:2], (squares, torch.cat(parts)), strict=True):
                with replacing(path) as temporary, open(temporary, "wb") as file:
                    np.save(file, array.numpy())
            write_json(paths[2], [texts for _, _, texts in examples])
            print(json.dumps({"stage": "cache", "shard": Path(shard).name, "photos": len(examples), "time": round(time.time(), 1)}), flush=True)
        pixels.append(torch.from_numpy(np.load(paths[0])))
        grids.append(torch.from_numpy(np.load(paths[1])))
        captions += json.loads(paths[2].read_text(encoding="utf-8"))
    return torch.cat(pixels), torch.cat(grids), captions


def read_caption_groups(files: Sequence[str]) -> list[list[str]]:
    return [json.loads(line)["captions"] for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]


@torch.inference_mode()
def retrieval(model: DualEncoder, tokenizer: Tokenizer, shards: Sequence[str], device: str) -> dict[str, float]:
    """Recall at 1, 5 and 10 in percent, both ways, on captioned photos."""
    images: list[Tensor] = []
    texts: list[str] = []
    owners: list[int] = []
    for shard in shards:
        for _, image, captions in read_shard(shard):
            owners += [len(images)] * len(captions)
            texts += captions
            images.append(model.image_embeddings(as_pixels([image]).to(device).float() / 255))
    embedded = [model.text(encode_tokens(tokenizer, texts[start : start + 256]).to(device)) for start in range(0, len(texts), 256)]
    return recall(F.normalize(torch.cat(images), dim=-1).cpu(), F.normalize(torch.cat(embedded), dim=-1).cpu(), torch.tensor(owners))
