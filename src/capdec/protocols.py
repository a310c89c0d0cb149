"""The words everything else is written in: what each kind of part promises, and the few values that pass between them.

Letters used in every signature: B batch, N rows of a corpus or memory, D embedding width, K rows of a condition, P prefix length, E decoder width,
T tokens. Only captions (strings), images and embeddings cross the borders between parts: tokens never leave a decoder, pixels never leave a backbone.
"""

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from capdec.corpus import Corpus


class Supervision(enum.Flag):
    """What a method was given. No flag at all is text only. Computed from what was used, never typed in."""

    IMAGE_STATISTICS = enum.auto()
    PAIR_STATISTICS = enum.auto()
    UNPAIRED_IMAGES = enum.auto()
    TARGET_DOMAIN_TEXT = enum.auto()
    PAIRS = enum.auto()
    PAIRS_FOR_SETTINGS = enum.auto()
    BACKBONE_PAIRS = enum.auto()

    def words(self) -> str:
        """
        >>> Supervision(0).words()
        'text only'
        >>> (Supervision.UNPAIRED_IMAGES | Supervision.BACKBONE_PAIRS).words()
        "text + unpaired images + backbone trained on this dataset's pairs"
        """
        said = {
            Supervision.IMAGE_STATISTICS: "unpaired image statistics",
            Supervision.PAIR_STATISTICS: "statistics of pairs",
            Supervision.UNPAIRED_IMAGES: "unpaired images",
            Supervision.TARGET_DOMAIN_TEXT: "target-domain text",
            Supervision.PAIRS: "pairs",
            Supervision.PAIRS_FOR_SETTINGS: "settings chosen on pairs",
            Supervision.BACKBONE_PAIRS: "backbone trained on this dataset's pairs",
        }
        return " + ".join(["text", *(words for flag, words in said.items() if flag in self)]) if self else "text only"


@dataclass(frozen=True)
class Condition:
    """What a decoder is told. Row 0 is the global embedding; further rows are regions or neighbours.

    embeddings                 mask              two photos, the second without neighbours
    [[global, near, near],     [[1, 1, 1],
     [global, 0,    0   ]]      [1, 0, 0]]
    """

    embeddings: Float[Tensor, "B K D"]
    mask: Bool[Tensor, "B K"]
    prompts: tuple[str, ...] | None = None
    """Words for the language model, one string an item: entities, style, language."""
    rows: Int[Tensor, "B"] | None = None
    """In training: which corpus rows these are, so that a retrieval can leave out itself and its siblings; -1 for none."""

    @classmethod
    def of(cls, embeddings: Float[Tensor, "B D"] | Float[Tensor, "B K D"], rows: Int[Tensor, "B"] | None = None) -> "Condition":
        """A condition without padding."""
        if embeddings.ndim == 2:
            embeddings = embeddings.unsqueeze(1)
        return cls(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device), rows=rows)

    def with_embeddings(self, embeddings: Float[Tensor, "B K D"]) -> "Condition":
        return replace(self, embeddings=embeddings)

    def select(self, items: Int[Tensor, "b"]) -> "Condition":
        """Some of the items."""
        prompts = None if self.prompts is None else tuple(self.prompts[item] for item in items.tolist())
        return Condition(self.embeddings[items], self.mask[items], prompts, None if self.rows is None else self.rows[items])

    def to(self, device: str | torch.device) -> "Condition":
        rows = None if self.rows is None else self.rows.to(device)
        return replace(self, embeddings=self.embeddings.to(device), mask=self.mask.to(device), rows=rows)

    def __len__(self) -> int:
        return len(self.embeddings)


class LogProb(NamedTuple):
    """Log-probability of each caption, in nats: summed over its tokens with the end included, and how many tokens those are."""

    total: Float[Tensor, "B"]
    tokens: Int[Tensor, "B"]


@dataclass(frozen=True)
class Caption:
    """A generated text. `score` is its log-probability in nats divided by (tokens, end included) ** length_penalty; `tokens` mean something only to
    the decoder that made them; `alternatives` are further captions of the same image, best first, where several were asked for. `confidence` is the
    probability that everything it names is there, where the captioner was calibrated (`confidence`); `unsure` says that this is too little."""

    text: str
    score: float
    tokens: tuple[int, ...] = ()
    alternatives: "tuple[Caption, ...]" = ()
    confidence: float | None = None
    unsure: bool = False


@dataclass(frozen=True)
class Decoding:
    """How captions are searched for. `rerank` chooses among `candidates` of a photo (0: as many as `captions`): by their nearness to it in the
    backbone's space ("clip"), by what they agree on ("consensus"), or by what the photo's `neighbours` nearest captions in a memory that keeps its
    texts agree with ("neighbours"), plus `score_weight` times their score; without it their score does.

    `style` is one of those that the captioner learned to tell apart, `length` how long a caption is to be where it learned that too; empty: its own
    way.
    `captions` alternatives are returned for each image, best first. `beams` counts for "beam" only; `top_p`, `temperature` and `seed` for "nucleus"
    only (the draws of an image depend on the seed and on its place among the images of a call, not on the batch size). `min_tokens` and `max_tokens`
    include the end: with `min_tokens` any captioner says more, whether there is more to see or not.
    """

    strategy: Literal["beam", "greedy", "nucleus"] = "beam"
    beams: int = 5
    captions: int = 1
    max_tokens: int = 40
    min_tokens: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    top_p: float = 0.9
    temperature: float = 1.0
    seed: int = 0
    rerank: Literal["none", "clip", "consensus", "neighbours"] = "none"
    candidates: int = 0
    neighbours: int = 30
    score_weight: float = 0.0
    style: str = ""
    length: Literal["", "short", "medium", "long"] = ""


@dataclass(frozen=True)
class Example:
    """One photo's captions, or one text without a photo. `open_image` is None where the dataset is text alone."""

    captions: tuple[str, ...]
    image_id: str | None = None
    open_image: "Callable[[], Image] | None" = None
    sources: tuple[str, ...] | None = None
    """What is embedded for each caption, as many as there are captions: a factual source for a romantic target. None: each caption is its own."""
    group: str | None = None
    """A part of the benchmark that is scored on its own too: NoCaps' "in-domain", "near-domain", "out-domain"."""
    style: str = ""
    """What its way of speaking is called, where a captioner learns several: "romantic", "de"."""


@runtime_checkable
class Backbone(Protocol):
    """A frozen CLIP-like pair. Takes any number of strings or PIL images and batches inside; truncates by its own tokens and reports how often. One
    that can has `encode_regions(images, count) -> Float["B K D"]` too, of unit length: the global embedding first, then `count` regions; and
    `fit_photo(image)`, the photo as its tower sees it, which is embedded as the photo is and can be made in threads, ahead of the tower; and one that
    reads other languages than English names those it reads in `languages`."""

    dim: int
    fingerprint: str
    """Equal for two backbones exactly if they give the same embeddings."""
    trained_on_pairs: frozenset[str]
    """Names of the datasets whose image-caption pairs it is known to have seen."""
    target_cosine: float
    """CapDec's noise level where it cannot be chosen on text: the expected cosine of a noised embedding with the clean one."""

    def encode_text(self, captions: Sequence[str], normalize: bool = True) -> Float[Tensor, "B D"]: ...

    def encode_image(self, images: "Sequence[Image]", normalize: bool = True) -> Float[Tensor, "B D"]: ...


@runtime_checkable
class Bridge(Protocol):
    """Crosses the modality gap. Condition in, condition out, so bridges compose: fitted and applied in order. Settings that `fit` chose itself stand
    in an attribute `chosen`, where there are any, and go into the recipe that is written beside a captioner. `looks_up = True` says that text and
    images are treated alike (a memory's), `adds_only = True` that row 0 stays as it is, `regions = K` that it wants K regions of a photo behind its
    global embedding (a Backbone's `encode_regions`), `draws = True` that `from_image` is random."""

    supervision: Supervision

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        """Learns from a corpus of text and, where the method wants them, unpaired image embeddings, as earlier bridges leave them."""

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Training's side. Without a generator nothing random is added."""
        ...

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Inference's side."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What it holds, to be saved with the captioner."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None: ...


@runtime_checkable
class Decoder(Protocol):
    """Turns a condition into captions. Also a torch Module: `log_prob` is its forward, and its parameters are what training moves. One that can
    generate in bfloat16 has an attribute `dtype`, a torch.dtype and float32 at first; `log_prob` is float32's always."""

    dim: int

    def fit(self, captions: Sequence[str]) -> None:
        """Once, before training: builds what depends on the text (a vocabulary) and the network."""

    def log_prob(self, condition: Condition, captions: Sequence[str | Caption], label_smoothing: float = 0.0) -> LogProb:
        """With label smoothing s, each token counts (1 - s) times its own log-probability plus s times the vocabulary's mean. A Caption that this
        decoder generated is told by its own tokens; a text by those that it is cut into."""
        ...

    def generate(self, condition: Condition, decoding: Decoding) -> list[list[Caption]]:
        """For each image its captions, best first."""
        ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None:
        """Puts back what `save` wrote into a decoder built with the same settings. Needs no hub."""


@runtime_checkable
class Dataset(Protocol):
    """Examples from a file or folder. `suffixes` are the endings by which `capdec train FILE` recognises it; `name` is the dataset's, for the
    supervision flags, or None ("flickr30k+flickr8k" where it is of several); `split` is train, val, test ... or None where that is not known."""

    suffixes: tuple[str, ...]
    name: str | None
    split: str | None

    @classmethod
    def recognises(cls, path: str) -> bool: ...

    def __iter__(self) -> Iterator[Example]: ...


@dataclass(frozen=True)
class Predictions:
    """What a metric looks at: a caption an image and what people wrote about it, image by image in one order; and what some metrics need beside: how
    to open the photos, the text that the captions' maker learned from, and the fingerprint of the backbone it used."""

    captions: Mapping[str, str]
    references: Mapping[str, Sequence[str]]
    openers: "Mapping[str, Callable[[], Image]] | None" = None
    training_text: Sequence[str] = ()
    backbone: str | None = None


def mean(sums: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    """The usual Score.combine: a sum over a count; 0 where nothing was counted."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


@dataclass(frozen=True)
class Score:
    """A figure over a set of images. It is `combine` of the sums over images of `statistics`, so that a bootstrap can make it again for any choice of
    them: for a mean the statistics are (the image's number, 1); for BLEU, counts and lengths. Without statistics there is a value and no interval;
    without a value it was not computed, and `note` says why."""

    value: float | None
    statistics: Float[np.ndarray, "N S"] | None = None
    combine: Callable[[Float[np.ndarray, "... S"]], Float[np.ndarray, "..."]] = mean
    note: str = ""

    @classmethod
    def of(
        cls,
        statistics: Float[np.ndarray, "N S"],
        combine: Callable[[Float[np.ndarray, "... S"]], Float[np.ndarray, "..."]] = mean,
        note: str = "",
    ) -> "Score":
        return cls(float(combine(statistics.sum(0, keepdims=True))[0]), statistics, combine, note)

    @classmethod
    def mean_of(cls, each: Float[np.ndarray, "N"], note: str = "") -> "Score":
        return cls.of(np.stack([each, np.ones(len(each))], 1).astype(np.float64), note=note)

    @classmethod
    def missing(cls, why: str) -> "Score":
        return cls(None, note=f"not computed: {why}")

    @property
    def each(self) -> Float[np.ndarray, "N"] | None:
        """The figure of each image alone."""
        return None if self.statistics is None else self.combine(self.statistics)


@runtime_checkable
class Metric(Protocol):
    """Figures over a set of captions, by name, times 100 where the field reports them so. What cannot be computed here (no Java, no photos) is a
    Score.missing, never 0."""

    def score(self, predictions: Predictions) -> dict[str, Score]: ...
