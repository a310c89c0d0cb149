"""Which precision a machine is fast in."""

import torch

from capdec.errors import SettingError

PRECISIONS = ("auto", "float32", "bfloat16")


def fast_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether products in bfloat16 are faster than in float32 there: where the hardware has them. Elsewhere torch emulates them, and is slower."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.device(device).type == "cpu" and bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def precision(asked: str, device: str | torch.device = "cpu") -> str:
    """ "float32" or "bfloat16"; "auto" is what is faster there. Raises SettingError for another."""
    if asked not in PRECISIONS:
        raise SettingError(f"dtype is one of {', '.join(PRECISIONS)}, not {asked!r}.")
    return asked if asked != "auto" else "bfloat16" if fast_bfloat16(device) else "float32"
