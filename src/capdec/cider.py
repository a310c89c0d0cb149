"""CIDEr-D (Vedantam, Lawrence Zitnick, Parikh 2015), the "CIDEr" of the COCO caption evaluation, over whole sets at once.

For n = 1..4 a text is a vector of tf-idf weights of its n-grams, with idf = log(images) - log(images whose references have the n-gram). With h the
caption's vector and r a reference's:

    10 x mean over n and references of   min(h, r) . r / (|h| |r|)  x  exp(-(length difference)^2 / (2 x 6^2))

where a length is the number of bigrams. Equal to pycocoevalcap's figures to rounding, and several times faster (benchmarks/scores.py): n-grams are
numbers in sorted arrays and not tuples in dictionaries.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SIGMA = 6.0


def cider(captions: Sequence[str], references: Sequence[Sequence[str]], idf: bool = True) -> Float[np.ndarray, "N"]:
    """One figure an image, 0 to 10; their mean is the set's. Texts are tokens with spaces between them. A set of one image gets 0: its idf is 0.
    Without `idf` all n-grams weigh alike, and an image's figure is the same in any set."""
    images = len(captions)
    owners = np.repeat(np.arange(images), [len(texts) for texts in references])  # the image of each reference
    sentences = [text.split() for text in (*captions, *(text for texts in references for text in texts))]
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for sentence in sentences for word in sentence], np.int64)
    sizes = np.array([len(sentence) for sentence in sentences])
    sentence_of = np.repeat(np.arange(len(sentences)), sizes)
    lengths = np.maximum(sizes - 1, 0)  # bigrams
    apart = (lengths[owners] - lengths[images:]).astype(np.float64)
    closeness: Float[np.ndarray, M] = np.exp(-(apart**2) / (2 * SIGMA**2))

    total = np.zeros(images)
    codes, at = words, np.arange(len(words))  # the n-gram that begins at each of these places
    for n in range(1, 5):
        if n > 1:
            inside = sentence_of[np.minimum(at + n - 1, len(words) - 1)] == sentence_of[at]
            inside &= at + n - 1 < len(words)
            at, codes = at[inside], codes[inside]
            codes = np.unique(codes * len(numbers) + words[at + n - 1], return_inverse=True)[1]
        total += np.bincount(owners, _similarity(codes, sentence_of[at], images, owners, idf) * closeness, minlength=images)
    return 10 / 4 * total / np.bincount(owners, minlength=images)


def _similarity(
    codes: Int[np.ndarray, "G"], sentence_of: Int[np.ndarray, "G"], images: int, owners: Int[np.ndarray, "M"], idf: bool
) -> Float[np.ndarray, "M"]:
    """min(h, r) . r / (|h| |r|) of each reference with its image's caption, for the n-grams of one length."""
    kinds = int(codes.max(initial=-1)) + 1
    if not kinds:
        return np.zeros(len(owners))
    keys, counts = np.unique(sentence_of * kinds + codes, return_counts=True)  # sorted, captions first
    sentence, code = np.divmod(keys, kinds)
    split = int(np.searchsorted(sentence, images))
    reference = sentence[split:] - images
    frequency = np.bincount(np.unique(owners[reference] * kinds + code[split:]) % kinds, minlength=kinds)  # images that have it
    weights = counts * (np.log(images) - np.log(np.maximum(frequency, 1)))[code] if idf else counts.astype(np.float64)
    norms = np.sqrt(np.bincount(sentence, weights**2, minlength=images + len(owners)))
    own, theirs = np.asarray(weights[:split], np.float64), np.asarray(weights[split:], np.float64)
    wanted = owners[reference] * kinds + code[split:]
    place = np.minimum(np.searchsorted(keys[:split], wanted), max(split - 1, 0))
    shared = np.where(keys[:split][place] == wanted, np.minimum(own[place], theirs), 0.0) if split else np.zeros(len(wanted))
    products = np.bincount(reference, shared * theirs, minlength=len(owners))
    scale = norms[owners] * norms[images:]
    return np.where(scale > 0, products / np.maximum(scale, 1e-300), 0.0)
