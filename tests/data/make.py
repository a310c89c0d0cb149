"""Makes the samples beside this file: walls of one colour that nobody photographed, in each owner's layout. Each part writes its own, by `tiny`."""

from pathlib import Path

from capdec import parts

for name in ("coco", "flickr8k", "flickr30k", "nocaps", "flickr_style"):
    folder = Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    parts.find("datasets", name).tiny(folder)
