"""Byte-level BPE trained on a corpus, and rows of tokens as one tensor. What the parts of our own share; Hugging Face models bring their own."""

import re
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

APART = r" (?=[.,](\s|$))"
"""The space that published captions have before a period or a comma."""


def written(text: str) -> str:
    """As one writes it.

    >>> written("A dog , a .22 rifle .")
    'A dog, a .22 rifle.'
    """
    return re.sub(APART, "", text)


def train_bpe(captions: Iterable[str], vocabulary: int, specials: Sequence[str]) -> Tokenizer:
    """Nothing is unknown to it. The special tokens take the ids from 0 on.

    Published captions often have their words split ("a dog ."). Such text is learned as it is, and said as one writes it.

    >>> bpe = train_bpe(["A dog , a cat ."], 270, ["<end>"])
    >>> bpe.decode(bpe.encode("A dog , a .22 rifle .").ids)
    ' A dog, a .22 rifle.'
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex(APART), "")])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def evenly(rows: Float[Tensor, "N E"], multiple: int = 64) -> Float[Tensor, "M E"]:
    """With rows of zeros behind, up to a multiple. On a CPU a matrix product of a size not seen before is compiled first, which takes longer than the
    product itself; the number of a batch's words is almost always new, and these few multiples soon are not."""
    return F.pad(rows, (0, 0, 0, -len(rows) % multiple))


def pad(rows: Sequence[Sequence[int]], value: int = 0) -> Int[Tensor, "B T"]:
    """Rows of unequal length as one tensor.

    >>> pad([[5, 6], [7]]).tolist()
    [[5, 6], [7, 0]]
    """
    width = max(map(len, rows), default=0)
    padded = [[*row, *[value] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long).view(len(rows), width)
