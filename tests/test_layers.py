"""Imports go downwards only. Each line of the picture may import those above it and nothing beside it: a part no other part, a job no other job."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import capdec
from capdec.parts import KINDS

PACKAGE = Path(capdec.__file__).parent
BELOW_PARTS = (
    *("capdec", "errors", "protocols", "recipe", "checkpoint", "tokens", "progress", "generation"),
    *(
        "mapper",
        "precision",
        "nearest",
        "public_addresses",
        "images",
        "video",
        "batching",
        "contract",
        "photos",
        "annotations",
        "gallery",
        "drawing",
        "ptb",
        "language",
        "cider",
        "nouns",
        "gender",
        "bootstrap",
        "rerank",
        "confidence",
        "memory",
        "noise",
        "inference",
        "past",
        "towers",
        "shards",
        "files",
        "pieces",
    ),
)
LAYERS = (*((name,) for name in BELOW_PARTS), KINDS, ("parts",), ("corpus",), ("captioner",), ("scoring",), ("a job",), ("cli",), ("__main__",))
BESIDE = {"sweep", "cli"}  # train and evaluate, many times; one command line in several files


def modules():
    """Each module's dotted name without `capdec.`, and its file; the package itself is "capdec"."""
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__") or "capdec", file


MODULES = dict(modules())


def layer(module):
    """Whatever is not in the picture is a job."""
    top = module.partition(".")[0]
    return next((place for place, names in enumerate(LAYERS) if top in names), LAYERS.index(("a job",)))


def imports(module, source):
    """Modules of capdec that are imported anywhere in it, functions included, `if TYPE_CHECKING:` excepted."""

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from visit(other)
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["capdec", *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    for name in visit(ast.parse(source)):
        if name.partition(".")[0] == "capdec":
            inner = capdec._HOMES.get(name.removeprefix("capdec."), name).removeprefix("capdec.")
            while inner not in MODULES:  # a name inside a module
                inner = inner.rpartition(".")[0] or "capdec"
            yield inner


def upward(module, source):
    """What it imports that is not below it."""
    below = layer(module)
    beside = {below} if module.partition(".")[0] in BESIDE else set()
    return [other for other in imports(module, source) if layer(other) not in {*range(below), *beside}]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_is_below_it(module):
    assert upward(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("bridges.gaussian_noise", "from capdec.decoders import prefix_lm", ["decoders.prefix_lm"]),
        ("bridges.gaussian_noise", "from capdec.corpus import Corpus", ["corpus"]),
        ("bridges.gaussian_noise", "if TYPE_CHECKING:\n    from capdec.corpus import Corpus", []),
        ("mapper", "def f():\n    import capdec.decoders.prefix_lm", ["decoders.prefix_lm"]),
        ("mapper", "from capdec.errors import SettingError\nimport torch", []),
        ("errors", "from . import mapper", ["mapper"]),
        ("train", "from capdec import Captioner, parts, __version__", []),
        ("corpus", "from capdec import Captioner", ["captioner"]),
        ("evaluate", "from capdec.train import train", ["train"]),
        ("sweep", "from capdec.train import train", []),
        ("train", "from capdec.cli import main", ["cli"]),
    ],
)
def test_this_check_sees_what_goes_upwards(module, source, found):
    assert upward(module, source) == found


@pytest.mark.parametrize("module", ["capdec", "capdec.cli"])
def test_importing_is_light(module):
    heavy = "{'torch', 'transformers', 'numpy', 'PIL'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_captioning_a_photo_imports_nothing_it_does_not_use(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 48), "green").save(tmp_path / "green.jpg")
    unused = {"transformers", "accelerate", "huggingface_hub", "pyarrow", "sklearn", "matplotlib", "pycocoevalcap", "skimage", "rich", "av"}
    unused |= {"capdec.train"}
    code = f"import atexit, sys; from capdec.cli import main; atexit.register(lambda: print(sorted({unused} & sys.modules.keys()))); main()"
    done = subprocess.run([sys.executable, "-c", code, "caption", str(tmp_path / "green.jpg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_public_name_is_there():
    assert sorted(capdec.__all__) == capdec.__all__ == dir(capdec)
    for name in capdec.__all__:
        assert getattr(capdec, name) is not None
    assert set(capdec._HOMES) == set(capdec.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = capdec.no_such_name
