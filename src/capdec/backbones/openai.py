"""`openai`: checkpoints of CLIP's own architectures (Radford et al. 2021) in open_clip's folder layout, in plain torch: the modified ResNets,
CapDec's RN50x4 among them, which Transformers does not know, and the ViTs.

    open_clip_config.json           sizes, and how photos are prepared
    open_clip_model.safetensors     weights, under the names of OpenAI's release
    tokenizer.json                  CLIP's byte-pair encoding

What a ResNet has that others of its name have not: three convolutions before it, an average pool before every stride, and attention at the end, in
which the mean of all places asks all places. What is not read: towers of timm or of Transformers inside an open_clip folder, and pickles.
"""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from capdec.checkpoint import read_tensors, write_tensors
from capdec.errors import DataError, MissingExtra, SettingError, brief
from capdec.towers import Frame, halve, without_quick_gelu

if TYPE_CHECKING:
    from PIL.Image import Image

FILES = ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json")
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FOREIGN = (
    *("timm_model_name", "hf_model_name", "custom_text", "multimodal_cfg", "no_causal_mask", "embed_cls"),
    *("attentional_pool", "global_average_pool", "no_ln_pre", "ls_init_value"),
)
"""Settings of open_clip's that make another network."""
KNOWN = "timm/resnet50x4_clip.openai or timm/vit_base_patch32_clip_224.openai"


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), with which OpenAI trained."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, ratio: float, activation: type[nn.Module]):
        super().__init__()
        hidden = int(width * ratio)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, hidden), gelu=activation(), c_proj=nn.Linear(hidden, width)))

    def forward(self, x: Float[Tensor, "B T E"], mask: Float[Tensor, "T T"] | None) -> Float[Tensor, "B T E"]:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, ratio: float, activation: type[nn.Module]):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, ratio, activation) for _ in range(layers))

    def forward(self, x: Float[Tensor, "B T E"], mask: Float[Tensor, "T T"] | None = None) -> Float[Tensor, "B T E"]:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    def __init__(self, size: int, patch: int, width: int, layers: int, heads: int, ratio: float, dim: int, activation: type[nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, ratio, activation)
        self.proj = nn.Parameter(torch.randn(width, dim) * width**-0.5)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (B, S, E)
        x = torch.cat([self.class_embedding.expand(len(images), 1, -1).to(patches), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    """Strides are average pools, in the shortcut too."""

    def __init__(self, inward: int, width: int, stride: int):
        super().__init__()
        outward = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inward, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outward, 1, bias=False), nn.BatchNorm2d(outward)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or inward != outward:
            parts = {"-1": nn.AvgPool2d(stride), "0": nn.Conv2d(inward, outward, 1, bias=False), "1": nn.BatchNorm2d(outward)}
            self.downsample = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        inside = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(self.pool(inside))) + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean of all places asks the places and itself."""

    def __init__(self, side: int, width: int, heads: int, dim: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) * width**-0.5)
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(width, out) for out in (width, width, width, dim))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
        places = x.flatten(2).transpose(1, 2)  # (B, S, C)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        query, key, value = (
            project(asked).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, C / heads)
            for project, asked in ((self.q_proj, places[:, :1]), (self.k_proj, places), (self.v_proj, places))
        )
        return self.c_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))[:, 0]


class ModifiedResNet(nn.Module):
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, size: int, layers: Sequence[int], width: int, heads: int, dim: int):
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        inward = width
        for stage, blocks in enumerate(layers):
            wide = width * 2**stage
            found = [Bottleneck(inward if place == 0 else 4 * wide, wide, 2 if stage and not place else 1) for place in range(blocks)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*found))
            inward = 4 * wide
        self.attnpool = AttentionPool(size // 32, inward, heads, dim)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        x = images
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        x = F.avg_pool2d(x, 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.attnpool(x)


class Network(nn.Module):
    """Both towers, built from `model_cfg` of an open_clip_config.json. Raises SettingError for what is of another architecture."""

    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        vision, text, dim = sizes["vision_cfg"], sizes["text_cfg"], sizes["embed_dim"]
        foreign = [key for part in (sizes, vision, text) for key in FOREIGN if part.get(key)]
        if foreign:
            raise SettingError(f"this open_clip model is not CLIP's own architecture ({', '.join(foreign)}). Read here: {KNOWN}, and their like.")
        activation = QuickGELU if sizes.get("quick_gelu") else nn.GELU
        size, width = vision["image_size"], vision["width"]
        heads = vision.get("head_width", 64)
        self.visual: nn.Module
        if isinstance(vision["layers"], list):
            self.visual = ModifiedResNet(size, vision["layers"], width, max(1, width * 32 // heads), dim)
        else:
            ratio = vision.get("mlp_ratio", 4.0)
            self.visual = VisionTransformer(size, vision["patch_size"], width, vision["layers"], max(1, width // heads), ratio, dim, activation)
        self.context = text["context_length"]
        self.token_embedding = nn.Embedding(text["vocab_size"], text["width"])
        self.positional_embedding = nn.Parameter(torch.randn(self.context, text["width"]) * 0.01)
        self.transformer = Transformer(text["width"], text["layers"], text["heads"], text.get("mlp_ratio", 4.0), activation)
        self.ln_final = nn.LayerNorm(text["width"])
        self.text_projection = nn.Parameter(torch.randn(text["width"], dim) * text["width"] ** -0.5)
        self.logit_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07)).float())

    def text(self, tokens: Int[Tensor, "B T"], ends: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """What stands at the end token, which has read all before it."""
        width = tokens.shape[1]
        mask = torch.full((width, width), -torch.inf, device=tokens.device).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding[:width], mask)
        return self.ln_final(x[torch.arange(len(x)), ends]) @ self.text_projection


class OpenAI:
    """`model` is a folder in open_clip's layout, or a hub id (@revision) of one. `dtype = "bfloat16"` holds and multiplies matrices in bfloat16, sums
    the layers in float32, and resizes photos in a faster way (`towers.Frame`).

    `truncated` counts the captions cut so far. Raises DataError for a folder that lacks a file or holds a damaged one, SettingError for another
    architecture, MissingExtra where the hub is asked and its package is not there.
    """

    trained_on_pairs: frozenset[str] = frozenset()
    target_cosine = 0.3
    """CapDec's published noise: variance 0.016 at D = 640."""

    def __init__(self, model: str, device: str = "cpu", dtype: Literal["float32", "bfloat16"] = "float32", batch: int = 64):
        from tokenizers import Tokenizer

        if dtype not in ("float32", "bfloat16") or batch < 1:
            raise SettingError(f"dtype is 'float32' or 'bfloat16' and batch 1 or more; dtype = {dtype!r}, batch = {batch} came.")
        folder = _folder(model)
        try:
            config = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
            sizes, prepared = config["model_cfg"], config.get("preprocess_cfg", {})
            with torch.device("meta"):
                self.model = Network(sizes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, SettingError):
                raise
            raise DataError(
                f"{folder / FILES[0]} is not open_clip's configuration ({brief(error)}). Copy it again from where the model came."
            ) from error
        weights, _ = read_tensors(folder / FILES[1])
        wanted = self.model.state_dict()
        given = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items() if name in wanted}
        wrong = [name for name in wanted if name not in given or given[name].shape != wanted[name].shape]
        if wrong := [name for name in wrong if not name.endswith("num_batches_tracked")]:
            raise DataError(f"{folder / FILES[1]} does not fit its configuration: {len(wrong)} tensors lack or differ, {wrong[0]} among them.")
        if more := sorted(set(weights) - set(wanted) - {"input_resolution", "context_length", "vocab_size", "attn_mask"}):
            raise SettingError(
                f"{folder / FILES[1]} has {len(more)} tensors that CLIP's own architectures have not, {more[0]} among them. Try {KNOWN}."
            )
        given |= {name: torch.zeros((), dtype=torch.long) for name in wanted if name not in given}
        self.model.load_state_dict(given, assign=True)
        self.model.eval().requires_grad_(False)
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / FILES[2]))
        except Exception as error:  # the tokenizers package raises bare Exception
            raise DataError(f"{folder / FILES[2]} is no tokenizer that can be read ({brief(error)}). Copy CLIP's tokenizer.json there.") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        end = self.tokenizer.token_to_id(END)
        if end is None or self.tokenizer.token_to_id(START) is None:
            raise DataError(f"{folder / FILES[2]} has no {START} and {END}: it is not CLIP's tokenizer. Copy CLIP's tokenizer.json there.")
        self.end: int = end
        self.device, self.dtype, self.batch, self.truncated = device, dtype, batch, 0
        self.dim: int = sizes["embed_dim"]
        self.size: int = sizes["vision_cfg"]["image_size"]
        mode = prepared.get("resize_mode", "shortest")
        if mode not in ("shortest", "squash") or prepared.get("interpolation", "bicubic") != "bicubic":
            raise SettingError(f"{model} prepares its photos in a way that is not known here: {prepared}. Known: bicubic, shortest or squash.")
        mean, std = (tuple(prepared.get(key, usual)) for key, usual in (("mean", MEAN), ("std", STD)))
        self.frame = Frame(self.size, self.size, mode == "squash", mean, std, even=True, fast=dtype == "bfloat16")
        said = [[[level]] for level in torch.tensor(mean).tolist()], [[[level]] for level in torch.tensor(std).tolist()]
        self.fingerprint = _fingerprint(given, self.tokenizer.to_str(), [sizes, *said, mode, dtype])
        if dtype == "bfloat16":
            for block in (module for module in self.model.modules() if isinstance(module, Block) and isinstance(module.mlp.gelu, QuickGELU)):
                block.mlp.gelu = without_quick_gelu(block.mlp.c_fc, block.mlp.c_proj)  # type: ignore[arg-type]
            halve(self.model)
        self.model.to(device)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str], normalize: bool = True) -> Float[Tensor, "B D"]:
        """Warns, with their number, where captions are longer than the model reads; their end token stays."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]
        most = self.model.context
        if long := [place for place, row in enumerate(rows) if len(row) > most]:
            for place in long:
                rows[place] = [*rows[place][: most - 1], self.end]
            self.truncated += len(long)
            warnings.warn(f"{len(long)} of {len(rows)} captions are longer than the {most} tokens this model reads: cut.", stacklevel=2)
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))  # like lengths together: less padding
        embeddings = torch.zeros(len(rows), self.dim, device=self.device)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            tokens = torch.zeros(len(chosen), len(rows[chosen[0]]), dtype=torch.long)
            for at, place in enumerate(chosen):
                tokens[at, : len(rows[place])] = torch.tensor(rows[place])
            ends = torch.tensor([rows[place].index(self.end) for place in chosen])
            with self._precision():
                embeddings[chosen] = self.model.text(tokens.to(self.device), ends.to(self.device)).float()
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    @torch.no_grad()
    def encode_image(self, images: "Sequence[Image]", normalize: bool = True) -> Float[Tensor, "B D"]:
        embeddings = torch.zeros(len(images), self.dim, device=self.device)
        for start in range(0, len(images), self.batch):
            pixels = self.frame.pixels(images[start : start + self.batch], self.device)
            with self._precision():
                embeddings[start : start + len(pixels)] = self.model.visual(pixels).float()
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def fit_photo(self, image: "Image") -> "Image":
        return self.frame.fit(image)

    def _precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bfloat16")

    @classmethod
    def tiny(cls, folder: Path) -> "OpenAI":
        """A ResNet with random weights and a tokenizer of single letters, written to `folder`."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        pieces = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
        tokenizer = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, [], end_of_word_suffix="</w>", unk_token=END))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        ends = [(START, len(pieces) - 2), (END, len(pieces) - 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
        text = {"context_length": 77, "vocab_size": len(pieces), "width": 32, "heads": 4, "layers": 2}
        sizes = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": text}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Network(sizes)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILES[0]).write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": {}}), encoding="utf-8")
        write_tensors(folder / FILES[1], network.state_dict())
        tokenizer.save(str(folder / FILES[2]))
        return cls(str(folder))


def _folder(model: str) -> Path:
    """Where the files are. Raises DataError or MissingExtra."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if lacking := [name for name in FILES if not (folder / name).is_file()]:
            raise DataError(f"the folder {model} lacks {', '.join(lacking)}. Give one in open_clip's layout, such as that of {KNOWN}.")
        return folder
    name, _, revision = model.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DataError(f"{model} is neither a folder here nor a hub id (owner/name). Give a folder in open_clip's layout, or {KNOWN}.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("huggingface-hub", "hub", f"fetching {model} from the hub") from error
    try:
        fetched = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:
        raise DataError(f"{model} is no folder here and could not be had from the hub ({brief(error)}). Try {KNOWN}.") from error
    return _folder(str(fetched))


def _fingerprint(weights: dict[str, Tensor], tokenizer: str, said: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps([tokenizer, said], sort_keys=True).encode())
    for name in sorted(weights):
        if not name.endswith(("num_batches_tracked", "logit_scale")):
            digest.update(name.encode() + weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"openai-{digest.hexdigest()[:16]}"
