"""Texts and labels from files as people have them: plain lines, JSONL, CSV, TSV (each .gz and .xz too), Parquet.

CSV and TSV start with a line of column names; in JSONL a line is an object and its keys are the columns. Plain lines
have one column, which goes by any name. A TSV is taken as it stands: no quotes, a field ends at the TAB.

Row n of a file is a document; nothing is dropped here, so that results can be put beside their texts.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from xrt_jax.data.text_files import decode_lines, read_bytes, without_packing
from xrt_jax.disk import first_line, most_unpacked

KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
FORMATS = ("lines", *dict.fromkeys(KINDS.values()))
MOST_TOLD = 3  # bad rows that an error names
ROWS_AT_ONCE = 16  # of a Parquet file, which holds equal texts once: so many long ones still fit into memory


class Table(NamedTuple):
    """Columns of a file, with what errors call it and its rows."""

    name: str
    places: list[str]  # "line 7", one a row
    columns: dict[str, list]  # cells as they are in the file: str; from JSONL and Parquet other values too


def kind_of(path: str) -> str:
    """The format that a file's name tells, "lines" where it tells none."""
    return KINDS.get(Path(without_packing(str(path))).suffix.lower(), "lines")


def read_table(path: str, names: list[str], *, kind: str | None = None) -> Table:
    """The named columns of a file; - is standard input.

    Args:
        path: the file.
        names: columns to read.
        kind: one of FORMATS; None: as the name of the file tells.

    FileNotFoundError or ValueError: one line that names the file, its bad rows or the columns that it has.
    """
    name = "standard input" if path == "-" else str(path)
    if path != "-" and not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    data = sys.stdin.buffer.read() if path == "-" else read_bytes(Path(path))
    return READERS[kind or kind_of(path)](name, data, names)


def read_texts(path: str, column: str, *, kind: str | None = None) -> list[str]:
    """The texts of a file, one a row, each on one line; ValueError if there are none."""
    table = read_table(path, [column], kind=kind)
    if not table.places:
        raise ValueError(f"{table.name} holds no texts")
    return cells(table, column, as_text)


# ---------------------------------------------------------------------------- formats


def _read_lines(name: str, data: bytes, names: list[str]) -> Table:
    lines = decode_lines(data, name)
    return Table(name, [f"line {row}" for row in range(1, len(lines) + 1)], {column: lines for column in names})


def _read_csv(name: str, data: bytes, names: list[str]) -> Table:
    csv.field_size_limit(2**31 - 1)  # documents are longer than what the module takes by itself
    rows = csv.reader(io.StringIO("\n".join(decode_lines(data, name)), newline=""), strict=True)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        before = 0  # a quoted field may go over several lines: a row is known by its first
        while True:
            try:
                fields = next(rows, None)
            except csv.Error as error:
                raise ValueError(f"{name}: line {rows.line_num}: {error}; mend the quotes of this row") from None
            if fields is None:
                return
            if fields:  # not a blank line
                yield before + 1, fields
            before = rows.line_num

    return _with_header(name, numbered(), names)


def _read_tsv(name: str, data: bytes, names: list[str]) -> Table:
    lines = enumerate(decode_lines(data, name), 1)
    return _with_header(name, ((number, line.split("\t")) for number, line in lines if line), names)


def _with_header(name: str, rows: Iterator[tuple[int, list[str]]], names: list[str]) -> Table:
    """A table of rows (line number, fields), of which the first names the columns."""
    header = next(rows, (0, []))[1]
    _check_columns(name, names, header)
    rows = list(rows)
    bad = [f"line {number} has {len(fields)} fields" for number, fields in rows if len(fields) != len(header)]
    _refuse(name, bad, f"the first line names {len(header)} columns")
    places = [f"line {number}" for number, _ in rows]
    return Table(name, places, {column: [fields[header.index(column)] for _, fields in rows] for column in names})


def _read_jsonl(name: str, data: bytes, names: list[str]) -> Table:
    numbered = [(number, line) for number, line in enumerate(decode_lines(data, name), 1) if line.strip()]
    rows, bad = [], []
    for number, line in numbered:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # also for numbers of thousands of digits
            row = None
        rows.append(row)
        if not isinstance(row, dict):
            bad.append(f"line {number} is no JSON object")
        elif not row.keys() >= set(names):
            bad.append(f"line {number} has no {', '.join(repr(key) for key in names if key not in row)}")
    keys = next((", ".join(repr(key)[1:-1] for key in row) for row in rows if isinstance(row, dict)), "")
    _refuse(name, bad, f"the first object has the keys {keys}" if keys else "a line must be an object")
    places = [f"line {number}" for number, _ in numbered]
    return Table(name, places, {column: [row[column] for row in rows] for column in names})


def _read_parquet(name: str, data: bytes, names: list[str]) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{name}: Parquet needs pyarrow, which is not installed: pip install pyarrow (the extra parquet of xrt_jax)"
        ) from None
    columns: dict[str, list] = {column: [] for column in names}
    nr_bytes, most = 0, most_unpacked(len(data))
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        _check_columns(name, names, file.schema_arrow.names)
        _check_types(name, names, file.schema_arrow)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
            nr_bytes += sum(map(_nr_bytes, batch.columns))
            if nr_bytes > most:
                raise ValueError(f"{name}: unpacks to more than {most} bytes; if that is right, write it as JSONL")
            for column in names:
                columns[column] += batch.column(column).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: cannot be read as Parquet ({first_line(error)})") from None
    return Table(name, [f"row {row}" for row in range(len(columns[names[0]]))], columns)


def _check_types(name: str, names: list[str], schema) -> None:
    """ValueError for columns of Parquet, schema of pyarrow's, that are there twice, or hold no texts or labels."""
    from pyarrow import types

    of_cells = (_is_text, types.is_string_view, types.is_integer, types.is_floating, types.is_null)
    of_lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    for column in names:
        if schema.names.count(column) > 1:
            raise ValueError(f"{name} has the column {column!r} twice: rename one of them")
        kind = of_column = schema.field(column).type
        for tests in (of_lists, (types.is_dictionary,)):
            kind = kind.value_type if any(is_one(kind) for is_one in tests) else kind
        if not any(is_one(kind) for is_one in of_cells):
            raise ValueError(
                f"{name}: the column {column!r} holds {of_column}: it needs texts, numbers or lists of them"
            )


def _is_text(kind) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind)


def _nr_bytes(array) -> int:
    """About what Python's values of an array of pyarrow's take; an entry of a dictionary counts wherever it occurs."""
    import pyarrow
    from pyarrow import compute, types

    nr_bytes = 16 * len(array)
    if isinstance(array, (pyarrow.ListArray, pyarrow.LargeListArray, pyarrow.FixedSizeListArray)):
        array = array.flatten()
        nr_bytes += 16 * len(array)
    if not (types.is_dictionary(array.type) and _is_text(array.type.value_type)):
        return nr_bytes + array.nbytes
    lengths = compute.binary_length(array.dictionary)
    return nr_bytes + (compute.sum(lengths.take(array.indices)).as_py() or 0)


READERS: dict[str, Callable[[str, bytes, list[str]], Table]] = {
    "lines": _read_lines,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}


# ---------------------------------------------------------------------------- cells


def as_text(cell) -> str:
    """A cell as a text on one line, empty for a missing one; ValueError where it is none."""
    if cell is None:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise ValueError(f"holds a {type(cell).__name__}, not a text")
    text = re.sub(r"[\r\n]+", " ", str(cell))
    if not text.isascii():
        text.encode()  # JSON can hold halves of characters, which no file of texts can; the error is a ValueError
    return text


def as_labels(cell, separator: str) -> list[str]:
    """The label names of a cell: of a list, or of a text in which the separator parts them; each once, in order."""
    parts = cell if isinstance(cell, list | tuple) else as_text(cell).split(separator)
    names = (as_text(part).strip() for part in parts)
    return list(dict.fromkeys(name for name in names if name))


def cells(table: Table, column: str, read: Callable, *args) -> list:
    """read(cell, *args) of each cell of a column; ValueError names the rows where it raises one."""
    values, bad = [], []
    for place, cell in zip(table.places, table.columns[column], strict=True):
        try:
            values.append(read(cell, *args))
        except ValueError as error:
            bad.append(f"{place} {error}")
    _refuse(table.name, bad, f"look at the column {column!r}")
    return values


def _check_columns(name: str, wanted: list[str], found: list[str]) -> None:
    for column in wanted:
        if column not in found:
            raise ValueError(f"{name} has no column {column!r}; its columns are {', '.join(map(repr, found))}")


def _refuse(name: str, bad: list[str], remedy: str) -> None:
    """ValueError that names the first bad rows, if there are any."""
    if bad:
        more = f"; and {len(bad) - MOST_TOLD:,} more such rows" if len(bad) > MOST_TOLD else ""
        raise ValueError(f"{name}: {'; '.join(bad[:MOST_TOLD])}{more}: {remedy}")
