"""CgT-GAN's second stage (Yu et al. 2023): a captioner that was trained from text goes on learning from its own captions of photos nobody captioned.

    photo v -> samples c_1 ... c_S and a greedy caption c_0 -> rewards -> policy gradient: (r(c_s) - r(c_0)) log p(c_s | v)

    r(c) = weight x CLIP + (1 - weight) x discriminator
    CLIP            0.5 cos(c, t) + 0.5 (1 - mean |c - t|)        t: DeCap's projection of the photo on the captions of the corpus but its own
    discriminator   the probability that c was written by a person, of a text classifier that learns beside it

Self-critical: the greedy caption is the baseline (Rennie et al. 2017). Without photos it is strictly text-only: noised embeddings of the corpus'
captions stand in for photos.

Other than in the released code, each reward's advantages are brought to the same spread over a batch before they are weighed (there a cosine times
100 meets a discriminator's score), and their sum is divided by the tokens of the batch; the discriminator is a small transformer from scratch, not
RoBERTa, so it learns alone for the first `warmup` steps; t is of unit length, and made without what was said of the photo, where ids say so; a
caption that did not end in time teaches nothing; and no epoch is chosen by pairs: the last step counts. Step s draws all that is random from
generators seeded with (seed, s), so that a run that was killed continues to the very weights of an undisturbed one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from capdec import confidence, parts, recipe
from capdec.captioner import CARD, Captioner
from capdec.checkpoint import Record, between_steps, load_state, replacing, save_state, write_json
from capdec.corpus import Corpus, Photos, Spec, embed, embed_photos, open_dataset, read_pairs
from capdec.errors import SettingError
from capdec.language import reads
from capdec.noise import std_of
from capdec.progress import Progress
from capdec.protocols import Bridge, Caption, Condition, Decoding, Supervision
from capdec.tokens import pad, train_bpe, written

FEW = 1e-6


@dataclass(frozen=True)
class Refining:
    """`batch` photos a step, each with `samples` captions. `weight` is CLIP's share of the reward at the end; for the first `discriminator_steps` the
    discriminator alone rewards, and over the next `rising_steps` the share rises linearly (the paper: 150 and 2350, then 0.5; None: a tenth of
    `steps`, and the rest). `temperature` is that of the aggregated target ("auto": chosen on text alone; the paper: 0.01 on COCO). `target_cosine` is
    of the noise that makes a caption stand in for a photo, where there are no photos (None: the backbone's default). For `warmup` steps the captioner
    only speaks, and over as many more its rate rises to `learning_rate`."""

    steps: int = 150
    batch: int = 32
    samples: int = 5
    weight: float = 0.5
    discriminator_steps: int | None = None
    rising_steps: int | None = None
    temperature: float | str = "auto"
    target_cosine: float | None = None
    learning_rate: float = 1e-4
    discriminator_rate: float = 5e-4
    warmup: int = 10
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.samples) < 1 or not 0 <= self.weight <= 1:
            raise SettingError(f"steps, batch and samples are 1 or more, and weight lies in [0, 1]; this came: {self}.")
        if self.target_cosine is not None and not 0 < self.target_cosine <= 1:
            raise SettingError(f"target_cosine = {self.target_cosine} does not lie in (0, 1].")

    def share(self, step: int) -> float:
        """CLIP's part of the reward at a step.

        >>> [Refining(steps=100, weight=0.5).share(step) for step in (0, 10, 55, 100)]
        [0.0, 0.0, 0.25, 0.5]
        """
        alone = self.steps // 10 if self.discriminator_steps is None else self.discriminator_steps
        rising = self.steps - alone if self.rising_steps is None else self.rising_steps
        return self.weight * min(1.0, max(0, step - alone) / max(1, rising))


def refine(
    captioner: str | Path | Captioner,
    captions: Spec,
    output: str | Path,
    *,
    photos: Spec | None = None,
    refining: dict[str, Any] | None = None,
    device: str = "cpu",
    embeddings: str | Path | None = None,
    own_parts: bool = False,
    minutes_between_checkpoints: float = 5.0,
) -> Captioner:
    """Trains on, or continues, and returns the captioner in `output`. `captioner` is one that was trained (a folder or a hub id; `own_parts` as in
    Captioner.load), `captions` the text that targets are made of and the discriminator takes for a person's, `photos` a dataset whose captions are
    not read. One process.

    Raises SettingError, DataError or MismatchError where something cannot be.
    """
    folder, plan = Path(output), recipe.settings("refining", Refining, refining or {})
    if (folder / "config.json").is_file() and not (folder / "refining").is_dir():
        raise SettingError(f"{folder} holds a captioner of another making, which would be overwritten. Name another folder.")
    made = captioner if isinstance(captioner, Captioner) else Captioner.load(captioner, device, own_parts=own_parts)
    if not reads(made.backbone, made.language):
        raise SettingError(f"refining rewards captions by the backbone, which is not said to read {made.language!r}: their language.")
    if made.styles or made.lengths:
        raise SettingError("refining has one way of speaking, and this captioner learned several styles or lengths: refine one that has none.")
    text = open_dataset(captions)
    pairs = read_pairs(text)
    store = Path(embeddings or folder / "embeddings")
    with Progress("embedding captions", len(pairs)) as progress:
        corpus = embed(pairs, made.backbone, store, lambda done, _: progress.update(done))
    shown: Condition | None = None
    if photos is not None:
        seen = Photos.of(open_dataset(photos))
        with Progress("embedding photos", len(seen.ids)) as progress:
            found, of_photo = embed_photos(seen, made.backbone, store / "photos", lambda done, _: progress.update(done), made.regions)
        images = found[torch.arange(len(found))].view(len(found), 1 + made.regions, -1)
        images = F.normalize(images, dim=-1) if made.normalize or made.regions else images * torch.from_numpy(found.norms).view(-1, 1, 1)
        first = {key: row for row, key in reversed(list(enumerate(pairs.image_ids))) if key is not None}
        shown = Condition.of(images, torch.tensor([first.get(key, -1) for key in of_photo]))
    given = {"captioner": str(captioner) if not isinstance(captioner, Captioner) else None, "captions": captions, "photos": photos}
    identity = {"recipe": {**given, "refining": plan.__dict__}, "text": pairs.fingerprint, "captioner": made.fingerprint}

    made.confidence = confidence.learned(folder, made.fingerprint)  # of a run that had ended here
    _Refinement(made, corpus, shown, plan, device).run(folder / "refining", identity, minutes_between_checkpoints)

    made.given |= Supervision.UNPAIRED_IMAGES if photos is not None else Supervision(0)
    made.text = tuple(sorted({*made.text, *(text.name.split("+") if text.name else ())}))
    made.save(folder)
    table = {**given, "refining": plan.__dict__}
    report = {"recipe": table, "captions": len(corpus), "photos": len(shown) if shown is not None else 0, **recipe.origin()}
    write_json(folder / "scores.json", report)
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(card(report, made), encoding="utf-8")
    with replacing(folder / "recipe.toml") as temporary:
        temporary.write_text(recipe.dump(table), encoding="utf-8")
    return made


def card(report: dict[str, Any], captioner: Captioner) -> str:
    """The model card: what it was refined from, on what, and that it was not scored."""
    table = report["recipe"]
    return f"""{CARD}
# A captioner refined by its own captions

| | |
|---|---|
| refined from | {table["captioner"] or "a captioner at hand"}, for {table["refining"]["steps"]} steps (CgT-GAN, Yu et al. 2023) |
| text | {table["captions"]}, {report["captions"]} captions |
| photos | {f"{report['photos']}, without their captions" if report["photos"] else "none: noised embeddings of captions stood in for them"} |
| backbone | {captioner.backbone.fingerprint}, frozen |
| supervision | {captioner.supervision.words()} |
| made by | capdec {report["capdec"]}, commit {report["commit"] or "unknown"}, seed {table["refining"]["seed"]}, {report["time"]} |

Captions on images were not scored; `recipe.toml` holds the whole recipe, `refining/metrics.jsonl` the rewards step by step.
The captions say what the text and the backbone make likely: check them before you rely on them, above all on people.
"""


class Discriminator(nn.Module):
    """Is a text a person's? Tokens of a BPE of the corpus, two transformer layers, their mean, and an MLP (in the paper RoBERTa and 768-384-1)."""

    def __init__(self, captions: Sequence[str], vocabulary: int = 2000, width: int = 128, longest: int = 48):
        super().__init__()
        self.tokenizer = train_bpe(map(written, captions), vocabulary, ["<pad>"])
        self.longest = longest
        self.words = nn.Embedding(self.tokenizer.get_vocab_size(), width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.judge = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "B"]:
        """Logits; a caption without a word is one unseen byte."""
        rows = [encoding.ids[: self.longest] or [1] for encoding in self.tokenizer.encode_batch([written(text) for text in texts])]
        tokens = pad(rows).to(self.positions.device)
        x = self.layers(self.words(tokens) + self.positions[: tokens.shape[1]], src_key_padding_mask=tokens == 0)
        real = (tokens != 0).unsqueeze(-1).to(x.dtype)
        return self.judge((x * real).sum(1) / real.sum(1)).squeeze(1)


class _Refinement:
    """The captioner, what it learns from, and who rewards it."""

    def __init__(self, captioner: Captioner, corpus: Corpus, photos: Condition | None, plan: Refining, device: str):
        """The rows of `photos` say which caption of the corpus speaks of each, -1 where none does."""
        self.captioner, self.corpus, self.photos, self.plan = captioner, corpus, photos, plan
        self.texts = corpus.pairs.targets
        torch.manual_seed(plan.seed)
        assert isinstance(captioner.decoder, nn.Module)
        self.models = nn.ModuleDict({"decoder": captioner.decoder, "discriminator": Discriminator(self.texts)}).to(device)
        self.policy: Any = self.models["decoder"]
        self.discriminator = self.models["discriminator"]
        self.target: Bridge = parts.build("bridges", {"name": "memory_projection", "temperature": plan.temperature}, dim=captioner.backbone.dim)
        self.target.fit(corpus)
        for memory in captioner.memories:
            memory.recognise(corpus)
        self.targets = self._target(photos) if photos is not None else None
        self.std = std_of(plan.target_cosine or captioner.backbone.target_cosine, captioner.backbone.dim)
        learned = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        if not learned:
            raise SettingError("nothing in this captioner's decoder can learn.")
        groups = [{"params": learned, "lr": plan.learning_rate}, {"params": list(self.discriminator.parameters()), "lr": plan.discriminator_rate}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=plan.weight_decay)

    def run(self, folder: Path, identity: dict[str, Any], minutes: float) -> None:
        state, record = folder / "state.safetensors", Record(folder / "metrics.jsonl")
        step = load_state(state, self.models, self.optimizer, identity) if state.is_file() else 0
        record.forget_after(step)
        saved = time.monotonic()
        with Progress("refining", self.plan.steps, start=step) as progress, between_steps() as interrupted:
            while step < self.plan.steps:
                figures = self.step(step)
                step, stop = step + 1, interrupted()
                progress.update(step, f"CLIP {figures['clip']:.3f}, taken for a person's {figures['person']:.2f}")
                record.add({"step": step, **{name: round(value, 5) for name, value in figures.items()}, "time": round(time.time(), 2)})
                if step == self.plan.steps or stop or time.monotonic() - saved > 60 * minutes:
                    save_state(state, self.models, self.optimizer, step, identity)
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        self.models.eval()

    def step(self, step: int) -> dict[str, float]:
        """One update of both; the figures are means over the samples."""
        plan = self.plan
        seed = plan.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(2 * seed + 1)
        condition, target = self._seen(generator)
        self.models.eval()
        sampling = Decoding("nucleus", captions=plan.samples, top_p=1.0, max_tokens=self._longest(), seed=seed * plan.batch)
        drawn = [caption for captions in self.policy.generate(condition, sampling) for caption in captions]
        greedy = [best for best, *_ in self.policy.generate(condition, Decoding("greedy", max_tokens=self._longest()))]

        clip, person = self._rewards([*drawn, *greedy], target, plan.samples)
        share = plan.share(step)
        advantage = share * _advantage(clip, plan.samples) + (1 - share) * _advantage(person, plan.samples)
        ended = torch.tensor([len(caption.tokens) < self._longest() for caption in drawn])
        advantage = advantage * ended

        policy, discriminator = self.optimizer.param_groups
        policy["lr"] = plan.learning_rate * min(1.0, max(0, step - plan.warmup + 1) / max(1, plan.warmup))
        discriminator["lr"] = plan.discriminator_rate * min(1.0, (step + 1) / max(1, plan.warmup))
        self.optimizer.zero_grad(set_to_none=True)
        owners = torch.arange(plan.batch).repeat_interleave(plan.samples)
        said = self.policy.log_prob(condition.select(owners), drawn)  # without dropout: the policy that drew them
        loss = -(advantage.to(said.total) * said.total).sum() / (said.tokens * ended.to(said.tokens)).sum().clamp(min=1)
        loss.backward()
        torch.manual_seed(2 * seed)  # dropout
        self.discriminator.train()
        people = [self.texts[row] for row in torch.randint(len(self.texts), (len(drawn),), generator=generator).tolist()]
        logits = self.discriminator([*people, *(caption.text for caption in drawn)])
        truth = torch.cat([torch.ones(len(people)), torch.zeros(len(drawn))]).to(logits)
        judged = F.binary_cross_entropy_with_logits(logits, truth)
        judged.backward()
        for group in self.optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], plan.clip)
        self.optimizer.step()
        samples = len(drawn)
        return {
            "clip": clip[:samples].mean().item(), "clip_greedy": clip[samples:].mean().item(),
            "person": person[:samples].mean().item(), "person_greedy": person[samples:].mean().item(),
            "told_apart": ((logits > 0) == (truth > 0)).float().mean().item(), "share": share, "loss": loss.item(), "judged": judged.item(),
            "ended": ended.float().mean().item(), "tokens": said.tokens.float().mean().item(),
        }  # fmt: skip

    def _longest(self) -> int:
        return min(40, getattr(self.policy, "max_tokens", 40))

    def _seen(self, generator: torch.Generator) -> tuple[Condition, Float[Tensor, "B D"]]:
        """A batch of photos, or of captions noised as far as a photo is, as the decoder is told of them; and what is to be said of them. A caption is
        text all the same: a bridge that moves photos does not move it, one that looks things up does so as for a photo."""
        if self.photos is not None and self.targets is not None:
            places = torch.randint(len(self.photos), (self.plan.batch,), generator=generator)
            condition, target = self.photos.select(places), self.targets[places]
            for bridge in self.captioner.bridges:
                condition = bridge.from_image(condition, generator)
            return condition, target
        rows = torch.randint(len(self.corpus), (self.plan.batch,), generator=generator)
        clean = self.corpus.embeddings[rows]
        condition = Condition.of(F.normalize(clean + self.std * torch.randn(clean.shape, generator=generator), dim=-1), rows)
        target = self._target(condition)
        for bridge in self.captioner.bridges:
            alike = getattr(bridge, "looks_up", False)
            condition = bridge.from_image(condition, generator) if alike else bridge.from_text(condition, None)
        return condition, target

    def _target(self, seen: Condition) -> Float[Tensor, "B D"]:
        return self.target.from_image(Condition.of(seen.embeddings[:, 0], seen.rows), None).embeddings[:, 0]

    @torch.no_grad()
    def _rewards(self, captions: Sequence[Caption], target: Float[Tensor, "B D"], samples: int) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"]]:
        """CLIP's and the discriminator's, of the samples of each photo and then of the greedy captions."""
        texts = [caption.text for caption in captions]
        told = self.captioner.backbone.encode_text(texts).float().cpu()
        wanted = torch.cat([target.repeat_interleave(samples, 0), target])
        clip = 0.5 * (told * wanted).sum(1) + 0.5 * (1 - (told - wanted).abs().mean(1))
        return clip, torch.sigmoid(self.discriminator(texts)).cpu()


def _advantage(rewards: Float[Tensor, "R"], samples: int) -> Float[Tensor, "S"]:
    """Of each sample over its photo's greedy caption, in units of their spread over the batch.

    >>> _advantage(torch.tensor([1.0, 3.0, 2.0, 2.0, 1.0, 2.0]), 2).tolist()
    [0.0, 2.0, 0.0, 0.0]
    """
    greedy = len(rewards) // (samples + 1)
    apart = rewards[:-greedy] - rewards[-greedy:].repeat_interleave(samples)
    return apart / apart.square().mean().sqrt().clamp(min=FEW)
