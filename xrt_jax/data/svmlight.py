"""The text format of the Extreme Classification Repository: many labels and svmlight's features on every line.

    4880 1836 159                documents, features, labels
    3,23,61 0:1 5:0.25 17:1e-3   the labels of a document, then feature:value pairs; all count from 0
     2:1 4:-2.5                  a document without labels starts with a blank

The repository's newer data sets hold features (trn_X_Xf.txt) and labels (trn_X_Y.txt) in two files, each a sparse
matrix:

    4880 1836                    rows, columns
    0:1 5:0.25 17:1e-3           column:value pairs of a row, counting from 0; a row without any is an empty line
"""

import numpy as np
import scipy.sparse as sp
from numba import njit

from xrt_jax.data.text_files import BYTE_ORDER_MARK
from xrt_jax.sparse import canonical

NEWLINE, RETURN, COMMA, COLON, PLUS, MINUS, POINT = b"\n\r,:+-."
# One more would not fit the 32-bit indices of compiled code beside the bias.
LARGEST = 2**31 - 2
POWERS = 10.0 ** np.arange(23)  # the powers of ten that float64 holds exactly

# What _fill can find wrong with a token, and how it is told.
BAD_LABELS, BAD_LABEL, BAD_PAIR, BAD_FEATURE, BAD_VALUE = range(1, 6)
COMPLAINTS = {
    BAD_LABELS: "is no list of label numbers with commas between; a document without labels starts with a blank",
    BAD_LABEL: "holds a label of {nr_labels} or more, the number of labels in line 1; labels count from 0",
    BAD_PAIR: "is no {feature}:value pair with a whole number before the colon",
    BAD_FEATURE: "is a {feature} of {nr_features} or more, the number of {feature}s in line 1; they count from 0",
    BAD_VALUE: "has no finite number (as float32) after the colon",
}


def parse_header(line: bytes, count: int = 3) -> tuple[int, ...] | None:
    """(documents, features, labels) of a file's first line, or None where it is not so many whole numbers."""
    words = line.removeprefix(BYTE_ORDER_MARK).split()
    if len(words) != count or not all(word.isdigit() for word in words):
        return None
    # Python reads no number of thousands of digits; one of 20 is above LARGEST already
    return tuple(int(word.lstrip(b"0")[:20] or b"0") for word in words)


# ---------------------------------------------------------------------------- tokens, compiled


@njit(cache=True, nogil=True)
def _is_blank(byte):
    return byte == 32 or byte == 9


@njit(cache=True, nogil=True)
def _skip_blanks(text, at, end):
    while at < end and _is_blank(text[at]):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _at_token_end(text, at, end):
    return at == end or _is_blank(text[at])


@njit(cache=True, nogil=True)
def _read_whole(text, at, end):
    """(number, position behind it) of the digits at `at`: -1 where there are none, LARGEST + 1 if above LARGEST."""
    number = -1
    while at < end and 48 <= text[at] <= 57:
        number = min(max(number, 0) * 10 + (np.int64(text[at]) - 48), LARGEST + 1)
        at += 1
    return number, at


@njit(cache=True, nogil=True)
def _read_mantissa(text, at, end):
    """(digits as a whole number, power of ten, digits seen, position behind them); 18 digits count."""
    mantissa, power, seen, fraction = 0, 0, 0, False
    while at < end:
        if 48 <= text[at] <= 57:
            if mantissa < 10**17:
                mantissa = mantissa * 10 + (np.int64(text[at]) - 48)
                power -= fraction
            else:
                power += not fraction
            seen += 1
        elif text[at] == POINT and not fraction:
            fraction = True
        else:
            break
        at += 1
    return mantissa, power, seen, at


@njit(cache=True, nogil=True)
def _scaled(mantissa, power):
    """mantissa · 10^power in float64, off by a few of its last bits at most."""
    value = np.float64(mantissa)
    power = min(max(power, -400), 400)
    while power > 0:
        step = min(power, 22)
        value *= POWERS[step]
        power -= step
    while power < 0:
        step = min(-power, 22)
        value /= POWERS[step]
        power += step
    return value


@njit(cache=True, nogil=True)
def _read_number(text, at, end):
    """(float64, position behind it) of the decimal number at `at`; NaN where there is none."""
    negative = at < end and text[at] == MINUS
    at += negative or (at < end and text[at] == PLUS)
    mantissa, power, seen, at = _read_mantissa(text, at, end)
    if seen == 0:
        return np.nan, at
    if at < end and (text[at] == 101 or text[at] == 69):  # e, E
        at += 1
        down = at < end and text[at] == MINUS
        at += down or (at < end and text[at] == PLUS)
        more, at = _read_whole(text, at, end)
        if more < 0:
            return np.nan, at
        power += -more if down else more
    value = _scaled(mantissa, power)
    return -value if negative else value, at


# ---------------------------------------------------------------------------- lines, compiled


@njit(cache=True, nogil=True)
def _line_end(text, at):
    while at < len(text) and text[at] != NEWLINE:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _fill_labels(text, at, end, nr_labels, indices, used):
    """Store a line's labels: (0 or what is wrong, position behind them, labels stored so far)."""
    if _at_token_end(text, at, end):
        return 0, at, used
    while True:
        label, at = _read_whole(text, at, end)
        if label >= nr_labels:
            return BAD_LABEL, at, used
        if label < 0 or not (_at_token_end(text, at, end) or text[at] == COMMA):
            return BAD_LABELS, at, used
        indices[used] = label
        used += 1
        if _at_token_end(text, at, end):
            return 0, at, used
        at += 1


@njit(cache=True, nogil=True)
def _fill_features(text, at, end, nr_features, indices, values, used):
    """Store a line's feature:value pairs: (0 or what is wrong, position behind them, pairs stored so far)."""
    at = _skip_blanks(text, at, end)
    while at < end:
        feature, at = _read_whole(text, at, end)
        if feature < 0 or at == end or text[at] != COLON:
            return BAD_PAIR, at, used
        if feature >= nr_features:
            return BAD_FEATURE, at, used
        number, at = _read_number(text, at + 1, end)
        value = np.float32(number)
        if not (np.isfinite(value) and _at_token_end(text, at, end)):
            return BAD_VALUE, at, used
        indices[used], values[used] = feature, value
        used += 1
        at = _skip_blanks(text, at, end)
    return 0, at, used


@njit(cache=True, nogil=True)
def _fill(text, at, nr_features, nr_labels, y_ptr, y_indices, x_ptr, x_indices, x_values):
    """Store as many lines as there are rows: (0 or what is wrong, row, position there or behind the last line)."""
    for row in range(len(y_ptr) - 1):
        line_end = _line_end(text, at)
        end = line_end - (line_end > at and text[line_end - 1] == RETURN)
        wrong, at, y_ptr[row + 1] = _fill_labels(text, at, end, nr_labels, y_indices, y_ptr[row])
        if wrong == 0:
            wrong, at, x_ptr[row + 1] = _fill_features(text, at, end, nr_features, x_indices, x_values, x_ptr[row])
        if wrong != 0:
            return wrong, row, at
        at = line_end + 1
    return 0, len(y_ptr) - 1, at


@njit(cache=True, nogil=True)
def _fill_rows(text, at, nr_columns, ptr, indices, values):
    """Store as many lines of pairs as there are rows; returns what _fill does."""
    for row in range(len(ptr) - 1):
        line_end = _line_end(text, at)
        end = line_end - (line_end > at and text[line_end - 1] == RETURN)
        wrong, at, ptr[row + 1] = _fill_features(text, at, end, nr_columns, indices, values, ptr[row])
        if wrong != 0:
            return wrong, row, at
        at = line_end + 1
    return 0, len(ptr) - 1, at


# ---------------------------------------------------------------------------- files


def _header(data: bytes, source, count: int, promised: str) -> tuple[int, ...]:
    end = data.find(b"\n")
    line = data if end < 0 else data[:end]
    header = parse_header(line, count)
    if header is None:
        shown = line[:60].decode("utf-8", "replace")
        raise ValueError(f"{source}: line 1 is {shown!r}, not the {promised}")
    if max(header) > LARGEST:
        raise ValueError(f"{source}: line 1 holds a number above {LARGEST}, more than the compiled code can count")
    return header


def _start_of_rows(data: bytes, source, nr_rows: int) -> int:
    """Where the second line starts; ValueError if fewer lines follow than line 1 promises."""
    first = data.find(b"\n") + 1 or len(data)
    nr_lines = data.count(b"\n", first) + (first < len(data) and not data.endswith(b"\n"))
    if nr_lines < nr_rows:
        raise ValueError(f"{source}: ends after line {nr_lines + 1}, but line 1 promises {nr_rows} documents")
    return first


def _check_end(data: bytes, source, nr_rows: int, at: int) -> None:
    if data[at:].strip():
        raise ValueError(f"{source}: goes on in line {nr_rows + 2}, but line 1 promises {nr_rows} documents")


def _token(data: bytes, at: int) -> str:
    """The word of which a byte, or the end, is at `at`."""
    # a wrong byte ends the parsing, so the word goes on behind it
    start = max(data.rfind(separator, 0, at) for separator in (b" ", b"\t", b"\n")) + 1
    word = data[start : start + 200].split(maxsplit=1)
    return word[0][:60].decode("utf-8", "replace") if word else ""


def parse_svmlight(data: bytes, source) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Features and labels of a file in the repository's text format.

    Numbers are computed in float64 from their first 18 digits: at most one last bit of float32 away from the nearest
    one. Features may stand in any order, repeated ones are summed; a repeated label is one label.

    Args:
        data: what the file holds, unpacked. Line ends may be Windows's; blank lines may follow the last document.
        source: name of the file for error messages.

    Returns:
        (X csr float32 [n, d], Y csr float32 [n, L] of ones), indices sorted.

    Raises:
        ValueError: one line that names the file, the line and the token.
    """
    promised = "three numbers of documents, features and labels"
    nr_rows, nr_features, nr_labels = _header(data, source, 3, promised)
    first = _start_of_rows(data, source, nr_rows)
    y_ptr, x_ptr = np.zeros(nr_rows + 1, np.int64), np.zeros(nr_rows + 1, np.int64)
    y_indices = np.empty(data.count(b",") + nr_rows, np.int32)
    nr_pairs = data.count(b":")
    x_indices, x_values = np.empty(nr_pairs, np.int32), np.empty(nr_pairs, np.float32)
    wrong, row, at = _fill(
        np.frombuffer(data, np.uint8), first, nr_features, nr_labels, y_ptr, y_indices, x_ptr, x_indices, x_values
    )
    if wrong:
        complaint = COMPLAINTS[wrong].format(feature="feature", nr_features=nr_features, nr_labels=nr_labels)
        raise ValueError(f"{source}: line {row + 2}: {_token(data, at)!r} {complaint}")
    _check_end(data, source, nr_rows, at)
    X = sp.csr_matrix((x_values[: x_ptr[-1]], x_indices[: x_ptr[-1]], x_ptr), shape=(nr_rows, nr_features))
    ones = np.ones(y_ptr[-1], np.float32)
    Y = canonical(sp.csr_matrix((ones, y_indices[: y_ptr[-1]], y_ptr), shape=(nr_rows, nr_labels)), "csr", source)
    Y.data[:] = 1
    return canonical(X, "csr", source), Y


def parse_matrix(data: bytes, source) -> sp.csr_matrix:
    """The sparse matrix of a file of column:value pairs, trn_X_Xf.txt or trn_X_Y.txt.

    Args:
        data: what the file holds, unpacked; line ends, blanks and numbers as for parse_svmlight.
        source: name of the file for error messages.

    Returns:
        csr float32 [rows, columns], indices sorted; repeated entries are summed.

    Raises:
        ValueError: one line that names the file, the line and the token.
    """
    nr_rows, nr_columns = _header(data, source, 2, "two numbers of rows and columns")
    first = _start_of_rows(data, source, nr_rows)
    ptr, nr_pairs = np.zeros(nr_rows + 1, np.int64), data.count(b":")
    indices, values = np.empty(nr_pairs, np.int32), np.empty(nr_pairs, np.float32)
    wrong, row, at = _fill_rows(np.frombuffer(data, np.uint8), first, nr_columns, ptr, indices, values)
    if wrong:
        complaint = COMPLAINTS[wrong].format(feature="column", nr_features=nr_columns)
        raise ValueError(f"{source}: line {row + 2}: {_token(data, at)!r} {complaint}")
    _check_end(data, source, nr_rows, at)
    return canonical(sp.csr_matrix((values, indices, ptr), shape=(nr_rows, nr_columns)), "csr", source)
