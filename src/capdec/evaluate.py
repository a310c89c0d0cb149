"""Score a captioner on captioned photos, beside the baselines that it must beat.

    itself       its captions of the photos
    shuffled     the same captions, each given to another photo: what is gained by knowing the style alone
    nearest      the training caption nearest to the photo (CLIPRe): what is gained by writing at all
    constant     one caption for all photos: the training caption nearest to the mean of all training captions
    person       the first person's caption against the others': one reference fewer, and yet the scale of things

Every figure has a bootstrap interval over images (idf fixed to the full set), and every system the supervision behind it, computed from what was
used. `output` gets predictions.jsonl (captions, references and figures image by image), scores.json, and manifest.json: what was scored, by what,
on what.
"""

import json
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec import bootstrap, recipe, scoring
from capdec.captioner import Captioner, supervision_on
from capdec.checkpoint import replacing, write_json
from capdec.corpus import Pairs, Photos, embed_photos, open_dataset, read_pairs, text_digest
from capdec.errors import DataError, MismatchError, SettingError
from capdec.language import reads, tokens
from capdec.nearest import nearest, recall
from capdec.progress import Progress
from capdec.protocols import Backbone, Caption, Dataset, Decoding, Example, Predictions, Score, Supervision

Spec = str | dict[str, Any]
BASELINES = ("shuffled", "nearest", "constant", "person")


def evaluate(
    captioner: Captioner,
    dataset: Spec,
    output: str | Path,
    *,
    memory: Spec | None = None,
    memory_sources: Spec | None = None,
    baselines: Sequence[str] = BASELINES,
    decoding: Decoding | None = None,
    metrics: Sequence[Spec] = scoring.METRICS,
    judge: Backbone | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    batch: int = 64,
    embeddings: str | Path | None = None,
    partial: bool = False,
    language: str | None = None,
) -> dict[str, Any]:
    """Figures by system, and by group where the dataset has groups; the content of scores.json. `dataset` and `memory` are files or tables of a
    dataset part; `memory` is the text it was trained on, for the baselines nearest and constant and for the share of copied captions;
    `memory_sources`, joined by image_id, are embedded in its place, where the backbone does not read it. `language` is that of the references
    (default: the captioner's). `judge` says how captions fit photos (default: the captioner's own backbone, where it reads them, and then marked).
    `embeddings` keeps the photos' embeddings for further evaluations (default: in `output`, until it is done). With `partial` photos that cannot be
    opened are left out, and counted.

    Cut off and called again, it goes on with the photos that have no caption yet. Raises DataError where an example has no photo, no id or no
    references, where ids come twice or a photo cannot be opened; MismatchError where `output` holds an unfinished evaluation of something else;
    SettingError for a memory that the backbone does not read, its sources without it, or a decoding that the captioner does not know.
    """
    started = time.monotonic()
    warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ captions (were cut|are longer)", UserWarning)  # the manifest counts them
    folder = Path(output)
    if (folder / "config.json").is_file():
        raise SettingError(f"{folder} holds a captioner, whose scores.json would be lost. Name another folder: {folder / 'evaluation'}, say.")
    decoding = decoding or captioner.decoding
    captioner.check(decoding)
    if memory_sources is not None and memory is None:
        raise SettingError("memory_sources are embedded in place of a memory's captions, and no memory was given.")
    language = language or captioner.language
    own_reads = reads(captioner.backbone, language)
    by = judge or (captioner.backbone if own_reads else None)
    judges = scoring.build(metrics, by, language)
    photos, memories = scoring.open_references(dataset), open_dataset(memory) if memory is not None else None
    texts = [caption for example in memories or () for caption in example.captions]
    known = Pairs(texts, texts, [])
    if memories is not None and {"nearest", "constant"} & set(baselines):
        if memory_sources is not None:
            known = read_pairs(memories, open_dataset(memory_sources))
        elif not own_reads:
            raise SettingError(
                f"the memory's captions are in {language!r}, which the captioner's backbone is not said to read, so none is nearest to a photo: name "
                f"captions of the same photos that it reads (--memory-sources)."
            )
    examples = scoring.read_references(photos)
    if lacking := [key for key, example in examples.items() if example.open_image is None]:
        where = getattr(photos, "source", "Name the photos' folder (--images).")
        raise DataError(f"evaluation needs photos, and {len(lacking)} of {len(examples)} examples have none ({lacking[0]} ...). {where}")
    shown_to_it, lengths, read = _embedded(captioner.backbone, examples, Path(embeddings or folder / "embeddings"), partial, captioner.regions)
    vectors = shown_to_it[:, 0]
    left_out = getattr(photos, "left_out", 0) + len(examples) - len(read)
    examples = {key: examples[key] for key in read}
    ids = list(examples)
    references = {key: example.captions for key, example in examples.items()}
    what: dict[str, Any] = {"captioner": captioner.fingerprint, "images": scoring.digest(references), "decoding": asdict(decoding)}
    if sure := captioner.confidence_for(decoding):
        what["confidence"] = sure.fingerprint

    told = shown_to_it if captioner.regions else vectors if captioner.normalize else vectors * lengths.unsqueeze(1)
    said = _captioned(captioner, ids, told, decoding, folder / ".captions.jsonl", what, batch)
    systems = {"itself": dict(zip(ids, (caption.text for caption in said), strict=True))}
    systems |= _baselines(baselines, systems["itself"], vectors, captioner.backbone, known, seed)

    openers = {key: example.open_image for key, example in examples.items() if example.open_image is not None}
    figures = {
        name: scoring.score(judges, Predictions(captions, references, openers, texts, captioner.backbone.fingerprint))
        for name, captions in systems.items()
    }
    if "person" in baselines and all(len(captions) > 1 for captions in references.values()):
        others = {key: captions[1:] for key, captions in references.items()}
        systems["person"] = {key: captions[0] for key, captions in references.items()}
        figures["person"] = scoring.score(judges, Predictions(systems["person"], others, openers, texts))
    own = Predictions(systems["itself"], references, openers, texts, captioner.backbone.fingerprint)
    groups = scoring.score_groups(judges, own, examples, resamples, seed)

    owners = torch.tensor([place for place, captions in enumerate(references.values()) for _ in captions])
    shown = captioner.backbone.encode_text([caption for captions in references.values() for caption in captions]).cpu() if own_reads else None
    scores = {
        "n": len(ids),
        "left_out": left_out,
        "systems": {name: scoring.as_json(found, resamples, seed) for name, found in figures.items()},
        "groups": groups,
        "supervision": {name: _supervision(name, captioner, photos, memories) for name in systems},
        "language": language,
        "backbone_recall": recall(vectors, shown, owners) if shown is not None else None,
    }
    manifest = {
        **recipe.origin(),
        "captioner": {**captioner.spec, "fingerprint": captioner.fingerprint, "text": list(captioner.text), "recipe": captioner.recipe},
        "backbone": captioner.backbone.fingerprint,
        "judge": {"fingerprint": by.fingerprint, "is_own_backbone": by.fingerprint == captioner.backbone.fingerprint} if by is not None else None,
        "dataset": {
            "opened": dataset, "name": photos.name, "split": photos.split, "digest": what["images"], "n": len(ids), "references": len(owners),
            "left_out": left_out, "image_ids": ids,
        },
        "memory": {"opened": memory, "name": memories.name, "captions": len(texts), "digest": text_digest(texts), "sources": memory_sources}
        if memories is not None else None,
        "supervision": scores["supervision"],
        "decoding": what["decoding"], "confidence": sure.as_json() if sure else None,
        "metrics": list(metrics), "language": language, "tokens": tokens(language), "seed": seed,
        "bootstrap": {"over": "images", "resamples": resamples, "level": bootstrap.LEVEL, "seed": seed},
        "truncated": getattr(captioner.backbone, "truncated", 0), "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    _write(folder, ids, said, examples, systems, figures, scores, manifest)
    if embeddings is None:
        shutil.rmtree(folder / "embeddings")
    return scores


def _embedded(
    backbone: Backbone, examples: dict[str, Example], folder: Path, partial: bool, regions: int
) -> tuple[Float[Tensor, "N K D"], Float[Tensor, "N"], list[str]]:
    """Unit-length embeddings of the photos with their regions, lengths before, and the ids of those that could be opened: all, unless `partial`."""
    photos = Photos(list(examples), [example.open_image for example in examples.values() if example.open_image is not None])
    with Progress("embedding photos", len(photos.ids)) as progress:
        found, rows = embed_photos(photos, backbone, folder, lambda done, _: progress.update(done), regions)
    if (unread := [key for key in photos.ids if key not in rows]) and not (partial and rows):
        named = ", ".join(unread[:200])
        raise DataError(f"{len(unread)} of {len(photos.ids)} photos could not be opened: {named}. Mend them, or leave them out (--partial).")
    vectors = found[torch.arange(len(found))].view(len(found), 1 + regions, -1)
    return F.normalize(vectors, dim=-1) if regions else vectors, torch.from_numpy(found.norms), list(rows)


def _captioned(
    captioner: Captioner, ids: Sequence[str], vectors: Tensor, decoding: Decoding, part: Path, what: dict[str, Any], batch: int
) -> list[Caption]:
    """Captions in order. They are kept in `part` as they come, under what they are captions of, and taken from there by a later call."""
    said: list[Caption] = []
    if part.is_file():
        first, *lines = part.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or ["null"]  # a kill may leave half a line
        try:
            begun, said = json.loads(first), [_caption(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError):
            begun = "damaged"
        if begun not in (None, what):
            raise MismatchError(f"{part.parent} holds an unfinished evaluation of something else. Name another folder, or delete {part}.")
    with replacing(part) as temporary:
        temporary.write_text(json.dumps(what) + "\n" + "".join(json.dumps(asdict(caption)) + "\n" for caption in said), encoding="utf-8")
    with part.open("a", encoding="utf-8") as file, Progress("captioning", len(ids), start=len(said)) as progress:
        for start in range(len(said), len(ids), batch):
            found = captioner.caption_embeddings(vectors[start : start + batch], decoding, batch, start=start)
            said += found
            file.write("".join(json.dumps(asdict(caption)) + "\n" for caption in found))
            file.flush()
            progress.update(len(said))
    return said


def _caption(row: dict[str, Any]) -> Caption:
    alternatives = tuple(_caption(other) for other in row["alternatives"])
    return Caption(row["text"], row["score"], tuple(row["tokens"]), alternatives, row.get("confidence"), row.get("unsure", False))


def _baselines(wanted: Sequence[str], own: dict[str, str], vectors: Tensor, backbone: Backbone, known: Pairs, seed: int) -> dict[str, dict[str, str]]:
    ids, systems = list(own), {}
    if "shuffled" in wanted:
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
        systems["shuffled"] = {ids[order[place]]: own[ids[order[place - 1]]] for place in range(len(ids))}  # a cycle: nobody keeps its own
        systems["shuffled"] = {key: systems["shuffled"][key] for key in ids}
    if known.targets and {"nearest", "constant"} & set(wanted):
        texts = known.targets
        rows = torch.cat([backbone.encode_text(known.sources[at : at + 4096]).cpu() for at in range(0, len(texts), 4096)])
        if "nearest" in wanted:
            found = nearest(vectors, rows, 1)[1].squeeze(1).tolist()
            systems["nearest"] = {key: texts[row] for key, row in zip(ids, found, strict=True)}
        if "constant" in wanted:
            middle = F.normalize(rows.mean(0, keepdim=True), dim=-1)
            systems["constant"] = dict.fromkeys(ids, texts[int(nearest(middle, rows, 1)[1])])
    return systems


def _supervision(system: str, captioner: Captioner, dataset: Dataset, memory: Dataset | None) -> str:
    """What the system was given, in words; a constant caption is chosen by text embeddings alone."""
    if system == "person":
        return "a person"
    flags, nameless = captioner.supervision_on(dataset.name), None if dataset.name else "dataset"
    if system not in ("nearest", "constant"):
        nameless = nameless or (None if captioner.text else "text it learned from")
        nameless = nameless or ("memory" if any(one.folder and not one.names for one in captioner.memories) else None)
    else:
        text = memory.name.split("+") if memory is not None and memory.name else ()
        flags = supervision_on(dataset.name, text, captioner.backbone if system == "nearest" else None, Supervision(0))
        nameless = nameless or (None if text else "memory")
    return flags.words() + (f" (more may be so: the {nameless} has no name)" if nameless else "")


def _write(
    folder: Path,
    ids: Sequence[str],
    said: Sequence[Caption],
    examples: dict[str, Example],
    systems: dict[str, dict[str, str]],
    figures: dict[str, dict[str, Score]],
    scores: dict[str, Any],
    manifest: dict[str, Any],
) -> None:
    of_each = {name: scoring.of_each_image(found, ids) for name, found in figures.items()}
    with replacing(folder / "predictions.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
        for place, key in enumerate(ids):
            row: dict[str, Any] = {"image_id": key, "caption": said[place].text, "score": round(said[place].score, 4)}
            if (sure := said[place].confidence) is not None:
                row |= {"confidence": round(sure, 4), "unsure": said[place].unsure}
            row |= {"alternatives": [other.text for other in said[place].alternatives]} if said[place].alternatives else {}
            row |= {"group": examples[key].group} if examples[key].group else {}
            row |= {"references": list(examples[key].captions), "figures": of_each["itself"][place]}
            row["others"] = {
                name: {"caption": captions[key], "figures": of_each[name][place]} for name, captions in systems.items() if name != "itself"
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    write_json(folder / "scores.json", scores)
    write_json(folder / "manifest.json", manifest)
    (folder / ".captions.jsonl").unlink(missing_ok=True)
