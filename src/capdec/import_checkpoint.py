"""Read the state dicts that authors have released into a captioner's folder: ClipCap's (Mokady et al. 2021), CapDec's (Nukrai et al. 2022) and
DeCap's (Li et al. 2023).

    clip_project.model.0.weight, .2.weight                MLP mapper; DeCap's has .0 alone, one linear
    clip_project.linear, .prefix_const, .transformer...   transformer mapper
    gpt.transformer..., gpt.lm_head                       GPT-2; DeCap's is decoder.transformer..., with four layers and heads of its own

Sizes follow from the shapes; only the number of heads does not. Captions of the first two end with the first period, for neither was taught an end
of text; DeCap's stand between the begin and the end of CLIP's tokens, in which they are written. CapDec and DeCap learned from embeddings of unit
length, so their captioners read such; ClipCap read CLIP's embeddings at their own length, and its captioner does. What is not known of a file: which
backbone it was trained with, beyond the width of its embeddings, and on what. DeCap's memory is not in its file: name a folder of embeddings of the
text, or photos are decoded without the projection that is the method.

A pickle is read by torch's weights-only reader, which runs no code.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from capdec import parts
from capdec.captioner import Captioner, located
from capdec.checkpoint import read_tensors
from capdec.errors import DataError, MismatchError, SettingError, brief
from capdec.protocols import Decoding, Supervision

FORMATS = ("clipcap", "capdec", "decap")
DECAP_HEADS, BEGIN = 4, "<|startoftext|>"


def import_checkpoint(
    file: str | Path,
    output: str | Path,
    *,
    kind: Literal["clipcap", "capdec", "decap"],
    backbone: str | dict[str, Any],
    language_model: str = "openai-community/gpt2",
    tokenizer: str = "openai/clip-vit-base-patch32",
    mapper_heads: int = 8,
    memory: str | None = None,
    variance: float | None = None,
    paired: bool | None = None,
    text: Sequence[str] = (),
) -> Captioner:
    """Writes the captioner to `output` and returns it. `language_model` gives GPT-2's tokenizer and configuration (a hub id or a folder); its weights
    are the file's. `tokenizer` is CLIP's, which DeCap's captions are written in, and `memory` a folder of embeddings for its projection. `variance`
    is of the noise it was trained with, for the record (CapDec's files: 0.0001, 0.001, 0.015, 0.1, 2.5, or none). `paired` says whether it was
    trained on image-caption pairs (default: ClipCap was, the others were not), `text` of which datasets its captions were.

    Raises SettingError for a format there is not, DataError for a file that is none of these, MismatchError where backbone or language model have
    other widths than the file.
    """
    if kind not in FORMATS:
        raise SettingError(f"format is one of {', '.join(FORMATS)}, not {kind!r}.")
    if (Path(output) / "config.json").is_file():
        raise SettingError(f"{output} holds a captioner already. Name another folder.")
    if memory is not None and kind != "decap":
        raise SettingError(f"a memory is DeCap's, and {kind} has none.")
    state = _read(Path(file))
    if kind == "decap":
        state = {f"gpt.{key.removeprefix('decoder.')}" if key.startswith("decoder.") else key: value for key, value in state.items()}
    weights, settings = _mapper(state, mapper_heads, Path(file))
    backbone_part = parts.build("backbones", backbone)
    if backbone_part.dim != settings["dim"]:
        raise MismatchError(
            f"{file} reads embeddings of width {settings['dim']}, and {backbone} gives {backbone_part.dim}. CapDec was trained on RN50x4 (640), "
            f"ClipCap and DeCap on ViT-B/32 (512)."
        )
    longest = 30 if kind == "decap" else 67
    decoder_spec = {
        "name": "prefix_lm", "model": language_model, "pretrained": False, "max_tokens": longest,
        **{key: value for key, value in settings.items() if key != "dim"},
        **({"begin": BEGIN, "tokenizer": tokenizer, "sizes": _sizes(state)} if kind == "decap" else {"end": "."}),
    }  # fmt: skip
    decoder = parts.build("decoders", decoder_spec, dim=settings["dim"])
    decoder.fit([])
    _load(decoder, {**weights, **_language_model(state)}, Path(file))
    bridges: list[dict[str, Any]] = [{"name": "gaussian_noise", "variance": variance}] if variance is not None else []
    if memory is not None:
        bridges = [{"name": "memory_projection", "temperature": 0.01, "memory": str(Path(memory).resolve()), "dataset": "+".join(text) or None}]
    built = [parts.build("bridges", spec, dim=settings["dim"]) for spec in bridges]
    if memory is not None:
        built[0].memory.open(backbone_part.fingerprint)
    given = Supervision.PAIRS if (kind == "clipcap" if paired is None else paired) else Supervision(0)
    spec = {"backbone": located(backbone, backbone_part), "bridges": bridges, "decoder": decoder_spec}
    decoding = Decoding("greedy" if kind == "decap" else "beam", max_tokens=longest)
    captioner = Captioner(backbone_part, built, decoder.eval(), spec, decoding, text, given, normalize=kind != "clipcap")
    captioner.save(output)
    return captioner


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_tensors(file)[0]
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{file} is not there. Name the file that the authors released (.pt or .safetensors).") from error
    except Exception as error:  # whatever a damaged or hostile pickle raises
        raise DataError(f"{file} is no state dict that can be read without running its code ({brief(error)}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{file} holds no state dict: names and tensors. Save model.state_dict() alone.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _mapper(state: dict[str, Tensor], heads: int, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mapper's weights under our names, and the settings that its shapes say."""
    inside = {key.removeprefix("clip_project."): value.float() for key, value in state.items() if key.startswith("clip_project.")}
    words = state.get("gpt.transformer.wte.weight")
    if words is None or not inside:
        raise DataError(
            f"{file} has no clip_project.* and gpt.transformer.wte.weight (DeCap: decoder.transformer...), so it is none of {', '.join(FORMATS)} or "
            f"not that one. Its first names: {list(state)[:3]}."
        )
    width = words.shape[1]
    if "model.0.weight" in inside and "model.2.weight" not in inside:
        settings = {"mapper": "linear", "dim": inside["model.0.weight"].shape[1], "prefix": inside["model.0.weight"].shape[0] // width}
        return {f"mapper.layers.{key.removeprefix('model.0.')}": value for key, value in inside.items()}, settings
    if "model.0.weight" in inside:
        settings = {"mapper": "mlp", "dim": inside["model.0.weight"].shape[1], "prefix": inside["model.2.weight"].shape[0] // width}
        return {f"mapper.layers.{key.removeprefix('model.')}": value for key, value in inside.items()}, settings
    if "linear.weight" not in inside or "prefix_const" not in inside:
        raise DataError(f"{file} has a mapper that is neither ClipCap's MLP nor its transformer: {sorted(inside)[:3]}.")
    layers = len({key.split(".")[2] for key in inside if key.startswith("transformer.layers.")})
    settings = {
        "mapper": "transformer", "dim": inside["linear.weight"].shape[1], "prefix": inside["prefix_const"].shape[0],
        "clip_length": inside["linear.weight"].shape[0] // width, "mapper_layers": layers, "mapper_heads": heads,
    }  # fmt: skip
    found = {"mapper.expand.weight": inside["linear.weight"], "mapper.expand.bias": inside["linear.bias"], "mapper.constants": inside["prefix_const"]}
    for layer in range(layers):
        theirs, ours = f"transformer.layers.{layer}", f"mapper.layers.layers.{layer}"
        projected = torch.cat([inside[f"{theirs}.attn.to_queries.weight"], inside[f"{theirs}.attn.to_keys_values.weight"]])
        biases = [inside.get(f"{theirs}.attn.{name}.bias") for name in ("to_queries", "to_keys_values")]
        found[f"{ours}.self_attn.in_proj_weight"] = projected
        found[f"{ours}.self_attn.in_proj_bias"] = torch.cat([one for one in biases if one is not None] or [torch.zeros(len(projected))])
        names = {"attn.project": "self_attn.out_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2", "norm1": "norm1", "norm2": "norm2"}
        found |= {f"{ours}.{new}.{kind}": inside[f"{theirs}.{old}.{kind}"] for old, new in names.items() for kind in ("weight", "bias")}
    return found, settings


def _sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """What a GPT-2 is configured by, as its weights say it; heads are DeCap's four."""
    words, places = state["gpt.transformer.wte.weight"], state.get("gpt.transformer.wpe.weight", torch.empty(1024, 0))
    layers = len({key.split(".")[3] for key in state if key.startswith("gpt.transformer.h.")})
    return {"vocab_size": words.shape[0], "n_embd": words.shape[1], "n_positions": places.shape[0], "n_layer": layers, "n_head": DECAP_HEADS}


def _language_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's weights without the causal masks that older versions of transformers kept among them."""
    inside = {f"lm.{key.removeprefix('gpt.')}": value.float() for key, value in state.items() if key.startswith("gpt.")}
    return {key: value for key, value in inside.items() if not key.endswith((".attn.bias", ".attn.masked_bias"))}


def _load(decoder: Any, weights: dict[str, Tensor], file: Path) -> None:
    wanted = decoder.state_dict()
    wrong = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape]
    left = [name for name in weights if name not in wanted]
    if wrong or left:
        sizes = f"{math.prod(wanted[wrong[0]].shape):,} numbers wanted in {wrong[0]}" if wrong else f"{left[0]} has no place"
        raise MismatchError(
            f"{file} does not fit the mapper and language model that were named: {len(wrong) + len(left)} tensors differ ({sizes}). Was it GPT-2?"
        )
    decoder.load_state_dict(weights)
