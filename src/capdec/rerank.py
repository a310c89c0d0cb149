"""Which of several captions of a photo is the best, when the decoder's own score is not to say.

clip         the one whose embedding is nearest to the photo's (as MacCap chooses). A figure by the same backbone then says little.
consensus    the one that the others agree with most: the highest mean CIDEr-D against them, all n-grams weighing alike (minimum Bayes risk)
neighbours   the one that the photo's nearest captions in a memory agree with most, by the same measure (the consensus of Devlin et al. 2015, who
             chose among those captions themselves)

Words are the tokens of the captions' language. To any of these `score_weight` times the decoder's score is added: what is likely, and also fits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.cider import cider
from capdec.language import tokenizer
from capdec.protocols import Backbone, Caption

Lists = Sequence[Sequence[Caption]]


def by_clip(lists: Lists, images: Float[Tensor, "B D"], backbone: Backbone, score_weight: float = 0.0) -> list[list[Caption]]:
    """Nearest to its photo first."""
    texts = backbone.encode_text([caption.text for captions in lists for caption in captions]).cpu()
    sizes = [len(captions) for captions in lists]
    near = [rows @ image for rows, image in zip(texts.split(sizes), F.normalize(images.float().cpu(), dim=-1), strict=True)]
    return [_sorted(captions, one.tolist(), score_weight) for captions, one in zip(lists, near, strict=True)]


def by_consensus(lists: Lists, score_weight: float = 0.0, language: str = "en") -> list[list[Caption]]:
    """Most agreed with first. A caption that stands there several times agrees with itself."""
    said = [[tokenizer(language)(caption.text) for caption in captions] for captions in lists]
    others = [texts[:place] + texts[place + 1 :] or [""] for texts in said for place in range(len(texts))]
    return _by_agreement(lists, others, score_weight, language)


def by_neighbours(lists: Lists, neighbours: Sequence[Sequence[str]], score_weight: float = 0.0, language: str = "en") -> list[list[Caption]]:
    """Most agreed with first. `neighbours` are texts for each photo, at least one."""
    near = [[tokenizer(language)(text) for text in texts] for texts in neighbours]
    return _by_agreement(lists, [texts for captions, texts in zip(lists, near, strict=True) for _ in captions], score_weight, language)


def _by_agreement(lists: Lists, others: Sequence[Sequence[str]], score_weight: float, language: str) -> list[list[Caption]]:
    """By CIDEr-D of each caption against its own others, all of them tokens."""
    said = [tokenizer(language)(caption.text) for captions in lists for caption in captions]
    agreed = torch.from_numpy(cider(said, others, idf=False)).split([len(captions) for captions in lists])
    return [_sorted(captions, one.tolist(), score_weight) for captions, one in zip(lists, agreed, strict=True)]


def _sorted(captions: Sequence[Caption], by: Sequence[float], score_weight: float) -> list[Caption]:
    """Highest first; the decoder's order where they are equal."""
    total = [one + score_weight * caption.score for one, caption in zip(by, captions, strict=True)]
    return [captions[place] for place in sorted(range(len(captions)), key=lambda place: -total[place])]
