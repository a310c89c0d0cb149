"""What a search has read and said, as a language model's keys and values, and the steps of a search over them.

Every image has places. First come those of its prefix, once, however many beams read it; what is said goes behind them, a place for each beam and
step, or where there was something that no beam continues any more. Nothing is moved while its image is searched: a beam that continues another one
sees, through a mask, the places of all it descends from.

    p p p p | a b c | d e f      three beams, two steps. d and e continue b: they see p p p p b and themselves; f sees p p p p c and itself
    p p p p | g b c | d e f      the third step writes over a, which none of d, e and f descends from

So the beams of an image go through the network as if they were one text, which is what it is fast at, and all attention needs is the mask.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from capdec.generation import Found
from capdec.protocols import Condition

ROOM = 40  # places that memory is made for at a time, beyond those that are needed
STEP = 16  # places that are looked at at a time: attention is fastest over whole blocks


class Room:
    """Memory that one search leaves to the next: asking the system for it and clearing it takes longer than what is written there. What it holds is
    finite, so that a mask can hide it. Searches in several threads may share one. It keeps what the largest search took."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []

    def __reduce__(self) -> "tuple[type[Room], tuple[()]]":
        return Room, ()  # a copy begins empty

    def take(self, size: int, like: Tensor) -> Tensor:
        """At least so many numbers of this kind."""
        with suppress(IndexError):
            found = self.free.pop()
            if len(found) >= size and (found.dtype, found.device) == (like.dtype, like.device):
                return found
        return like.new_zeros(size)


class Past:
    """Keys and values of every layer, in memory that is there before it is needed. After `close` it is another one's."""

    def __init__(self, room: Room | None = None) -> None:
        self.room, self.taken = room or Room(), list[list[Tensor]]()
        self.layers: list[list[Tensor]] = []  # keys and values: (images, heads, places there is room for, width of a head)
        self.images, self.places = 0, 0
        self.at: Int[Tensor, "A W"] | None = None  # the places of what comes next; None for a prefix, which comes first
        self._rows: dict[tuple[int, int], Tensor] = {}

    def begin(self, images: int, places: int) -> None:
        """A prefix of so many places comes."""
        self.images, self.places, self.at = images, places, None

    def next(self, at: Int[Tensor, "A W"], places: int) -> None:
        """What comes next goes to these places of each image, of which there are so many now."""
        self.at, self.places = at, places
        self._rows.clear()

    def append(
        self, layer: int, keys: Float[Tensor, "A H W d"], values: Float[Tensor, "A H W d"]
    ) -> tuple[Float[Tensor, "A H L d"], Float[Tensor, "A H L d"]]:
        """Writes what is new where `begin` or `next` said, and returns all there is. Layers come in order."""
        if self.at is None:
            self.taken.append([])
            self.layers.append([self._made(layer, one, self.places + ROOM) for one in (keys, values)])
            for kept, new in zip(self.layers[layer], (keys, values), strict=True):
                kept[:, :, : self.places] = new
            return keys, values
        if self.layers[layer][0].shape[2] < self.places:
            longer = [self._made(layer, kept, self.places + ROOM) for kept in self.layers[layer]]
            for kept, old in zip(longer, self.layers[layer], strict=True):
                kept[:, :, : old.shape[2]] = old
            self.layers[layer] = longer
        for kept, new in zip(self.layers[layer], (keys, values), strict=True):
            kept.view(-1, kept.shape[3]).index_copy_(0, self._flat(kept), new.reshape(-1, new.shape[3]))
        found = [kept[: self.images, :, : self.places] for kept in self.layers[layer]]
        return found[0], found[1]

    def keep(self, images: Int[Tensor, "A"]) -> None:
        """Image n is now what image images[n] was; the others are forgotten. Where the last ones fill the holes, nothing else is copied."""
        count = len(images)
        into = (images != torch.arange(count, device=images.device)).nonzero().flatten()
        self.images = count
        if not len(into):
            return
        source = images[into]
        fills_holes = bool((source >= count).all())
        for place, pair in enumerate(self.layers):
            if fills_holes:
                for kept in pair:
                    kept[into] = kept[source]
            else:
                self.layers[place] = [kept[images] for kept in pair]

    def close(self, found: Sequence[Sequence[Found]]) -> None:
        """Leaves its memory to the next search, unless what this one found says that there may be numbers in it that are none."""
        self.layers.clear()
        if all(image and all(math.isfinite(one.score) for one in image) for image in found):
            self.room.free.extend(one for taken in self.taken for one in taken)
        self.taken.clear()

    def _made(self, layer: int, like: Tensor, places: int) -> Tensor:
        shape = (len(like), like.shape[1], places, like.shape[3])
        self.taken[layer].append(self.room.take(math.prod(shape), like))
        return self.taken[layer][-1][: math.prod(shape)].view(shape)

    def _flat(self, kept: Tensor) -> Int[Tensor, "rows"]:
        """The rows of a layer that `at` names, where it is laid out as (images * heads * places, width of a head)."""
        assert self.at is not None
        heads, room = kept.shape[1:3]
        if (heads, room) not in self._rows:
            first = torch.arange(self.images * heads, device=kept.device).view(self.images, heads, 1) * room
            self._rows[heads, room] = (first + self.at.unsqueeze(1)).flatten()
        return self._rows[heads, room]


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

    def __init__(self, network: Network, condition: Condition, dtype: torch.dtype, past: Past | None = None):
        self.network, self.condition, self.dtype, self.past = network, condition, dtype, past or Past()
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
        if missing:
            missing += -(seen.shape[2] + missing) % STEP  # up to whole blocks
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
