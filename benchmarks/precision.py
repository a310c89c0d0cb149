"""Are captions in bfloat16 as good as in float32? On captioned photos.

    python benchmarks/precision.py DATASET [CAPTIONER]

Prints for how many photos the caption that is found in bfloat16 is, by float32's own score, within 0.02 nats a token of what float32 finds (plain
beam search, no re-ranking), and CIDEr both ways with the captioner's own decoding, and their difference with its paired bootstrap interval.
"""

import sys
from dataclasses import replace

import torch
from torch import Tensor

from capdec import Captioner
from capdec.bootstrap import difference
from capdec.corpus import encode_photos, open_dataset
from capdec.metrics.coco_scores import CocoScores
from capdec.protocols import Caption, Condition, Predictions

NATS = 0.02


def scores(captioner: Captioner, embeddings: Tensor, captions: list[Caption]) -> Tensor:
    """Nats a token, in float32."""
    condition = Condition.of(embeddings)
    for bridge in captioner.bridges:
        condition = bridge.from_image(condition, None)
    found = captioner.decoder.log_prob(condition, captions)
    return found.total / found.tokens


@torch.inference_mode()
def main(dataset: str, name: str = "flickr") -> None:
    examples = [one for one in open_dataset(dataset) if one.open_image is not None]
    photos = [one.open_image() for one in examples if one.open_image is not None]
    references = {str(place): one.captions for place, one in enumerate(examples)}
    plain, half = Captioner.load(name), Captioner.load(name, dtype="bfloat16")
    seen = {captioner: encode_photos(captioner.backbone, photos, captioner.regions) for captioner in (plain, half)}

    search = replace(plain.decoding, rerank="none", candidates=0, score_weight=0.0)
    found = [captioner.caption_embeddings(seen[captioner], search) for captioner in (plain, half)]
    lost = scores(plain, seen[plain], found[0]) - scores(plain, seen[plain], found[1])
    same = sum(one.text == other.text for one, other in zip(*found, strict=True))
    print(f"{len(photos):,} photos, {name}, beam {search.beams}: {same} captions are the same.")
    print(f"Within {NATS} nats a token: {(lost.abs() <= NATS).float().mean():.2%}; no worse than that: {(lost <= NATS).float().mean():.2%}")

    figures = []
    for captioner in (plain, half):
        captions = captioner.caption_embeddings(seen[captioner])
        texts = {str(place): caption.text for place, caption in enumerate(captions)}
        figures.append(CocoScores().score(Predictions(texts, references))["CIDEr"])
    apart = difference([figures[1]], [figures[0]])
    values = f"float32 {figures[0].value:.2f}, bfloat16 {figures[1].value:.2f}"
    print(f"CIDEr: {values}, difference {apart.value:+.2f} [{apart.low:+.2f}, {apart.high:+.2f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
