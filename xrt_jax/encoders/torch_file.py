"""Tensors of a pytorch_model.bin, read without torch and without running anything that the file holds."""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np

from xrt_jax.disk import check_archive, first_line

_MOST_TUPLES = 20_000  # about four a tensor; as deep as so many can nest, Python's hash of them still ends
_STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def load_torch_file(path: Path | str) -> dict[str, np.ndarray]:
    """Name -> array of a state dict that torch.save wrote (zip format, torch 1.6 and later).

    The pickle inside may name ordered dicts, tensors and storages; anything else is refused with a ValueError, as are
    older formats, damaged files and tensors that point outside their storage.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, Path(path).stat().st_size)
            state = _read_state(archive)
    except zipfile.BadZipFile:
        raise ValueError(
            f"{path} is not a zip file of torch 1.6 or later: save it again with a newer torch, or as model.safetensors"
        ) from None
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, pickle and numpy raise all kinds on a damaged file
        raise ValueError(f"{path} is not a plain state dict: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, np.ndarray) for value in state.values()):
        raise ValueError(f"{path} is not a plain state dict: it must map names to tensors")
    return dict(state)


def _read_state(archive: zipfile.ZipFile):
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError("no single data.pkl inside")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise pickle.UnpicklingError("its numbers are not little-endian")
    data = archive.read(pickles[0])
    _check_pickle(data)
    return _StateUnpickler(io.BytesIO(data), archive, root).load()


def _check_pickle(data: bytes) -> None:
    """UnpicklingError or ValueError for what would take memory or stack out of proportion to its bytes."""
    nr_tuples = 0
    for opcode, argument, _ in pickletools.genops(data):  # which fails where a text or number is cut short
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(data):
            raise pickle.UnpicklingError("it numbers its parts beyond its end")
        nr_tuples += opcode.name.startswith("TUPLE")
    if nr_tuples > _MOST_TUPLES:
        raise pickle.UnpicklingError(f"it holds {nr_tuples} tuples, more than {_MOST_TUPLES}")


class _StateUnpickler(pickle.Unpickler):
    """An unpickler that can build nothing but ordered dicts and arrays."""

    def __init__(self, stream, archive: zipfile.ZipFile, root: str):
        super().__init__(stream)
        self._archive, self._root, self._storages = archive, root, {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _strided_array
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")

    def persistent_load(self, pid):
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it holds something else than tensor storages")
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._archive.read(f"{self._root}data/{key}"), dtype)
        return self._storages[key]


def _strided_array(storage, offset, size, stride, *_):
    """A view of a storage; the bounds are checked as NumPy's as_strided does not check them."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride) < 0 or (0 not in size and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
