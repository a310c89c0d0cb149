"""Every comparison, one after another, each in a process of its own: what `make bench` runs.

    python benchmarks/bench.py [FOLDER [NAME ...]]          all, or those named; results go to FOLDER (out/bench)

FOLDER/NAME.json holds what was measured, FOLDER/bench.md the tables of all of them with the machine's ceilings, and with two folders of runs
`python benchmarks/bench.py --beside FOLDER OTHER` prints the ratios of both.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from side_by_side import table

HERE = Path(__file__).parent
NAMES = ("embedded", "decoding", "encoders", "training", "memory_projection", "growth")


def markdown(folder: Path) -> str:
    parts = []
    for name in NAMES:
        if not (folder / f"{name}.json").is_file():
            continue
        found = json.loads((folder / f"{name}.json").read_text())
        about = found["machine"]
        if "rows" in found:
            limits = found["ceilings"]
            rates = (
                f"float32 {limits['float32'] / 1e9:,.0f} GFLOP/s, bfloat16 {limits['bfloat16'] / 1e9:,.0f} GFLOP/s, {limits['memory'] / 1e9:.1f} GB/s"
            )
            notes = "\n".join(
                f"- {row['work']}: {'; '.join(filter(None, (row['equal'], row['note'])))}" for row in found["rows"] if row["equal"] or row["note"]
            )
            parts.append(f"## {name}\n\nAt most here: {rates}.\n\n{table(found['rows'])}\n\n{notes}\n")
        else:
            lines = [
                f"| {axis} | {one['size']:,} | {1000 * one['seconds']:.3f} | {one['peak']:,.0f} |"
                for axis, points in found["growth"].items()
                for one in points
            ]
            parts.append(f"## {name}\n\n| what grows | to | ms each | peak memory, MiB |\n|---|---|---|---|\n" + "\n".join(lines) + "\n")
        parts[-1] += (
            f"\n{about['processor']}, {about['threads']} threads, {about['device']}, torch {about['torch']}, {about['commit']}, {about['time']}\n"
        )
    return "\n".join(parts)


def ratios(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = [json.loads(path.read_text()).get("rows", []) for path in sorted(folder.glob("*.json"))]
    return {(row["work"], way["name"]): way for rows in found for row in rows for way in row["ways"] if "ratio_of_minima" in way}


def beside(one: Path, other: Path) -> str:
    """Markdown: the ratios of two runs."""
    first, second = ratios(one), ratios(other)
    lines = ["| work | against | aim | first run, best (median) | second run, best (median) |", "|---|---|---|---|---|"]
    for key, way in first.items():
        if key in second:
            shown = [f"{run['ratio_of_minima']:.2f} ({run['ratio_of_medians']:.2f})" for run in (way, second[key])]
            lines.append(f"| {key[0]} | {key[1]} | {way['aim'] or ''} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--beside"]:
        print(beside(Path(sys.argv[2]), Path(sys.argv[3])))
        return
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in sys.argv[2:] or NAMES:
        start = time.monotonic()
        picture = [str(folder / "growth.svg")] if name == "growth" else []
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), str(folder / f"{name}.json"), *picture], check=False)
        print(f"{name}: {time.monotonic() - start:.0f} s\n", flush=True)
        failed += [name] if done.returncode else []
    (folder / "bench.md").write_text(markdown(folder))
    print(f"Written: {folder / 'bench.md'}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
