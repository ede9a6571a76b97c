"""Read a file of weights: nothing in it is run, damage is found, memory is taken only for what is in the file."""

import io
import json
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from cmp.file_kinds import HEAD_BYTES, existing_file, recognize

# What a file may unpack to beyond its own size, bytes: torch.save does not compress, so whole files stay below.
MAX_EXCESS = 64 << 20
MAX_REPEATS = 4  # times the file's size that its tensors may have together: some share their memory
MAX_EMPTY = 4096  # of a side of a tensor that is empty by another side
MAX_DEPTH = 64  # of lists and dicts in each other
MAX_VALUES = 200_000  # a checkpoint has some thousands
MAX_JSON = 16 << 20  # characters
COMPILED, WRAPPERS = "_orig_mod.", ("module.", "model.")  # by torch.compile; by parallel wrappers and trainers
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class WeightFile:
    """The content of one file of weights.

    Attributes:
        path: the file, for messages.
        content: plain dicts, lists, values and tensors on the CPU: a state dict {key: tensor}, or a checkpoint around
            one, such as {"state_dict": ..., "meta": ...}.
        metadata: the strings in the header of a safetensors file; {} for a torch file.
    """

    path: str
    content: dict
    metadata: dict[str, str]

    @property
    def meta(self) -> dict[str, Any]:
        """What the file states about its weights: a torch file's "meta", a safetensors file's metadata; else {}."""
        if self.metadata:
            return dict(self.metadata)
        meta = self.content.get("meta")
        return dict(meta) if isinstance(meta, Mapping) else {}

    def state_dict(self, *, ema: bool = False) -> dict[str, torch.Tensor]:
        """The weights, under keys without what wrappers put before them (see `without_wrappers`).

        Args:
            ema: the moving average of the weights, which a run with `WeightAverage` keeps next to them.

        Raises:
            ValueError: the file contains no state dict of tensors, or no moving average where one is asked for.
        """
        if ema and "ema_state_dict" not in self.content:
            raise ValueError(
                f"{self.path} does not contain a moving average of the weights: its run did not keep one (hook "
                "WeightAverage)"
            )
        state_dict = self.content["ema_state_dict"] if ema else self.content.get("state_dict", self.content)
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"{self.path} does not contain a state dict: got {type(state_dict).__name__}")
        others = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)][:3]
        if not state_dict or others:
            what = f"not tensors: {others}" if others else "it is empty"
            raise ValueError(f"{self.path} does not contain a state dict of tensors ({what})")
        unnamed = [key for key in state_dict if not isinstance(key, str)][:3]
        if unnamed:
            raise ValueError(f"{self.path} does not contain a state dict: its keys must be names, got {unnamed}")
        return without_wrappers(state_dict)


def read_weight_file(path: str | PathLike) -> WeightFile:
    """Read a file by torch.save (today's zip format or that of 2019) or by safetensors, onto the CPU.

    Only tensors and plain Python values are accepted, so a file from a stranger cannot run code. The checksums of the
    zip format are compared before anything is loaded (the other two formats have none). The file is read once.

    Args:
        path: `.safetensors` by its name; any other name is taken for a torch file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is a pipe, a socket or a device; the file is truncated, damaged or something else, contains other
            objects, would take more memory than its size explains, or is not a dict; the message says what it is where
            that can be told.
    """
    path = existing_file(path)
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        _check_kind(path, head)
        if path.suffix != ".safetensors":
            return WeightFile(str(path), _read_torch_file(path, file, head), {})
    return _read_safetensors(path)


def parse_json(text: str, *, source: str) -> object:
    """JSON from a file, however long, deep or wrong it is.

    Raises:
        ValueError: text is not valid JSON, or is longer or deeper than any that was written here; source is named.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"{source}: {len(text)} characters of JSON, at most {MAX_JSON} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # the former also for numbers of thousands of digits
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{source} is not valid JSON: {reason}") from None


def _check_kind(path: Path, head: bytes) -> None:
    """Say what a file is where its first bytes show that it is not what its name or its use says.

    Raises:
        ValueError: it is something that `cmp.file_kinds` recognizes, or has the other format's suffix.
    """
    size = path.stat().st_size
    is_safetensors = len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8
    if is_safetensors and path.suffix != ".safetensors":
        raise ValueError(f"{path} is a safetensors file by its content: rename it to {path.stem}.safetensors")
    if path.suffix == ".safetensors" and head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        raise ValueError(f"{path} is a torch file (or a pickle) by its content: rename it to {path.stem}.pth")
    kind = None if is_safetensors else recognize(head, size)
    if kind is not None:
        raise ValueError(f"{path} is {kind.name}, not weights: {kind.advice}")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            return WeightFile(str(path), tensors, dict(file.metadata() or {}))
    except BaseException as error:  # the library's own panics are not subclasses of Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _read_torch_file(path: Path, file: BinaryIO, head: bytes) -> dict:
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, file)
    else:
        _check_old_format(path, file)
    file.seek(0)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes surface as almost any exception in torch's readers
        # Not torch's own words where it sees other objects: they advise to run the file.
        found = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)|unsupported GLOBAL ([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path} cannot be read as a torch file of tensors and plain values: it contains a pickled object "
                f"({found[1] or found[2]}), and loading that could run code; save the model's state_dict() instead"
            ) from error
        said = re.search(r"Unsupported \w+ \d+", str(error))
        reason = _not_torch(head) if said else str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a torch file of tensors and plain values: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a dict, got {type(content).__name__}")
    return _Copy(path).plain(content)


def _not_torch(head: bytes) -> str:
    """What to say of a file that begins neither as a zip archive nor as a pickle that torch reads."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x03", b"\x04", b"\x05"):
        return "it is a pickle that torch.save did not write, and loading it could run code"
    return f"it begins with other bytes ({head[:8].hex(' ')}); it is damaged, or something else under this name"


def _check_old_format(path: Path, file: BinaryIO) -> None:
    """Check the pickles at the beginning of a file of torch's older format; anything else is left to torch to name.

    Raises:
        ValueError: the pickles are refused, or the file is a tar archive, torch's format of 2017. Versions of torch
            before 2.6 unpack such an archive, and run what is in it, whatever they are asked (CVE-2025-32434).
    """
    if _is_tar(file):
        raise ValueError(
            f"{path} is a tar archive, as torch wrote before version 0.1.10, and loading it could run code: save the "
            "model's state_dict() with a newer torch"
        )
    file.seek(0)
    try:
        for _ in range(5):  # magic number, version, system, content, names of the storages
            _check_pickle(path, file)
    except Exception as error:  # not a pickle: broken bytes surface as almost any exception in pickletools
        if type(error) is ValueError and str(error).startswith(str(path)):
            raise


def _is_tar(file: BinaryIO) -> bool:
    """Whether the function that torch uses would open the file as a tar archive."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", format=tarfile.PAX_FORMAT):
            return True
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        return False


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Compare the checksums of a zip by torch.save, after its directory has shown what it unpacks to.

    Raises:
        ValueError: it is of something else, unpacks to more than its size explains, or is damaged.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = {entry.filename.partition("/")[2] for entry in entries}
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > size + MAX_EXCESS:
                raise ValueError(
                    f"{path} unpacks to {unpacked} bytes from {size}: torch.save does not compress, at most "
                    f"{MAX_EXCESS >> 20} MiB beyond the file's size are unpacked"
                )
            if "constants.pkl" in names:
                raise ValueError(f"{path} is a TorchScript program, not weights: save its state_dict() instead")
            if entries and all(entry.filename.endswith(".npy") for entry in entries):
                raise ValueError(
                    f"{path} is a zip archive, but not one that torch.save wrote: it is an .npz file of NumPy arrays, "
                    "not weights"
                )
            if "data.pkl" not in names:
                raise ValueError(f"{path} is a zip archive, but not one that torch.save wrote (it has no data.pkl)")
            if len({entry.filename for entry in entries}) < len(entries):
                raise ValueError(f"{path} is damaged: its zip directory names an entry twice")
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{path} is damaged: the checksum of {damaged} is wrong; copy or download it again")
            for entry in entries:
                if entry.filename.endswith("/data.pkl"):
                    _check_pickle(path, io.BytesIO(archive.read(entry)))
    except Exception as error:  # a damaged directory surfaces as almost any exception in zipfile
        if type(error) is ValueError and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} is damaged: {str(error) or type(error).__name__}") from error


def _check_pickle(path: Path, pickled: BinaryIO) -> None:
    """Refuse a pickle that would keep torch busy or take memory before its values can be counted.

    A tuple that is the key of a dict is hashed while torch reads it, and a tuple of two references to one tuple of two
    references ... takes twice as long with each level. So the values of each tuple are counted here, as often as they
    are referred to. torch would also build a bytearray of any length that a file asks for.
    """
    stack: list[tuple[int, int] | None] = []  # values and levels of each object; None is a mark
    memo: dict[int, tuple[int, int]] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in ("GLOBAL", "SHORT_BINUNICODE", "BINUNICODE") and str(argument).endswith("bytearray"):
            raise ValueError(
                f"{path} cannot be read as a torch file of tensors and plain values: it asks for a bytearray"
            )
        if name == "MARK":
            stack.append(None)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        else:
            parts = _pop(stack, [kind.name for kind in opcode.stack_before])
            if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
                parts = []  # lists, dicts and sets are not hashed
            values = 1 + sum(part[0] for part in parts)
            levels = 1 + max((part[1] for part in parts), default=0)
            if values > MAX_VALUES or levels > MAX_DEPTH:
                raise ValueError(
                    f"{path} is nested too deep or has too many values: at most {MAX_DEPTH} levels and {MAX_VALUES} "
                    "values are read"
                )
            stack.extend((values, levels) for _ in opcode.stack_after)


def _top(stack: list[tuple[int, int] | None]) -> tuple[int, int]:
    if stack[-1] is None:
        raise ValueError("a mark is stored")
    return stack[-1]


def _pop(stack: list[tuple[int, int] | None], operands: list[str]) -> list[tuple[int, int]]:
    """Take the operands of an opcode, named as in pickletools, from the stack."""
    parts = []
    if "mark" in operands:
        while (part := stack.pop()) is not None:
            parts.append(part)
        operands = operands[: operands.index("mark")]
    for _ in operands:
        part = stack.pop()
        if part is None:
            raise ValueError("a mark is used as a value")
        parts.append(part)
    return parts


class _Copy:
    """Copies what torch read into plain dicts, lists and tuples; tensors stay the same.

    A pickle can add attributes to an OrderedDict, put functions among values, refer to one list a billion times, and
    make a tensor of any size from a few bytes. The copy has none of these.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.values, self.tensor_bytes = path, 0, 0
        self.max_tensor_bytes = MAX_REPEATS * path.stat().st_size + MAX_EXCESS

    def plain(self, value: object, depth: int = 0):
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise ValueError(
                f"{self.path} is nested too deep or has too many values: at most {MAX_DEPTH} levels and {MAX_VALUES} "
                "values are read"
            )
        if isinstance(value, torch.Tensor):
            return self._ordinary(value)
        if isinstance(value, dict):
            return {self._key(key): self.plain(item, depth + 1) for key, item in dict.items(value)}
        for kind in (list, tuple, set):
            if isinstance(value, kind):
                items: Iterator = kind.__iter__(value)  # type: ignore[arg-type]  # a subclass's own is not called
                return kind(self.plain(item, depth + 1) for item in items)
        if not isinstance(value, PLAIN):
            raise ValueError(
                f"{self.path} cannot be read as a torch file of tensors and plain values: it contains a "
                f"{type(value).__name__}"
            )
        return value

    def _key(self, key: object) -> object:
        if not isinstance(key, (str, int, float, tuple, type(None))):
            raise ValueError(f"{self.path} has a {type(key).__name__} as the key of a dict")
        return key

    def _ordinary(self, tensor: torch.Tensor) -> torch.Tensor:
        """A dense tensor on the CPU that is not larger than its memory in the file."""
        ordinary = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not ordinary or tensor.is_complex() or tensor.is_nested:
            raise ValueError(
                f"{self.path} contains a tensor that weights never are (sparse, quantized, complex or meta)"
            )
        num_bytes = tensor.numel() * tensor.element_size()
        if num_bytes == 0:
            num_bytes = max(tensor.shape) if max(tensor.shape) > MAX_EMPTY else 0  # a caller may trust a length
        self.tensor_bytes += num_bytes
        if num_bytes > tensor.untyped_storage().nbytes() or self.tensor_bytes > self.max_tensor_bytes:
            raise ValueError(f"{self.path} contains tensors that are larger than the file ({tuple(tensor.shape)})")
        return tensor.detach()


def without_wrappers(
    state_dict: Mapping[str, torch.Tensor], *, expected: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Remove what wrappers put into keys: torch.compile's "_orig_mod.", and "module." or "model." if all begin so.

    Args:
        state_dict: any weights.
        expected: the network's own keys, where they are known; if one of them is in state_dict, its keys are not
            wrapped and stay: a network can have a part that is called "model".
    """
    if not state_dict.keys().isdisjoint(expected):
        return dict(state_dict)
    shorter = {key.replace(COMPILED, ""): value for key, value in state_dict.items()}
    if len(shorter) < len(state_dict):  # keys with and without it: two sets of weights
        shorter = dict(state_dict)
    while prefix := next((p for p in WRAPPERS if shorter and all(key.startswith(p) for key in shorter)), None):
        shorter = {key.removeprefix(prefix): value for key, value in shorter.items()}
    return shorter


def without_wrapper(key: str) -> str:
    """One key without what wrappers put into it, for networks whose own keys never begin so; see `without_wrappers`."""
    key = key.replace(COMPILED, "")
    while prefix := next((p for p in WRAPPERS if key.startswith(p)), None):
        key = key.removeprefix(prefix)
    return key
