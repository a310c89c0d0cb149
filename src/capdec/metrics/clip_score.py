"""How well captions fit their photos, by a judge: a backbone that had no part in making them.

    CLIPScore       2.5 max(0, cos(photo, caption))                                            (Hessel et al. 2021)
    RefCLIPScore    harmonic mean of that and max(0, the largest cosine of caption and reference)
    R@1, R@5, R@10  does the caption find its own photo among all of the set?

All times 100. Published figures are by CLIP ViT-B/32; another judge's are not comparable with them, only with its own. What the captioner's own
backbone says is marked: a captioner can please the backbone it reads without telling the photo.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from capdec.language import reads
from capdec.protocols import Backbone, Predictions, Score

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64


class ClipScore:
    """`judge` is a backbone; `prompt` stands before each text (default: the judge's own `caption_prompt`, else the "A photo depicts " of the paper;
    none where captions are not in English). Where the judge is not said to read the captions' language, the note says so. The photos of a
    set are embedded once, however many systems are scored on it."""

    def __init__(self, judge: Backbone, prompt: str | None = None, language: str = "en"):
        self.judge, self.language = judge, language
        usual = getattr(judge, "caption_prompt", "A photo depicts ") if language == "en" else ""
        self.prompt = usual if prompt is None else prompt
        self._photos: tuple[tuple[str, ...], Tensor] | None = None
        self._texts: dict[str, Tensor] = {}

    def score(self, predictions: Predictions) -> dict[str, Score]:
        if predictions.openers is None:
            return {name: Score.missing("no photos were given") for name in ("CLIPScore", "RefCLIPScore", "R@1", "R@5", "R@10")}
        ids = list(predictions.captions)
        photos = self._embedded(ids, predictions.openers)  # (N, D)
        captions = self._encode([predictions.captions[key] for key in ids])
        own = (captions * photos).sum(1)
        fits = 2.5 * own.clamp(min=0)
        spans = np.cumsum([0, *(len(predictions.references[key]) for key in ids)])
        references = self._encode([text for key in ids for text in predictions.references[key]])
        alike = torch.stack([(references[start:end] @ caption).max() for start, end, caption in zip(spans, spans[1:], captions, strict=False)])
        both = 2 * fits * alike.clamp(min=0) / (fits + alike.clamp(min=0)).clamp(min=1e-12)
        nearer = [(part @ photos.T > mine[:, None] + 1e-6).sum(1) for part, mine in zip(captions.split(1024), own.split(1024), strict=True)]
        rank = torch.cat(nearer)  # how many photos are nearer than its own
        by = f"by {self.judge.fingerprint}" + (", the captioner's own backbone" if self.judge.fingerprint == predictions.backbone else "")
        by += "" if reads(self.judge, self.language) else f", which is not said to read {self.language!r}"
        figures = {"CLIPScore": fits, "RefCLIPScore": both, **{f"R@{k}": (rank < k).float() for k in (1, 5, 10)}}
        return {name: Score.mean_of(100 * each.double().numpy(), by) for name, each in figures.items()}

    def _embedded(self, ids: Sequence[str], openers: "Mapping[str, Callable[[], Image]]") -> Tensor:
        if self._photos is None or self._photos[0] != tuple(ids):
            rows = [self.judge.encode_image([openers[key]() for key in ids[at : at + BATCH]]).cpu() for at in range(0, len(ids), BATCH)]
            self._photos = tuple(ids), torch.cat(rows)
        return self._photos[1]

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """References come again with every system."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        self._texts.update(zip(new, self.judge.encode_text([self.prompt + text for text in new]).cpu(), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    @classmethod
    def tiny(cls, folder: Path) -> "ClipScore":
        return cls(_Colours())


class _Colours:
    """The judge of `tiny`: photos and words by their mean colour."""

    dim, fingerprint, target_cosine = 3, "colours", 0.5
    trained_on_pairs: frozenset[str] = frozenset()
    words: ClassVar = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}

    def encode_text(self, captions: Sequence[str], normalize: bool = True) -> Tensor:
        grey = (0.1, 0.1, 0.1)
        rows = [np.mean([self.words.get(word, grey) for word in caption.split()] or [grey], 0) for caption in captions]
        return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32).view(-1, 3), dim=-1)

    def encode_image(self, images: "Sequence[Image]", normalize: bool = True) -> Tensor:
        return F.normalize(torch.stack([torch.tensor(np.asarray(image, np.float32)).mean((0, 1)) for image in images]) + 1, dim=-1)
