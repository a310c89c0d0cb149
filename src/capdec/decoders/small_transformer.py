"""A small causal transformer trained from scratch, with a byte-level BPE of its own trained on the corpus: the embedded default, and DeCap's decoder
(4 layers, one linear prefix token: `mapper="linear", prefix=1`).

    prefix . . . | A  man  rides          what the network reads
                 A  man  rides  <end>     what it is to say; the last prefix vector says the first token
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from capdec.checkpoint import load_module, module_tensors, read_tensors
from capdec.errors import DataError, MismatchError, SettingError
from capdec.generation import search, within
from capdec.inference import for_inference
from capdec.mapper import Kind, build_mapper, padding_first
from capdec.past import Past, Room, Steps
from capdec.protocols import Caption, Condition, Decoding, LogProb
from capdec.tokens import evenly, pad, train_bpe

PAD, END = 0, 1


def _decoder_of(folder: Path) -> dict[str, Any]:
    """What the configuration of a captioner's folder says of its decoder. Raises DataError where there is none."""
    try:
        spec = json.loads((folder / "config.json").read_text(encoding="utf-8"))["decoder"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} holds no captioner's config.json. Name the folder of one that was trained.") from error
    return {} if isinstance(spec, str) else dict(spec)


class Layer(nn.Module):
    """Pre-norm self-attention and MLP. `past` holds the keys and values of what came before, of this layer among others."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Float[Tensor, "R T E"], mask: Tensor | None, past: Past | None = None, place: int = 0) -> Float[Tensor, "R T E"]:
        """Without a mask each place sees those up to itself, or, where there is but one, all."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads) each
        if past is not None:
            k, v = past.append(place, k, v)
        causal = mask is None and length > 1
        attended = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0, is_causal=causal)
        x = x + F.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, width)), self.dropout, self.training)
        return x + self.mlp(self.norm2(x))


class SmallTransformer(nn.Module):
    """`max_tokens` is the longest caption it can learn or say, end included; longer ones are cut. Prompts, where a condition has them, stand between
    the prefix and the caption. `start` is the folder of a captioner of this kind whose vocabulary and language model (all but the mapper) it begins
    with; with `frozen` they stay as they are, and the mapper alone learns. Raises SettingError for sizes that do not go together, and from `fit`
    DataError or MismatchError for a `start` that is not there or has other sizes."""

    def __init__(
        self,
        dim: int,
        layers: int = 3,
        width: int = 256,
        heads: int = 4,
        mapper: Kind = "mlp",
        mapper_layers: int = 2,
        prefix: int = 4,
        vocabulary: int = 4000,
        max_tokens: int = 64,
        dropout: float = 0.1,
        start: str | None = None,
        frozen: bool = False,
    ):
        super().__init__()
        if frozen and start is None:
            raise SettingError(
                "frozen = true needs start = FOLDER, a captioner whose language model is to stay as it is: an untrained one says nothing."
            )
        if width % heads:
            raise SettingError(f"width {width} cannot be shared by {heads} heads: {heads} does not divide it.")
        self.dim, self.vocabulary, self.max_tokens, self.start, self.frozen = dim, vocabulary, max_tokens, start, frozen
        self.prefix, self.heads, self.dtype = prefix, heads, torch.float32
        self.output: Tensor | None = None  # of a copy for inference
        self.room = Room()
        self.tokenizer: Tokenizer | None = None
        self.mapper = build_mapper(mapper, dim, width, prefix, clip_length=prefix, layers=mapper_layers, heads=heads)
        self.words = nn.Embedding(0, width)  # sized by `fit` or `load`; also the output layer
        self.positions = nn.Parameter(torch.randn(512, width) * 0.02)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.layers.named_parameters():  # residual branches start small (GPT-2)
            if name.endswith(("out.weight", "mlp.2.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)

    def fit(self, captions: Sequence[str]) -> None:
        if self.start is None:
            self._use(train_bpe(captions, self.vocabulary, ["<pad>", "<end>"]))
            return
        folder = Path(self.start)
        self.load(folder)
        usual = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        theirs = {**usual, **_decoder_of(folder)}
        if self.heads != theirs["heads"] or (self.frozen and self.prefix != theirs["prefix"]):
            raise MismatchError(
                f"the language model in {folder} has {theirs['heads']} heads and learned behind a prefix of {theirs['prefix']}; {self.heads} and "
                f"{self.prefix} came. Frozen, it needs both; else its heads."
            )
        tensors = {
            name.removeprefix("decoder."): t for name, t in read_tensors(folder / "weights.safetensors")[0].items() if name.startswith("decoder.")
        }
        own = {name: tensor for name, tensor in module_tensors(self).items() if name.startswith("mapper.")}
        load_module(self, {name: tensor for name, tensor in tensors.items() if not name.startswith("mapper.")} | own, folder)

    def train(self, mode: bool = True) -> "SmallTransformer":
        """A frozen language model stays in evaluation mode: no dropout."""
        super().train(mode)
        if self.frozen:
            self.layers.eval()
            self.drop.eval()
        return self

    def save(self, folder: Path) -> None:
        self._tokenizer().save(str(folder / "decoder_tokenizer.json"))

    def load(self, folder: Path) -> None:
        path = folder / "decoder_tokenizer.json"
        if not path.is_file():
            raise DataError(f"{path} is not there, and without its tokenizer a small_transformer cannot speak. Copy the whole captioner folder.")
        self._use(Tokenizer.from_file(str(path)))

    def _use(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True  # what spells "<end>" in a caption is text
        self.tokenizer = tokenizer
        self.words = nn.Embedding(tokenizer.get_vocab_size(), self.words.embedding_dim, device=self.words.weight.device)
        nn.init.normal_(self.words.weight, std=0.02)
        if self.frozen:
            self.requires_grad_(False)
            self.mapper.requires_grad_(True)
        self.train(self.training)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise SettingError("this small_transformer has no vocabulary yet: call fit(captions) before training, or load(folder).")
        return self.tokenizer

    def forward(self, condition: Condition, captions: Sequence[str | Caption], label_smoothing: float = 0.0) -> LogProb:
        return self.log_prob(condition, captions, label_smoothing)

    def log_prob(self, condition: Condition, captions: Sequence[str | Caption], label_smoothing: float = 0.0) -> LogProb:
        tokenizer = self._tokenizer()
        said = [list(one.tokens) if isinstance(one, Caption) else tokenizer.encode(one).ids for one in captions]
        rows = [[*ids[: self.max_tokens - 1], END] for ids in said]
        targets = pad(rows).to(self.positions.device)  # (B, T)
        prefix, mask = self._prefix(condition)
        x = torch.cat([prefix, self.words(targets[:, :-1])], 1)  # (B, P + T - 1, E)
        hidden = self._run(x, *self._places(mask, x.shape[1]))
        real = targets != PAD
        said_at = hidden[:, prefix.shape[1] - 1 :][real]  # (tokens, E): no logits for padding
        log_probs = torch.log_softmax(self._logits(evenly(said_at))[: len(said_at)].float(), -1)  # (tokens, V)
        chosen = log_probs.gather(1, targets[real].unsqueeze(1)).squeeze(1)
        if label_smoothing:
            chosen = (1 - label_smoothing) * chosen + label_smoothing * log_probs[:, END:].mean(-1)
        owner = real.nonzero()[:, 0]
        total = torch.zeros(len(rows), device=chosen.device).index_add(0, owner, chosen)
        return LogProb(total, real.sum(1))

    def generate(self, condition: Condition, decoding: Decoding) -> list[list[Caption]]:
        tokenizer = self._tokenizer()
        if not len(condition):
            return []
        condition = condition.with_embeddings(condition.embeddings.to(self.dtype))
        with for_inference(self) as network:
            past = Past(self.room)
            steps = Steps(network, condition, self.dtype, past)
            found = search(steps, within(decoding, self.max_tokens), END)
            past.close(found)
        return [[Caption(tokenizer.decode(one.tokens).strip(), one.score, one.tokens) for one in image] for image in found]

    def read(self, condition: Condition, past: Past) -> tuple[Float[Tensor, "B V"], Bool[Tensor, "B P"]]:
        """past.Network's."""
        prefix, mask = self._prefix(condition)
        past.begin(*mask.shape)
        hidden = self._run(prefix, *self._places(mask, mask.shape[1]), past)
        return self._logits(hidden[:, -1]), mask

    def say(self, tokens: Int[Tensor, "A W"], positions: Int[Tensor, "A W"], seen: Tensor | None, past: Past) -> Float[Tensor, "A*W V"]:
        """past.Network's."""
        return self._logits(self._run(self.words(tokens), positions, seen, past).flatten(0, 1))

    def _prefix(self, condition: Condition) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
        device = self.positions.device
        prefix, mask = self.mapper(condition.embeddings.to(device), condition.mask.to(device))
        if condition.prompts is not None:
            prompts = pad([encoding.ids for encoding in self._tokenizer().encode_batch(list(condition.prompts))]).to(device)
            prefix, mask = padding_first(torch.cat([prefix, self.words(prompts)], 1), torch.cat([mask, prompts != PAD], 1))
        if prefix.shape[1] + self.max_tokens > len(self.positions):
            raise SettingError(
                f"rows and prompts make a prefix of {prefix.shape[1]}; with captions of {self.max_tokens} tokens that is more than "
                f"{len(self.positions)} places. Give fewer rows or shorter prompts."
            )
        return prefix, mask

    def _places(self, mask: Bool[Tensor, "R P"], length: int) -> tuple[Int[Tensor, "#R T"], Bool[Tensor, "R 1 T T"] | None]:
        """Positions and attention of a prefix and what is said behind it. Padding takes no place and is not looked at."""
        if bool(mask.all()):
            return torch.arange(length, device=mask.device).unsqueeze(0), None
        real = F.pad(mask, (0, length - mask.shape[1]), value=True)  # (R, T)
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)  # padding sees itself: no empty rows
        return (real.cumsum(1) - 1).clamp(min=0), (causal & real[:, None, None, :]) | itself

    def _run(self, x: Float[Tensor, "R T E"], positions: Tensor, attention: Tensor | None, past: Past | None = None) -> Float[Tensor, "R T E"]:
        x = self.drop(x + self.positions[positions])
        for index, layer in enumerate(self.layers):
            x = layer(x, attention, past, index)
        return self.norm(x)

    def before_rounding(self) -> None:
        """The output layer stays in float32: bfloat16 has eight bits, and what stands first is decided by less."""
        self.output = self.words.weight.detach().clone()

    def _logits(self, hidden: Tensor) -> Tensor:
        """Padding can never be said."""
        weight = self.words.weight if self.output is None else self.output
        logits = F.linear(hidden.to(weight.dtype), weight)
        return torch.cat([torch.full_like(logits[..., :END], -1e4), logits[..., END:]], -1)

    @classmethod
    def tiny(cls, folder: Path, dim: int = 16) -> "SmallTransformer":
        return cls(dim, layers=2, width=32, heads=2, prefix=2, vocabulary=300, max_tokens=24, dropout=0.0)
