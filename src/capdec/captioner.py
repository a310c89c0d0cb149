"""A captioner: backbone, bridges and decoder together. Its folder holds everything but the backbone's weights, which the configuration names.

config.json           format_version, the parts and their settings, the backbone's fingerprint, supervision, decoding
weights.safetensors   decoder.* and bridges.N.*
...                   what the decoder needs beside weights: its tokenizer, its language model's configuration
confidence.json       where it was calibrated: when to be unsure
recipe.toml, README.md, scores.json, as its maker wrote them
"""

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

import capdec
from capdec import generation, parts
from capdec import recipe as recipes
from capdec.checkpoint import load_module, module_tensors, read_tensors, write_json, write_tensors
from capdec.confidence import FILE as CONFIDENCE
from capdec.confidence import NEAREST, Confidence, agreement, things
from capdec.corpus import encode_photos
from capdec.errors import DataError, ImageError, MismatchError, MissingExtra, SettingError
from capdec.images import open_image, upright
from capdec.language import reads
from capdec.memory import Memory
from capdec.nearest import nearest
from capdec.precision import precision
from capdec.protocols import Backbone, Bridge, Caption, Condition, Decoder, Decoding, Supervision
from capdec.rerank import by_clip, by_consensus, by_neighbours
from capdec.video import open_visual

FORMAT = 1
POOLINGS = ("mean", "projected")
CARD = """---
library_name: capdec
pipeline_tag: image-to-text
---
"""
"""What a model card begins with."""


class Captioner:
    """`spec` is the recipe's tables of the parts: {"backbone": ..., "bridges": [...], "decoder": ...}, from which `load` builds them again. `styles`
    are those it can be asked for ("" is its plain one), `lengths` of how many words short and medium captions of each are at most, where it can be
    asked for a length. `text` names the datasets whose captions it learned from, as far as that is known; `given` is what training was given beside
    text; `recipe` is training's, where it was loaded from a folder that holds one. `normalize = false` gives the decoder image embeddings at their
    own length: for checkpoints of others that were trained so. `language` is that of its captions. `confidence`, where there is one, says how sure it
    may be of captions found by the decoding that it was calibrated for."""

    def __init__(
        self,
        backbone: Backbone,
        bridges: Sequence[Bridge],
        decoder: Decoder,
        spec: dict[str, Any],
        decoding: Decoding | None = None,
        text: Iterable[str] = (),
        given: Supervision = Supervision(0),  # noqa: B008
        recipe: dict[str, Any] | None = None,
        normalize: bool = True,
        styles: Sequence[str] = (),
        lengths: Mapping[str, Sequence[int]] | None = None,
        language: str = "en",
        confidence: Confidence | None = None,
    ):
        self.styles, self.lengths = tuple(styles), dict(lengths or {})
        self.backbone, self.bridges, self.decoder, self.spec = backbone, list(bridges), decoder, spec
        self.decoding, self.text, self.given, self.recipe, self.normalize = decoding or Decoding(), tuple(text), given, recipe, normalize
        self.language = language
        self.confidence = confidence
        self._backbone_dtype = getattr(backbone, "dtype", None)

    @property
    def fingerprint(self) -> str:
        """Equal for two captioners exactly if they have the same parts and weights."""
        digest = hashlib.sha256(json.dumps([self.backbone.fingerprint, self.spec["bridges"], self.spec["decoder"]], sort_keys=True).encode())
        digest.update(b"" if self.normalize else b"not normalised")
        for name, tensor in self._tensors().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def _tensors(self) -> dict[str, Tensor]:
        assert isinstance(self.decoder, torch.nn.Module)
        tensors = {f"decoder.{name}": tensor for name, tensor in module_tensors(self.decoder).items()}
        for index, bridge in enumerate(self.bridges):
            tensors |= {f"bridges.{index}.{name}": tensor for name, tensor in bridge.tensors().items()}
        return tensors

    @property
    def description(self) -> str:
        """The names of its parts; of a folder its own name alone."""
        return " + ".join(Path(name).name if Path(name).is_absolute() else name for name in _parts_of(self.spec))

    @property
    def supervision(self) -> Supervision:
        """Of training, the bridges and calibration; `supervision_on` adds what is so on one dataset only."""
        total = self.given | (Supervision(0) if self.confidence is None else Supervision.PAIRS_FOR_SETTINGS)
        for bridge in self.bridges:
            total |= bridge.supervision
        return total

    def supervision_on(self, dataset: str | None) -> Supervision:
        """What a score on this dataset owes to what was given."""
        return supervision_on(dataset, self.known_text, self.backbone, self.supervision)

    @property
    def known_text(self) -> tuple[str, ...]:
        """The datasets whose captions it learned from, or has in its memories."""
        return tuple(sorted({*self.text, *(name for memory in self.memories for name in memory.names)}))

    @property
    def regions(self) -> int:
        """How many regions of a photo its bridges want behind the global embedding."""
        return max((getattr(bridge, "regions", 0) for bridge in self.bridges), default=0)

    @property
    def memories(self) -> list[Memory]:
        """Those that its bridges look things up in."""
        held = (getattr(bridge, "memory", None) for bridge in self.bridges)
        return [memory for memory in held if isinstance(memory, Memory)]

    def caption(
        self,
        images: Iterable[Image | Sequence[Image | str | Path] | str | Path],
        decoding: Decoding | None = None,
        batch: int = 32,
        start: int = 0,
        frames: int = 8,
        pooling: str = "mean",
    ) -> list[Caption]:
        """The best caption of each photo (a PIL image, a path or a URL) or clip (a sequence of photos, or a video's path, from which `frames` are
        taken), with what else `decoding.captions` asks for as `alternatives`. `start` is the place of the first photo where this call is one of
        many: random draws belong to a place, whatever the batches.

        What is told of a clip is, as in DeCap (Li et al. 2023), by `pooling`: "mean", of its frames' embeddings (of unit length), which then crosses
        the bridges as a photo's does; "projected", the mean of what each frame becomes across the bridges. Raises ImageError at the first that cannot
        be opened, MissingExtra for a video without PyAV, SettingError for another pooling."""
        if isinstance(images, str | Path):
            raise SettingError(f"caption takes a list of photos and clips, and one path came: [{str(images)!r}], say.")
        if pooling not in POOLINGS:
            raise SettingError(f"pooling = {pooling!r}; it is one of {', '.join(POOLINGS)}.")
        found: list[Caption] = []
        rest = iter(images)
        while taken := list(itertools.islice(rest, batch)):
            clips = [_opened(image, frames) for image in taken]
            sizes = [len(clip) for clip in clips]
            seen = encode_photos(self.backbone, [photo for clip in clips for photo in clip], self.regions, self.normalize)
            if pooling == "mean":
                seen, sizes = _pooled(seen, sizes), [1] * len(clips)
            found += self._said(seen, decoding or self.decoding, start + len(found), sizes)
        return found

    def caption_embeddings(
        self,
        embeddings: Float[Tensor, "B D"] | Float[Tensor, "B K D"] | np.ndarray,
        decoding: Decoding | None = None,
        batch: int = 256,
        backbone: str | None = None,
        start: int = 0,
    ) -> list[Caption]:
        """Captions straight from stored image embeddings, of any length (unless `normalize` is false) and precision; no photo is needed. `backbone`,
        where given, is the fingerprint or name of what made them; `start` as in `caption`. Raises MismatchError for embeddings of another width or
        backbone."""
        vectors = torch.as_tensor(embeddings).float()
        if vectors.ndim not in (2, 3) or vectors.shape[-1] != self.backbone.dim:
            raise MismatchError(
                f"embeddings of shape {[*vectors.shape]} came; this captioner's backbone gives [B, {self.backbone.dim}] "
                f"or [B, K, {self.backbone.dim}]. Were they made by another model?"
            )
        if backbone is not None and backbone not in (self.backbone.fingerprint, *_names_of(self.spec["backbone"])):
            raise MismatchError(f"these embeddings were made by {backbone!r}, this captioner reads those of {self.backbone.fingerprint!r}.")
        lengths = vectors.norm(dim=-1)
        sound = lengths.isfinite() & (lengths > 0)
        if len(bad := (~(sound if sound.ndim == 1 else sound.all(1))).nonzero().flatten()):
            raise DataError(f"{len(bad)} of {len(vectors)} embeddings are zero or not finite, the first in row {bad[0].item()}. Leave them out.")
        found: list[Caption] = []
        for part in vectors.split(batch) if len(vectors) else ():
            found += self._said(part, decoding or self.decoding, start + len(found))
        return found

    def neighbours(self, embeddings: Float[Tensor, "B D"] | Float[Tensor, "B K D"], count: int, start: int = 0) -> list[list[tuple[str, float]]]:
        """For each image embedding the `count` captions of its memory that are nearest, and their cosines with it as it gets there; `start` as in
        `caption`. Raises SettingError where no memory keeps its texts."""
        teller = self._teller()
        return teller.memory.said_near(self._reaching(teller, embeddings, start), count)

    def signals(
        self, captions: Sequence[Caption], embeddings: Tensor, draws: int = 0, start: int = 0, decoding: Decoding | None = None
    ) -> dict[str, Float[np.ndarray, "B"]]:
        """What there is to tell how sure it may be of its captions of these image embeddings (`confidence`), which `decoding` found."""
        photos = F.normalize((embeddings if embeddings.ndim == 2 else embeddings[:, 0]).float().cpu(), dim=-1)
        texts = self.backbone.encode_text([caption.text for caption in captions]).cpu()
        found = {"score": np.array([caption.score for caption in captions]), "cosine": (texts * photos).sum(1).double().numpy()}
        if looking := [bridge for bridge in self.bridges if len(getattr(getattr(bridge, "memory", None), "rows", ()))]:
            reached = F.normalize(self._reaching(looking[0], embeddings, start).embeddings[:, 0].float(), dim=-1)
            found["known"] = nearest(reached, looking[0].memory.rows, NEAREST)[0].mean(1).double().cpu().numpy()  # type: ignore[attr-defined]
        said = [things(caption.text) for caption in captions]
        found["things"] = np.array([float(len(one)) for one in said])
        if draws:
            asked = decoding or self.decoding
            drawn = Decoding("nucleus", captions=draws, style=asked.style, length=asked.length, seed=asked.seed + 1)  # none is the caption's own draw
            further = self._generate(embeddings, drawn, start)
            found["agreement"] = agreement(said, [[one.text, *(other.text for other in one.alternatives)] for one in further])
        return found

    def confidence_for(self, decoding: Decoding | None = None) -> Confidence | None:
        """What says how sure it may be of captions that this decoding finds; None where it was calibrated for another, or not at all."""
        suits = self.confidence is not None and self.confidence.suits(decoding or self.decoding, self._draws)
        return self.confidence if suits else None

    @property
    def _draws(self) -> bool:
        """Whether a bridge draws at inference."""
        return any(getattr(bridge, "draws", False) for bridge in self.bridges)

    def _reaching(self, bridge: Bridge, embeddings: Tensor, start: int) -> Condition:
        """Image embeddings as they get to one of its bridges."""
        condition = self._told(embeddings)
        for before in itertools.takewhile(lambda one: one is not bridge, self.bridges):
            condition = _crossed(before, condition, range(start, start + len(condition)))
        return condition

    def _told(self, embeddings: Tensor) -> Condition:
        """Image embeddings as the first bridge gets them."""
        return Condition.of((F.normalize(embeddings, dim=-1) if self.normalize else embeddings).cpu())

    def _said(self, embeddings: Tensor, decoding: Decoding, start: int, sizes: Sequence[int] | None = None) -> list[Caption]:
        """Captions, and how sure it is of each where it knows."""
        captions = self._generate(embeddings, decoding, start, sizes)
        sure = self.confidence_for(decoding)
        if sure is None:
            return captions
        return sure.judged(captions, self.signals(captions, _pooled(embeddings, sizes) if sizes else embeddings, sure.draws, start, decoding))

    def check(self, decoding: Decoding) -> None:
        """Raises SettingError for what no search can do, and for what this captioner cannot: a style or a length that it did not learn."""
        generation.check(decoding)
        require_reader(decoding, self.backbone, self.language)
        if decoding.style and decoding.style not in self.styles:
            learned = ", ".join(style for style in self.styles if style) or "none: train it on captions whose tables name one (as = ...)"
            plain = ", and a plain one where none is asked for" if "" in self.styles else ""
            raise SettingError(f"this captioner has no style {decoding.style!r}. It has {learned}{plain}.")
        if decoding.length and not self.lengths:
            raise SettingError("this captioner did not learn lengths (training.lengths = true). Any takes min_tokens, max_tokens and length_penalty.")

    def _style(self, decoding: Decoding) -> str:
        """The one that is asked for; else the plain one, or the first where none is."""
        return decoding.style or ("" if "" in self.styles else next(iter(self.styles), ""))

    def _generate(self, embeddings: Tensor, decoding: Decoding, start: int, sizes: Sequence[int] | None = None) -> list[Caption]:
        """Where a bridge draws at inference, each of a photo's captions is told from draws of its own, and is the best of its search. `sizes`: how
        many embeddings in a row are the frames of one clip; each crosses the bridges, and they are then pooled."""
        self.check(decoding)
        clean = self._told(embeddings)
        if self.styles or self.lengths:
            clean = replace(clean, prompts=(prompt(self._style(decoding), decoding.length),) * len(clean))
        drawn = self._draws
        sizes = sizes or [1] * len(embeddings)
        places = [start + place for place, size in enumerate(sizes) for _ in range(size)]
        lists: list[list[Caption]] = [[] for _ in sizes]
        teller = self._teller() if decoding.rerank == "neighbours" else None
        asked = clean  # the photos as the teller sees them
        for turn in range(generation.found(decoding) if drawn else 1):
            condition, seeds = clean, [(decoding.seed * 1_000_003 + place) * 1_009 + turn for place in places]
            for bridge in self.bridges:
                asked = condition if bridge is teller else asked
                condition = _crossed(bridge, condition, seeds)
            if any(size > 1 for size in sizes):
                condition = _as_clips(condition, sizes)
            many = 1 if drawn else generation.found(decoding)
            wanted = replace(
                decoding, seed=decoding.seed * 1_000_003 + start + turn * 1_009_007, captions=many, rerank="none", candidates=0, score_weight=0.0
            )
            lists = [before + more for before, more in zip(lists, self.decoder.generate(condition, wanted), strict=True)]
        lists = [sorted(captions, key=lambda caption: -caption.score) for captions in lists]
        if decoding.rerank == "clip":
            lists = by_clip(lists, _pooled(embeddings if embeddings.ndim == 2 else embeddings[:, 0], sizes), self.backbone, decoding.score_weight)
        elif decoding.rerank == "consensus":
            lists = by_consensus(lists, decoding.score_weight, self.language)
        elif teller is not None:
            near = teller.memory.said_near(Condition.of(_pooled(asked.embeddings, sizes)), decoding.neighbours)
            lists = by_neighbours(lists, [[text for text, _ in texts] for texts in near], decoding.score_weight, self.language)
        return [replace(best, alternatives=tuple(others)) for best, *others in (captions[: decoding.captions] for captions in lists)]

    def _teller(self) -> Any:
        """The first bridge whose memory keeps its texts. Raises SettingError where there is none."""
        for bridge in self.bridges:
            if getattr(getattr(bridge, "memory", None), "texts", None):
                return bridge
        raise SettingError(
            'rerank = "neighbours" asks a memory that keeps its texts, and no bridge of this captioner has one: train with keep_texts = true in '
            "memory_projection or retrieval."
        )

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Writes the folder. `dtype` is that of the stored float32 weights: half precision halves the file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.to(dtype) if tensor.dtype == torch.float32 else tensor for name, tensor in self._tensors().items()}
        write_tensors(folder / "weights.safetensors", tensors)
        self.decoder.save(folder)
        config = {
            "format_version": FORMAT, "capdec": capdec.__version__, **self.spec, "dim": self.backbone.dim,
            "backbone_fingerprint": self.backbone.fingerprint, "text": list(self.text), "given": [flag.name for flag in self.given],
            "supervision": self.supervision.words(), "decoding": asdict(self.decoding), "normalize": self.normalize,
            **({"styles": list(self.styles)} if self.styles else {}), **({"lengths": self.lengths} if self.lengths else {}),
            "language": self.language,
        }  # fmt: skip
        write_json(folder / "config.json", config)
        if self.confidence is not None:
            write_json(folder / CONFIDENCE, self.confidence.as_json())
        else:
            (folder / CONFIDENCE).unlink(missing_ok=True)  # of other weights

    @classmethod
    def load(
        cls,
        name: Path | str = "flickr",
        device: str = "cpu",
        backbone: Backbone | None = None,
        own_parts: bool = False,
        dtype: str = "float32",
    ) -> "Captioner":
        """From the name of an embedded captioner, a folder, or a hub id (`owner/name`, `owner/name@revision`). `backbone` replaces the one the
        configuration names, where its fingerprint agrees. A configuration may name parts of its maker's own (module:Class), which is code that runs
        here: they are refused unless `own_parts` says that you trust it. `dtype` is what it computes in, where its parts can: "float32", "bfloat16",
        which rounds a little and is several times as fast on processors that have it, or "auto", bfloat16 on those.

        Raises DataError where there is none, MismatchError where weights or backbone do not fit.
        """
        folder = locate(str(name))
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(f"{folder / 'config.json'} is not JSON ({error}). Copy the captioner folder again.") from error
        if config.get("format_version") != FORMAT:
            raise DataError(
                f"{folder} has format_version {config.get('format_version')!r}; this capdec reads {FORMAT}. Is it a captioner, made by this version?"
            )
        specs = [config["backbone"], config["decoder"], *config["bridges"]]
        foreign = [_names_of(spec)[0] for spec in specs if ":" in _names_of(spec)[0]]
        if foreign and not own_parts:
            raise SettingError(f"{name} runs code of its maker's own: {', '.join(foreign)}. If you trust it: own_parts=True, or --own-parts.")
        backbone = backbone or parts.build("backbones", config["backbone"], device=device)
        if backbone.fingerprint != config["backbone_fingerprint"]:
            raise MismatchError(
                f"{folder} was trained with the backbone {config['backbone_fingerprint']}, and {config['backbone']} is now {backbone.fingerprint}. "
                f"Captions would be nonsense; use the backbone it was trained with."
            )
        tensors, _ = read_tensors(folder / "weights.safetensors")
        decoder = parts.build("decoders", config["decoder"], dim=config["dim"])
        decoder.load(folder)
        load_module(decoder, {key.removeprefix("decoder."): t for key, t in tensors.items() if key.startswith("decoder.")}, folder)
        bridges = [parts.build("bridges", spec, dim=config["dim"]) for spec in config["bridges"]]
        for index, bridge in enumerate(bridges):
            prefix = f"bridges.{index}."
            bridge.restore(
                {key.removeprefix(prefix): t.float() if t.dtype == torch.float16 else t for key, t in tensors.items() if key.startswith(prefix)}
            )
        spec = {key: config[key] for key in ("backbone", "bridges", "decoder")}
        text, given = text_and_given(folder)
        recipe = recipes.read(folder / "recipe.toml") if (folder / "recipe.toml").is_file() else None
        decoding = Decoding(**config["decoding"])
        normalize = config.get("normalize", True)
        styles, lengths, language = config.get("styles", ()), config.get("lengths"), config.get("language", "en")
        made = cls(backbone, bridges, decoder.eval().to(device), spec, decoding, text, given, recipe, normalize, styles, lengths, language)
        try:
            made.confidence = Confidence.read(folder)
        except DataError as error:
            warnings.warn(f"{error} Captions have no confidence until then.", stacklevel=2)
        if made.confidence is not None and made.confidence.record.get("captioner", made.fingerprint) != made.fingerprint:
            warnings.warn(f"{folder / CONFIDENCE} was calibrated for other weights and is passed over: calibrate again, or delete it.", stacklevel=2)
            made.confidence = None
        if dtype != "float32":
            made.compute_in(dtype)
        return made

    def compute_in(self, dtype: str) -> None:
        """Captions from here on are computed in "float32", "bfloat16" or, "auto", the faster of them; weights and fingerprints stay as they are, and
        so does a backbone that was made for bfloat16. A part without a `dtype` goes on as it is. Raises SettingError for another."""
        chosen = precision(dtype, getattr(self.backbone, "device", "cpu"))
        own = self._backbone_dtype if chosen == "float32" else chosen
        parts: list[tuple[Any, Any]] = [(self.backbone, own), *((bridge, chosen) for bridge in self.bridges), (self.decoder, getattr(torch, chosen))]
        for part, value in parts:
            if getattr(part, "dtype", None) in ("float32", "bfloat16", torch.float32, torch.bfloat16):
                part.dtype = value

    def push_to_hub(self, repository: str, folder: Path | str, private: bool = False) -> str:
        """Uploads a saved folder (weights, card and scores) to the Hugging Face hub and returns its address. Raises MissingExtra."""
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise MissingExtra("huggingface-hub", "hub", "push_to_hub") from error
        if not (Path(folder) / "config.json").is_file():
            raise DataError(f"{folder} is not a saved captioner: it has no config.json. Call save(folder) first.")
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder), ignore_patterns=["training/*", "embeddings/*"]))


def _crossed(bridge: Bridge, condition: Condition, seeds: Sequence[int]) -> Condition:
    """Inference's side of a bridge; a random one item by item, so that an item's draws do not depend on which others are in its batch."""
    if not getattr(bridge, "draws", False):
        return bridge.from_image(condition, None)
    items = [condition.select(torch.tensor([place])) for place in range(len(condition))]
    crossed = [bridge.from_image(item, torch.Generator().manual_seed(seed)) for item, seed in zip(items, seeds, strict=True)]
    prompts = None if condition.prompts is None else tuple(prompt for one in crossed for prompt in one.prompts or ())
    return Condition(torch.cat([one.embeddings for one in crossed]), torch.cat([one.mask for one in crossed]), prompts, condition.rows)


def prompt(style: str, length: str) -> str:
    """What the decoder is told in words.

    >>> prompt("romantic", ""), prompt("romantic", "short"), prompt("", "")
    ('romantic', 'romantic short', '')
    """
    return " ".join(word for word in (style, length) if word)


def text_and_given(folder: Path) -> tuple[tuple[str, ...], Supervision]:
    """Of a captioner's folder: the names of the datasets from whose text it learned, and what training was given beside text."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    given = Supervision(0)
    for flag in config.get("given", ()):
        given |= Supervision[flag]
    return tuple(config.get("text", ())), given


def require_reader(decoding: Decoding, backbone: Backbone, language: str) -> None:
    """Raises SettingError where candidates would be chosen by a backbone that is not said to read them."""
    if decoding.rerank == "clip" and not reads(backbone, language):
        raise SettingError(
            f'rerank = "clip" has the backbone read the captions, which are in {language!r}, and {type(backbone).__name__} is not said to read that. '
            f"Choose by neighbours or consensus; or, for a model of the hub that does, say languages = [..., {language!r}] in the backbone's table."
        )


def _opened(image: Image | Sequence[Image | str | Path] | str | Path, frames: int) -> list[Image]:
    """A photo as one frame, a clip as several. Raises ImageError for a clip of none."""
    if isinstance(image, str | Path):
        return open_visual(image, frames)
    photos = [upright(frame) if isinstance(frame, Image) else open_image(frame) for frame in ([image] if isinstance(image, Image) else image)]
    if not photos:
        raise ImageError("a clip without a frame came. Give at least one image.")
    return photos


def _as_clips(frames: Condition, sizes: Sequence[int]) -> Condition:
    """Raises SettingError where a frame's condition is more than one embedding, or frames of a clip have different prompts."""
    firsts = [0, *itertools.accumulate(sizes)][:-1]
    said = None if frames.prompts is None else [set(frames.prompts[first : first + size]) for first, size in zip(firsts, sizes, strict=True)]
    if frames.embeddings.shape[1] > 1 or any(len(prompts) > 1 for prompts in said or ()):
        raise SettingError('pooling = "projected" is for bridges that make one embedding of a frame, and no prompt. Take "mean".')
    condition = Condition.of(_pooled(frames.embeddings[:, 0], sizes))
    return replace(condition, prompts=None if said is None else tuple(prompts.pop() for prompts in said))


def _pooled(frames: Float[Tensor, "N D"] | Float[Tensor, "N K D"], sizes: Sequence[int]) -> Float[Tensor, "B D"] | Float[Tensor, "B K D"]:
    """Of each clip's frames, which come one after the other, the mean, brought to their mean length. Regions are not averaged: a clip has as many
    as a frame, the frames' in turn, the first of each and then the second of each."""
    if all(size == 1 for size in sizes):
        return frames
    rows = frames if frames.ndim == 3 else frames.unsqueeze(1)
    pooled = []
    for clip in rows.split(list(sizes)):
        mean = F.normalize(clip[:, 0].mean(0, keepdim=True), dim=-1) * clip[:, 0].norm(dim=-1).mean()
        pooled.append(torch.cat([mean, clip[:, 1:].transpose(0, 1).flatten(0, 1)])[: clip.shape[1]])
    return torch.stack(pooled) if frames.ndim == 3 else torch.cat(pooled)


def located(spec: str | dict[str, Any], backbone: Backbone) -> str | dict[str, Any]:
    """The backbone's table with what finds the same one again from anywhere: the hub's commit, a folder's whole path."""
    if isinstance(spec, str):
        return spec
    local = {key: str(Path(value).resolve()) for key, value in spec.items() if key in ("folder", "model") and Path(str(value)).is_dir()}
    revision = getattr(backbone, "revision", None)
    return {**spec, **local, **({"revision": revision} if revision else {})}


def supervision_on(dataset: str | None, text: Iterable[str], backbone: Backbone | None, given: Supervision) -> Supervision:
    """`given`, and whether the text or the backbone's pairs were of the dataset that is scored ("flickr30k+flickr8k" counts as both)."""
    names = set(dataset.split("+")) if dataset else set()
    if names & set(text):
        given |= Supervision.TARGET_DOMAIN_TEXT
    if backbone is not None and names & backbone.trained_on_pairs:
        given |= Supervision.BACKBONE_PAIRS
    return given


def embedded() -> dict[str, Path]:
    """The captioners that travel in the package."""
    root = Path(str(resources.files("capdec") / "embedded"))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def listing(folder: Path | str) -> list[tuple[str, str, int]]:
    """Name, description and size in bytes of what is embedded and of the captioners in a folder and its folders."""
    root = Path(str(resources.files("capdec") / "embedded"))
    found = [(path.parent.name, "embedded backbone", path.parent) for path in sorted(root.glob("*/mini.json"))]
    found += [(name, f"embedded captioner: {_describe(path)}", path) for name, path in embedded().items()]
    for pattern in ("config.json", "*/config.json", "*/*/config.json"):
        for path in sorted(Path(folder).glob(pattern)):
            if (path.parent / "weights.safetensors").is_file() and root not in path.resolve().parents:
                found.append((str(path.parent), f"captioner: {_describe(path.parent)}", path.parent))
    return [(name, what, sum(file.stat().st_size for file in path.glob("*") if file.is_file())) for name, what, path in found]


def licence() -> str:
    """The terms of the embedded weights."""
    return (resources.files("capdec") / "embedded" / "LICENSE-WEIGHTS.md").read_text(encoding="utf-8")


def _describe(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return " + ".join(_parts_of(config)) + f", {config['supervision']}"


def locate(name: str) -> Path:
    """The folder of a captioner: embedded, local, or fetched from the hub. Raises DataError saying what there is."""
    if name in embedded():
        return embedded()[name]
    if Path(name).is_dir():
        if (Path(name) / "config.json").is_file():
            return Path(name)
        unfinished = " Its training is not finished: run the same `capdec train` again." if (Path(name) / "training").is_dir() else ""
        raise DataError(f"{name} is a folder without a config.json, so not a captioner.{unfinished}")
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or name.startswith((".", "/")):
        raise DataError(f"no captioner {name!r}: it is neither embedded ({', '.join(embedded()) or 'none'}), nor a folder, nor a hub id owner/name.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("huggingface-hub", "hub", f"fetching {name!r} from the hub") from error
    try:
        return Path(snapshot_download(repository, revision=revision or None, ignore_patterns=["*.bin", "*.pkl", "*.pt", "*.py"]))
    except Exception as error:
        raise DataError(f"{name!r} is not a folder here and could not be fetched from the hub: {str(error).splitlines()[0]}") from error


def _parts_of(spec: dict[str, Any]) -> list[str]:
    return [*_names_of(spec["backbone"]), *(_names_of(one)[0] for one in spec["bridges"]), *_names_of(spec["decoder"])]


def _names_of(spec: str | dict[str, Any]) -> list[str]:
    if isinstance(spec, str):
        return [spec]
    return [str(spec[key]) for key in ("name", "model") if key in spec]
