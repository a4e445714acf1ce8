"""Damaged files for tests/test_fuzz.py: what is valid of each kind, how it is changed, and the worker that loads it.

    python tests/fuzz_files.py SAMPLES SCRATCH KIND FIRST LAST [KIND FIRST LAST …]

loads the files of the seeds FIRST to LAST - 1 of each kind, in a process that may take 2 GiB more than it has once the
undamaged file is loaded. A line of JSON tells how each ended; the file SCRATCH/now names the seed at work.
"""

import copy
import io
import json
import lzma
import math
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
ROOM = 2 * 2**30  # bytes that a load may take
MARKER = "executed"  # the folder that a pickle makes where it is run

# ---------------------------------------------------------------------------- valid files


def _npz(folder: Path) -> None:
    A = sp.random(9, 7, 0.3, format="csr", dtype=np.float32, random_state=0)
    sp.save_npz(folder / "A.npz", A)


def _coo(folder: Path) -> None:
    sp.save_npz(folder / "A.npz", sp.random(9, 7, 0.3, format="coo", random_state=0), compressed=False)


def _chain(folder: Path) -> None:
    from xrt_jax.tree.chain import complete_chain, save_chain

    leaf = sp.csc_matrix((np.ones(12), (np.arange(12), np.arange(12) // 3)))
    save_chain(folder / "tree", complete_chain(leaf, nr_splits=2, min_codes=None))


def _ranker():
    from xrt_jax.tree.chain import complete_chain
    from xrt_jax.xlinear.level import Level

    leaf = sp.csc_matrix((np.ones(12, np.float32), (np.arange(12), np.arange(12) // 3)))
    chain = complete_chain(leaf, nr_splits=2, min_codes=None)
    weights = [sp.random(6, C.shape[0], 0.6, "csc", np.float32, random_state=1) for C in chain]
    return [Level(W, C, 1.0, 4, "l3-hinge") for W, C in zip(weights, chain, strict=True)]


def _ranker_folder(folder: Path) -> None:
    from xrt_jax.xlinear.folder import save_ranker

    save_ranker(folder / "model", _ranker())


def _mapped(folder: Path) -> None:
    from xrt_jax.xlinear.mapped import save_mapped

    save_mapped(folder / "mapped", _ranker())


def _tfidf(folder: Path) -> None:
    from xrt_jax.data.tfidf import fit_tfidf, save_tfidf

    save_tfidf(folder / "tfidf", fit_tfidf(["red fox", "red cat and fox", "a cat"], min_df=1)[0])


def _tfidf_of_characters(folder: Path) -> None:
    from xrt_jax.data.tfidf import fit_tfidf, save_tfidf

    save_tfidf(folder / "tfidf", fit_tfidf(["red fox", "a red cat"], char_ngram_range=(3, 4), min_df=1)[0])


def _pecos_tfidf(folder: Path) -> None:
    shutil.copytree(GOLDEN / "pecos_tfidf" / "both", folder / "theirs")


def _saved_pecos_tfidf(folder: Path) -> None:
    from xrt_jax.data.pecos_tfidf import read_pecos_tfidf
    from xrt_jax.data.tfidf import save_tfidf, tfidf_of_pecos

    save_tfidf(folder / "tfidf", tfidf_of_pecos(*read_pecos_tfidf(GOLDEN / "pecos_tfidf" / "both")))


def _svmlight(folder: Path) -> None:
    lines = ["4 9 5", "0,2 0:1 3:.5e-1 8:-2", " 1:4 7:1e2", "4 2:1", "1,3,4"]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")


def _public(folder: Path) -> None:
    files = {
        "json/trn.json": '{"title": "a", "target_ind": [1, 0], "target_rel": [1, 0.5]}\n{"target_ind": []}\n',
        "json/lbl.json": '{"uid": "7", "title": "x"}\n{"uid": "8", "title": ""}\n',
        "matrices/trn_X_Y.txt": "2 3\n0:1 2:1\n\n",
        "matrices/trn_X_Xf.txt": "2 5\n1:.5\n0:1e-1 4:-2\n",
        "names/train_labels.txt": "a b\nc\n",
        "names/train_texts.txt": "one text\nand more\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def _dataset(folder: Path) -> None:
    from xrt_jax.data.folders import Dataset, Split, save_dataset

    X = sp.random(5, 6, 0.5, "csr", np.float32, random_state=2)
    Y = sp.csr_matrix(np.eye(5, 4, dtype=np.float32))
    dense = Split([f"text {i}" for i in range(5)], Y, X.toarray())
    save_dataset(folder / "sparse", Dataset(Split(None, Y, X), None, None, list("abcd")))
    save_dataset(folder / "dense", Dataset(dense, None, dense, list("abcd")))


def _table(name: str, rows: str):
    import gzip

    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)

    def build(folder: Path) -> None:
        (folder / name).write_bytes(pack(rows.encode()))

    return build


CSV = 'id,text,labels\n1,"a, ""b""",x;y\n2,"over\ntwo lines",\n3,näh,z\n'
JSONL = '{"text": "a", "labels": ["x", "y"]}\n{"text": "b\\n", "labels": "x;y"}\n{"text": 3, "labels": null}\n'


def _parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["a", "näh", "", None, "b"] * 4, "labels": [["x", "y"], [], None, ["z"], ["x"]] * 4})
    parquet.write_table(table, folder / "texts.parquet", row_group_size=8)


def _json_of(name: str, value):
    return lambda folder: (folder / name).write_text(json.dumps(value))


def _config(folder: Path) -> None:
    from xrt_jax.config import load_config, to_json

    _json_of("config.json", to_json(load_config(str(ROOT / "configs/default.py"))))(folder)


def _params(folder: Path) -> None:
    matcher = {"batch_size": 8, "learning_rate": 1e-4, "max_steps": 10, "init_model_dir": "bert", "save_steps": 5}
    indexer = {"nr_splits": 16, "max_leaf_size": 100, "seed": 1, "spherical": True}
    ranker = {"hlm_args": {"neg_mining_chain": ["tfn", "man"], "model_chain": {"Cp": 1.0, "max_iter": 5}}}
    beam = {"hlm_args": {"model_chain": {"only_topk": 20, "post_processor": "l3-hinge"}}}
    train = {"preliminary_indexer_params": indexer, "matcher_params_chain": [matcher, matcher], "ranker_params": ranker}
    pred = {"matcher_params_chain": {"only_topk": 10, "truncate_length": 64}, "ranker_params": beam}
    _json_of("transformer.json", {"train_params": train, "pred_params": pred})(folder)
    _json_of("linear.json", {"train_params": ranker, "pred_params": beam, "indexer_params": indexer})(folder)
    spread = {"train_params": ranker, "dist_params": {"min_n_sub_tree": 4, "main_workload_factor": 0.2}}
    _json_of("distributed.json", spread | {"cluster_params": {"indexer_params": indexer}})(folder)


def _calibration(folder: Path) -> None:
    from xrt_jax.calibration import Calibration, save_calibration

    for name, fields, points in (
        ("isotonic", ([0.1, 0.5, 0.9], [0.0, 0.4, 1.0], [], False), [[[-1.0, 0.5], [0.0, 1.0]], [[0.0], [0.5]]]),
        ("platt", ([], [], [1.5, -0.5], True), []),
    ):
        (folder / name).mkdir()
        save_calibration(folder / name, Calibration(name, *fields, [[1.0, 0.0], [2.0, 0.5]], 40, points))


def _model(folder: Path) -> None:
    from xrt_jax.data.tfidf import fit_tfidf
    from xrt_jax.model import save_model

    tfidf = fit_tfidf(["red fox", "red cat and fox", "a cat"], min_df=1)[0]
    settings = {"model": "xr_linear", "normalize": False}
    save_model(
        folder / "model", settings=settings, ranker=_ranker(), tfidf=tfidf, labels=list("abcdefghijkl"), card="A card\n"
    )
    _calibration(folder)
    shutil.move(folder / "isotonic" / "calibration.json", folder / "model")
    content = json.loads((folder / "model" / "calibration.json").read_text())
    (folder / "model" / "calibration.json").write_text(json.dumps(content | {"levels": [], "level_points": []}))
    for name in ("isotonic", "platt"):
        shutil.rmtree(folder / name)


def _golden(weights: str, name: str = "bert_tiny"):
    def build(folder: Path) -> None:
        (folder / "encoder").mkdir()
        for file in ("config.json", weights):
            shutil.copy(GOLDEN / name / file, folder / "encoder")

    return build


def _torch(folder: Path) -> None:
    shutil.copy(GOLDEN / "bert_tiny" / "pytorch_model.bin", folder)


def _tokenizer(folder: Path) -> None:
    from xrt_jax.data.vocabulary import learn_wordpiece

    (folder / "tokenizer").mkdir()
    learn_wordpiece(["red fox runs", "a cat sleeps near the red fox"] * 3, out_folder=folder / "tokenizer")


# ---------------------------------------------------------------------------- loaders


def _load_npz(folder: Path):
    from xrt_jax.npz import load_npz

    return load_npz(folder / "A.npz")


def _load_chain(folder: Path):
    from xrt_jax.tree.chain import load_chain

    return load_chain(folder / "tree")


def _load_ranker(folder: Path):
    from xrt_jax.xlinear.folder import load_ranker

    return load_ranker(folder / "model")


def _load_mapped(folder: Path):
    from xrt_jax.xlinear.mapped import load_mapped

    load_mapped(folder / "mapped")
    return load_mapped(folder / "mapped", verify=True)


def _load_tfidf(folder: Path):
    from xrt_jax.data.tfidf import load_tfidf, transform

    tfidf = load_tfidf(folder / "tfidf")
    transform(tfidf, ["red fox", "cat"])  # a result is one that can be used
    return tfidf


def _load_pecos_tfidf(folder: Path):
    from xrt_jax.data.pecos_tfidf import read_pecos_tfidf
    from xrt_jax.data.tfidf import tfidf_of_pecos, transform

    transform(tfidf_of_pecos(*read_pecos_tfidf(folder / "theirs")), ["red fox", "cat"])


def _load_svmlight(folder: Path):
    from xrt_jax.data.svmlight import parse_svmlight

    return parse_svmlight((folder / "train.txt").read_bytes(), folder / "train.txt")


def _load_dataset(folder: Path):
    from xrt_jax.data.folders import load_dataset

    return [load_dataset(folder / name) for name in ("sparse", "dense")]


def _load_public(folder: Path):
    from xrt_jax.data.folders import load_dataset

    return [load_dataset(folder / name) for name in ("json", "matrices", "names")]


def _load_table(folder: Path):
    from xrt_jax.data.tables import as_labels, cells, read_table, read_texts

    path = next(folder.iterdir(), folder / "texts.csv")
    read_texts(str(path), "text")
    return cells(read_table(str(path), ["labels"]), "labels", as_labels, ";")


def _load_config(folder: Path):
    from configs.json import get_config

    return get_config(str(folder / "config.json"))


def _load_params(folder: Path):
    from configs.pecos import get_config

    return [get_config(str(path)) for path in sorted(folder.iterdir())]


def _load_calibration(folder: Path):
    from xrt_jax.calibration import load_calibration, probabilities

    found = [load_calibration(folder / name, 2) for name in ("isotonic", "platt")]
    return [probabilities(calibration, np.array([0.2, 0.7])) for calibration in found if calibration]


def _load_model(folder: Path):
    from xrt_jax.model import load_model

    return load_model(folder / "model")


def _import_pecos(folder: Path):
    from xrt_jax.pecos.models import import_pecos

    return import_pecos(folder / "model", folder / "imported")


def _load_encoder(folder: Path):
    from xrt_jax.encoders.huggingface import load_encoder

    return load_encoder(folder / "encoder")


def _load_torch(folder: Path):
    from xrt_jax.encoders.torch_file import load_torch_file

    return load_torch_file(folder / "pytorch_model.bin")


def _load_tokenizer(folder: Path):
    from xrt_jax.encoders.huggingface import load_tokenizer

    return load_tokenizer(folder / "tokenizer")


# kind -> (writes the valid files to a folder, loads what is in it)
KINDS = {
    "npz": (_npz, _load_npz),
    "coo": (_coo, _load_npz),
    "chain": (_chain, _load_chain),
    "ranker": (_ranker_folder, _load_ranker),
    "mapped": (_mapped, _load_mapped),
    "tfidf": (_tfidf, _load_tfidf),
    "tfidf of characters": (_tfidf_of_characters, _load_tfidf),
    "pecos tfidf": (_pecos_tfidf, _load_pecos_tfidf),
    "saved pecos tfidf": (_saved_pecos_tfidf, _load_tfidf),
    "svmlight": (_svmlight, _load_svmlight),
    "dataset": (_dataset, _load_dataset),
    "public": (_public, _load_public),
    "csv": (_table("texts.csv", CSV), _load_table),
    "csv.gz": (_table("texts.csv.gz", CSV), _load_table),
    "tsv.xz": (_table("texts.tsv.xz", "text\tlabels\na b\tx;y\nc\t\n"), _load_table),
    "jsonl": (_table("texts.jsonl", JSONL), _load_table),
    "parquet": (_parquet, _load_table),
    "config": (_config, _load_config),
    "params": (_params, _load_params),
    "calibration": (_calibration, _load_calibration),
    "model": (_model, _load_model),
    "import": (_ranker_folder, _import_pecos),
    "torch": (_torch, _load_torch),
    "safetensors": (_golden("model.safetensors"), _load_encoder),
    "torch encoder": (_golden("pytorch_model.bin"), _load_encoder),
    "modernbert": (_golden("model.safetensors", "modernbert_tiny"), _load_encoder),
    "roberta": (_golden("model.safetensors", "roberta_tiny"), _load_encoder),
    "xlm-roberta": (_golden("model.safetensors", "xlm_roberta_tiny"), _load_encoder),
    "distilbert": (_golden("model.safetensors", "distilbert_tiny"), _load_encoder),
    "xlnet": (_golden("model.safetensors", "xlnet_tiny"), _load_encoder),
    "tokenizer": (_tokenizer, _load_tokenizer),
}


def build_samples(folder: Path) -> None:
    """Write the valid files of every kind, each to a folder of its name."""
    for kind, (build, _) in KINDS.items():
        (folder / kind).mkdir()
        build(folder / kind)


# ---------------------------------------------------------------------------- changes of bytes

NUMBERS = [0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1]
WORDS = [b"\0", b"\n", b"\r", b'"', b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b",", b":", b"9" * 5000, b"-1", b"1e999"]
WORDS += [b"nan", b"\t", b"\\ud800", b"[" * 3000, b"{}", b"null", b"\xe2\x80\xa8", b"'", b"\x1e", b"99999999999"]


def damage(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """The bytes with one to three changes; other: of another file."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        change = rng.randrange(8)
        if change == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif change == 1:
            data = data[:at]
        elif change == 2:
            data = data[:at] + rng.randbytes(rng.choice([1, 4, 100])) + data[at:]
        elif change == 3:
            data = data[:at] + data[min(end, at + rng.choice([1, 4, 100])) :]
        elif change == 4:
            data = data[:at] + other[rng.randrange(len(other) + 1) :]
        elif change == 5:
            number = rng.choice(NUMBERS)
            packed = struct.pack(rng.choice("<>") + "Q", number) if number >= 2**32 else struct.pack("<I", number)
            data = data[:at] + packed + data[at + len(packed) :]
        elif change == 6:
            data = data[:at] + rng.choice(WORDS) + data[at:]
        else:
            data = data[:end] + data[at:]
    return data


# ---------------------------------------------------------------------------- changes of JSON

DEEP, LONG = "of depth 100000", "of 5000 digits"  # what the json module cannot write: put in afterwards
VALUES = [None, True, False, 0, -1, 1, 2, 2.5, 2**31, 2**63, -(2**63), 10**30, 10**400, -1.5, 1e308, math.nan]
VALUES += [math.inf, -math.inf, "", "a", "two\nlines", "\ud800", "\0", [], {}, [[]], [None], {"a": {"b": []}}, DEEP]
VALUES += [LONG, [1e400, "x"], "../../../etc/passwd", list(range(50)), {"two\nlines": 1}]


def _places(value, found: list) -> list:
    """All (container, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        found.append((value, key))
        _places(part, found)
    return found


def damage_json(value, rng: random.Random) -> str:
    """The text of a JSON value with one or two changes."""
    for _ in range(rng.choice([1, 1, 2])):
        places = _places(value, [])
        change = rng.randrange(10)
        if change == 0 or not places:
            value = copy.deepcopy(rng.choice(VALUES))  # which the next change may write into
            continue
        container, key = rng.choice(places)
        if change == 1:
            del container[key]
        elif change == 2:
            container[key] = json.loads(json.dumps(rng.choice([part[name] for part, name in places])))
        elif change == 3 and isinstance(container, dict):
            container[rng.choice(["", "a\nb", "\ud800", "x" * 300, "__meta__", "auto_map"])] = rng.choice(VALUES)
        elif change == 4 and isinstance(container, list):
            container.append(rng.choice(VALUES))
        else:
            container[key] = rng.choice(VALUES)
        value = json.loads(json.dumps(value))
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace(f'"{DEEP}"', "[" * 10**5 + "]" * 10**5).replace(f'"{LONG}"', "7" * 5000)


# ---------------------------------------------------------------------------- changes of arrays and archives


class Bomb:
    """Its pickle makes a folder where it is loaded."""

    def __init__(self, marker: str):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def _deflated_zeros(mebibytes: int, wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # no header; each stands by itself
    return head + again * (mebibytes - 1) + packer.flush()


def gzip_bomb(mebibytes: int) -> bytes:
    """A .gz file of so many MiB of zeros, a thousandth of that."""
    return _deflated_zeros(mebibytes, 31)


def xz_bomb(mebibytes: int) -> bytes:
    """A .xz file of so many MiB of zeros."""
    return lzma.compress(bytes(2**24)) * (mebibytes // 16)


DTYPES = [
    "|O",
    "<f8",
    ">f4",
    "<c16",
    "<U9",
    "|S0",
    "|V0",
    "<M8[s]",
    "|b1",
    "<i8",
    "<u8",
    "<f2",
    "<i4",
    "|V4",
    "<U99999999",
]
SHAPES = [(2**40,), (2**31, 2**31), (2**63,), (-1,), (0,), (), (3,) * 40, (2**29,), (True,), (0, 2**62), (2**28, 4)]


def npy(array, rng: random.Random, marker: str) -> bytes:
    """A .npy file whose header or content is not that of the array."""
    out = io.BytesIO()
    change = rng.randrange(7)
    if change == 0:  # objects, which numpy pickles
        np.lib.format.write_array(out, np.array([Bomb(marker)], object), allow_pickle=True)
        return out.getvalue()
    if change == 1:
        return pickle.dumps(Bomb(marker))
    header = np.lib.format.header_data_from_array_1_0(array)
    if change in (2, 3):
        header["shape"] = rng.choice(SHAPES)
    if change in (3, 4):
        header["descr"] = rng.choice(DTYPES)
    if change == 5:  # other numbers of the same type
        array = np.array(array)
        if array.size and array.dtype.kind in "iuf":
            highest = np.finfo(array.dtype).max if array.dtype.kind == "f" else np.iinfo(array.dtype).max
            with np.errstate(all="ignore"):
                array.flat[rng.randrange(array.size)] = rng.choice([0, highest, highest // 2, 1])
    text = repr(header)
    if change == 6:
        text = rng.choice(
            ["{" * 5000, "(" * 300, text[:-2], "9" * 5000, "x" * 20000, text.replace("'shape'", "'size'")]
        )
    text = text.encode() + b"\n"
    version = rng.choice([1, 1, 1, 2, 3, 9])
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + array.tobytes()


def damage_npz(data: bytes, rng: random.Random, marker: str, other: bytes) -> bytes:
    """An archive of arrays with a member changed, doubled, dropped, renamed, or one that unpacks to gigabytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    change = rng.randrange(8)
    if change < 4:
        members[name] = npy(np.load(io.BytesIO(members[name])), rng, marker)
    elif change == 4:
        members[name] = damage(members[name], rng, other)
    elif change == 5:
        del members[name]
    elif change == 6:
        members[rng.choice([*members, "format.npy", "x.npy", "../x.npy", "data"])] = members.pop(name)
    pack = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    if change == 7:
        return _zip_bomb(members, name, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", pack) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        if rng.random() < 0.1:
            archive.writestr(name, members.get(name, b""))
    return out.getvalue()


def _zip_bomb(members: dict[str, bytes], name: str, rng: random.Random, npy_header: bool = True) -> bytes:
    """An archive in which the member `name` is 3 GiB of zeros behind a header of its own."""
    nr_bytes = 3 * 2**30
    header = io.BytesIO()
    if npy_header:
        fields = {"descr": rng.choice(["<f4", "<i4", "<i8"]), "fortran_order": False}
        shape = (nr_bytes // np.dtype(fields["descr"]).itemsize,)
        np.lib.format.write_array_header_1_0(header, fields | {"shape": shape})
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = packer.compress(header.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    content += _deflated_zeros(nr_bytes // 2**20, -15)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, content if member == name else data)
    bomb, sizes = bytearray(out.getvalue()), struct.pack("<II", len(content), nr_bytes + len(header.getvalue()))
    for mark, of_method, of_sizes, of_name in ((b"PK\3\4", 8, 18, 30), (b"PK\1\2", 10, 20, 46)):
        at = bomb.find(mark)
        while at >= 0:
            if bomb[at + of_name : at + of_name + len(name)] == name.encode():
                bomb[at + of_method : at + of_method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
                bomb[at + of_sizes : at + of_sizes + 8] = sizes
            at = bomb.find(mark, at + 4)
    return bytes(bomb)


def damage_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The file with its header changed, of which the length is right but for one time in four."""
    length = int.from_bytes(data[:8], "little")
    header = damage_json(json.loads(data[8 : 8 + length]), rng).encode()
    length = len(header) if rng.random() < 0.75 else rng.choice(NUMBERS)
    return struct.pack("<Q", length) + header + data[8 + int.from_bytes(data[:8], "little") :]


def damage_torch(data: bytes, rng: random.Random, marker: str, other: bytes) -> bytes:
    """A state dict of torch with its pickle or a storage changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    inside = next(name for name in members if name.endswith("/data.pkl"))
    storages = sorted(name for name in members if "/data/" in name)
    change = rng.randrange(7)
    if change < 3:
        members[inside] = damage(members[inside], rng, other)
    elif change == 3:
        members[inside] = pickle.dumps(rng.choice([Bomb(marker), {"x": Bomb(marker)}, [1], {"a": 1}, {"b": {}}]))
    elif change == 4:  # tiny pickles that ask for gigabytes: a far memo, a long text, an array of bytes
        members[inside] = rng.choice(
            [b"\x80\x02}r\xff\xff\xff\x0f.", b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0f."]
            + [b"\x80\x05\x96\0\0\0\0\x01\0\0\0.", b"\x80\x02X\xff\xff\xff\x7f.", b"\x80\x02)" + b"\x85" * 10**6 + b"."]
            + [b"\x80\x02}(" + b")" + b"\x85" * 10**6 + b"K\x01u."]
        )
    elif change == 5:
        return _zip_bomb(members, rng.choice([*storages, inside]), rng, npy_header=False)
    else:
        del members[rng.choice(sorted(members))]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


def odd_parquet(rng: random.Random, marker: str) -> bytes:
    """A sound Parquet file with columns that are no texts or labels, or that unpack to gigabytes."""
    import datetime

    import pyarrow
    from pyarrow import parquet

    texts = pyarrow.array(["a", "näh", None])
    long, many = "x" * 2**20, pyarrow.array(np.zeros(2**12, np.int32))
    broken = pyarrow.array([b"a", b"\xff", b"\xed\xa0\x80"])
    arrays = [
        texts,
        pyarrow.array([["x", None], [], None]),
        pyarrow.array([[["x"]], [], None]),
        pyarrow.array([{"a": 1, "b": "x"}, None, {}]),
        pyarrow.array([[("a", 1)], None, []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        broken,
        broken.view(pyarrow.string()),
        pyarrow.array([True, False, None]),
        pyarrow.array([1, 2**62, None]),
        pyarrow.array([1.5, math.nan, math.inf], rng.choice([pyarrow.float16(), pyarrow.float64()])),
        pyarrow.array([datetime.datetime.max, None, datetime.datetime.min]),
        pyarrow.array([2**63 - 1, -(2**63), 0]).view(pyarrow.timestamp("us")),
        pyarrow.array([0, 1, None]).view(pyarrow.duration("s")),
        pyarrow.nulls(3),
        texts.dictionary_encode(),
        pyarrow.array([7, 7, None]).dictionary_encode(),
        pyarrow.array([["x"], ["x"], None], pyarrow.large_list(pyarrow.large_string())),
        pyarrow.array([["x", "y"], ["x", "z"], None], pyarrow.list_(pyarrow.string(), 2)),
    ]
    bombs = [  # made when chosen: some take a second
        lambda: pyarrow.DictionaryArray.from_arrays(many, [long]),
        lambda: pyarrow.DictionaryArray.from_arrays(many, pyarrow.array([long], pyarrow.large_string())),
        lambda: pyarrow.array([["xy"] * 2**13]).take(many),
        lambda: pyarrow.nulls(2**25, rng.choice([pyarrow.null(), pyarrow.string()])),
    ]
    columns = [rng.choice(arrays), rng.choice(arrays)] if rng.random() < 0.9 else [rng.choice(bombs)()] * 2
    names = rng.choice([["text", "labels"]] * 4 + [["text", "text"], ["labels", "text\n"], ["", "text"], ["a", "b"]])
    schema = pyarrow.schema(list(zip(names, (column.type for column in columns), strict=True)))
    if rng.random() < 0.2:  # a type of old versions of pyarrow, which unpickled it
        how = {"name": "arrow.py_extension_type", "metadata": pickle.dumps(Bomb(marker))}
        how = {f"ARROW:extension:{key}": value for key, value in how.items()}
        schema = schema.set(0, schema.field(0).with_metadata(how))
    out = io.BytesIO()
    pack = rng.choice(["none", "snappy", "gzip", "zstd"])
    parquet.write_table(pyarrow.table(columns, schema=schema), out, compression=pack, store_schema=rng.random() < 0.8)
    return out.getvalue()


def mutate(folder: Path, rng: random.Random, marker: str, samples: Path) -> Path:
    """Change one file of the folder; returns it."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data, suffix = path.read_bytes(), path.suffix
    other = rng.choice(sorted(path for path in samples.rglob("*") if path.is_file())).read_bytes()
    structured = rng.random() < 0.7
    is_lines = suffix == ".jsonl" or (suffix == ".json" and b"}\n{" in data)
    if structured and suffix == ".json" and not is_lines:
        path.write_text(damage_json(json.loads(data), rng), encoding="utf-8")
    elif structured and is_lines:
        lines = data.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = damage_json(json.loads(lines[at]), rng).replace("\n", " ")
        path.write_text("\n".join(lines), encoding="utf-8")
    elif structured and suffix == ".npz":
        path.write_bytes(damage_npz(data, rng, marker, other))
    elif structured and suffix == ".npy":
        path.write_bytes(npy(np.load(path), rng, marker))
    elif structured and suffix == ".safetensors":
        path.write_bytes(damage_safetensors(data, rng))
    elif suffix == ".parquet" and rng.random() < 0.4:
        path.write_bytes(odd_parquet(rng, marker))
    elif structured and suffix == ".bin":
        path.write_bytes(damage_torch(data, rng, marker, other))
    elif suffix in (".gz", ".xz") and rng.random() < 0.5:
        import gzip

        packer = gzip if suffix == ".gz" else lzma
        if rng.random() < 0.05:
            path.write_bytes(gzip_bomb(3072) if suffix == ".gz" else xz_bomb(3072))
        else:
            path.write_bytes(packer.compress(damage(packer.decompress(data), rng, other)))
    elif rng.random() < 0.02:
        path.unlink()
    else:
        path.write_bytes(damage(data, rng, other))
    return path


# ---------------------------------------------------------------------------- the worker


def _asked_for_too_much(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is of memory that was not there."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def attempt(kind: str, seed: int, samples: Path, scratch: Path) -> dict:
    """Load a changed copy of the files of a kind: how it ended, and what is wrong with that ("failure")."""
    rng, folder, marker = random.Random(f"{kind} {seed}"), scratch / "case", scratch / MARKER
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(samples / kind, folder)
    file = mutate(folder, rng, str(marker), samples).relative_to(folder)
    ended = {"kind": kind, "seed": seed, "file": str(file)}
    try:
        KINDS[kind][1](folder)
        ended["end"] = "result"
    except (ValueError, OSError) as error:
        message = str(error)
        ended |= {"end": "error", "message": message.replace(str(folder), "…")[:300]}
        if not message or len(message.splitlines()) != 1:
            ended["failure"] = f"{type(error).__name__} is not one line"
        elif str(folder) not in message:
            ended["failure"] = f"{type(error).__name__} names no file"
        if _asked_for_too_much(error):
            ended["failure"] = "more memory was asked for than there is"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        ended |= {"end": "error", "message": str(error)[:300], "failure": f"{type(error).__name__} was raised"}
        if os.environ.get("XRT_FUZZ_TRACE"):
            import traceback

            ended["trace"] = traceback.format_exc()[-1500:]
    if marker.exists():
        ended["failure"] = "the file's code was executed"
        marker.rmdir()
    return ended


def _virtual_size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def work(samples: Path, scratch: Path, jobs: list[tuple[str, int, int]]) -> None:
    """See the module."""
    warnings.simplefilter("ignore")
    for kind, first, last in jobs:
        shutil.rmtree(scratch / "case", ignore_errors=True)
        shutil.copytree(samples / kind, scratch / "case")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        KINDS[kind][1](scratch / "case")
        resource.setrlimit(resource.RLIMIT_AS, (_virtual_size() + ROOM, resource.RLIM_INFINITY))
        for seed in range(first, last):
            (scratch / "now").write_text(f"{kind} {seed}")
            print(json.dumps(attempt(kind, seed, samples, scratch)), flush=True)
    (scratch / "now").write_text("done")


if __name__ == "__main__":
    triples = zip(sys.argv[3::3], map(int, sys.argv[4::3]), map(int, sys.argv[5::3]), strict=True)
    work(Path(sys.argv[1]), Path(sys.argv[2]), list(triples))
