"""Train a captioner from text alone.

    corpus of captions -> embeddings, once -> [choose the noise on held-out text] -> steps of AdamW -> a captioner's folder

No image is looked at, unless a recipe names `paired_photos` (the supervised upper bound) or `unpaired_photos` (for bridges that want the images'
statistics); what it was given is kept with the captioner. Step s draws all that is random (its batch, its noise, dropout) from generators seeded with
(seed, s), so a run that was killed continues from its last checkpoint to the very weights of an undisturbed one, and several processes share the
batches of one.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from capdec import confidence, generation, parts, recipe
from capdec.captioner import CARD, Captioner, embedded, located, prompt, require_reader, text_and_given
from capdec.checkpoint import (
    Record,
    between_steps,
    load_module,
    load_state,
    module_tensors,
    read_tensors,
    replacing,
    save_state,
    write_json,
    write_tensors,
)  # fmt: skip
from capdec.corpus import Corpus, Embeddings, Pairs, Photos, Spec, embed, embed_photos, open_dataset, read_pairs, told_from_photos
from capdec.errors import DataError, MissingExtra, SettingError
from capdec.language import reads, tokenizer
from capdec.progress import Progress
from capdec.protocols import Backbone, Bridge, Condition, Decoding, Supervision

AUTO = "auto"
SIBLINGS = "siblings"
PartSpec = str | dict[str, Any]
CAPDEC = ({"name": "gaussian_noise", "target_cosine": AUTO},)


@dataclass(frozen=True)
class Training:
    """The settings of one run of the optimiser. `batch` is captions a step, over all processes and accumulation; `warmup` is in steps; `steps = 0` is
    twenty rounds of the corpus and at most 3000; `keep="best"` is by held-out siblings, or by held-out captions. `captions` is about how many of the
    corpus' captions are used, whole photos of them (0: all); `norms` are the least and the most length that a source's embedding may have before it
    is brought to unit length (none: any), for sentences about nothing that can be seen lie apart in it (DeCap): beyond the longest captions with
    CLIP, below the shortest with `mini`. `choose_steps = 0` is half of the steps, at most 1000: shorter runs would choose too little noise
    (docs/LOG.md). With `lengths` half of the captions are told whether they are short, medium or long among those of their style, so that
    `Decoding.length` can ask for it. `learn` is what of the decoder changes: all of it, the mapper alone, or ("lora", Hu et al. 2022) a change of
    rank `lora_rank` to each matrix of the language model, which is added to it in the end."""

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
    lengths: bool = False
    learn: Literal["all", "mapper", "lora"] = "all"
    lora_rank: int = 8
    norms: tuple[float, ...] = ()
    held_out: float = 0.02
    evaluate_every: int = 250
    keep: Literal["best", "last"] = "best"
    choose_cosines: tuple[float, ...] = (0.8, 0.65, 0.5, 0.3)
    choose_steps: int = 0

    def __post_init__(self) -> None:
        at_least = {"steps": 0, "choose_steps": 0, "captions": 0, "batch": 1, "accumulate": 1, "evaluate_every": 1, "lora_rank": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise SettingError(f"training.{name} = {getattr(self, name)} is below {least}.")
        if self.learn not in ("all", "mapper", "lora"):
            raise SettingError(f"training.learn is all, mapper or lora; {self.learn!r} came.")
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
    start: str | None = None,
    backbone: PartSpec | None = None,
    bridges: Sequence[PartSpec] | None = None,
    decoder: PartSpec | None = None,
    training: dict[str, Any] | None = None,
    paired_photos: Spec | None = None,
    unpaired_photos: Spec | None = None,
    decoding: dict[str, Any] | None = None,
    chosen: dict[str, Any] | None = None,
    language: str | None = None,
    device: str = "cpu",
    embeddings: str | Path | None = None,
    own_parts: bool = False,
    minutes_between_checkpoints: float = 5.0,
) -> Captioner:
    """Trains, or continues, the captioner in `output`, and returns it.

    `captions` (and `sources`, joined to them by image_id) are files or tables of a dataset part, or lists of these; sources = "siblings" tells each
    caption from another one of its photo, drawn anew each time (CLOSE, Gu et al. 2023). Where tables name their styles (`as`), all are learned, each
    as often, and captions are asked for in one of them. `start` is a captioner whose backbone and decoder this one begins with, and whose bridges
    (fitted anew, with what was chosen for them), decoding and language it has where none are named; `own_parts` as in Captioner.load. Without it the
    defaults are `mini`, CapDec's noise, a small_transformer and "en". `paired_photos` tells each caption from its photo: the supervised upper bound.
    `unpaired_photos` are for bridges that want the images' statistics. `decoding` is how the captioner decodes where nothing else is asked. `chosen`
    is what `capdec sweep` writes into a recipe whose settings it chose: with "pairs": true, on captioned photos. A bridge whose `target_cosine` is
    "auto" gets it by held-out text where the corpus has several captions a photo, and the backbone's default where not. `language` is that of
    `captions`: kept with the captioner, and what they are embedded in where no sources are named. `embeddings` is where the embeddings of the corpus
    are kept (default: in `output`).

    Raises SettingError, DataError or MismatchError where something cannot be: before the corpus is embedded, except for what a bridge finds out when
    it is fitted (a memory that is not there, images or siblings that it needs).
    """
    folder = Path(output)
    plan = settings(training or {})
    worker = _Worker(device, plan)
    if start is not None and start not in embedded() and Path(start).resolve() == folder.resolve():
        raise SettingError(f"{start} would be lost: the captioner that training begins with and the one it makes need folders of their own.")
    begun = Captioner.load(start, worker.device, own_parts=own_parts) if start is not None else None
    if begun and (backbone is not None or decoder is not None):
        raise SettingError(f"a captioner that begins as {start} has its backbone and its decoder. Leave them out, or start.")
    if begun and not begun.normalize:
        raise SettingError(f"{start} reads embeddings at their own length, and training brings them to unit length. Begin with another captioner.")
    usual: dict[str, Any] = begun.spec if begun else {"backbone": "mini", "bridges": CAPDEC, "decoder": "small_transformer"}
    named = {"backbone": backbone, "bridges": bridges, "decoder": decoder}
    spec = usual | {key: value for key, value in named.items() if value is not None}
    decoding_plan = generation.changed(begun.decoding, decoding or {}) if begun else generation.settings(decoding or {})
    language = language or (begun.language if begun else "en")
    if plan.learn != "all" and begun is None:
        raise SettingError(f'learn = "{plan.learn}" leaves a language model as it is, and an untrained one says nothing: name a captioner as start.')
    backbone_part: Backbone = begun.backbone if begun else parts.build("backbones", spec["backbone"], device=worker.device)
    require_reader(decoding_plan, backbone_part, language)
    if sources in (None, SIBLINGS) and paired_photos is None and not reads(backbone_part, language):
        raise SettingError(
            f"the captions are in {language!r}, which {type(backbone_part).__name__} is not said to read: name sources in a language that it reads, "
            f"joined by image_id; or, for a model of the hub that reads it, say languages = [..., {language!r}] in the backbone's table."
        )
    tokenizer(language)
    parts.build("decoders", spec["decoder"], dim=backbone_part.dim)  # what cannot be built is known before the corpus is embedded
    tried = [parts.build("bridges", one, dim=backbone_part.dim) for one in _with_noise(spec["bridges"], backbone_part.target_cosine)]
    if paired_photos is not None and any(hasattr(bridge, "memory") for bridge in tried):
        raise SettingError("with paired_photos a memory would be of photos, not of captions: leave its bridge out, or paired_photos.")
    if decoding_plan.rerank == "neighbours" and not any(getattr(bridge.memory, "keep_texts", True) for bridge in tried if hasattr(bridge, "memory")):
        raise SettingError(
            'rerank = "neighbours" asks a memory that keeps its texts: say keep_texts = true in a bridge that has one, or take another.'
        )
    if sources is not None and paired_photos is not None:
        raise SettingError("a caption is told from a source or from its photo: name sources or paired_photos, not both.")
    if plan.norms and (paired_photos is not None or any(isinstance(one, dict) and one.get("memory") for one in spec["bridges"])):
        raise SettingError("training.norms choose among the corpus' texts: they go neither with paired_photos nor with a memory of its own folder.")
    text = [open_dataset(captions), *([open_dataset(sources)] if sources not in (None, SIBLINGS) else [])]
    pairs = read_pairs(*text)
    unjoined = _without_source(pairs)
    pairs = pairs.at_most(plan.captions, plan.seed) if plan.captions else pairs
    decoding_plan = _learned(decoding_plan, decoding or {}, pairs.known_styles, plan.lengths)
    if begun and (lost := sorted({*filter(None, begun.styles)} - {*pairs.known_styles})):
        warnings.warn(f"{start} knows styles that are not among these captions, and will forget them: {', '.join(lost)}.", stacklevel=2)
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
        "captions": captions, "sources": sources, "start": start,
        **({} if begun else {"backbone": spec["backbone"], "decoder": spec["decoder"]}), "bridges": list(spec["bridges"]),
        "training": plan.__dict__, "paired_photos": paired_photos, "unpaired_photos": unpaired_photos, "chosen": chosen,
    }  # fmt: skip
    identity = {"recipe": given, "text": pairs.fingerprint, "backbone": backbone_part.fingerprint, "processes": worker.processes}
    identity |= {"start": begun.fingerprint} if begun else {}
    learn, held = corpus.split(plan.held_out, plan.seed)
    if not len(learn):
        raise SettingError(f"held_out = {plan.held_out} leaves none of the {len(corpus)} captions to learn from. Make it smaller.")
    image_rows = images[torch.arange(len(images))] if images is not None else None
    siblings_of = corpus.siblings() if sources == SIBLINGS else {}
    bounds = _bounds(corpus, learn) if plan.lengths else {}
    data = _Data(corpus, corpus.evened(learn), *_held_out(corpus, held), siblings_of, image_rows, bounds)
    if sources == SIBLINGS and not data.siblings_of:
        raise SettingError('sources = "siblings" needs photos with several captions, joined by image_id, and the corpus has none.')

    make = partial(_decoder, begun, spec["decoder"], backbone_part.dim, data, plan)
    resolved, choice = _resolve_noise(spec["bridges"], data, backbone_part, make, plan, folder, identity, worker)
    built = data.fitted(resolved, backbone_part.dim)
    resolved = [{**one, **getattr(bridge, "chosen", {})} for one, bridge in zip(resolved, built, strict=True)]
    resolved = [{**one, **({"memory": str(Path(one["memory"]).resolve())} if one.get("memory") else {})} for one in resolved]
    model = _optimise(folder / "training", data, built, make, plan, identity, worker, minutes_between_checkpoints)

    spec = {"backbone": located(spec["backbone"], backbone_part), "bridges": resolved, "decoder": spec["decoder"]}
    beside_text = Supervision.PAIRS if paired_photos is not None else Supervision(0)
    before, lent = (begun.text, begun.given) if begun else _lent(spec["decoder"])
    beside_text |= lent
    if chosen and chosen.get("pairs"):
        beside_text |= Supervision.PAIRS_FOR_SETTINGS
    names = sorted({name for dataset in text if dataset.name for name in dataset.name.split("+")} | set(before))
    captioner = Captioner(
        backbone_part, built, model, spec, decoding_plan, names, beside_text, styles=corpus.styles, lengths=bounds, language=language
    )
    # What its decoder learned through counts for a captioner that begins with it, whose bridges may be others.
    captioner.given, captioner.text = captioner.supervision, captioner.known_text
    given |= {"decoding": decoding, "language": language}
    captioner.confidence = confidence.learned(folder, captioner.fingerprint)  # of a run that had ended here
    if worker.is_first:
        report = {
            "captions": len(corpus), "without_source": unjoined, "left_out_by_norm": len(pairs) - len(corpus) if plan.norms else 0,
            "learned_from": len(learn), "held_out": len(held), "noise": choice, "recipe": {**given, "bridges": resolved},
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


def _without_source(pairs: Pairs) -> int:
    """How many captions have none. Warns of them; raises DataError for a style in which all are so."""
    if lost := [style or "without a name" for style in pairs.unjoined if style not in (pairs.styles or [""])]:
        raise DataError(f"of the style {lost[0]!r} no caption has a source: no image_id of its own is among the sources'. Are they written alike?")
    if left := sum(pairs.unjoined.values()):
        warnings.warn(f"{left} captions are of no photo that the sources speak of, and are left out. {len(pairs)} pairs are there.", stacklevel=3)
    return left


def _learned(decoding: Decoding, asked: Mapping[str, Any], styles: Sequence[str], lengths: bool) -> Decoding:
    """With a style and a length that are learned: those of the captioner it begins with are left out where they are not, and where no caption is
    plain the first style is its own. Raises SettingError for others that are asked for, and for a style with the name of a length."""
    if lengths and (both := set(generation.LENGTHS).intersection(styles)):
        raise SettingError(f"a style cannot be called {both.pop()!r} where lengths are learned, for that is one. Give it another name.")
    if "style" not in asked and decoding.style not in styles:
        decoding = replace(decoding, style="")
    if "length" not in asked and not lengths:
        decoding = replace(decoding, length="")
    if decoding.style and decoding.style not in styles:
        there = ", ".join(style for style in styles if style) or "none: the captions' tables name one (as = ...)"
        raise SettingError(f"decoding.style = {decoding.style!r} is no style of these captions. There is {there}.")
    if decoding.length and not lengths:
        raise SettingError(f"decoding.length = {decoding.length!r} asks for lengths, which are not learned: set training.lengths = true.")
    return decoding if decoding.style or not styles or "" in styles else replace(decoding, style=styles[0])


def _lent(decoder: PartSpec) -> tuple[Sequence[str], Supervision]:
    """From which text a captioner whose language model this one begins with had learned, and what it was given beside text."""
    start = decoder.get("start") if isinstance(decoder, dict) else None
    return text_and_given(Path(start)) if start else ((), Supervision(0))


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
    the embeddings of unpaired images, if there are any; and for each style of how many words short and medium captions are at most, where lengths
    are told."""

    corpus: Corpus
    learn: Tensor
    own: Tensor
    sources: Tensor
    siblings: Tensor
    siblings_of: dict[int, list[int]]
    images: Tensor | None
    bounds: dict[str, tuple[int, int]]

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

    def condition(self, told_from: Tensor, rows: Tensor, generator: torch.Generator | None = None) -> Condition:
        """Of these rows' captions, with their styles as prompts, and the lengths of about half of them where lengths are told."""
        condition = self.corpus.condition(told_from)
        if not (self.corpus.styles or self.bounds):
            return condition
        said = torch.rand(len(rows), generator=generator) < 0.5 if self.bounds and generator is not None else torch.zeros(len(rows), dtype=torch.bool)
        lengths = [self._length(row) if wanted else "" for row, wanted in zip(rows.tolist(), said.tolist(), strict=True)]
        return replace(condition, prompts=tuple(map(prompt, map(self.corpus.style, rows.tolist()), lengths)))

    def _length(self, row: int) -> str:
        words, (short, medium) = len(self.corpus.pairs.targets[row].split()), self.bounds[self.corpus.style(row)]
        return "short" if words <= short else "medium" if words <= medium else "long"

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
                condition = self.condition(rows, wanted)
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


def _bounds(corpus: Corpus, rows: Tensor) -> dict[str, tuple[int, int]]:
    """For each style the words that a third of these captions have at most, and two thirds."""
    words: dict[str, list[int]] = {}
    for row in rows.tolist():
        words.setdefault(corpus.style(row), []).append(len(corpus.pairs.targets[row].split()))
    ordered = {style: sorted(of) for style, of in words.items()}
    return {style: (of[(len(of) - 1) // 3], of[(2 * len(of) - 1) // 3]) for style, of in ordered.items()}


def _resolve_noise(
    bridges: Sequence[PartSpec],
    data: _Data,
    backbone: Backbone,
    make: Callable[[], "_Learner"],
    plan: Training,
    folder: Path,
    identity: dict,
    worker: _Worker,
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
        model = _optimise(folder / "training" / f"cosine-{cosine}", data, built, make, short, {**identity, "cosine": cosine}, worker, 5.0, name)
        scores[cosine] = data.evaluate(model, built, short)
    best = max(scores, key=lambda cosine: scores[cosine]["sibling"])
    how = "held-out siblings' log-probability, text alone"
    return _with_noise(bridges, best), {"how": how, "target_cosine": best, "steps": short.steps, "candidates": scores}


def _with_noise(bridges: Sequence[PartSpec], cosine: float) -> list[dict[str, Any]]:
    """The bridges' tables, with this target cosine where they leave it open."""
    tables = [{"name": spec} if isinstance(spec, str) else dict(spec) for spec in bridges]
    return [{**table, "target_cosine": cosine} if table.get("target_cosine") == AUTO else table for table in tables]


class _Learner(NamedTuple):
    """A decoder, and what it is when it has learned: the same, with what was added to its weights in them."""

    decoder: Any
    finished: Callable[[], Any]


def _decoder(begun: Captioner | None, spec: PartSpec, dim: int, data: _Data, plan: Training) -> _Learner:
    """Only what is to learn has gradients. Raises SettingError, MissingExtra."""
    if begun is not None:
        decoder: Any = copy.deepcopy(begun.decoder)
    else:
        decoder = parts.build("decoders", spec, dim=dim)
        decoder.fit([data.corpus.pairs.targets[row] for row in data.learn.tolist()])
    assert isinstance(decoder, torch.nn.Module)
    if plan.learn == "mapper":
        decoder.requires_grad_(False)
        decoder.mapper.requires_grad_(True)
    elif plan.learn == "lora":
        return _Learner(decoder, _with_low_rank(decoder, plan.lora_rank))
    return _Learner(decoder, lambda: decoder)


def _with_low_rank(decoder: torch.nn.Module, rank: int) -> Callable[[], torch.nn.Module]:
    """Puts a product of two narrow matrices beside each matrix of the language model, the output layer's apart, which alone learn; and returns what
    adds them to it."""
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise MissingExtra("peft", "lora", 'learn = "lora"') from error
    model = getattr(decoder, "lm", None)  # of transformers
    output = model.get_output_embeddings() if model is not None else None
    words = {id(module.weight) for module in decoder.modules() if module is output or isinstance(module, torch.nn.Embedding)}
    names = [
        name
        for name, module in decoder.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")  # transformers', of GPT-2
        and not name.startswith("mapper.")
        and id(module.weight) not in words
    ]
    conv = any(type(decoder.get_submodule(name)).__name__ == "Conv1D" for name in names)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, fan_in_fan_out=conv)
    return LoraModel(decoder, config, "default").merge_and_unload


def _optimise(
    folder: Path,
    data: _Data,
    bridges: Sequence[Bridge],
    make: Callable[[], _Learner],
    plan: Training,
    identity: dict,
    worker: _Worker,
    minutes: float,
    name: str = "training",
) -> Any:
    """One run of the optimiser, from its last checkpoint if there is one; returns the decoder that `plan.keep` asks for."""
    torch.manual_seed(plan.seed)
    decoder, finished = make()
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
    alone: AbstractContextManager[Callable[[], bool]] = between_steps() if worker.processes == 1 else nullcontext(lambda: False)
    with Progress(name, plan.steps, worker.is_first, start=step) as progress, alone as interrupted:
        while step < plan.steps:
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            loss = _step(wrapped, optimizer, next(batches), step, data, bridges, plan, worker)
            step, stop = step + 1, interrupted()
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
                if evaluated or stop or time.monotonic() - saved > 60 * minutes:
                    save_state(state, decoder, optimizer, step, identity)
                    saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    worker.wait()
    if plan.keep == "best" and best_file.is_file():
        load_module(decoder, read_tensors(best_file)[0], best_file)
    return finished().eval()


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
    condition = data.condition(data.told_from(rows, generator), rows, generator)
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
    given = report["recipe"]
    left_out = [(report["left_out_by_norm"], "left out by their norm"), (report["without_source"], "of photos that no source speaks of")]
    return f"""{CARD}
# A captioner trained from text alone

| | |
|---|---|
| text | {_said(given["captions"])}{f", told from {_said(given['sources'])}" if given["sources"] else ""}. Language: {captioner.language} |
| captions | {report["learned_from"]} learned from, {report["held_out"]} held out{"".join(f", {count} {why}" for count, why in left_out if count)} |
{f"| begins as | {given['start']}; what learned: {given['training']['learn']} |" + chr(10) if given["start"] else ""}\
{f"| styles | {', '.join(style or 'plain' for style in captioner.styles)} |" + chr(10) if captioner.styles else ""}\
| backbone | {_said(captioner.spec["backbone"])} ({captioner.backbone.fingerprint}), frozen |
| bridge | {"; ".join(map(_said, given["bridges"])) or "none"}. Noise: {noise["how"]} |
| decoder | {_said(captioner.spec["decoder"])}. {report["parameters"]:,} parameters |
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
    if isinstance(spec, list):
        return "; ".join(map(_said, spec))
    settings = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']} ({settings})" if "name" in spec else settings
