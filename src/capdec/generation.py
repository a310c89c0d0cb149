"""The search for captions: beam, greedy and nucleus over anything that can give the next token's logits. It knows no model, no prefix and no text.

Rows are the sequences alive now, those of an image side by side, and equally many for each image. A stepper is told which row of its last answer each
new row continues (`parents`) and with which token, so that widening from images to beams, reordering beams and dropping finished images are all the
same act:

    begin()                                      2 images                            logits of rows 0 1
    advance(parents=[[0 0] [1 1]], tokens=...)   two beams each                      logits of rows 0 1 2 3
    advance(parents=[[3 2]], tokens=...)         image 0 is done, image 1 goes on    logits of rows 0 1

Where images are done, the last ones take their places, so that a stepper has little to move.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capdec import recipe
from capdec.errors import SettingError
from capdec.protocols import Decoding

LENGTHS = ("short", "medium", "long")
NEVER = -1e9
LOGITS, BLOCK = 800_000, 128  # logits that are looked at together; tokens that share a first look


@runtime_checkable
class Stepper(Protocol):
    def begin(self) -> Float[Tensor, "B V"]: ...

    def advance(self, parents: Int[Tensor, "A W"], tokens: Int[Tensor, "A W"]) -> Float[Tensor, "A*W V"]: ...


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


def changed(default: Decoding, given: dict[str, Any]) -> Decoding:
    """A captioner's own decoding with some of it as asked for, to which its own way of choosing among candidates gives way: there are no more of them
    than a search asked for has. Raises SettingError for what cannot be."""
    recipe.settings("decoding", Decoding, given)  # no name that is unknown
    decoding = replace(default, **given)
    if not given.keys() & {"rerank", "candidates"}:
        most = {"beam": decoding.beams, "greedy": 1}.get(decoding.strategy, decoding.candidates)
        decoding = replace(decoding, candidates=min(decoding.candidates, most))
        if found(decoding) < 2:
            given = {"rerank": "none", **given}
    if given.get("rerank") == "none":
        decoding = replace(decoding, **{"candidates": 0, "score_weight": 0.0, **given})
    check(decoding)
    return decoding


def within(decoding: Decoding, most: int) -> Decoding:
    """For a decoder that says so many tokens at most, the end included."""
    return replace(decoding, max_tokens=min(decoding.max_tokens, most), min_tokens=min(decoding.min_tokens, most))


def found(decoding: Decoding) -> int:
    """How many captions a photo are looked for."""
    return max(decoding.captions, decoding.candidates)


def check(decoding: Decoding) -> None:
    if decoding.strategy not in ("beam", "greedy", "nucleus"):
        raise SettingError(f"no decoding strategy is called {decoding.strategy!r}. There are: beam, greedy, nucleus.")
    if decoding.rerank not in ("none", "clip", "consensus", "neighbours"):
        raise SettingError(f"rerank is 'none', 'clip', 'consensus' or 'neighbours', not {decoding.rerank!r}.")
    if decoding.length not in ("", *LENGTHS):
        raise SettingError(f"length is 'short', 'medium', 'long' or empty, not {decoding.length!r}.")
    if not 1 <= decoding.min_tokens <= decoding.max_tokens:
        raise SettingError(f"min_tokens lies between 1 and max_tokens = {decoding.max_tokens}; {decoding.min_tokens} came.")
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


def _repeats(sequences: Int[Tensor, "R t"], no_repeat: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
    """Row and token of whatever would end an n-gram that its sequence has already."""
    length = sequences.shape[1]
    if not 0 < no_repeat <= length:
        none = sequences.new_zeros(0)
        return none, none
    # n = 2, sequence a b a: the windows before the last are a, b; the last window is a; so b, which followed the first a, is banned.
    windows = sequences.unfold(1, no_repeat - 1, 1)[:, :-1] if no_repeat > 1 else sequences.new_zeros(len(sequences), length, 0)
    last = sequences[:, length - no_repeat + 1 :].unsqueeze(1)
    row, place = (windows == last).all(-1).nonzero(as_tuple=True)  # of (R, length - n + 1)
    return row, sequences[row, place + no_repeat - 1]


def _banned(sequences: Int[Tensor, "R t"], decoding: Decoding, end: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
    """Row and token of whatever may not come next: what would repeat an n-gram, and the end where it is too early."""
    row, token = _repeats(sequences, decoding.no_repeat_ngram_size)
    if sequences.shape[1] + 1 < decoding.min_tokens:
        every = torch.arange(len(sequences), device=sequences.device)
        row, token = torch.cat([row, every]), torch.cat([token, torch.full_like(every, end)])
    return row, token


def _best(logits: Float[Tensor, "R V"], sequences: Int[Tensor, "R t"], decoding: Decoding, end: int, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best next tokens of each row, best first: Float["R count"] their log-probabilities in fp32, which the others' are not brought to,
    and Int["R count"]. The best lie in the blocks of tokens whose best are the best. So few rows are looked at together that they stay in the
    processor's cache from one pass over them to the next, in memory that is used again: fresh memory costs as much as the passes do."""
    vocabulary = logits.shape[1]
    count = min(count, vocabulary)
    blocks = -(-vocabulary // BLOCK)
    rows = max(1, LOGITS // vocabulary) if logits.is_cpu else max(1, len(logits))
    room = torch.empty(min(rows, len(logits)), blocks * BLOCK, device=logits.device)
    found = []
    for part, said in zip(logits.split(rows), sequences.split(rows), strict=True):
        some, banned = room[: len(part)], _banned(said, decoding, end)
        some[:, :vocabulary], some[:, vocabulary:] = part, -torch.inf
        highest = some.amax(1, keepdim=True)
        some[banned] = -torch.inf
        if blocks > 4 * count:
            whole = some.view(len(part), blocks, BLOCK)
            chosen = whole.amax(2).topk(count).indices.unsqueeze(2)  # (r, count, 1)
            inside = whole.gather(1, chosen.expand(-1, -1, BLOCK)).flatten(1)
            values, places = inside.topk(count)
            tokens = (chosen * BLOCK + torch.arange(BLOCK, device=part.device)).flatten(1).gather(1, places)
        else:
            values, tokens = some[:, :vocabulary].topk(count)
        some[banned] = part[banned].float()
        found.append((values - highest - some.sub_(highest).exp_().sum(1, keepdim=True).log_(), tokens))
    return torch.cat([values for values, _ in found]), torch.cat([tokens for _, tokens in found])


def _closed_up(going: list[bool]) -> list[int]:
    """Which of the places go on, in an order in which the last ones fill the holes of the others.

    >>> _closed_up([True, False, True, False, True])
    [0, 4, 2]
    """
    count = sum(going)
    late = iter([place for place in range(count, len(going)) if going[place]])
    return [place if going[place] else next(late) for place in range(count)]


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
            rows = scores.shape[1]
            each, words = _best(logits, sequences, decoding, self.end, 2 * beams)  # of each row, of which the best are of each image
            totals = (scores.view(-1, 1) + each).view(len(alive), -1)
            best, flat = totals.topk(min(2 * beams, totals.shape[1]))  # (A, 2 beams)
            origin = torch.arange(len(alive), device=device).unsqueeze(1) * rows + flat // each.shape[1]
            tokens = words.view(len(alive), -1).gather(1, flat)
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
                len(finished[image]) < beams or top / length**decoding.length_penalty > finished[image][-1].score
                for image, top in zip(alive, scores[:, 0].tolist(), strict=True)
            ]
            if not any(going) or length == decoding.max_tokens:
                break
            order = _closed_up(going)
            alive = [alive[place] for place in order]
            keep = torch.tensor(order, device=device)
            scores, kept, origin, tokens = scores[keep], kept[keep], origin[keep], tokens[keep]
            parents, chosen = origin.gather(1, kept), tokens.gather(1, kept)
            sequences = torch.cat([sequences[parents.flatten()], chosen.view(-1, 1)], 1)
            logits = self.stepper.advance(parents, chosen)
        return [found[: decoding.captions] for found in finished]


def _one_by_one(stepper: Stepper, decoding: Decoding, end: int) -> list[list[Found]]:
    """Greedy and nucleus (Holtzman et al. 2020): each row takes one token at a time. An image leaves when all its rows have ended."""
    logits = stepper.begin()
    images, width, device = len(logits), decoding.captions, logits.device
    owner = [image for image in range(images) for _ in range(width)]
    pick = _greedy(decoding, end) if decoding.strategy == "greedy" else _nucleus(decoding, end, images)
    alive = torch.arange(len(owner), device=device).view(images, width)  # which of the rows we began with each row is
    texts: list[list[int]] = [[] for _ in owner]
    totals = torch.zeros(len(owner), device=device)
    ended = torch.zeros(len(owner), dtype=torch.bool, device=device)
    sequences = torch.zeros(len(owner), 0, dtype=torch.long, device=device)
    parents = torch.arange(images, device=device).unsqueeze(1).expand(-1, width)
    logits = logits[parents.flatten()]
    for length in range(1, decoding.max_tokens + 1):
        rows = alive.flatten()
        tokens, scores = pick(logits, sequences, rows)
        totals[rows] += torch.where(ended[rows], 0.0, scores)
        ended[rows] |= tokens == end
        for row, token, new in zip(rows.tolist(), tokens.tolist(), (~ended[rows]).tolist(), strict=True):
            if new:
                texts[row].append(token)
        going = (~ended[alive]).any(1).tolist()
        if length == decoding.max_tokens or not any(going):
            break
        order = torch.tensor(_closed_up(going), device=device)
        sequences = torch.cat([sequences, tokens.unsqueeze(1)], 1).view(len(alive), width, -1)[order].flatten(0, 1)
        parents = (parents if length == 1 else torch.arange(len(rows), device=device).view(-1, width))[order]
        alive, tokens = alive[order], tokens.view(-1, width)[order]
        logits = stepper.advance(parents, tokens)
    found: list[list[Found]] = [[] for _ in range(images)]
    for row, (image, text) in enumerate(zip(owner, texts, strict=True)):
        length = min(len(text) + 1, decoding.max_tokens)
        found[image].append(Found(tuple(text), totals[row].item() / length**decoding.length_penalty))
    return [sorted(sequences, key=lambda one: -one.score) for sequences in found]


Pick = Callable[[Tensor, Tensor, Tensor], tuple[Int[Tensor, "R"], Float[Tensor, "R"]]]
"""From logits, what was said and which rows these are: a token each, and its log-probability."""


def _greedy(decoding: Decoding, end: int) -> Pick:
    def pick(logits: Tensor, sequences: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        scores, tokens = _best(logits, sequences, decoding, end, 1)
        return tokens[:, 0], scores[:, 0]

    return pick


def _nucleus(decoding: Decoding, end: int, images: int) -> Pick:
    """Draws by inverting the cumulative distribution. Image i draws from a generator of its own, seeded with seed + i."""
    draws = np.stack([np.random.default_rng(decoding.seed + i).random((decoding.captions, decoding.max_tokens)) for i in range(images)])
    uniform = torch.from_numpy(draws.reshape(-1, decoding.max_tokens))

    def pick(logits: Tensor, sequences: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.log_softmax(logits.float(), dim=-1)
        scores[_banned(sequences, decoding, end)] = -torch.inf
        ordered, index = (scores.double() / decoding.temperature).softmax(-1).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of what is likelier
        ordered = ordered.masked_fill(before >= decoding.top_p, 0)
        cumulative = ordered.cumsum(-1)
        threshold = uniform[rows.cpu(), sequences.shape[1]].to(scores.device).unsqueeze(1) * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[-1] - 1)
        tokens = index.gather(1, place)
        return tokens.squeeze(1), scores.gather(1, tokens).squeeze(1)

    return pick
