"""`huggingface`: any dual encoder that `transformers` loads (CLIP, SigLIP, SigLIP 2, MetaCLIP 2, ALIGN, AltCLIP, Chinese-CLIP ...), from the hub or
from a folder, and used as it was trained:

    CLIP and its kin   captions padded to the longest beside them, with a mask
    SigLIP, SigLIP 2   captions padded to the full 64 tokens, without a mask; SigLIP 2 has read lower case only

Photos pass through the model's own preprocessing, done with PIL. Code from the hub is never run, and pickled weights are never opened. What it does
not know: which photos a checkpoint has seen in training. `trained_on_pairs` is empty, also for a checkpoint fine-tuned on the dataset at hand.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from capdec.errors import DataError, MissingExtra, SettingError
from capdec.towers import Frame, halve, without_quick_gelu

if TYPE_CHECKING:
    from PIL.Image import Image

KNOWN = "openai/clip-vit-large-patch14 or google/siglip2-base-patch16-224"
TOKENS = 32
"""Of a caption where `batch` counts captions: a batch of shorter ones holds more of them."""


class HuggingFace:
    """`model` is a hub id, `id@revision`, or a folder in the hub's format. `dtype = "bfloat16"` holds and multiplies matrices in bfloat16 and sums
    the layers in float32; photos are then resized in a faster way (`towers.Frame`), while in float32 they are prepared as the model's own processor
    does, to the bit. `batch` counts photos, or captions of 32 tokens. `languages` are those it reads, by their codes: the checkpoint does not say.

    `revision` becomes the commit that was loaded (None for a folder), and `truncated` counts the captions cut so far. Raises SettingError for a model
    that is not a dual encoder, DataError for one that cannot be found or read, MissingExtra without transformers.
    """

    trained_on_pairs: frozenset[str] = frozenset()
    target_cosine = 0.3
    """CapDec's published noise on CLIP (variance 0.016 at D = 640: 0.298). For SigLIP and the others nothing is published: a starting point only."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch: int = 64,
        languages: Sequence[str] = ("en",),
    ):
        try:
            import transformers
        except ImportError as error:
            raise MissingExtra("transformers", "hub", "the backbone huggingface") from error
        if dtype not in ("float32", "bfloat16"):
            raise SettingError(f"dtype is 'float32' or 'bfloat16', not {dtype!r}.")
        if batch < 1:
            raise SettingError(f"batch is how many captions or photos go through the model at once, 1 or more; {batch} came.")
        self.name, asked = source(model, revision)
        self.device, self.dtype, self.batch, self.languages = device, dtype, batch, tuple(languages)
        self.truncated = 0

        options = {"revision": asked or "main", "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(self.name, **options)
        except OSError as error:
            raise DataError(unreachable(self.name, asked, error)) from error
        except ValueError as error:  # a model type that transformers does not know, or one whose code is on the hub
            raise SettingError(f"transformers does not know the architecture of {self.name} ({first_line(error)}). Try {KNOWN}.") from error
        self.revision: str | None = getattr(config, "_commit_hash", None)
        options["revision"] = self.revision or options["revision"]  # every file from one commit
        kind = transformers.MODEL_MAPPING.get(type(config), None)
        if not (hasattr(kind, "get_text_features") and hasattr(kind, "get_image_features")):
            architecture = ", ".join(config.architectures or []) or config.model_type
            raise SettingError(f"{self.name} is {architecture}, which does not embed both texts and photos in one space. Try {KNOWN}.")

        self.tokenizer = load_tokenizer(self.name, options)
        self.processor = load_processor(self.name, options)
        # AIMv2 under transformers' fast attention forgets that it is causal wherever no caption of a batch is padded.
        network = load_model(self.name, {**options, "attn_implementation": "eager"} if config.model_type == "aimv2" else options)
        self.fingerprint = fingerprint(network, self.tokenizer, self.processor, dtype)
        self.model: Any = network.eval().requires_grad_(False)
        if dtype == "bfloat16":
            simplify_gelu(network)
            halve(network)
        self.model.to(device)
        self.frame = frame_of(self.processor, fast=dtype == "bfloat16")

        texts = getattr(config, "text_config", config)
        self.fixed_padding = config.model_type.startswith("siglip")
        # The 224 to 512 pixel SigLIP 2 checkpoints call themselves "siglip"; what tells them apart is Gemma's vocabulary.
        self.lower_case = config.model_type == "siglip2" or (self.fixed_padding and texts.vocab_size >= 256_000)
        positions = getattr(texts, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.max_tokens: int = positions if self.fixed_padding else min(positions - reserved_positions(network), self.tokenizer.model_max_length)
        (shortest,) = self._tokens(["a"])
        self.dim: int = self._embed_tokens([shortest], self.max_tokens if self.fixed_padding else len(shortest)).shape[-1]

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str], normalize: bool = True) -> Float[Tensor, "B D"]:
        """Warns, with their number, where captions are longer than the model reads."""
        rows = self._tokens(captions)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))  # like lengths together: less padding
        embeddings = torch.zeros(len(rows), self.dim, device=self.device)
        start = 0
        while start < len(order):
            width = self.max_tokens if self.fixed_padding else max(1, len(rows[order[start]]))
            chosen = order[start : start + max(1, self.batch * TOKENS // width)]
            embeddings[chosen] = self._embed_tokens([rows[index] for index in chosen], width)
            start += len(chosen)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    @torch.no_grad()
    def encode_image(self, images: "Sequence[Image]", normalize: bool = True) -> Float[Tensor, "B D"]:
        embeddings = torch.zeros(len(images), self.dim, device=self.device)
        for start in range(0, len(images), self.batch):
            embeddings[start : start + self.batch] = self._embed_images(images[start : start + self.batch])[0]
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def fit_photo(self, image: "Image") -> "Image":
        """The photo itself where its preparation is more than resizing and cutting."""
        return image if self.frame is None else self.frame.fit(image)

    @torch.no_grad()
    def encode_regions(self, images: "Sequence[Image]", count: int) -> Float[Tensor, "B K D"]:
        """Of unit length: the global embedding, then `count` regions as in MacCap (Qiu et al. 2024). A region belongs to a patch that the class token
        attends to most in the last layer (highest first); it is the mean of all projected patches, weighted by the softmax of that patch's own row of
        attention. Attention is the mean over heads; the class token is left out of rows and patches.

        Raises SettingError where the vision tower has no class token, or fewer than `count` patches.
        """
        tower: Any = getattr(self.model, "vision_model", None)
        class_token = hasattr(self.model, "visual_projection") and hasattr(getattr(tower, "embeddings", None), "class_embedding")
        if not class_token or not hasattr(tower.encoder.layers[-1].self_attn, "q_proj"):
            raise SettingError(
                f"{type(self.model).__name__} has no class token whose attention could choose regions, or not in the way of CLIP. "
                f"Take a CLIP with a ViT, such as openai/clip-vit-base-patch16, or a method that needs the global embedding only."
            )
        patches = tower.embeddings.num_patches
        if not 0 <= count <= patches:
            raise SettingError(f"count = {count} regions were asked for, but {self.name} sees a photo as {patches} patches. Take 0 to {patches}.")
        regions = torch.zeros(len(images), 1 + count, self.dim, device=self.device)
        for start in range(0, len(images), self.batch):
            regions[start : start + self.batch] = self._embed_regions(images[start : start + self.batch], tower, count)
        return F.normalize(regions, dim=-1)

    def _tokens(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, at most `max_tokens`, cut by the tokenizer so that begin and end stay."""
        if not captions:
            return []
        texts = [caption.lower() for caption in captions] if self.lower_case else list(captions)
        rows: list[list[int]] = self.tokenizer(texts, verbose=False)["input_ids"]
        long = [index for index, row in enumerate(rows) if len(row) > self.max_tokens]
        if long:
            cut = self.tokenizer([texts[index] for index in long], truncation=True, max_length=self.max_tokens)["input_ids"]
            for index, row in zip(long, cut, strict=True):
                rows[index] = row
            self.truncated += len(long)
            warnings.warn(f"{len(long)} of {len(rows)} captions are longer than the {self.max_tokens} tokens {self.name} reads: cut.", stacklevel=4)
        return rows

    def _embed_tokens(self, rows: list[list[int]], width: int) -> Tensor:
        """Float["B D"], not normalised."""

        def padded(values: list[int], padding: int) -> list[int]:
            more = [padding] * (width - len(values))
            return more + values if self.tokenizer.padding_side == "left" else values + more

        inputs = {"input_ids": torch.tensor([padded(row, self.tokenizer.pad_token_id or 0) for row in rows])}  # (B, T)
        if not self.fixed_padding:
            inputs["attention_mask"] = torch.tensor([padded([1] * len(row), 0) for row in rows])
        return self._features(self.model.get_text_features, inputs)[0]

    def _embed_images(self, images: "Sequence[Image]") -> tuple[Tensor, Any]:
        """Float["B D"], not normalised, and all that the model returned."""
        if self.frame is None:
            inputs = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        else:
            inputs = {"pixel_values": self.frame.pixels(images, self.device)}
        embeddings, output = self._features(self.model.get_image_features, inputs)
        if embeddings.shape[-1] != self.dim:
            widths = f"texts in {self.dim} dimensions and photos in {embeddings.shape[-1]}"
            raise SettingError(f"{self.name} embeds {widths}, which is not one space. Try {KNOWN}.")
        return embeddings, output

    def _features(self, method: Any, inputs: Any) -> tuple[Tensor, Any]:
        with torch.no_grad(), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            output = method(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        embeddings = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
            came = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(output).__name__
            raise SettingError(f"{self.name} does not give one embedding an item ({method.__name__} gave {came}): no dual encoder. Try {KNOWN}.")
        return embeddings.float(), output

    def _embed_regions(self, images: "Sequence[Image]", tower: Any, count: int) -> Tensor:
        """Float["B 1+count D"]; the regions are of unit length. S is the number of patches."""
        last = tower.encoder.layers[-1]
        entered: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)
        try:
            embeddings, output = self._embed_images(images)
        finally:
            hook.remove()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            attention = attention_of(last, entered[-1])[:, :, 1:]  # (B, 1+S, S)
            patches = self.model.visual_projection(tower.post_layernorm(output.last_hidden_state[:, 1:])).float()  # (B, S, D)
        chosen = attention[:, 0].topk(count).indices + 1  # (B, count)
        rows = attention.gather(1, chosen.unsqueeze(-1).expand(-1, -1, attention.shape[-1]))  # (B, count, S)
        regions = F.normalize(rows.softmax(-1) @ patches, dim=-1)  # (B, count, D)
        return torch.cat([embeddings.unsqueeze(1), regions], 1)

    @classmethod
    def tiny(cls, folder: Path) -> "HuggingFace":
        """A CLIP with random weights and a tokenizer of single letters, written to `folder` as the hub would hold it."""
        try:
            from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
        except ImportError as error:
            raise MissingExtra("transformers", "hub", "the backbone huggingface") from error
        from tokenizers.pre_tokenizers import ByteLevel

        letters = sorted(ByteLevel.alphabet())
        pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        tokenizer = CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=77)
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = CLIPConfig(
            text_config={**sizes, **ends, "vocab_size": len(pieces), "max_position_embeddings": 77},
            vision_config={**sizes, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            CLIPModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        preprocessing = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
        return cls(model=str(folder))


def source(model: str, revision: str | None) -> tuple[str, str | None]:
    """Folder or hub id, and the revision asked for.

    >>> source("openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41", None)
    ('openai/clip-vit-large-patch14', '32bd64288804d66eefd0ccbe215aa642df71cc41')
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise SettingError(f"{model} is a folder, and a folder has no revision {revision!r}. Leave revision out, or give a hub id.")
        if not (folder / "config.json").is_file():
            raise DataError(
                f"the folder {model} holds no config.json. Give one that save_pretrained wrote, or that came by: hf download {KNOWN.split()[0]}"
            )
        return str(folder), None
    if model.startswith((".", "/", "~")):
        raise DataError(f"there is no folder {model}. Give the path of a folder with config.json and model.safetensors, or a hub id such as {KNOWN}.")
    name, _, written = model.partition("@")
    if written and revision and written != revision:
        raise SettingError(f"two revisions came for {name}: {written!r} after the @ and {revision!r} as revision. Give one.")
    return name, written or revision


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unreachable(name: str, revision: str | None, error: BaseException) -> str:
    if Path(name).is_dir():
        return f"config.json in the folder {name} cannot be read ({first_line(error)}). Save it again with save_pretrained, or download it again."
    return (
        f"{name}{f' at revision {revision}' if revision else ''} is no folder here and could not be had from the hub ({first_line(error)}). Is it "
        f"spelled as on huggingface.co (owner/name)? Is it gated (hf auth login)? Offline, download it elsewhere (hf download) and give the folder."
    )


def load_tokenizer(name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    remedy = "Copy tokenizer.json and tokenizer_config.json of the model it was made from beside its weights."
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except ImportError as error:
        if "sentencepiece" in str(error).lower():
            raise MissingExtra("sentencepiece", "hub", f"the tokenizer of {name}") from error
        raise DataError(f"the tokenizer of {name} cannot be loaded ({first_line(error)}). {remedy}") from error
    except Exception as error:  # whatever parsing a broken file raises: the tokenizers package raises bare Exception
        raise DataError(f"{name} has no tokenizer that can be loaded ({first_line(error)}). {remedy}") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # transformers makes an empty one where the files are missing
        raise DataError(f"{name} has no tokenizer: no vocabulary was found, only {len(tokenizer)} special tokens. {remedy}")
    return tokenizer


def load_processor(name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(name, backend="pil", **options)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{name} does not say how its photos are prepared, or in a way that needs more than PIL ({first_line(error)}). "
            f"Copy preprocessor_config.json of the model it was made from beside its weights."
        ) from error


def frame_of(processor: Any, fast: bool) -> Frame | None:
    """How this processor prepares a photo, without its detours. None where it does anything but resize, cut the middle out and normalise, which
    photos of noise tell: they must come out equal to the bit."""
    from PIL import Image

    said = processor.to_dict()
    size, crop = said.get("size") or {}, (said.get("crop_size") or {}) if said.get("do_center_crop") else {}
    short = size.get("shortest_edge")
    width, height = (crop.get(edge) or short or size.get(edge) for edge in ("width", "height"))
    if not (width and height and said.get("do_resize") and said.get("do_normalize")):
        return None
    frame = Frame(width, height, not short, tuple(said["image_mean"]), tuple(said["image_std"]), int(said["resample"]))
    noise = [
        Image.merge("RGB", [Image.effect_noise(edges, 90) for _ in range(3)])
        for edges in ((2 * width + 7, height + 60), (width + 3, 3 * height), (width // 2, width // 3 + 1))
    ]
    try:
        theirs = processor(images=noise, return_tensors="pt")
        equal = set(theirs) == {"pixel_values"} and torch.equal(theirs["pixel_values"], frame.pixels(noise))
    except (ValueError, TypeError, RuntimeError):  # photos that come out in several sizes
        return None
    return replace(frame, fast=fast) if equal else None


def simplify_gelu(network: nn.Module) -> None:
    """Quick GELU between the layers `fc1` and `fc2`, of CLIP and its kin, in one pass."""
    from transformers.activations import QuickGELUActivation

    for module in network.modules():
        if isinstance(getattr(module, "activation_fn", None), QuickGELUActivation) and hasattr(module, "fc1") and hasattr(module, "fc2"):
            module.activation_fn = without_quick_gelu(module.fc1, module.fc2)  # type: ignore[arg-type]


def load_model(name: str, options: dict[str, Any]) -> nn.Module:
    """The network in float32, on the CPU, with every weight from a safetensors file."""
    from transformers import AutoModel

    folder = Path(name)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    remedy = "Save it again with save_pretrained, or take a checkpoint whose files include model.safetensors."
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise DataError(f"{name} holds no safetensors{f', only {pickles[0]}, and a pickle is never opened' if pickles else ''}. {remedy}")
    try:
        network, found = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options)
    except OSError as error:
        raise DataError(
            f"the weights of {name} could not be had ({first_line(error)}). Only safetensors are read: where the hub has pickles only, its bot often "
            f"offers safetensors as a pull request; find its number N under Community and try {name}@refs/pr/N."
        ) from error
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise DataError(f"the weights of {name} are damaged or do not fit its config.json ({first_line(error)}). Download them again.") from error
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("logit_"))
    if missing:
        raise DataError(f"the weights of {name} lack {len(missing)} tensors, {missing[0]} among them. Are they those of both towers? {remedy}")
    return network


def reserved_positions(network: nn.Module) -> int:
    """RoBERTa's text towers count positions from padding_idx + 1, so that 514 of them read 512 tokens."""
    for name, module in network.named_modules():
        if name.startswith("text_model") and name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def attention_of(layer: Any, entering: Tensor) -> Tensor:
    """Float["B T T"], mean over heads, of a CLIP layer; computed here, since fast kernels do not return it."""
    batch, tokens, width = entering.shape
    normed = layer.layer_norm1(entering)
    heads = layer.self_attn.config.num_attention_heads
    query, key = (
        project(normed).reshape(batch, tokens, heads, width // heads).transpose(1, 2) for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )  # (B, heads, T, width / heads)
    return (query @ key.transpose(2, 3) * (width // heads) ** -0.5).float().softmax(-1).mean(1)


def fingerprint(network: nn.Module, tokenizer: Any, processor: Any, dtype: str) -> str:
    """Of content, not of files: the same for a hub id, a copied folder, and weights in other shards or saved again in the same precision."""

    def digest(item: tuple[str, Tensor]) -> bytes:
        name, tensor = item
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(name.encode() + str(tuple(tensor.shape)).encode() + hashlib.sha256(flat.numpy().data).digest()).digest()

    def without_names(value: Any) -> Any:
        """Drops what says where a config came from and how it is run, and what is not set."""
        if not isinstance(value, dict):
            return value
        left_out = {"transformers_version", "dtype", "torch_dtype", "architectures"}
        kept = {key: without_names(item) for key, item in value.items() if item is not None and key not in left_out}
        return {key: item for key, item in kept.items() if not str(key).startswith("_")}

    if hasattr(tokenizer, "backend_tokenizer"):
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        words = tokenizer.backend_tokenizer.to_str()
    else:
        words = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    with ThreadPoolExecutor() as pool:  # hashing large buffers releases the interpreter
        weights = list(pool.map(digest, sorted((name, tensor) for name, tensor in network.state_dict().items() if not name.startswith("logit_"))))
    said = [
        without_names(network.config.to_diff_dict()),  # type: ignore[union-attr, operator]
        [words, tokenizer.padding_side, tokenizer.pad_token_id, tokenizer.model_max_length],
        [type(processor).__name__, without_names(processor.to_dict())],
        dtype,
    ]
    whole = hashlib.sha256(b"".join(weights) + json.dumps(said, sort_keys=True, default=str).encode())
    return f"huggingface-{whole.hexdigest()[:16]}"
