"""What a search has read and said, as a language model's keys and values, and the steps of a search over them.

Every image has places. First come those of its prefix, once, however many beams read it; what is said goes behind them, a place for each beam and
step, or where there was something that no beam continues any more. Nothing else is ever moved: a beam that continues another one sees, through a
mask, the places of all it descends from.

    p p p p | a b c | d e f      three beams, two steps. d and e continue b: they see p p p p b and themselves; f sees p p p p c and itself
    p p p p | g b c | d e f      the third step writes over a, which none of d, e and f descends from

So the beams of an image go through the network as if they were one text, which is what it is fast at, and all attention needs is the mask.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from capdec.protocols import Condition

ROOM = 40  # places that memory is made for at a time, beyond those that are needed
STEP = 16  # places that are looked at at a time: attention is fastest over whole blocks


class Past:
    """Keys and values of every layer, in memory that is there before it is needed."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []  # (images, heads, room, width of a head) each
        self.images, self.places = 0, 0
        self.at: Int[Tensor, "A W"] | None = None  # the places of what comes next; None for a prefix, which comes first
        self._rows: dict[tuple[int, int], Tensor] = {}

    def append(
        self, layer: int, keys: Float[Tensor, "A H W d"], values: Float[Tensor, "A H W d"]
    ) -> tuple[Float[Tensor, "A H L d"], Float[Tensor, "A H L d"]]:
        """Writes what is new where `begin` or `next` said, and returns all there is. Layers come in order."""
        if self.at is None:
            pair = tuple(one.new_zeros(*one.shape[:2], self.places + ROOM, one.shape[3]) for one in (keys, values))
            for kept, new in zip(pair, (keys, values), strict=True):
                kept[:, :, : self.places] = new
            self.layers.append((pair[0], pair[1]))
            return keys, values
        if self.layers[layer][0].shape[2] < self.places:
            self.layers[layer] = (_longer(self.layers[layer][0], self.places), _longer(self.layers[layer][1], self.places))
        for kept, new in zip(self.layers[layer], (keys, values), strict=True):
            kept.view(-1, kept.shape[3]).index_copy_(0, self._flat(kept), new.reshape(-1, new.shape[3]))
        found = [kept[: self.images, :, : self.places] for kept in self.layers[layer]]
        return found[0], found[1]

    def begin(self, images: int, places: int) -> None:
        """A prefix of so many places comes."""
        self.images, self.places, self.at = images, places, None

    def next(self, at: Int[Tensor, "A W"], places: int) -> None:
        """What comes next goes to these places of each image, of which there are so many now."""
        self.at, self.places = at, places
        self._rows.clear()

    def keep(self, images: Int[Tensor, "A"]) -> None:
        """Image n is now what image images[n] was; the others are forgotten. Where the last ones fill the holes, nothing else is copied."""
        count = len(images)
        into = (images != torch.arange(count, device=images.device)).nonzero().flatten()
        self.images = count
        if not len(into):
            return
        source = images[into]
        for place, pair in enumerate(self.layers):
            if bool((source >= count).all()):
                for kept in pair:
                    kept[into] = kept[source]
            else:
                self.layers[place] = (pair[0][images], pair[1][images])

    def _flat(self, kept: Tensor) -> Int[Tensor, "rows"]:
        """The rows of a layer that `at` names, where it is laid out as (images * heads * room, width of a head)."""
        assert self.at is not None
        heads, room = kept.shape[1:3]
        if (heads, room) not in self._rows:
            first = torch.arange(self.images * heads, device=kept.device).view(self.images, heads, 1) * room
            self._rows[heads, room] = (first + self.at.unsqueeze(1)).flatten()
        return self._rows[heads, room]


def _longer(kept: Tensor, places: int) -> Tensor:
    room = max(places, kept.shape[2]) + ROOM
    longer = kept.new_zeros(*kept.shape[:2], room, kept.shape[3])
    longer[:, :, : kept.shape[2]] = kept
    return longer


@runtime_checkable
class Network(Protocol):
    """What a decoder is for a search."""

    def read(self, condition: Condition, past: Past) -> tuple[Float[Tensor, "B V"], Bool[Tensor, "B P"]]:
        """Logits behind the prefix, whose keys and values go to `past`, and which of the prefix's places are real."""
        ...

    def say(
        self, tokens: Int[Tensor, "A W"], positions: Int[Tensor, "A W"], seen: Float[Tensor, "A 1 W L"] | None, past: Past
    ) -> Float[Tensor, "A*W V"]:
        """Logits behind each token, which stands at this position and sees the places where `seen` is 0 rather than far below; None: all places."""
        ...


class Steps:
    """generation.Stepper for a network whose attention takes a mask."""

    def __init__(self, network: Network, condition: Condition, dtype: torch.dtype):
        self.network, self.condition, self.dtype, self.past = network, condition, dtype, Past()
        self.seen = torch.empty(0, 1, 0, dtype=torch.bool)  # (A, W, L)
        self.position = torch.empty(0, 1, dtype=torch.long)  # (A, 1): where the next token stands

    def begin(self) -> Float[Tensor, "B V"]:
        logits, mask = self.network.read(self.condition, self.past)
        self.seen, self.position = mask.unsqueeze(1), mask.sum(1, keepdim=True)
        return logits

    def advance(self, parents: Int[Tensor, "A W"], tokens: Int[Tensor, "A W"]) -> Float[Tensor, "A*W V"]:
        images, beams = parents.shape
        before = self.seen.shape[1]
        kept = parents[:, 0] // before
        self.past.keep(kept)
        self.position = self.position[kept]
        seen = self.seen[kept.unsqueeze(1), parents % before]  # (A, W, L): what the parent saw
        free = ~seen.any(1)  # (A, L)
        missing = max(0, beams - int(free.sum(1).min()))
        missing = missing and -(-(seen.shape[2] + missing) // STEP) * STEP - seen.shape[2]
        seen = torch.cat([seen, seen.new_zeros(images, beams, missing)], 2)
        free = torch.cat([free, free.new_ones(images, missing)], 1)
        at = free.byte().argsort(dim=1, descending=True, stable=True)[:, :beams]
        self.seen = seen.scatter(2, at.unsqueeze(2), True)
        self.past.next(at, seen.shape[2])
        mask = None
        if not bool(self.seen.all()):
            mask = torch.zeros(self.seen.shape, dtype=self.dtype, device=at.device).masked_fill_(~self.seen, torch.finfo(self.dtype).min)
            mask = mask.unsqueeze(1)
        logits = self.network.say(tokens, self.position.expand(-1, beams), mask, self.past)
        self.position = self.position + 1
        return logits
