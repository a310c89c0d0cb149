import re
import shlex
from pathlib import Path

import pytest

from capdec import parts, recipe
from capdec.cli import main
from capdec.cli.options import part

ROOT = Path(__file__).parent.parent
NAMES = "train|caption|calibrate|coverage|evaluate|score|compare|report|gap|sweep|demo|models|bulk|serve|prepare|pretrain|import-checkpoint"
PAGES = "\n".join(path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*.sh"))))
for written, meant in ((r"\\\n", " "), (r' "\$\{?\w*\[?@[^"]*"', ""), (r"\$mode", "neutral"), (r"\$length", "short")):  # what a shell would put there
    PAGES = re.sub(written, meant, PAGES)
COMMANDS = re.findall(rf"^\s*(?:\S*/|torchrun.*-m )?capdec ((?:{NAMES}) .*?)(?: [>|&].*)?$", PAGES, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_pages_and_examples_is_one_that_the_command_line_takes(line):
    name, *words = shlex.split(line, comments=True)
    given = main.commands[name].make_context(name, words).params
    for one in given.get("assignments", ()):
        recipe.read_assignment(one)
    for kind in ("backbones", "decoders"):
        if text := given.get(kind.removesuffix("s")):
            spec = part(kind, text)
            assert (spec if isinstance(spec, str) else spec["name"]) in parts.names(kind)


def test_the_readme_names_commands_and_files_that_are_there():
    assert len(COMMANDS) >= 6
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)h#][^)]*)\)", text)
    assert targets and all((ROOT / target).exists() for target in targets)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in re.findall(r"^make (\w+)", text, re.MULTILINE))
    assert "@" not in re.sub(r"@(revision|v\d)", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL)), "no placeholder is left"
