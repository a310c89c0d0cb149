"""The copy of a network that does its inference: the same modules in the same order, in another precision, with weights laid out as the processor
wants them. There is no second formula in it: what a layer computes is written once, in the network.

On a CPU that multiplies bfloat16 in hardware, oneDNN is several times faster than in float32, and at the few rows of a search up to twice as fast
again where it does not have to lay out the weights anew for each product.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROWS = 160  # of a product that weights are laid out for; others are served as well

_copies: WeakKeyDictionary[Any, tuple[list[Any], Any]] = WeakKeyDictionary()
_making = Lock()


@contextmanager
def for_inference(network: Any) -> Iterator[Any]:
    """`network` in evaluation mode; where its `dtype` is not float32, its copy in that, which is made anew where parameters have changed. The copy's
    `before_rounding` is called before its weights are. The copy lives as long as its network, or until that is asked for in float32."""
    if network.dtype != torch.float32:
        weights = _told_apart(network)
        with _making:
            made = _copies.get(network)
            if made is None or made[0] != weights:
                _copies.pop(network, None)
                made = _copies[network] = (weights, _copied(network))
        yield made[1]
        return
    _copies.pop(network, None)
    was_training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(was_training)


def _told_apart(network: Any) -> list[Any]:
    """Differs where weights do: by where they lie, their versions, and, since fused optimizers do not count those, a number of each."""
    weights = [weight.detach() for weight in network.parameters()]
    versions = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
    return [network.dtype, versions, torch.stack([weight.flatten()[weight.numel() // 2].float() for weight in weights if weight.numel()]).tolist()]


def _copied(network: Any) -> Any:
    made = copy.deepcopy(network, {id(network.tokenizer): network.tokenizer}).eval().requires_grad_(False)  # one tokenizer for both
    made.before_rounding()
    made.to(network.dtype)
    if network.dtype == torch.bfloat16 and next(made.parameters()).device.type == "cpu" and _can_pack():
        _pack(made)
    return made


def _can_pack() -> bool:
    ops = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(ops, "_linear_pointwise") and ops._is_mkldnn_bf16_supported()


class Packed(nn.Module):
    """A linear layer, and what follows it place by place: ("none", "") or as oneDNN calls it, such as ("gelu", "tanh")."""

    def __init__(self, weight: Float[Tensor, "N M"], bias: Tensor | None, then: tuple[str, str]):
        super().__init__()
        self.weight, self.bias, self.then = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS), bias, then
        self.is_wide = then != ("none", "") or weight.shape[1] > weight.shape[0]  # oneDNN is slower at these where there are many rows

    def forward(self, x: Float[Tensor, "*B M"]) -> Float[Tensor, "*B N"]:
        rows = x.flatten(0, -2)
        if self.is_wide and len(rows) > 2 * ROWS:
            return torch.cat([self._product(some) for some in rows.split(2 * ROWS)]).unflatten(0, x.shape[:-1])
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.then[0], [], self.then[1])


def _pack(module: nn.Module) -> None:
    """Every linear layer in it, and the activation that follows one with it."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer | nn.MultiheadAttention):
        return  # which may reach into their layers' weights
    children = dict(module.named_children())
    followed = dict(zip(children, [*children][1:], strict=False)) if isinstance(module, nn.Sequential) else {"c_fc": "act"}  # GPT-2's MLP
    for name, child in children.items():
        if type(child) is not nn.Linear and type(child).__name__ != "Conv1D":  # transformers', whose weight lies the other way
            _pack(child)
            continue
        weight: Any = child.weight if type(child) is nn.Linear else child.weight.T
        bias: Any = child.bias
        then = _activation(children.get(followed.get(name, "")))
        setattr(module, name, Packed(weight, bias, then or ("none", "")))
        if then:
            setattr(module, followed[name], nn.Identity())


def _activation(module: nn.Module | None) -> tuple[str, str] | None:
    if isinstance(module, nn.GELU):
        return "gelu", module.approximate
    return ("relu", "") if isinstance(module, nn.ReLU) else ("tanh", "") if isinstance(module, nn.Tanh) else None
