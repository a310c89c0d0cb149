"""The search for captions: beam, greedy and nucleus over anything that can give the next token's logits. It knows no model, no prefix and no text.

Rows are the sequences alive now. A stepper is told which row of its last answer each new row continues (`parents`) and with which token, so that
widening from images to beams, reordering beams and dropping finished ones are all the same act:

    begin()                                  2 images                            logits of rows 0 1
    advance(parents=[0 0 1 1], tokens=...)   two beams each                      logits of rows 0 1 2 3
    advance(parents=[2 3], tokens=...)       image 0 is done, image 1 goes on    logits of rows 0 1
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capdec import recipe
from capdec.errors import SettingError
from capdec.protocols import Decoding

NEVER = -1e9


@runtime_checkable
class Stepper(Protocol):
    def begin(self) -> Float[Tensor, "B V"]: ...

    def advance(self, parents: Int[Tensor, "R"], tokens: Int[Tensor, "R"]) -> Float[Tensor, "R V"]: ...


class Found(NamedTuple):
    """A sequence without its end token, and its log-probability (end included) over length ** length_penalty."""

    tokens: tuple[int, ...]
    score: float


def search(stepper: Stepper, decoding: Decoding, end: int) -> list[list[Found]]:
    """For each image `decoding.captions` sequences, best first. Raises SettingError for a decoding that cannot be."""
    check(decoding)
    with torch.inference_mode():
        if decoding.strategy == "beam":
            return _Beams(stepper, decoding, end).run()
        return _one_by_one(stepper, decoding, end)


def settings(values: dict[str, Any]) -> Decoding:
    """Raises SettingError for an unknown name, showing those there are, and for what cannot be."""
    decoding = recipe.settings("decoding", Decoding, values)
    check(decoding)
    return decoding


def found(decoding: Decoding) -> int:
    """How many captions a photo are looked for."""
    return max(decoding.captions, decoding.candidates)


def check(decoding: Decoding) -> None:
    if decoding.strategy not in ("beam", "greedy", "nucleus"):
        raise SettingError(f"no decoding strategy is called {decoding.strategy!r}. There are: beam, greedy, nucleus.")
    if decoding.rerank not in ("none", "clip", "consensus", "neighbours"):
        raise SettingError(f"rerank is 'none', 'clip', 'consensus' or 'neighbours', not {decoding.rerank!r}.")
    if min(decoding.max_tokens, decoding.beams, decoding.captions, decoding.neighbours) < 1 or decoding.no_repeat_ngram_size < 0:
        raise SettingError(f"max_tokens, beams, captions and neighbours are at least 1, no_repeat_ngram_size at least 0; this came: {decoding}.")
    if (decoding.candidates or decoding.score_weight) and decoding.rerank == "none":
        raise SettingError("candidates are what rerank chooses among, and score_weight how: name a rerank, or ask for captions alone.")
    if decoding.rerank != "none" and found(decoding) < 2:
        raise SettingError("rerank chooses among several candidates of a photo: ask for some (candidates = 5).")
    if decoding.strategy == "beam" and found(decoding) > decoding.beams:
        raise SettingError(f"beam search with {decoding.beams} beams has no {found(decoding)} captions to return. Ask for as many beams.")
    if decoding.strategy == "greedy" and found(decoding) > 1:
        raise SettingError(f"greedy search finds one caption, not {found(decoding)}. Use strategy 'beam' or 'nucleus' for several.")
    if not 0 < decoding.top_p <= 1 or decoding.temperature <= 0:
        raise SettingError(f"top_p lies in (0, 1] and temperature above 0; top_p = {decoding.top_p}, temperature = {decoding.temperature} came.")


def _log_probs(logits: Tensor, sequences: Tensor, no_repeat: int) -> Tensor:
    """Float["R V"] in fp32, where what would repeat an n-gram of its own sequence is -inf."""
    scores = torch.log_softmax(logits.float(), dim=-1)
    length = sequences.shape[1]
    if 0 < no_repeat <= length:
        # n = 2, sequence a b a: the windows before the last are a, b; the last window is a; so b, which followed the first a, is banned.
        windows = sequences.unfold(1, no_repeat - 1, 1)[:, :-1] if no_repeat > 1 else sequences.new_zeros(len(sequences), length, 0)
        last = sequences[:, length - no_repeat + 1 :].unsqueeze(1)
        repeats = (windows == last).all(-1)  # (R, length - n + 1)
        row, place = repeats.nonzero(as_tuple=True)
        scores[row, sequences[row, place + no_repeat - 1]] = -torch.inf
    return scores


@dataclass
class _Beams:
    """Beam search as `transformers.generate(early_stopping=False)` defines it. Of the 2 x beams best continuations of an image, those among the first
    `beams` that end are kept as finished if they are good enough, and the best that do not end live on. An image is done when `beams` sequences are
    finished and its best living one, taken at its present length, is no better than the worst of them."""

    stepper: Stepper
    decoding: Decoding
    end: int

    def run(self) -> list[list[Found]]:
        decoding, beams = self.decoding, self.decoding.beams
        logits = self.stepper.begin()
        images = len(logits)
        device = logits.device
        finished: list[list[Found]] = [[] for _ in range(images)]
        alive = list(range(images))  # numbers of the images still searched
        sequences = torch.zeros(images, 0, dtype=torch.long, device=device)  # (R, t), beams of an image side by side
        scores = torch.zeros(images, 1, device=device)  # (A, beams) summed log-probabilities; one beam at first
        for length in range(1, decoding.max_tokens + 1):
            rows, vocabulary = scores.shape[1], logits.shape[-1]
            totals = (scores.view(-1, 1) + _log_probs(logits, sequences, decoding.no_repeat_ngram_size)).view(len(alive), -1)
            best, flat = totals.topk(min(2 * beams, totals.shape[1]))  # (A, 2 beams)
            origin = torch.arange(len(alive), device=device).unsqueeze(1) * rows + flat // vocabulary
            tokens = flat % vocabulary
            ends = (tokens == self.end) | (length == decoding.max_tokens)

            for image, place in ends[:, :beams].nonzero().tolist():
                total = best[image, place].item()
                if total > NEVER:
                    token = tokens[image, place].item()
                    text = [*sequences[origin[image, place]].tolist(), *([] if token == self.end else [token])]
                    finished[alive[image]].append(Found(tuple(text), total / length**decoding.length_penalty))
            for image in alive:
                finished[image].sort(key=lambda found: -found.score)
                del finished[image][beams:]

            scores, kept = best.masked_fill(ends, NEVER).topk(min(beams, best.shape[1]))
            going = [
                place
                for place, (image, top) in enumerate(zip(alive, scores[:, 0].tolist(), strict=True))
                if len(finished[image]) < beams or top / length**decoding.length_penalty > finished[image][-1].score
            ]
            if not going or length == decoding.max_tokens:
                break
            alive = [alive[place] for place in going]
            keep = torch.tensor(going, device=device)
            scores, kept, origin, tokens = scores[keep], kept[keep], origin[keep], tokens[keep]
            parents, chosen = origin.gather(1, kept).flatten(), tokens.gather(1, kept).flatten()
            sequences = torch.cat([sequences[parents], chosen.unsqueeze(1)], 1)
            logits = self.stepper.advance(parents, chosen)
        return [found[: decoding.captions] for found in finished]


def _one_by_one(stepper: Stepper, decoding: Decoding, end: int) -> list[list[Found]]:
    """Greedy and nucleus (Holtzman et al. 2020): each row takes one token at a time and leaves when it ends."""
    logits = stepper.begin()
    images, device = len(logits), logits.device
    owner = torch.arange(images, device=device).repeat_interleave(decoding.captions)
    pick = _greedy if decoding.strategy == "greedy" else _nucleus(decoding, images)
    alive = torch.arange(len(owner), device=device)  # which of the rows we began with each row is
    texts: list[list[int]] = [[] for _ in owner]
    totals = torch.zeros(len(owner), device=device)
    sequences = torch.zeros(len(owner), 0, dtype=torch.long, device=device)
    parents = owner
    logits = logits[parents]
    for length in range(1, decoding.max_tokens + 1):
        scores = _log_probs(logits, sequences, decoding.no_repeat_ngram_size)
        tokens = pick(scores, alive, length)
        totals[alive] += scores.gather(1, tokens.unsqueeze(1)).squeeze(1)
        going = tokens != end
        for row, token in zip(alive[going].tolist(), tokens[going].tolist(), strict=True):
            texts[row].append(token)
        if length == decoding.max_tokens or not going.any():
            break
        parents = (parents if length == 1 else torch.arange(len(alive), device=device))[going]
        alive, sequences = alive[going], torch.cat([sequences, tokens.unsqueeze(1)], 1)[going]
        logits = stepper.advance(parents, tokens[going])
    found: list[list[Found]] = [[] for _ in range(images)]
    for row, (image, text) in enumerate(zip(owner.tolist(), texts, strict=True)):
        length = min(len(text) + 1, decoding.max_tokens)
        found[image].append(Found(tuple(text), totals[row].item() / length**decoding.length_penalty))
    return [sorted(sequences, key=lambda one: -one.score) for sequences in found]


def _greedy(scores: Tensor, rows: Tensor, length: int) -> Tensor:
    return scores.argmax(-1)


def _nucleus(decoding: Decoding, images: int) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Draws by inverting the cumulative distribution. Image i draws from a generator of its own, seeded with seed + i."""
    draws = np.stack([np.random.default_rng(decoding.seed + i).random((decoding.captions, decoding.max_tokens)) for i in range(images)])
    uniform = torch.from_numpy(draws.reshape(-1, decoding.max_tokens))

    def pick(scores: Tensor, rows: Tensor, length: int) -> Tensor:
        ordered, index = (scores.double() / decoding.temperature).softmax(-1).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of what is likelier
        ordered = ordered.masked_fill(before >= decoding.top_p, 0)
        cumulative = ordered.cumsum(-1)
        threshold = uniform[rows.cpu(), length - 1].to(scores.device).unsqueeze(1) * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[-1] - 1)
        return index.gather(1, place).squeeze(1)

    return pick
