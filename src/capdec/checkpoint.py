"""Files that are either whole or not there, and training state that survives a kill.

A training state is one safetensors file: the model's tensors, AdamW's moments under the names of the parameters they belong to, and the step.
There are no random states in it: every job draws what step s needs from a generator seeded with (seed, s), so the step is all a resumed run needs.
"""

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from capdec.errors import DataError, MismatchError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path in the same folder, moved onto `path` when the block ends without an error; otherwise `path` stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    umask = os.umask(0)
    os.umask(umask)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 is for secrets
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the step that is at work. What is given says whether it came, for the loop to save its state and end; a second one does not
    wait. Elsewhere than in the main thread, and where others handle Ctrl-C, nothing is changed."""
    came = False

    def note(*_: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def write_json(path: Path | str, value: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path | str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def read_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises DataError naming the file where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there. A captioner or checkpoint folder holds it; is the path right?") from error
    except SafetensorError as error:
        raise DataError(f"{path} is not a readable safetensors file ({error}). Copy or download it again.") from error


def module_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's state, each shared tensor (an embedding that is also the output layer) once, under its first name."""
    first: dict[int, str] = {}
    return {name: tensor for name, tensor in module.state_dict().items() if not tensor.numel() or first.setdefault(tensor.data_ptr(), name) == name}


def load_module(module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: Path | str) -> None:
    """Puts `module_tensors` back, half precision too. Raises MismatchError naming what is missing, unknown or of another shape."""
    wanted = module_tensors(module)
    wrong = [f"{name} is missing" for name in wanted.keys() - tensors.keys()] + [f"{name} is unknown" for name in tensors.keys() - wanted.keys()]
    wrong += [
        f"{name} is {[*tensors[name].shape]} for {[*t.shape]}" for name, t in wanted.items() if name in tensors and tensors[name].shape != t.shape
    ]
    if wrong:
        raise MismatchError(f"the weights in {source} do not fit the model that its configuration describes: {'; '.join(sorted(wrong)[:5])}.")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])


class Record:
    """A training's metrics.jsonl: a line a step."""

    def __init__(self, path: Path):
        self.path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self.lines = [json.loads(line) for line in text.split("\n")[:-1]]  # a kill may leave half a line, without its end

    def forget_after(self, step: int) -> None:
        """What the run to be continued had written beyond its last checkpoint will be written again."""
        self.lines = [line for line in self.lines if line["step"] <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def save_state(path: Path | str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, identity: dict) -> None:
    """`identity` is what must be equal for a later run to continue this one."""
    tensors = {f"model.{name}": tensor for name, tensor in module_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    write_tensors(path, tensors, {"step": str(step), "identity": json.dumps(identity, sort_keys=True)})


def load_state(path: Path | str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, identity: dict) -> int:
    """Puts a saved state back and returns its step. Raises MismatchError where `identity` is not the one it was saved with, DataError where the file
    is no state."""
    tensors, metadata = read_tensors(path)
    if "identity" not in metadata:
        raise DataError(f"{path} holds weights but no training state to continue. Start in a new folder.")
    saved = json.loads(metadata["identity"])
    now = json.loads(json.dumps(identity))
    if saved != now:
        changed = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
        raise MismatchError(
            f"{path} was written by a run with other settings ({', '.join(changed)}). Continue with the old settings, or start in a new folder."
        )
    load_module(model, _below(tensors, "model."), path)
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    moments = {index: _below(tensors, f"optimizer.{name}.") for index, name in enumerate(ordered)}
    kept = {index: state for index, state in moments.items() if state}
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})  # puts each where its kernel wants it
    return int(metadata["step"])


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin so, without the beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
