"""Train a captioner from text alone.

    corpus of captions -> embeddings, once -> [choose the noise on held-out text] -> steps of AdamW -> a captioner's folder

No image is looked at, unless a recipe names `paired_photos` (the supervised upper bound) or `unpaired_photos` (for bridges that want the images'
statistics); what it was given is kept with the captioner. Step s draws all that is random (its batch, its noise, dropout) from generators seeded with
(seed, s), so a run that was killed continues from its last checkpoint to the very weights of an undisturbed one, and several processes share the
batches of one.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from capdec import generation, parts, recipe
from capdec.captioner import CARD, Captioner, located, require_reader
from capdec.checkpoint import Record, load_module, load_state, module_tensors, read_tensors, replacing, save_state, write_json, write_tensors
from capdec.corpus import Corpus, Embeddings, Pairs, Photos, embed, embed_photos, open_dataset, read_pairs, told_from_photos
from capdec.errors import MissingExtra, SettingError
from capdec.language import reads, tokenizer
from capdec.progress import Progress
from capdec.protocols import Backbone, Bridge, Condition, Decoder, Supervision

AUTO = "auto"
SIBLINGS = "siblings"
Spec = str | dict[str, Any]


@dataclass(frozen=True)
class Training:
    """The settings of one run of the optimiser. `batch` is captions a step, over all processes and accumulation; `warmup` is in steps;
    `steps = 0` is twenty rounds of the corpus and at most 3000; `keep="best"` is by held-out siblings, or by held-out captions. `captions` is about
    how many of the corpus' captions are used, whole photos of them (0: all); `norms` are the least and the most length that a source's embedding may
    have before it is brought to unit length (none: any), for sentences about nothing that can be seen lie apart in it (DeCap): beyond the longest
    captions with CLIP, below the shortest with `mini`. `choose_steps = 0` is half of the steps, at most 1000: shorter runs
    would choose too little noise (docs/LOG.md)."""

    steps: int = 0
    batch: int = 128
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: int = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.05
    clip: float = 1.0
    label_smoothing: float = 0.1
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    captions: int = 0
    norms: tuple[float, ...] = ()
    held_out: float = 0.02
    evaluate_every: int = 250
    keep: Literal["best", "last"] = "best"
    choose_cosines: tuple[float, ...] = (0.8, 0.65, 0.5, 0.3)
    choose_steps: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("choose_steps", 0), ("captions", 0), ("batch", 1), ("accumulate", 1), ("evaluate_every", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"training.{name} = {getattr(self, name)} is below {least}.")
        if self.schedule not in ("cosine", "linear", "constant") or self.dtype not in ("float32", "bfloat16") or self.keep not in ("best", "last"):
            came = f"{self.schedule}, {self.dtype}, {self.keep} came"
            raise SettingError(f"schedule is cosine, linear or constant, dtype float32 or bfloat16, keep best or last; {came}.")
        if self.norms and (len(self.norms) != 2 or not 0 <= self.norms[0] < self.norms[1]):
            raise SettingError(f"training.norms are two lengths, [least, most]; {[*self.norms]} came.")
        if not 0 <= self.held_out < 1:
            raise SettingError(f"training.held_out = {self.held_out} is a share of the photos, from 0 up to 1.")

    def settled(self, captions: int) -> "Training":
        """With the steps that a corpus of so many captions gets where none were asked for."""
        steps = self.steps or max(1, min(3000, 20 * captions // self.batch))
        return replace(self, steps=steps, warmup=min(self.warmup, steps // 4), choose_steps=self.choose_steps or max(1, min(1000, steps // 2)))

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: linear warm-up, then the schedule down to 0."""
        done = max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        falling = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup)) * falling


def settings(values: dict[str, Any]) -> Training:
    """Raises SettingError for an unknown name, showing those there are."""
    typed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return recipe.settings("training", Training, typed)


def train(
    captions: Spec,
    output: str | Path,
    *,
    sources: Spec | None = None,
    backbone: Spec = "mini",
    bridges: Sequence[Spec] = ({"name": "gaussian_noise", "target_cosine": AUTO},),
    decoder: Spec = "small_transformer",
    training: dict[str, Any] | None = None,
    paired_photos: Spec | None = None,
    unpaired_photos: Spec | None = None,
    decoding: dict[str, Any] | None = None,
    chosen: dict[str, Any] | None = None,
    language: str = "en",
    device: str = "cpu",
    embeddings: str | Path | None = None,
    minutes_between_checkpoints: float = 5.0,
) -> Captioner:
    """Trains, or continues, the captioner in `output`, and returns it.

    `captions` (and `sources`, joined to them by image_id) are files or tables of a dataset part; sources = "siblings" tells each caption from another
    one of its photo, drawn anew each time (CLOSE, Gu et al. 2023). `paired_photos` tells it from its photo: the supervised upper bound.
    `unpaired_photos` are for bridges that want the images' statistics. `decoding` is how the captioner decodes where nothing else is asked. `chosen`
    is what `capdec sweep` writes into a recipe whose settings it chose: with "pairs": true, on captioned photos. A bridge whose `target_cosine` is
    "auto" gets it by held-out text where the corpus has several captions a photo, and the backbone's default where not. `language` is that of
    `captions`: kept with the captioner, and what they are embedded in where no sources are named. `embeddings` is where the
    embeddings of the corpus are kept (default: in `output`).

    Raises SettingError, DataError or MismatchError where something cannot be: before the corpus is embedded, except for what a bridge finds out when
    it is fitted (a memory that is not there, images or siblings that it needs).
    """
    folder = Path(output)
    plan, decoding_plan = settings(training or {}), generation.settings(decoding or {})
    worker = _Worker(device, plan)
    backbone_part: Backbone = parts.build("backbones", backbone, device=worker.device)
    require_reader(decoding_plan, backbone_part, language)
    if sources in (None, SIBLINGS) and paired_photos is None and not reads(backbone_part, language):
        raise SettingError(
            f"the captions are in {language!r}, which {type(backbone_part).__name__} is not said to read: name sources in a language that it reads, "
            f"joined by image_id; or, for a model of the hub that reads it, say languages = [..., {language!r}] in the backbone's table."
        )
    tokenizer(language)
    parts.build("decoders", decoder, dim=backbone_part.dim)  # what cannot be built is known before the corpus is embedded
    tried = [parts.build("bridges", spec, dim=backbone_part.dim) for spec in _with_noise(bridges, backbone_part.target_cosine)]
    if paired_photos is not None and any(hasattr(bridge, "memory") for bridge in tried):
        raise SettingError("with paired_photos a memory would be of photos, not of captions: leave its bridge out, or paired_photos.")
    if sources is not None and paired_photos is not None:
        raise SettingError("a caption is told from a source or from its photo: name sources or paired_photos, not both.")
    if plan.norms and (paired_photos is not None or any(isinstance(spec, dict) and spec.get("memory") for spec in bridges)):
        raise SettingError("training.norms choose among the corpus' texts: they go neither with paired_photos nor with a memory of its own folder.")
    text = [open_dataset(captions), *([open_dataset(sources)] if sources not in (None, SIBLINGS) else [])]
    pairs = read_pairs(*text)
    pairs = pairs.at_most(plan.captions, plan.seed) if plan.captions else pairs
    store = Path(embeddings or folder / "embeddings")
    if paired_photos is not None:
        corpus = told_from_photos(pairs, *_photos(paired_photos, backbone_part, store / "paired_photos", worker))
    else:
        worker.first(lambda: _embed(pairs, backbone_part, store, worker))
        corpus = embed(pairs, backbone_part, store)
    images: Embeddings | None = None
    if unpaired_photos is not None:
        images, of_photo = _photos(unpaired_photos, backbone_part, store / "unpaired_photos", worker)
        corpus = replace(corpus, photos=of_photo)
    corpus = corpus.within(*plan.norms) if plan.norms else corpus
    plan = plan.settled(len(corpus))
    given = {
        "captions": captions, "sources": sources, "backbone": backbone, "bridges": list(bridges), "decoder": decoder, "training": plan.__dict__,
        "paired_photos": paired_photos, "unpaired_photos": unpaired_photos, "chosen": chosen,
    }  # fmt: skip
    identity = {"recipe": given, "text": pairs.fingerprint, "backbone": backbone_part.fingerprint, "processes": worker.processes}
    learn, held = corpus.split(plan.held_out, plan.seed)
    if not len(learn):
        raise SettingError(f"held_out = {plan.held_out} leaves none of the {len(corpus)} captions to learn from. Make it smaller.")
    image_rows = images[torch.arange(len(images))] if images is not None else None
    data = _Data(corpus, learn, *_held_out(corpus, held), siblings_of=corpus.siblings() if sources == SIBLINGS else {}, images=image_rows)
    if sources == SIBLINGS and not data.siblings_of:
        raise SettingError('sources = "siblings" needs photos with several captions, joined by image_id, and the corpus has none.')

    resolved, choice = _resolve_noise(bridges, data, backbone_part, decoder, plan, folder, identity, worker)
    built = data.fitted(resolved, backbone_part.dim)
    resolved = [{**spec, **getattr(bridge, "chosen", {})} for spec, bridge in zip(resolved, built, strict=True)]
    resolved = [{**spec, **({"memory": str(Path(spec["memory"]).resolve())} if spec.get("memory") else {})} for spec in resolved]
    model = _optimise(folder / "training", data, built, decoder, backbone_part.dim, plan, identity, worker, minutes_between_checkpoints)

    spec = {"backbone": located(backbone, backbone_part), "bridges": resolved, "decoder": decoder}
    beside_text = Supervision.PAIRS if paired_photos is not None else Supervision(0)
    begun = _begun_with(decoder)
    for flag in begun["given"]:
        beside_text |= Supervision[flag]
    if chosen and chosen.get("pairs"):
        beside_text |= Supervision.PAIRS_FOR_SETTINGS
    names = sorted({name for dataset in text if dataset.name for name in dataset.name.split("+")} | set(begun["text"]))
    captioner = Captioner(backbone_part, built, model, spec, decoding_plan, names, beside_text, language=language)
    given |= {"decoding": decoding, "language": language}
    if worker.is_first:
        report = {
            "captions": len(corpus), "left_out_by_norm": len(pairs) - len(corpus) if plan.norms else 0, "learned_from": len(learn),
            "held_out": len(held), "noise": choice, "recipe": {**given, "bridges": resolved},
            "log_prob_of_held_out": data.evaluate(model, built, plan), "parameters": sum(p.numel() for p in model.parameters()), **recipe.origin(),
        }  # fmt: skip
        captioner.save(folder)
        write_json(folder / "scores.json", report)
        with replacing(folder / "recipe.toml") as temporary:
            temporary.write_text(recipe.dump({**given, "bridges": resolved}), encoding="utf-8")
        with replacing(folder / "README.md") as temporary:
            temporary.write_text(card(report, captioner), encoding="utf-8")
    worker.wait()
    return captioner


def _begun_with(decoder: Spec) -> dict[str, list[str]]:
    """What a captioner whose language model this one begins with had learned from, and what it was given beside text."""
    start = decoder.get("start") if isinstance(decoder, dict) else None
    config = json.loads((Path(start) / "config.json").read_text(encoding="utf-8")) if start else {}
    return {"text": config.get("text", []), "given": config.get("given", [])}


class _Worker:
    """This process among those that train together, by Accelerate."""

    def __init__(self, device: str, plan: Training):
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingExtra("accelerate", "train", "training") from error
        asked = torch.device(device)
        if asked.type == "cuda" and asked.index is not None and torch.cuda.is_available():
            torch.cuda.set_device(asked)
        self.accelerator = Accelerator(cpu=asked.type == "cpu")
        if self.accelerator.device.type != asked.type:
            raise SettingError(f"device {device!r} was asked for, but training would run on {self.accelerator.device}. Is it there?")
        self.processes, self.rank, self.is_first = self.accelerator.num_processes, self.accelerator.process_index, self.accelerator.is_main_process
        self.device = str(self.accelerator.device)
        if plan.batch % (plan.accumulate * self.processes):
            raise SettingError(f"batch = {plan.batch} cannot be shared by {self.processes} processes x {plan.accumulate} accumulated parts.")

    def first(self, work: Any) -> None:
        """Work of one process that the others wait for."""
        if self.is_first:
            work()
        self.wait()

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def _embed(pairs: Pairs, backbone: Backbone, folder: Path, worker: _Worker) -> None:
    with Progress("embedding captions", len(pairs), worker.is_first) as progress:
        embed(pairs, backbone, folder, lambda done, _: progress.update(done))


def _photos(spec: Spec, backbone: Backbone, folder: Path, worker: _Worker) -> tuple[Embeddings, dict[str, int]]:
    photos = Photos.of(open_dataset(spec))

    def embed_first() -> None:
        with Progress("embedding photos", len(photos.ids), worker.is_first) as progress:
            embed_photos(photos, backbone, folder, lambda done, _: progress.update(done))

    worker.first(embed_first)
    return embed_photos(photos, backbone, folder)


class _HeldOut(NamedTuple):
    own: Int[Tensor, "M"]
    sources: Int[Tensor, "S"]
    siblings: Int[Tensor, "S"]


def _held_out(corpus: Corpus, held: Tensor, most: int = 1000) -> _HeldOut:
    """Held-out rows, and for those with siblings a (source row, sibling row) pair."""
    siblings = corpus.siblings()
    rows = held[torch.linspace(0, len(held) - 1, min(most, len(held))).long()] if len(held) else held
    paired = [(row, siblings[row][index % len(siblings[row])]) for index, row in enumerate(rows.tolist()) if row in siblings]
    return _HeldOut(rows, torch.tensor([row for row, _ in paired]).long(), torch.tensor([other for _, other in paired]).long())


@dataclass
class _Data:
    """The corpus, the rows to learn from in an order of their own, and the rows held out; where captions are told from siblings, those of each row;
    and the embeddings of unpaired images, if there are any."""

    corpus: Corpus
    learn: Tensor
    own: Tensor
    sources: Tensor
    siblings: Tensor
    siblings_of: dict[int, list[int]]
    images: Tensor | None

    def fitted(self, specs: Sequence[dict[str, Any]], dim: int) -> list[Bridge]:
        """In order: each sees text and images as those before it leave them, without noise."""
        built: list[Bridge] = [parts.build("bridges", spec, dim=dim) for spec in specs]
        corpus, images = self.corpus, self.images
        for place, bridge in enumerate(built, 1):
            bridge.fit(corpus, images)
            if place < len(built) and not getattr(bridge, "adds_only", False):
                corpus = replace(corpus, embeddings=corpus.embeddings.through(partial(_crossed, bridge.from_text)))
                images = _crossed(bridge.from_image, images) if images is not None else None
        return built

    def told_from(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The rows whose embeddings these captions are told from: themselves, or a sibling where that is asked for and there is one."""
        if not self.siblings_of:
            return rows
        draws = torch.rand(len(rows), generator=generator).tolist()
        others = [self.siblings_of.get(row, [row]) for row in rows.tolist()]
        return torch.tensor([choice[int(draw * len(choice))] for draw, choice in zip(draws, others, strict=True)])

    def batches(self, plan: Training) -> Iterator[Tensor]:
        """Endless. In each epoch captions of like length share a batch, and the batches come in random order."""
        lengths = torch.tensor([len(text) for text in self.corpus.pairs.targets])
        batch = plan.batch
        epoch = 0
        while True:
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
            rows = self.learn[torch.randperm(len(self.learn), generator=generator)]
            while len(rows) < batch:  # a corpus smaller than a batch is read again and again
                rows = torch.cat([rows, self.learn[torch.randperm(len(self.learn), generator=generator)]])
            rows = rows[: len(rows) // batch * batch]
            sorted_in_blocks = [block[lengths[block].argsort(stable=True)] for block in rows.split(50 * batch)]
            parts_of_epoch = torch.cat(sorted_in_blocks).split(batch)
            for index in torch.randperm(len(parts_of_epoch), generator=generator).tolist():
                part = parts_of_epoch[index]
                yield part[torch.randperm(batch, generator=generator)]  # so that every process gets short and long ones
            epoch += 1

    @torch.no_grad()
    def evaluate(self, model: Any, bridges: Sequence[Bridge], plan: Training) -> dict[str, float]:
        """Log-probability a token, in nats, of held-out captions, told the clean embedding of their own source and, where there are any, of a
        sibling's. The second is what an image resembles: something else that was said of the same photo. A bridge that moves text moves it here too,
        without noise; one that looks things up does so as for an image, and does not see what was said of the photo."""
        was_training = model.training
        model.eval()
        result = {}
        for name, sources, targets in (("own", self.own, self.own), ("sibling", self.sources, self.siblings)):
            if not len(sources):
                continue
            total = tokens = 0.0
            for rows, wanted in zip(sources.split(256), targets.split(256), strict=True):
                condition = self.corpus.condition(rows)
                for bridge in bridges:
                    condition = bridge.from_image(condition, None) if getattr(bridge, "looks_up", False) else bridge.from_text(condition, None)
                log_prob = model.log_prob(condition, self.corpus.targets(wanted))
                total += log_prob.total.sum().item()
                tokens += log_prob.tokens.sum().item()
            if tokens:
                result[name] = round(total / tokens, 4)
        model.train(was_training)
        return result


def _crossed(side: Callable[[Condition, None], Condition], embeddings: Tensor) -> Tensor:
    return side(Condition.of(embeddings), None).embeddings[:, 0]


def _resolve_noise(
    bridges: Sequence[Spec], data: _Data, backbone: Backbone, decoder: Spec, plan: Training, folder: Path, identity: dict, worker: _Worker
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The bridges with every "auto" replaced. For each candidate a short run; the one that gives a held-out caption's sibling the highest
    log-probability, told the caption's clean embedding, wins. Only text is used."""
    if _with_noise(bridges, 0.5) == _with_noise(bridges, 0.6):
        return _with_noise(bridges, 0.5), {"how": "given"}
    if not len(data.siblings):
        why = "the backbone's default, since no held-out photo has two captions"
        return _with_noise(bridges, backbone.target_cosine), {"how": why, "target_cosine": backbone.target_cosine}
    short = replace(plan, steps=plan.choose_steps, warmup=min(plan.warmup, plan.choose_steps // 4), evaluate_every=plan.choose_steps)
    scores: dict[float, dict[str, float]] = {}
    for cosine in plan.choose_cosines:
        built = data.fitted(_with_noise(bridges, cosine), backbone.dim)
        name = f"choosing noise: target cosine {cosine}"
        model = _optimise(
            folder / "training" / f"cosine-{cosine}", data, built, decoder, backbone.dim, short, {**identity, "cosine": cosine}, worker, 5.0, name
        )
        scores[cosine] = data.evaluate(model, built, short)
    best = max(scores, key=lambda cosine: scores[cosine]["sibling"])
    how = "held-out siblings' log-probability, text alone"
    return _with_noise(bridges, best), {"how": how, "target_cosine": best, "steps": short.steps, "candidates": scores}


def _with_noise(bridges: Sequence[Spec], cosine: float) -> list[dict[str, Any]]:
    """The bridges' tables, with this target cosine where they leave it open."""
    tables = [{"name": spec} if isinstance(spec, str) else dict(spec) for spec in bridges]
    return [{**table, "target_cosine": cosine} if table.get("target_cosine") == AUTO else table for table in tables]


def _optimise(
    folder: Path,
    data: _Data,
    bridges: Sequence[Bridge],
    spec: Spec,
    dim: int,
    plan: Training,
    identity: dict,
    worker: _Worker,
    minutes: float,
    name: str = "training",
) -> Any:
    """One run of the optimiser, from its last checkpoint if there is one; returns the decoder that `plan.keep` asks for."""
    torch.manual_seed(plan.seed)
    decoder: Decoder = parts.build("decoders", spec, dim=dim)
    decoder.fit([data.corpus.pairs.targets[row] for row in data.learn.tolist()])
    assert isinstance(decoder, torch.nn.Module)
    decoder.to(worker.device)
    optimizer = _optimizer(decoder, plan)
    state, best_file, record = folder / "state.safetensors", folder / "best.safetensors", Record(folder / "metrics.jsonl")
    step = load_state(state, decoder, optimizer, identity) if state.is_file() else 0
    worker.wait()
    if worker.is_first:
        record.forget_after(step)
    best = max((_goodness(line["held_out"]) for line in record.lines if "held_out" in line), default=-math.inf)

    wrapped, optimizer = worker.accelerator.prepare(decoder, optimizer)
    decoder.train()
    batches = data.batches(plan)
    for _ in range(step):
        next(batches)
    saved = time.monotonic()
    with Progress(name, plan.steps, worker.is_first, start=step) as progress:
        while step < plan.steps:
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            loss = _step(wrapped, optimizer, next(batches), step, data, bridges, plan, worker)
            step += 1
            progress.update(step, f"loss {loss:.3f}")
            line: dict[str, Any] = {"step": step, "loss": round(loss, 5), "learning_rate": plan.rate(step - 1), "time": round(time.time(), 2)}
            evaluated = step % plan.evaluate_every == 0 or step == plan.steps
            if worker.is_first and evaluated:
                line["held_out"] = data.evaluate(decoder, bridges, plan)
                if _goodness(line["held_out"]) > best:
                    best = _goodness(line["held_out"])
                    write_tensors(best_file, module_tensors(decoder))
            if worker.is_first:
                record.add(line)
                if evaluated or time.monotonic() - saved > 60 * minutes:
                    save_state(state, decoder, optimizer, step, identity)
                    saved = time.monotonic()
    worker.wait()
    if plan.keep == "best" and best_file.is_file():
        load_module(decoder, read_tensors(best_file)[0], best_file)
    return decoder.eval()


def _optimizer(decoder: torch.nn.Module, plan: Training) -> torch.optim.AdamW:
    trainable = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _goodness(held_out: dict[str, float]) -> float:
    return held_out.get("sibling", held_out.get("own", -math.inf))


def _attention(device: str) -> AbstractContextManager[None]:
    """Captions are short: on a CPU two plain matrix products are faster than the fused kernel, whose gradient takes several times as long."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def _step(wrapped: Any, optimizer: Any, rows: Tensor, step: int, data: _Data, bridges: Sequence[Bridge], plan: Training, worker: _Worker) -> float:
    """One update on one batch; returns the loss, nats a token. The noise is drawn for the whole batch and each process takes its share, so that their
    number changes nothing."""
    generator = torch.Generator().manual_seed((plan.seed * 1_000_003 + step) * 2 + 1)
    condition = data.corpus.condition(data.told_from(rows, generator))
    for bridge in bridges:
        condition = bridge.from_text(condition, generator)
    torch.manual_seed(((plan.seed * 1_000_003 + step) * 64 + worker.rank) * 2)  # dropout
    share = torch.arange(worker.rank, len(rows), worker.processes)
    total = tokens = 0.0
    optimizer.zero_grad(set_to_none=True)
    micro = share.chunk(plan.accumulate)
    for index, part in enumerate(micro):
        last = index == len(micro) - 1
        with nullcontext() if last else worker.accelerator.no_sync(wrapped):  # gradients cross between processes once a step
            with torch.autocast(worker.accelerator.device.type, torch.bfloat16, enabled=plan.dtype == "bfloat16"), _attention(worker.device):
                log_prob = wrapped(condition.select(part), data.corpus.targets(rows[part]), plan.label_smoothing)
            worker.accelerator.backward(-log_prob.total.sum())
        total += log_prob.total.detach().sum().item()
        tokens += log_prob.tokens.sum().item()
    sums = worker.accelerator.reduce(torch.tensor([total, tokens], device=worker.device), "sum").tolist()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    share_of_token = worker.processes / sums[1]  # gradients were averaged over processes, and are to be a mean over tokens
    norm = share_of_token * torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, share_of_token * (plan.clip / (norm + 1e-6)).clamp(max=1))  # the mean and the clipping in one pass
    optimizer.step()
    return -sums[0] / sums[1]


def card(report: dict[str, Any], captioner: Captioner) -> str:
    """The model card: what it learned from, how, and what was measured."""
    noise, held = report["noise"], report["log_prob_of_held_out"]
    given, left_out = report["recipe"], report["left_out_by_norm"]
    return f"""{CARD}
# A captioner trained from text alone

| | |
|---|---|
| text | {_said(given["captions"])}{f", told from {_said(given['sources'])}" if given["sources"] else ""}. Language: {captioner.language} |
| captions | {report["learned_from"]} learned from, {report["held_out"]} held out{f", {left_out} left out by their norm" if left_out else ""} |
| backbone | {_said(given["backbone"])} ({captioner.backbone.fingerprint}), frozen |
| bridge | {"; ".join(map(_said, given["bridges"])) or "none"}. Noise: {noise["how"]} |
| decoder | {_said(given["decoder"])}. {report["parameters"]:,} parameters |
| supervision | {captioner.supervision.words()} |
| log-probability of held-out captions | {", ".join(f"{name} {value} nats a token" for name, value in held.items()) or "not measured"} |
| made by | capdec {report["capdec"]}, commit {report["commit"] or "unknown"}, seed {given["training"]["seed"]}, {report["time"]} |

{"No image was used in training. " if not captioner.supervision else ""}Captions on images were not scored; `scores.json` holds what was measured,
`recipe.toml` the whole recipe.
The captions say what the text and the backbone make likely: check them before you rely on them, above all on people.

```python
from capdec import Captioner
print(Captioner.load("this folder or its hub id").caption(["photo.jpg"])[0].text)
```
"""


def _said(spec: Spec) -> str:
    """
    >>> _said({"name": "small_transformer", "layers": 2, "width": 256})
    'small_transformer (layers 2, width 256)'
    """
    if isinstance(spec, str):
        return spec
    settings = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']} ({settings})" if "name" in spec else settings
