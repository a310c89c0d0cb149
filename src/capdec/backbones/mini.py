"""`mini`: a small dual encoder of our own, trained by `capdec pretrain` and shipped in the package, so that captioning works with no hub in reach.

A photo is squeezed to a square; a residual network of dense 3x3 convolutions turns it into a grid of features, whose mean is projected to D. A
caption is cut into byte-level BPE tokens; two transformer layers and a mean over the tokens do the same. What it does not know: anything that is
neither in 5,000 captioned photos of people and dogs nor in what its teacher made of 28,000 uncaptioned ones. It does not read text in photos.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from capdec.checkpoint import load_module, module_tensors, read_tensors, write_json, write_tensors
from capdec.errors import DataError, SettingError
from capdec.tokens import pad, train_bpe

SIZE = 128  # pixels a side that the tower was trained for
NEAR = 0.1  # temperature of the softmax over cells that makes a region of one
MAX_TOKENS = 32


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, with the average-pooled shortcut of ResNet-D)."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or width_in != width:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class ImageTower(nn.Module):
    """Float["B 3 S S"] in [0, 1] -> Float["B features S/32 S/32"], non-negative."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], features: int):
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 8, 4, 2, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        width_in = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                layers.append(Block(width_in, width, 2 if stage and not index else 1))
                width_in = width
        layers += [nn.Conv2d(width_in, features, 1, bias=False), nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(((images - 0.45) / 0.25).contiguous(memory_format=torch.channels_last))


class TextTower(nn.Module):
    """Int["B T"] tokens, 0 = padding -> Float["B D"], not normalised."""

    def __init__(self, vocabulary: int, width: int, layers: int, dim: int, dropout: float = 0.1):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(MAX_TOKENS, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, width // 32, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """In parts of like length, so that little time goes into padding."""
        lengths = (tokens != 0).sum(1)
        order = lengths.argsort(stable=True)
        parts = [self._run(tokens[rows, : int(lengths[rows[-1]])]) for rows in order.chunk(max(1, len(order) // 64))]
        return torch.cat(parts)[order.argsort()]

    def _run(self, tokens: Tensor) -> Tensor:
        padding = tokens == 0  # (B, T)
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        x = self.layers(x, src_key_padding_mask=padding)  # (B, T, width)
        keep = (~padding).unsqueeze(-1).to(x.dtype)
        return self.project(self.norm((x * keep).sum(1) / keep.sum(1)))


class DualEncoder(nn.Module):
    """Both towers and the projection of the image side."""

    def __init__(
        self,
        vocabulary: int,
        dim: int = 256,
        widths: Sequence[int] = (48, 96, 192, 384),
        blocks: Sequence[int] = (2, 2, 3, 1),
        features: int = 640,
        text_width: int = 192,
        text_layers: int = 2,
    ):
        super().__init__()
        self.image = ImageTower(widths, blocks, features)
        self.project = nn.Linear(features, dim)
        self.text = TextTower(vocabulary, text_width, text_layers, dim)
        self.register_buffer("log_scale", torch.tensor(2.7))  # of the contrastive losses, fixed: exp(2.7) = 1 / 0.067
        self.log_scale: Tensor

    def image_embeddings(self, images: Tensor) -> Tensor:
        """Float["B 3 S S"] -> Float["B D"], not normalised."""
        return self.project(self.image(images).mean((2, 3)))


def as_pixels(images: Sequence[Image.Image], size: int = SIZE) -> Tensor:
    """Photos squeezed (never cropped) to Uint8["B 3 size size"]."""
    if any(image.size != (size, size) for image in images):
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(lambda image: squeeze(image, size), images))
    return torch.from_numpy(np.stack([np.asarray(squeeze(image, size)) for image in images])).permute(0, 3, 1, 2)


def squeeze(image: Image.Image, size: int = SIZE) -> Image.Image:
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)


class Mini:
    """The embedded backbone. `folder` holds `mini.json`, `mini.safetensors` and `mini_tokenizer.json` (default: those in the package).

    Captions are cut at 32 tokens; `truncated` counts how many were, and a warning says so. `dtype` may be set to "bfloat16" on the object, whose
    fingerprint stays: photos then pass the tower three times as fast, and their embeddings keep a cosine of 0.9999 and more with those in float32.
    Raises DataError where the folder holds no mini.
    """

    dtype: str = "float32"

    caption_prompt = ""
    """What stands before a caption that is to be compared with a photo: nothing, since it learned from bare captions."""
    target_cosine = 0.65
    """What held-out siblings chose on Flickr8k's captions, and calibration photos too (docs/results.md)."""

    def __init__(self, folder: str | None = None, device: str = "cpu", batch: int = 64):
        root = Path(folder) if folder else Path(str(resources.files("capdec") / "embedded" / "mini"))
        if not (root / "mini.safetensors").is_file():
            raise DataError(f"no mini backbone in {root}: it holds no mini.safetensors. `capdec pretrain` makes such a folder.")
        about = json.loads((root / "mini.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(root / "mini_tokenizer.json"))
        self.model = DualEncoder(**about["architecture"]).eval().to(device)
        load_module(self.model, read_tensors(root / "mini.safetensors")[0], root)
        self.device, self.batch, self.truncated = device, batch, 0
        self.dim = self.model.project.out_features
        self.trained_on_pairs = frozenset(about["trained_on_pairs"])
        digest = hashlib.sha256((root / "mini.safetensors").read_bytes() + (root / "mini_tokenizer.json").read_bytes())
        self.fingerprint = f"mini-{digest.hexdigest()[:16]}"

    @torch.inference_mode()
    def encode_text(self, captions: Sequence[str], normalize: bool = True) -> Float[Tensor, "B D"]:
        long = sum(len(encoding.ids) > MAX_TOKENS for encoding in self.tokenizer.encode_batch([caption.lower() for caption in captions]))
        if long:
            self.truncated += long
            warnings.warn(f"{long} of {len(captions)} captions were cut at {MAX_TOKENS} tokens, all that mini reads.", stacklevel=2)
        tokens = (encode_tokens(self.tokenizer, captions[start : start + 1024]) for start in range(0, len(captions), 1024))
        return self._joined([self.model.text(part.to(self.device)) for part in tokens], normalize)

    @torch.inference_mode()
    def encode_image(self, images: Sequence[Image.Image], normalize: bool = True) -> Float[Tensor, "B D"]:
        pixels = (as_pixels(images[start : start + self.batch]) for start in range(0, len(images), self.batch))
        with self._precision():
            return self._joined([self.model.image_embeddings(part.to(self.device).float() / 255).float() for part in pixels], normalize)

    def fit_photo(self, image: Image.Image) -> Image.Image:
        return squeeze(image)

    def _precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bfloat16")

    @torch.inference_mode()
    def encode_regions(self, images: Sequence[Image.Image], count: int) -> Float[Tensor, "B K D"]:
        """Of unit length: the global embedding, then `count` regions. The tower sees a photo as 4 x 4 cells, whose mean is the global embedding. A
        region belongs to a cell that is near to it by cosine (nearest first): the mean of all cells, weighted by the softmax of their cosines to that
        cell over 0.1, which takes the place of a transformer's attention (MacCap, Qiu et al. 2024). Raises SettingError for more regions than cells.
        """
        cells = (SIZE // 32) ** 2
        if not 0 <= count <= cells:
            raise SettingError(f"count = {count} regions were asked for, but mini sees a photo as {cells} cells. Take 0 to {cells}.")
        found = [torch.zeros(0, 1 + count, self.dim, device=self.device)]
        for start in range(0, len(images), self.batch):
            pixels = as_pixels(images[start : start + self.batch]).to(self.device).float() / 255
            with self._precision():
                grid = self.model.project(self.model.image(pixels).flatten(2).transpose(1, 2)).float()  # (B, cells, D)
            own, unit = F.normalize(grid.mean(1, keepdim=True), dim=-1), F.normalize(grid, dim=-1)
            chosen = (unit @ own.transpose(1, 2)).topk(count, dim=1).indices  # (B, count, 1)
            near = torch.softmax(unit.take_along_dim(chosen, 1) @ unit.transpose(1, 2) / NEAR, dim=-1)
            found.append(torch.cat([own, F.normalize(near @ grid, dim=-1)], 1))
        return torch.cat(found)

    def _joined(self, parts: list[Tensor], normalize: bool) -> Tensor:
        embeddings = torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self.device)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    @classmethod
    def tiny(cls, folder: Path) -> "Mini":
        tokenizer = train_bpe(["a man rides a horse", "two dogs run over the grass"] * 4, 300, ["<pad>"])
        sizes: dict[str, Any] = {"widths": (8, 8, 8, 8), "blocks": (1, 1, 1, 1), "features": 16, "text_width": 32, "text_layers": 1}
        architecture = {"vocabulary": tokenizer.get_vocab_size(), "dim": 16, **sizes}
        save_mini(folder / "tiny_mini", DualEncoder(**architecture), architecture, tokenizer, ["tiny"])
        return cls(str(folder / "tiny_mini"))


def encode_tokens(tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Int["B T"], lower case, cut at MAX_TOKENS; a caption without a token is one unseen byte, so that its mean exists."""
    return pad([encoding.ids[:MAX_TOKENS] or [1] for encoding in tokenizer.encode_batch([caption.lower() for caption in captions])])


def save_mini(folder: Path, model: DualEncoder, architecture: dict, tokenizer: Tokenizer, trained_on_pairs: Sequence[str]) -> None:
    """Half-precision weights, as shipped. `trained_on_pairs` names the datasets whose pairs the model saw."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "mini_tokenizer.json"))
    write_json(folder / "mini.json", {"architecture": architecture, "trained_on_pairs": list(trained_on_pairs)})
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in module_tensors(model).items()}
    write_tensors(folder / "mini.safetensors", halves)
