"""Our PTB tokens beside those of Stanford's PTBTokenizer 3.4.1 on Java, caption by caption, as pycocoevalcap asks for them.

    python benchmarks/tokens.py captions.jsonl ...            JSON lines with {"captions": [...]}

Prints how many captions have the same tokens, and those that have not.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from capdec.ptb import tokenize


def main(paths: list[str]) -> None:
    lines = [line for path in paths for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    captions = list(dict.fromkeys(" ".join(text.split()) for line in lines for text in json.loads(line)["captions"]))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        theirs = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(captions)})
    ours = [tokenize(text) for text in captions]
    unlike = [place for place in range(len(captions)) if ours[place] != theirs[place][0]]
    print(f"{len(captions):,} different captions, {len(unlike)} with other tokens ({100 * (1 - len(unlike) / len(captions)):.4f} % the same)")
    for place in unlike:
        print(
            f"\n  caption  {captions[place]}\n  theirs   {theirs[place][0]}\n  ours     {ours[place]}\n  next     {captions[place + 1 : place + 2]}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
