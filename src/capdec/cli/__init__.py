"""The command line. Each command reads its arguments, calls one job and shows the result; torch is imported only inside commands that compute."""

import os
import warnings
from typing import Any

import click

from capdec import __version__
from capdec.cli import captioning, measuring, training
from capdec.errors import CapdecError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class _Group(click.Group):
    """Errors raised on purpose become one line and exit status 2, Ctrl-C status 130; a warning is a line too, without the place in the code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: click.echo(f"Note: {message}", err=True)
                return super().invoke(context)
        except CapdecError as error:
            click.echo(f"Error: {error}", err=True)
            context.exit(2)
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            context.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="capdec")
def main() -> None:
    """The image captioner you train from text alone."""


for module in (captioning, measuring, training):
    for command in module.COMMANDS:
        main.add_command(command)
