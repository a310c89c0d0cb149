"""What tells that a caption is right? The signals of a captioner's confidence, and dearer ones that are not in it, each alone and several together.

    python benchmarks/confidence.py CAPTIONER CALIBRATION DEV JUDGE [RESULT.json]

CALIBRATION and DEV are captioned photos, JUDGE another backbone's folder. Weights are learned on CALIBRATION; its figures are cross-validated (AUROC,
Brier), DEV's are of photos that had no part in it (AUROC, Brier, AURC with 95 % intervals over images). And what confidence costs, in rounds that
take turns.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from capdec import bootstrap, confidence, parts, scoring
from capdec.captioner import Captioner
from capdec.cider import cider
from capdec.confidence import agreement, things
from capdec.protocols import Decoding, Predictions
from capdec.ptb import tokenize

DRAWS = 10
OURS = ("score", "cosine", "known", "things")
TOGETHER = (
    ("score", "cosine"), ("score", "cosine", "known"), OURS, (*OURS, "agreement of 3 draws"), (*OURS, "agreement of 10 draws"),
    (*OURS, "cosine by the judge"), (*OURS, "cosine by the judge", "agreement of 3 draws"), (*OURS, "agreement of beams"),
)  # fmt: skip
ROUNDS = 5


def read(captioner, judge, path):
    """Signals by name, which captions are right, and the photos' embeddings."""
    examples = scoring.read_references(scoring.open_references({"path": path, "split": "val"}))
    vectors, seen = [], []
    for start in range(0, len(examples), 64):
        images = [example.open_image() for example in list(examples.values())[start : start + 64]]
        vectors.append(captioner.backbone.encode_image(images))
        seen.append(judge.encode_image(images))
    vectors, seen = torch.cat(vectors), torch.cat(seen)
    told = captioner.caption_embeddings(vectors, replace(captioner.decoding, captions=max(captioner.decoding.candidates, 1)))
    found = captioner.signals(told, vectors)
    found["log-probability"] = np.array([caption.score * len(caption.tokens) for caption in told])
    found["cosine by the judge"] = (judge.encode_text([caption.text for caption in told]) * seen).sum(1).double().numpy()
    tokens = [tokenize(caption.text) for caption in told]
    beams = [[tokenize(other.text) for other in caption.alternatives] or [""] for caption in told]
    found["agreement of beams"] = cider(tokens, beams, idf=False)
    drawn = [
        [one.text, *(other.text for other in one.alternatives)] for one in captioner.caption_embeddings(vectors, Decoding("nucleus", captions=DRAWS))
    ]
    said = [things(caption.text) for caption in told]
    for some in (3, DRAWS):
        found[f"agreement of {some} draws"] = agreement(said, [texts[:some] for texts in drawn])
    found[f"CIDEr with {DRAWS} draws"] = cider(tokens, [[tokenize(text) for text in texts] for texts in drawn], idf=False)
    texts = {key: caption.text for key, caption in zip(examples, told, strict=True)}
    references = {key: example.captions for key, example in examples.items()}
    figures = scoring.score(scoring.build(("unseen_nouns", "coco_scores"), None), Predictions(texts, references))
    return found, figures["captions with unseen nouns"].each == 0, figures["CIDEr"].each, vectors


def with_interval(figure, sure, right):
    generator = np.random.default_rng(0)
    draws = [figure(sure[some], right[some]) for some in generator.integers(len(right), size=(bootstrap.RESAMPLES, len(right)))]
    return [round(figure(sure, right), 4), *(round(end, 4) for end in bootstrap.interval(np.array(draws)))]


def ranks(values):
    return np.unique(values, return_inverse=True)[1].astype(float)


def worth(names, ours, theirs):
    """Of these signals together: cross-validated on the one set, and on the other."""
    (found, right, _, _), (other, other_right, quality, _) = ours, theirs
    middle, spread = ({name: getattr(found[name], what)() for name in names} for what in ("mean", "std"))
    inputs, others = (np.stack([(one[name] - middle[name]) / spread[name] for name in names], 1) for one in (found, other))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    crossed = cross_val_predict(LogisticRegression(), inputs, right, cv=folds, method="predict_proba")[:, 1]
    sure = LogisticRegression().fit(inputs, right).predict_proba(others)[:, 1]
    return {
        "calibration": {"auroc": round(confidence.auroc(crossed, right), 4), "brier": round(confidence.brier(crossed, right), 4)},
        "dev": {
            "auroc": with_interval(confidence.auroc, sure, other_right), "brier": with_interval(confidence.brier, sure, other_right),
            "aurc": with_interval(confidence.area_under_risk, sure, other_right),
            "rank correlation with CIDEr": round(float(np.corrcoef(ranks(sure), ranks(quality))[0, 1]), 3),
        },
    }  # fmt: skip


def cost(captioner, vectors):
    """Seconds that captions of stored embeddings take with confidence, over those without, round by round."""
    some, learned = vectors[:256], captioner.confidence
    ratios = {"with": [], "with 3 draws": []}
    for _ in range(ROUNDS):
        seconds = {}
        for name in ("without", *ratios):
            captioner.confidence = None
            began = time.perf_counter()
            told = captioner.caption_embeddings(some)
            if name != "without":
                captioner.signals(told, some, 3 if name == "with 3 draws" else 0)
            seconds[name] = time.perf_counter() - began
        for name in ratios:
            ratios[name].append(seconds[name] / seconds["without"])
    captioner.confidence = learned
    return {name: {"median": round(float(np.median(each)), 3), "each": [round(one, 3) for one in each]} for name, each in ratios.items()}


def main(name, calibration, dev, judge, result="confidence.json"):
    captioner, judge = Captioner.load(name), parts.build("backbones", {"name": "mini", "folder": judge})
    ours, theirs = (read(captioner, judge, path) for path in (calibration, dev))
    found = {"cost": cost(captioner, theirs[3]), "right": {"calibration": float(ours[1].mean()), "dev": float(theirs[1].mean())}, "signals": {}}
    for names in (*((one,) for one in ours[0]), *TOGETHER):
        found["signals"][" + ".join(names)] = one = worth(names, ours, theirs)
        shown = ", ".join(f"{key} {value}" for key, value in one["dev"].items())
        print(f"{' + '.join(names):<70} calibration {one['calibration']}   dev {shown}", flush=True)
    print(found["cost"])
    Path(result).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
