"""The image captioner you train from text alone.

>>> from capdec import Captioner                                            # doctest: +SKIP
>>> Captioner.load().caption(["photo.jpg"])[0].text                         # doctest: +SKIP

Names are loaded when they are first used, so that `import capdec` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capdec.captioner import Captioner
    from capdec.errors import CapdecError
    from capdec.protocols import Caption, Condition, Decoding

__version__ = "0.1.0"
__all__ = ["CapdecError", "Caption", "Captioner", "Condition", "Decoding", "__version__"]

_HOMES = {
    "Captioner": "capdec.captioner",
    "CapdecError": "capdec.errors",
    "Caption": "capdec.protocols",
    "Condition": "capdec.protocols",
    "Decoding": "capdec.protocols",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'capdec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
