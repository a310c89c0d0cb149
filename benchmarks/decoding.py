"""Embeddings to captions with CapDec's decoder: GPT-2 small behind a transformer mapper of 8 layers and a prefix of 40. Beam 5, 20 tokens.

    python benchmarks/decoding.py [RESULT.json]
    python benchmarks/decoding.py profile 32          where the time of a call with 32 embeddings goes, instead

The weights are random, so nobody ends early, and every way says captions of 20 tokens. Beside ours: the search that CapDec's authors released,
restated (one image at a time in float32, everything read again at each step), and `transformers.generate`.
"""

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import DEVICE, Way, best, compare, report, with_threads
from torch import Tensor

from capdec.decoders.prefix_lm import PrefixLM
from capdec.protocols import Condition, Decoding
from capdec.tokens import train_bpe

DIM, PREFIX, TOKENS, BEAMS = 640, 40, 20, 5
BATCHES = (1, 8, 32, 128)
DECODING = Decoding(beams=BEAMS, max_tokens=TOKENS)


def decoder(dim: int = DIM) -> PrefixLM:
    """GPT-2 small in the hub's own format, with random weights, its words' wider than it begins with: logits lie some units apart, no tie decides."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bpe = train_bpe(["a man rides a horse", "two dogs run over the grass"] * 4, 300, ["<|endoftext|>"])
        model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
        model.transformer.wte.weight.data.mul_(5)
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
        made = PrefixLM(dim, folder)
        made.fit([])
    return made.eval().to(DEVICE)


def conditions(batch: int) -> Condition:
    generator = torch.Generator().manual_seed(batch)
    return Condition.of(F.normalize(torch.randn(batch, DIM, generator=generator), dim=-1).to(DEVICE))


@torch.inference_mode()
def released(made: PrefixLM, condition: Condition) -> list[tuple[int, ...]]:
    """CapDec's released beam search: for each image the whole of what was said goes through the network at each step, every place's logits are made,
    and a beam's score is its mean log-probability."""
    found = []
    for image in range(len(condition)):
        read, _ = made._prefix(condition.select(torch.tensor([image])))
        tokens, scores = torch.empty(1, 0, dtype=torch.long, device=DEVICE), torch.zeros(1, device=DEVICE)
        for step in range(1, TOKENS + 1):
            logits = made.lm(inputs_embeds=read, use_cache=False).logits[:, -1]
            total = (scores.unsqueeze(1) * (step - 1) + logits.softmax(-1).log()) / step
            scores, flat = total.view(-1).topk(BEAMS)
            parents, chosen = flat // logits.shape[1], flat % logits.shape[1]
            tokens = torch.cat([tokens[parents], chosen.unsqueeze(1)], 1)
            read = torch.cat([read[parents], made.lm.get_input_embeddings()(chosen).unsqueeze(1)], 1)
        found.append(tuple(tokens[scores.argmax()].tolist()))
    return found


def generate(made: PrefixLM, condition: Condition) -> Callable[[], Tensor]:
    """`transformers.generate` behind the same prefix."""

    def run() -> Tensor:
        with torch.inference_mode():
            prefix, mask = made._prefix(condition.with_embeddings(condition.embeddings.to(made.lm.dtype)))
            wide: dict[str, Any] = {"num_beams": BEAMS, "do_sample": False, "early_stopping": False, "max_new_tokens": TOKENS}
            return made.lm.generate(inputs_embeds=prefix, attention_mask=mask.long(), eos_token_id=0, pad_token_id=0, **wide)

    return run


def work(made: PrefixLM, batch: int) -> dict[str, float]:
    """What the mathematics asks of a call: products of the mapper's, the prefix's and the beams' places with the weights that read them. And the
    bytes of bfloat16 weights that the steps read."""
    body = sum(weight.numel() for name, weight in made.lm.named_parameters() if "wte" not in name and "wpe" not in name)
    head = made.lm.get_input_embeddings().weight.numel()
    layers = sum(weight.numel() for name, weight in made.mapper.named_parameters() if "layers" in name)
    expand = made.mapper.expand.weight.numel()
    mapped = 2 * (expand + layers * 2 * PREFIX)
    said = 2 * (body * PREFIX + head) + 2 * BEAMS * (TOKENS - 1) * (body + head)
    return {"flops": batch * (mapped + said), "bytes": 2.0 * (TOKENS * (body + head) + layers + expand)}


def profile(batch: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watched

    made, some = decoder(), conditions(batch)
    made.dtype = torch.bfloat16
    made.generate(some, DECODING)
    with watched(activities=[ProfilerActivity.CPU]) as record:
        made.generate(some, DECODING)
    print(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=50))


def main() -> None:
    if sys.argv[1:2] == ["profile"]:
        profile(int(sys.argv[2]))
        return
    plain, half, fast = decoder(), decoder(), decoder()
    half.to(torch.bfloat16)
    fast.dtype = torch.bfloat16
    few = conditions(4)
    said = [image[0].tokens for image in plain.generate(few, DECODING)]
    assert said == released(plain, few), "the released search and ours say the same in float32"
    assert said == [tuple(row) for row in generate(plain, few)().tolist()], "and transformers.generate"
    apart = max(abs(one[0].score - two[0].score) for one, two in zip(plain.generate(few, DECODING), fast.generate(few, DECODING), strict=True))
    assert apart < 0.02, f"in bfloat16 our captions' scores are {apart:.3f} nats a token from float32's"
    equal = f"captions equal in float32; in bfloat16 ours score within {apart:.4f} nats a token of them"

    one = conditions(1)
    every = torch.get_num_threads()
    authors = best([Way("the released search", with_threads(lambda: released(plain, one), count), 1) for count in sorted({1, every})])
    rows = []
    for batch in BATCHES:
        some = conditions(batch)
        ours = Way("capdec, bfloat16", lambda some=some: fast.generate(some, DECODING), batch, **work(plain, batch))
        others = [
            Way("the released search, float32", authors.run, 1, aim=100 if batch == 32 else 0),
            Way("transformers.generate, bfloat16", generate(half, some), batch, aim={8: 1.5, 32: 2, 128: 2}.get(batch, 0)),
        ]
        if batch < 128:  # where a call of these takes minutes
            others += [
                Way("transformers.generate, float32", generate(plain, some), batch),
                Way("capdec, float32", lambda some=some: plain.generate(some, DECODING), batch),
            ]
        rows.append(compare(f"embeddings to captions, GPT-2 small, B = {batch}", "captions", ours, others, 3 if batch < 128 else 2, equal))
    report(rows)


if __name__ == "__main__":
    main()
