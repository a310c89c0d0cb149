"""Score a captioner on captioned photos, beside the baselines that it must beat.

    itself       its captions of the photos
    shuffled     the same captions, each given to another photo: what is gained by knowing the style alone
    nearest      the training caption nearest to the photo (CLIPRe): what is gained by writing at all
    constant     one caption for all photos: the training caption nearest to the mean of all training captions

CIDEr and ROUGE-L come with a bootstrap interval over images (idf fixed to the full set); the supervision behind the scores is computed.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from capdec import parts
from capdec.captioner import Captioner
from capdec.checkpoint import replacing, write_json
from capdec.errors import DataError
from capdec.nearest import nearest, recall
from capdec.progress import Progress
from capdec.protocols import Caption, Dataset, Decoding, Metric, Supervision


def evaluate(
    captioner: Captioner,
    dataset: Dataset,
    output: str | Path | None = None,
    *,
    memory: Sequence[str] = (),
    decoding: Decoding | None = None,
    metrics: Sequence[str] = ("coco_scores",),
    resamples: int = 1000,
    seed: int = 0,
    batch: int = 64,
) -> dict[str, Any]:
    """Scores by system and metric, each {"value", "low", "high"}. `memory` holds training captions for the nearest and the constant baseline; without
    it they are left out. Writes `predictions.jsonl` and `scores.json` into `output`.

    Raises DataError where an example has no photo, no id or no references.
    """
    started = time.monotonic()
    ids: list[str] = []
    references: dict[str, Sequence[str]] = {}
    embeddings: list[torch.Tensor] = []
    said: list[Caption] = []
    for name in metrics:
        parts.build("metrics", name).score({"0": "a man"}, {"0": ["a man"]})  # what it lacks (Java, say) is known before the work is done
    examples = list(dataset)
    for example in examples:
        if example.open_image is None or example.image_id is None or not example.captions:
            raise DataError(
                f"evaluation needs photos with ids and references, and {example.image_id or 'an example'} lacks one. Name the photos' folder."
            )
        ids.append(example.image_id)
        references[example.image_id] = list(example.captions)
    if len(references) != len(ids):
        raise DataError(f"{len(ids) - len(references)} photos share an image_id with another: ids must be unique.")
    with Progress("captioning", len(examples)) as progress:
        for start in range(0, len(examples), batch):
            images = [example.open_image() for example in examples[start : start + batch] if example.open_image is not None]
            found = captioner.backbone.encode_image(images)
            embeddings.append(found.cpu())
            said += captioner.caption_embeddings(found.cpu(), decoding, batch, start=start)
            progress.update(min(start + batch, len(examples)))
    vectors = torch.cat(embeddings)

    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
    shifted = {order[place]: order[place - 1] for place in range(len(order))}  # a cycle: nobody keeps its own
    systems = {"itself": [caption.text for caption in said], "shuffled": [said[shifted[place]].text for place in range(len(ids))]}
    if memory:
        rows = captioner.backbone.encode_text(memory).cpu()
        systems["nearest training caption"] = [memory[row] for row in nearest(vectors, rows, 1)[1].squeeze(1).tolist()]
        middle = F.normalize(rows.mean(0, keepdim=True), dim=-1)
        systems["constant caption"] = [memory[int(nearest(middle, rows, 1)[1])]] * len(ids)

    scores: dict[str, dict[str, dict[str, float]]] = {}
    for system, texts in systems.items():
        scores[system] = {}
        for name in metrics:
            metric: Metric = parts.build("metrics", name)
            for key, score in metric.score(dict(zip(ids, texts, strict=True)), references).items():
                scores[system][key] = {"value": round(score.value, 3), **_interval(score.each, resamples, seed)}

    supervision = captioner.supervision
    if dataset.name in captioner.backbone.trained_on_pairs:
        supervision |= Supervision.BACKBONE_PAIRS
    unknown = "" if dataset.name or not captioner.backbone.trained_on_pairs else " (whether the backbone saw its pairs is unknown: name the dataset)"
    texts = [caption for example in examples for caption in example.captions]
    owners = torch.tensor([place for place, example in enumerate(examples) for _ in example.captions])
    report = {
        "n": len(ids), "dataset": dataset.name, "scores": scores, "supervision": supervision.words() + unknown,
        "backbone": captioner.backbone.fingerprint, "backbone_recall": recall(vectors, captioner.backbone.encode_text(texts).cpu(), owners),
        "decoding": asdict(decoding or captioner.decoding), "seed": seed, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    if output is not None:
        with replacing(Path(output) / "predictions.jsonl") as temporary:
            rows_out = [{"image_id": key, **{name: texts[place] for name, texts in systems.items()}} for place, key in enumerate(ids)]
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_out), encoding="utf-8")
        write_json(Path(output) / "scores.json", report)
    return report


def _interval(each: dict[str, float] | None, resamples: int, seed: int) -> dict[str, float]:
    """The 95 % interval of the mean over images, where the value is such a mean (CIDEr, ROUGE-L); for corpus-level BLEU none is given."""
    if each is None:
        return {}
    values = torch.tensor(list(each.values()), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(resamples)])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"low": round(low, 3), "high": round(high, 3)}
