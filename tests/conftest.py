"""Shapes in signatures are checked here and nowhere else: jaxtyping's hook wraps every annotated function of the package in beartype."""

from jaxtyping import install_import_hook

install_import_hook("capdec", "beartype.beartype")
