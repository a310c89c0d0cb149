"""A mapper in front of any Hugging Face causal language model, fine-tuned or frozen: ClipCap's and CapDec's decoder.

Where the released CapDec code went wrong, this does not: every caption is trained to end (a real end-of-text token), padding is masked by length and
not by a token id, so that no word is unlearnable, and the search keeps keys and values.
"""

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from capdec.errors import DataError, MissingExtra, SettingError
from capdec.generation import search, within
from capdec.inference import for_inference
from capdec.mapper import Kind, build_mapper, padding_first
from capdec.past import Past, Room, Steps
from capdec.protocols import Caption, Condition, Decoding, LogProb
from capdec.tokens import evenly, pad, written


class PrefixLM(nn.Module):
    """`model` is a hub id or a folder in the hub's format; `pretrained=False` takes its configuration and tokenizer only and starts from random
    weights. `language_model="frozen"` trains the mapper alone. The defaults are CapDec's: a transformer mapper of 8 layers, 40 vectors in, 40 out.
    `end` is a token that ends captions and is part of them, as the period was of ClipCap's and CapDec's, in place of the end-of-text token; `begin`
    is one that stands before them, which DeCap's need. `tokenizer` names another one than the model's own, and `sizes` settings of its configuration
    that are to differ (n_layer = 4, say), where it starts from random weights. Captions are cut to `max_tokens` and to the places that the model has.

    Raises MissingExtra without transformers, DataError where the model cannot be had, SettingError where it has no end-of-text token, or no places.
    """

    def __init__(
        self,
        dim: int,
        model: str = "gpt2",
        revision: str | None = None,
        pretrained: bool = True,
        language_model: Literal["tuned", "frozen"] = "tuned",
        mapper: Kind = "transformer",
        prefix: int = 40,
        clip_length: int = 40,
        mapper_layers: int = 8,
        mapper_heads: int = 8,
        max_tokens: int = 64,
        end: str | None = None,
        begin: str | None = None,
        tokenizer: str | None = None,
        sizes: dict[str, Any] | None = None,
    ):
        super().__init__()
        if sizes and pretrained:
            raise SettingError("sizes are of a language model that starts from random weights: they need pretrained = false.")
        if language_model not in ("tuned", "frozen"):
            raise SettingError(f"language_model is 'tuned' or 'frozen', not {language_model!r}.")
        self.dim, self.model, self.revision, self.pretrained = dim, model, revision, pretrained
        self.frozen, self.max_tokens, self.end, self.begin = language_model == "frozen", max_tokens, end, begin
        self.tokenizer_name, self.sizes = tokenizer, sizes or {}
        mapped = {"prefix": prefix, "clip_length": clip_length, "layers": mapper_layers, "heads": mapper_heads}
        self.mapper_settings: dict[str, Any] = {"kind": mapper, "dim": dim, **mapped}
        self.dtype, self.room = torch.float32, Room()
        self.tokenizer: Any = None
        self.mapper: nn.Module = nn.Identity()  # both are sized by `fit` or `load`
        self.lm: Any = nn.Identity()

    def fit(self, captions: Sequence[str]) -> None:
        self._use(self.model, self.pretrained, self.tokenizer_name, self.sizes)

    def save(self, folder: Path) -> None:
        """Configuration and tokenizer; the weights are the module's state."""
        self.lm.config.save_pretrained(folder / "language_model")
        self.tokenizer.save_pretrained(folder / "language_model")

    def load(self, folder: Path) -> None:
        if not (folder / "language_model" / "config.json").is_file():
            raise DataError(f"{folder / 'language_model'} holds no config.json: copy the whole captioner folder.")
        self._use(str(folder / "language_model"), pretrained=False)

    def _use(self, source: str, pretrained: bool, tokenizer: str | None = None, sizes: dict[str, Any] | None = None) -> None:
        try:
            from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
            from transformers.activations import NewGELUActivation
        except ImportError as error:
            raise MissingExtra("transformers", "hub", "the decoder prefix_lm") from error
        revision = None if Path(source).is_dir() else self.revision
        try:
            named = {"revision": revision} if tokenizer is None else {}
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or source, trust_remote_code=False, **named)
            if pretrained:
                self.lm = AutoModelForCausalLM.from_pretrained(
                    source, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
                )
            else:
                config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False, **(sizes or {}))
                self.lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32)
        except (OSError, ValueError) as error:
            what = "language model with safetensors" if pretrained else "configuration and tokenizer"
            raise DataError(
                f"no {what} could be loaded from {source!r} ({str(error).splitlines()[0]}). Check the spelling, the network or the login."
            ) from error
        if self.tokenizer.eos_token_id is None:
            raise SettingError(f"the tokenizer of {source!r} has no end-of-text token, so captions could not end. Set its eos_token.")
        for block in [*self.lm.modules()]:
            for name, child in block.named_children():
                if isinstance(child, NewGELUActivation):
                    setattr(block, name, nn.GELU("tanh"))  # the same function, in one pass over memory instead of eight
        places = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        if places is not None:
            room = places - self.mapper_settings["prefix"] - (self.begin is not None)
            if room < 2:
                raise SettingError(f"{source!r} reads {places} places, and a prefix of {self.mapper_settings['prefix']} leaves none for a caption.")
            self.max_tokens = min(self.max_tokens, room)
        width = self.lm.get_input_embeddings().embedding_dim
        self.mapper = build_mapper(width=width, **self.mapper_settings)
        if self.frozen:
            self.lm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PrefixLM":
        """A frozen language model stays in evaluation mode: no dropout."""
        super().train(mode)
        if self.frozen:
            self.lm.eval()
        return self

    def forward(self, condition: Condition, captions: Sequence[str | Caption], label_smoothing: float = 0.0) -> LogProb:
        return self.log_prob(condition, captions, label_smoothing)

    def log_prob(self, condition: Condition, captions: Sequence[str | Caption], label_smoothing: float = 0.0) -> LogProb:
        self._ready()
        texts = self._tokens([self._without_end(one) for one in captions if isinstance(one, str)])
        rest = iter(texts)
        said = [list(one.tokens) if isinstance(one, Caption) else next(rest) for one in captions]
        rows = [[*ids[: self.max_tokens - 1], self._end()] for ids in said]
        device = self.lm.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        targets = pad(rows).to(device)  # (B, T)
        real = torch.arange(targets.shape[1], device=device) < lengths.unsqueeze(1)
        prefix, mask = self._prefix(condition)
        x = torch.cat([prefix, self.lm.get_input_embeddings()(targets[:, :-1])], 1)  # (B, P + T - 1, E)
        # Nothing looks ahead, so padding behind a caption needs no mask: without one, attention takes its causal kernel.
        attended = {} if bool(mask.all()) else self._places(torch.cat([mask, real[:, :-1]], 1))
        logits = self._logits_at(F.pad(real, (x.shape[1] - targets.shape[1], 0)), inputs_embeds=x, **attended)
        log_probs = torch.log_softmax(logits.float(), -1)  # (tokens, V)
        chosen = log_probs.gather(1, targets[real].unsqueeze(1)).squeeze(1)
        if label_smoothing:
            chosen = (1 - label_smoothing) * chosen + label_smoothing * log_probs.mean(-1)
        total = torch.zeros(len(rows), device=device).index_add(0, real.nonzero()[:, 0], chosen)
        return LogProb(total, lengths)

    def _logits_at(self, places: Bool[Tensor, "B T"], **given: Tensor) -> Float[Tensor, "N V"]:
        """At these places alone, row by row: they are chosen before the output layer, which is the widest, and all that the model does behind it
        (scaling, capping) stays as it is."""
        chosen = self.lm.get_output_embeddings().register_forward_pre_hook(lambda _, hidden: (evenly(hidden[0][places]),))
        try:
            return self.lm(**given, use_cache=False).logits[: int(places.sum())]
        finally:
            chosen.remove()

    def generate(self, condition: Condition, decoding: Decoding) -> list[list[Caption]]:
        self._ready()
        if not len(condition):
            return []
        condition = condition.with_embeddings(condition.embeddings.to(self.dtype))
        wanted = within(decoding, self.max_tokens)
        with for_inference(self) as network:
            past = Past(self.room)
            steps = Steps(network, condition, self.dtype, past) if self._takes_masks() else _Rows(network, condition)
            found = search(steps, wanted, self._end())
            past.close(found)
        return [[Caption(self._said(one.tokens, len(one.tokens) < wanted.max_tokens), one.score, one.tokens) for one in image] for image in found]

    def before_rounding(self) -> None:
        """What all tokens' output weights have in common moves all logits alike, which no probability sees. But it makes GPT-2's so large that
        bfloat16 rounds them to quarters: it is taken away, unless logits are bent before they are compared."""
        head, config = self.lm.get_output_embeddings(), self.lm.config.get_text_config().to_dict()
        bent = any("softcap" in name.replace("_", "") and value for name, value in config.items())
        if isinstance(head, torch.nn.Linear) and not bent:
            head.weight = torch.nn.Parameter(head.weight - head.weight.mean(0), requires_grad=False)

    def _takes_masks(self) -> bool:
        """Whether its attention is all that it knows the past by, and may be told by a mask which places to see, and their positions."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        told = "position_ids" in inspect.signature(self.lm.forward).parameters and not getattr(self.lm.config, "alibi", False)
        told = told and self.lm.config._attn_implementation == "sdpa"  # others may take no such mask, or (GPT-Neo) add one of their own
        return told and all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.lm.config).layers)

    def read(self, condition: Condition, past: Past) -> tuple[Float[Tensor, "B V"], Bool[Tensor, "B P"]]:
        """past.Network's."""
        prefix, mask = self._prefix(condition)
        past.begin(*mask.shape)
        places = {} if bool(mask.all()) else self._places(mask)
        output = self.lm(inputs_embeds=prefix, **places, past_key_values=_as_cache(past), use_cache=True, logits_to_keep=1)
        return output.logits[:, -1], mask

    def say(self, tokens: Int[Tensor, "A W"], positions: Int[Tensor, "A W"], seen: Tensor | None, past: Past) -> Float[Tensor, "A*W V"]:
        """past.Network's."""
        output = self.lm(input_ids=tokens, position_ids=positions, attention_mask=seen, past_key_values=_as_cache(past), use_cache=True)
        return output.logits.flatten(0, 1)

    def _end(self) -> int:
        """The token that ends a caption."""
        return int(self.tokenizer.eos_token_id) if self.end is None else self._token(self.end, "end")

    def _token(self, text: str, name: str) -> int:
        """Raises SettingError where it is more than one."""
        ids = self._tokens([text])[0]
        if len(ids) != 1:
            raise SettingError(f"{name} = {text!r} is {len(ids)} tokens of this language model's, and one is wanted.")
        return int(ids[0])

    def _without_end(self, caption: str) -> str:
        return caption if self.end is None else caption.rstrip().removesuffix(self.end).rstrip()

    def _said(self, tokens: Sequence[int], ended: bool) -> str:
        text = written(self.tokenizer.decode(list(tokens), skip_special_tokens=True).strip())
        return text + self.end if self.end is not None and ended else text

    def _ready(self) -> None:
        if self.tokenizer is None:
            raise SettingError("this prefix_lm has no language model yet: call fit(captions) before training, or load(folder).")

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []

    def _prefix(self, condition: Condition) -> tuple[Float[Tensor, "B P E"], Bool[Tensor, "B P"]]:
        device = self.lm.device
        prefix, mask = self.mapper(condition.embeddings.to(device), condition.mask.to(device))
        if condition.prompts is not None:
            rows = self._tokens(condition.prompts)
            real = pad([[1] * len(row) for row in rows]).bool().to(device)
            words = self.lm.get_input_embeddings()(pad(rows).to(device))
            prefix, mask = padding_first(torch.cat([prefix, words], 1), torch.cat([mask, real], 1))
        if self.begin is not None:
            first = self.lm.get_input_embeddings()(torch.full((len(mask), 1), self._token(self.begin, "begin"), device=device))
            prefix, mask = torch.cat([prefix, first], 1), torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return prefix, mask

    def _places(self, mask: Bool[Tensor, "R T"], new: int | None = None) -> dict[str, Tensor]:
        """Padding is not looked at and takes no position; `new` is how many of the places are read now. Models without position ids have no need.

        mask 0 0 1 1 1 0    position 0 0 0 1 2 2
        """
        if "position_ids" not in inspect.signature(self.lm.forward).parameters:
            return {"attention_mask": mask.long()}
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"attention_mask": mask.long(), "position_ids": positions if new is None else positions[:, -new:]}

    @classmethod
    def tiny(cls, folder: Path, dim: int = 16) -> "PrefixLM":
        """With a GPT-2 of two layers and a tokenizer of its own, in the hub's format."""
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

        from capdec.tokens import train_bpe

        bpe = train_bpe(["a man rides a horse", "two dogs run over the grass"] * 4, 300, ["<|endoftext|>"])
        config = GPT2Config(vocab_size=bpe.get_vocab_size(), n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(folder / "tiny_gpt2")
        PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder / "tiny_gpt2")
        return cls(dim, str(folder / "tiny_gpt2"), prefix=3, clip_length=2, mapper_layers=1, mapper_heads=2, max_tokens=24)


@functools.cache
def _cache_class() -> Any:
    from transformers.cache_utils import DynamicCache

    class PastCache(DynamicCache):
        """capdec.past.Past in the words of transformers."""

        def __init__(self, past: Past):
            super().__init__()
            self.past = past

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return self.past.append(layer_idx, key_states, value_states)

    return PastCache


def _as_cache(past: Past) -> Any:
    return _cache_class()(past)


class _Rows:
    """generation.Stepper for models that find positions by themselves, or know the past by more than attention: each beam is a text of its own, over
    transformers' own cache, all of which is copied at each step."""

    def __init__(self, decoder: PrefixLM, condition: Condition):
        self.decoder, self.condition = decoder, condition
        self.mask, self.cache = torch.empty(0), None

    def begin(self) -> Float[Tensor, "B V"]:
        prefix, self.mask = self.decoder._prefix(self.condition)
        output = self.decoder.lm(inputs_embeds=prefix, **self.decoder._places(self.mask), use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        return output.logits[:, -1]

    def advance(self, parents: Int[Tensor, "A W"], tokens: Int[Tensor, "A W"]) -> Float[Tensor, "A*W V"]:
        assert self.cache is not None
        rows = parents.flatten()
        self.cache.reorder_cache(rows)
        self.mask = torch.cat([self.mask[rows], self.mask.new_ones(len(rows), 1)], 1)
        places = self.decoder._places(self.mask, new=1)
        output = self.decoder.lm(input_ids=tokens.view(-1, 1), **places, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        return output.logits[:, -1]
