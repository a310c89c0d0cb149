"""Training beside the released loop: captions a second, peak memory and the share of the machine's limit, for CapDec's setting and the embedded one.

    python benchmarks/training.py [training.json]

CapDec's: a transformer mapper of 8 layers (40 places in, 40 out) and GPT-2 small, both trained, batch 34, random weights. The embedded captioner's:
recipes/flickr.toml's decoder, batch 48. Captions are made up, 11 tokens long on average and 50 at most.

The released loop is restated: float32; every batch padded to the longest caption of the corpus; logits over the vocabulary at every place, prefix and
padding too; cross entropy that ignores token 0; torch's AdamW as it comes. Ours is `capdec.train`'s own step with training.dtype = "bfloat16". Before
they are timed, both go through the same batches, with the same noise, from the same weights, without dropout: losses are equal to rounding in float32
and close in bfloat16. The FLOPs of a step are 6 x weights x the places that need them: real words and prefix, no padding, no attention products.
Memory is the peak of one loop alone, in a process of its own.
"""

import copy
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import DEVICE, Way, compare, peak, report
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from capdec.bridges.gaussian_noise import GaussianNoise
from capdec.corpus import Corpus, Pairs
from capdec.decoders.prefix_lm import PrefixLM
from capdec.decoders.small_transformer import SmallTransformer
from capdec.protocols import Condition
from capdec.tokens import pad, train_bpe
from capdec.train import Training, _Data, _optimizer, _step, _Worker

CAPDEC, EMBEDDED = "CapDec's setting", "the embedded setting"
CAPTIONS, LONGEST = 4000, 50
STEPS = 12
"""Of the losses that are compared."""


def captions(generator: random.Random) -> list[str]:
    """Words by Zipf's law, their number as in published captions: few below 7, most about 10, a tail up to the longest."""
    syllables = [first + last for first in "bdfghklmnprstvw" for last in ("a", "e", "i", "o", "ar", "en", "il", "on")]
    words = ["".join(generator.choices(syllables, k=generator.choice((1, 2, 2, 3)))) for _ in range(2000)]
    weights = [1 / place for place in range(1, len(words) + 1)]
    lengths = [min(LONGEST - 1, max(5, round(generator.lognormvariate(2.28, 0.25)))) for _ in range(CAPTIONS - 1)]
    return [" ".join(generator.choices(words, weights, k=length)) for length in [*lengths, LONGEST - 1]]


class Released(nn.Module):
    """The released loop's loss, by its habits, with the weights of ours."""

    def __init__(self, decoder: PrefixLM | SmallTransformer, texts: list[str]):
        super().__init__()
        self.tokens = {text: _ids(decoder, text) for text in texts}
        self.longest = max(map(len, self.tokens.values()))
        if isinstance(decoder, PrefixLM):
            self.mapper, self.lm = copy.deepcopy(decoder.mapper), GPT2LMHeadModel(decoder.lm.config)  # with the activation as transformers has it
            self.lm.load_state_dict(decoder.lm.state_dict())
        else:
            self.own = copy.deepcopy(decoder)
        self.smoothing = 0.0 if isinstance(decoder, PrefixLM) else Training.label_smoothing

    def forward(self, condition: Condition, texts: list[str]) -> Tensor:
        rows = [self.tokens[text] for text in texts]
        targets = pad([[*row, *[0] * (self.longest - len(row))] for row in rows]).to(DEVICE)
        condition = condition.to(DEVICE)
        if hasattr(self, "own"):
            prefix, mask = self.own._prefix(condition)
            x = torch.cat([prefix, self.own.words(targets)], 1)
            hidden = self.own._run(x, *self.own._places(mask, x.shape[1]))
            logits = F.linear(hidden, self.own.words.weight)[:, prefix.shape[1] - 1 : -1, 1:]  # of all but padding, which no word is
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten() - 1, ignore_index=-1, label_smoothing=self.smoothing)
        mapper, batch = self.mapper, len(rows)
        expanded = mapper.expand(condition.embeddings).view(batch, mapper.clip_length, -1)
        prefix = mapper.layers(torch.cat([expanded, mapper.constants.expand(batch, -1, -1)], 1))[:, mapper.clip_length :]
        x = torch.cat([prefix, self.lm.get_input_embeddings()(targets)], 1)
        attention = torch.cat([targets.new_ones(prefix.shape[:2]), (targets > 0).long()], 1)
        logits = self.lm(inputs_embeds=x, attention_mask=attention).logits[:, prefix.shape[1] - 1 : -1]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)


def _ids(decoder: PrefixLM | SmallTransformer, text: str) -> list[int]:
    if isinstance(decoder, PrefixLM):
        return [*decoder._tokens([text])[0], decoder._end()]
    return [*decoder._tokenizer().encode(text).ids[: decoder.max_tokens - 1], 1]


class Setting:
    """One captioner to be trained, and two loops that train it."""

    def __init__(self, name: str, folder: Path):
        torch.manual_seed(0)
        texts = captions(random.Random(0))
        if name == CAPDEC:
            bpe = train_bpe(texts, 4000, [])
            GPT2Config().save_pretrained(folder)
            PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
            self.decoder: Any = PrefixLM(640, str(folder), pretrained=False)
            self.plan = Training(batch=34, learning_rate=2e-5, weight_decay=0.01, label_smoothing=0.0, dtype="bfloat16", clip=1e9)
        else:
            self.decoder = SmallTransformer(256, layers=2, width=256, heads=4, mapper="mlp", prefix=4, vocabulary=3000, max_tokens=32)
            self.plan = Training(batch=48, weight_decay=0.01, dtype="bfloat16", clip=1e9)
        self.plan = replace(self.plan, schedule="constant", warmup=0)
        self.decoder.fit(texts)
        self.decoder.to(DEVICE).train()
        rows = torch.arange(len(texts))
        embeddings = F.normalize(torch.randn(len(texts), self.decoder.dim), dim=-1)
        corpus = Corpus(Pairs(texts, texts, [None] * len(texts)), embeddings)  # type: ignore[arg-type]
        self.data = _Data(corpus, rows, rows[:0], rows[:0], rows[:0], siblings_of={}, images=None)
        self.bridge = GaussianNoise(self.decoder.dim, variance=0.016)
        self.worker = _Worker(DEVICE, self.plan)

    def ours(self, plan: Training, alone: bool = False) -> Iterator[float]:
        """The loss of each step. `alone` there is no other loop to start from the same weights."""
        decoder = self.decoder if alone else copy.deepcopy(self.decoder)
        optimizer, batches = _optimizer(decoder, plan), self.data.batches(plan)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate
        for step, rows in enumerate(batches):
            yield _step(decoder, optimizer, rows, step, self.data, [self.bridge], plan, self.worker)

    def released(self, plan: Training, alone: bool = False) -> Iterator[float]:
        model = Released(self.decoder, self.data.corpus.pairs.targets).to(DEVICE).train(self.decoder.training)
        if alone:
            del self.decoder
        matrices, rest = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98))
        for step, rows in enumerate(self.data.batches(plan)):
            noise = torch.Generator().manual_seed((plan.seed * 1_000_003 + step) * 2 + 1)  # as in our step
            optimizer.zero_grad()
            loss = model(self.bridge.from_text(self.data.corpus.condition(rows), noise), self.data.corpus.targets(rows))
            loss.backward()
            optimizer.step()
            yield loss.item()

    def flops(self, steps: int) -> float:
        """Of the mathematics of the first steps: 6 x weights x places."""
        batches = self.data.batches(self.plan)
        words = [len(_ids(self.decoder, text)) for _ in range(steps) for text in self.data.corpus.targets(next(batches))]
        mapper, prefix = self.decoder.mapper, self.decoder.mapper.constants.shape[0] if isinstance(self.decoder, PrefixLM) else self.decoder.prefix
        if isinstance(self.decoder, PrefixLM):
            mapped = _weights(mapper.expand) + _weights(mapper.layers) * (mapper.clip_length + prefix)
            body, head = _weights(self.decoder.lm.transformer.h), self.decoder.lm.lm_head.weight.numel()
        else:
            mapped, body, head = _weights(mapper), _weights(self.decoder.layers), self.decoder.words.weight.numel()
        return 6 * sum(mapped + body * (prefix + count - 1) + head * count for count in words)

    def same_losses(self, batch: int, rate: float) -> str:
        plan = replace(self.plan, batch=batch, learning_rate=rate)
        self.decoder.eval()
        losses = {}
        for name, run in (
            ("released", self.released(plan)), ("float32", self.ours(replace(plan, dtype="float32"))), ("bfloat16", self.ours(plan)),
        ):  # fmt: skip
            losses[name] = torch.tensor([next(run) for _ in range(STEPS)])
            run.close()  # its weights and moments go before those of the next are made
        self.decoder.train()
        apart = {name: (losses[name] - losses["released"]).abs().max().item() for name in ("float32", "bfloat16")}
        assert apart["float32"] < 2e-3 and apart["bfloat16"] < 0.05, (apart, losses)
        said = ", ".join(f"{name} at most {value:.1e}" for name, value in apart.items())
        first, last = losses["released"][[0, -1]].tolist()
        return f"{STEPS} steps of batch {batch} without dropout, loss {first:.2f} to {last:.2f}; from the released loop's: {said}"


def _weights(module: nn.Module) -> int:
    """Those of its matrix products."""
    return sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)


def row(name: str, folder: Path, peaks: dict[tuple[str, str], float], many: int, few: int, rounds: int, check: tuple[int, float]) -> dict[str, Any]:
    """`many` steps of ours, whose cost depends on the lengths of the batch, beside `few` of the released loop, whose cost does not."""
    setting = Setting(name, folder)
    equal = setting.same_losses(*check)
    ways = []
    for loop, steps in (("ours", many), ("released", few)):
        run, plan = getattr(setting, loop)(setting.plan), setting.plan
        dtype = plan.dtype if loop == "ours" else "float32"
        label = f"{loop if loop == 'ours' else 'the released loop, restated'}, {dtype}, batch {plan.batch}"
        flops = setting.flops(many) * steps / many
        ways.append(Way(label, lambda run=run, steps=steps: [next(run) for _ in range(steps)], steps * plan.batch, flops, dtype=dtype))
    ways[1].aim = 5
    memory = ", ".join(f"{loop} {peaks[name, loop]:,.0f} MiB" for loop in ("ours", "released"))
    note = f"at most {memory}; of the matrix rate: the mathematics' FLOPs alone, so the released loop's padding counts as nothing"
    return compare(f"training, {name}", "captions", ways[0], ways[1:], rounds, equal, note)


def alone(name: str, loop: str) -> float:
    """MiB. To be asked while this process is small: a new one begins with the peak of the one that starts it."""
    command = [sys.executable, __file__, "peak", name, loop]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:2] == ["peak"]:  # of one loop alone, in this process
            run = getattr(setting := Setting(sys.argv[2], Path(folder)), sys.argv[3])(setting.plan, alone=True)
            for _ in range(1 if sys.argv[2] == CAPDEC else 8):
                next(run)
            print(peak())
            return
        peaks = {(name, loop): alone(name, loop) for name in (CAPDEC, EMBEDDED) for loop in ("ours", "released")}
        rows = [row(EMBEDDED, Path(folder), peaks, 24, 8, 5, (48, 1e-3)), row(CAPDEC, Path(folder), peaks, 3, 1, 3, (4, 1e-4))]
        report(rows)
        for one in rows:
            print(f"{one['work']}: {one['equal']}.")


if __name__ == "__main__":
    main()
