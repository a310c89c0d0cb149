"""What the towers of several backbones share: how photos are framed for them, and their weights in bfloat16."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

BILINEAR, BICUBIC = 2, 3  # Pillow's numbers
STEEP = 1.702  # of quick GELU


@dataclass(frozen=True)
class Frame:
    """A photo brought to `width` x `height`, squashed or with its shorter side resized and the middle cut out, and normalised.

    `even` says where half a pixel goes that the middle is off: to the even neighbour (torchvision), else down (transformers). `fast` resizes with
    torch's kernel for bytes, in two thirds of the time with all copies: some 0.2 % of the values are one of 255 steps off.
    """

    width: int
    height: int
    squash: bool
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resample: int = BICUBIC
    even: bool = False
    fast: bool = False

    def fit(self, image: "Image") -> "Image":
        """The photo as the tower sees it, in bytes. Fitting what fits changes nothing."""
        from PIL import Image

        image = image if image.mode == "RGB" else image.convert("RGB")
        if image.size == (self.width, self.height):
            return image
        side, short = min(self.width, self.height), min(image.size)
        wide, high = (self.width, self.height) if self.squash else (side if edge == short else int(side * edge / short) for edge in image.size)
        if self.fast and self.resample in (BILINEAR, BICUBIC):
            pixels = torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2)  # (1, 3, H, W)
            mode = "bicubic" if self.resample == BICUBIC else "bilinear"
            pixels = F.interpolate(pixels, (high, wide), mode=mode, align_corners=False, antialias=True)
            resized = Image.fromarray(np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy()))
        else:
            resized = image.resize((wide, high), Image.Resampling(self.resample))
        left, top = (round(over / 2) if self.even else over // 2 for over in (wide - self.width, high - self.height))
        return resized.crop((left, top, left + self.width, top + self.height))

    def pixels(self, images: "Sequence[Image]", device: str | torch.device = "cpu") -> Float[Tensor, "B 3 H W"]:
        """Photos of any size, fitted in threads where they are not fitted yet."""
        if any(image.size != (self.width, self.height) for image in images):
            with ThreadPoolExecutor(8) as pool:
                images = list(pool.map(self.fit, images))
        levels = torch.from_numpy(np.stack([np.asarray(self.fit(image)) for image in images])).to(device)  # (B, H, W, 3)
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        return levels.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)


def halve(network: nn.Module) -> None:
    """What autocast would turn to bfloat16 at every call is turned once: the weights of linear and convolutional layers, and what the norms before
    attention and MLP give, which nothing but linear layers reads. All else, the sums of the layers above all, stays float32 under autocast."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
        elif isinstance(module, nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
        elif isinstance(module, nn.LayerNorm) and name.endswith((".layer_norm1", ".layer_norm2", ".ln_1", ".ln_2")):
            module.register_forward_hook(_halved)


def _halved(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output.bfloat16() if torch.is_autocast_enabled(output.device.type) else output


def without_quick_gelu(before: nn.Linear, after: nn.Linear) -> nn.Module:
    """What may stand between two layers in place of quick GELU once they were changed here: x sigmoid(1.702 x) is silu(1.702 x) / 1.702, and the
    factors go into the weights on both sides."""
    with torch.no_grad():
        before.weight.mul_(STEEP)
        after.weight.div_(STEEP)
        if before.bias is not None:
            before.bias.mul_(STEEP)
    return nn.SiLU(inplace=True)
