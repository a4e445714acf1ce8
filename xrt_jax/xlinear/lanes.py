"""Vector kernels over lanes: the weights of LANES sibling labels lie side by side, one cache line a feature.

What costs time in a linear model over sparse rows is not the arithmetic but the visit to each feature's weight. With
siblings side by side one visit serves all of them. LLVM does not vectorize such loops by itself (the accumulators go
through memory), so the kernels spell the vectors out; every lane sums in the same order on every machine.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # float32: one 64-byte cache line
UNROLL = 4  # independent sums that hide the latency of an addition

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.IntType(LANES)
_FUSE = ("contract",)  # a multiplication and an addition may become one instruction


class Lanes(NamedTuple):
    """A vector of LANES floats, or after a comparison of LANES truth values, while code for it is generated."""

    builder: ir.IRBuilder
    value: object

    def _with(self, instruction: str, other, *args, **kwargs):
        return Lanes(self.builder, getattr(self.builder, instruction)(*args, self.value, other.value, **kwargs))

    def __add__(self, other):
        return self._with("fadd", other, flags=_FUSE)

    def __sub__(self, other):
        return self._with("fsub", other, flags=_FUSE)

    def __mul__(self, other):
        return self._with("fmul", other, flags=_FUSE)

    def __truediv__(self, other):
        return self._with("fdiv", other)

    def __lt__(self, other):
        return self._with("fcmp_ordered", other, "<")

    def __gt__(self, other):
        return self._with("fcmp_ordered", other, ">")

    def __le__(self, other):
        return self._with("fcmp_ordered", other, "<=")

    def __ge__(self, other):
        return self._with("fcmp_ordered", other, ">=")

    def __and__(self, other):
        return self._with("and_", other)

    def __or__(self, other):
        return self._with("or_", other)

    def __invert__(self):
        return Lanes(self.builder, self.builder.not_(self.value))

    def where(self, yes, no):
        """In each lane `yes` where this truth value holds, else `no`."""
        return Lanes(self.builder, self.builder.select(self.value, yes.value, no.value))

    def bits(self):
        """The truth values as an integer of LANES bits, bit b for lane b."""
        return self.builder.bitcast(self.value, _BITS)


def constant(builder, value: float) -> Lanes:
    """The value in every lane."""
    return Lanes(builder, ir.Constant(_VECTOR, [value] * LANES))


def spread(builder, scalar) -> Lanes:
    """The float32 scalar in every lane."""
    return Lanes(builder, _spread(builder, scalar))


def truths(builder, bits) -> Lanes:
    """Truth values from an integer of LANES bits."""
    return Lanes(builder, builder.bitcast(bits, ir.VectorType(ir.IntType(1), LANES)))


def load_lanes(builder, base, number: int) -> Lanes:
    """The number-th LANES floats from the address `base` on."""
    return Lanes(builder, _load(builder, _line(builder, base, _int(number))))


def store_lanes(lanes: Lanes, base, number: int) -> None:
    """Write to where load_lanes reads."""
    _store(lanes.builder, lanes.value, _line(lanes.builder, base, _int(number)))


def operands(context, builder, signature, args) -> list:
    """Numbers as they are, of numba arrays the address of their first element."""
    return [
        context.make_array(t)(context, builder, a).data if isinstance(t, types.Array) else a
        for t, a in zip(signature.args, args, strict=True)
    ]


def _int(value: int):
    return ir.Constant(_I64, value)


def _line(builder, base, row):
    """Address of a row of LANES floats."""
    return builder.bitcast(builder.gep(base, [builder.mul(row, _int(LANES))]), _VECTOR.as_pointer())


def _load(builder, address):
    return builder.load(address, align=4)


def _store(builder, value, address):
    builder.store(value, address, align=4)


def _spread(builder, scalar):
    """The scalar in every lane."""
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    nowhere = ir.Constant(_VECTOR, ir.Undefined)
    return builder.shuffle_vector(first, nowhere, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _multiply_add(builder, a, b, total):
    return builder.fadd(builder.fmul(a, b, flags=_FUSE), total, flags=_FUSE)


def _loop(builder, start, stop, step: int, body) -> None:
    """for k in range(start, stop, step): body(k)"""
    with cgutils.for_range_slice(builder, start, stop, _int(step), intp=_I64) as (k, _):
        body(k)


def _add_totals(builder, sums, out) -> None:
    """out += all sums."""
    totals = [builder.load(total) for total in sums]
    while len(totals) > 1:
        totals = [builder.fadd(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
    address = builder.bitcast(out, _VECTOR.as_pointer())
    _store(builder, builder.fadd(_load(builder, address), totals[0]), address)


def _emit_dot(builder, start, stop, row_of, values, W, out) -> None:
    """out += Σ_k values[k] · W[row_of(k)] for k from start to stop."""
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(UNROLL)]

    def add(k, total):
        value = _spread(builder, builder.load(builder.gep(values, [k])))
        line = _load(builder, _line(builder, W, row_of(k)))
        builder.store(_multiply_add(builder, value, line, builder.load(total)), total)

    length = builder.sub(stop, start)
    whole = builder.add(start, builder.sub(length, builder.srem(length, _int(UNROLL))))
    _loop(builder, start, whole, UNROLL, lambda k: [add(builder.add(k, _int(u)), sums[u]) for u in range(UNROLL)])
    _loop(builder, whole, stop, 1, lambda k: add(k, sums[0]))
    _add_totals(builder, sums, out)


def _emit_add(builder, start, stop, row_of, values, step, W) -> None:
    """W[row_of(k)] += values[k] · step for k from start to stop."""
    step = _load(builder, builder.bitcast(step, _VECTOR.as_pointer()))

    def add(k):
        value = _spread(builder, builder.load(builder.gep(values, [k])))
        address = _line(builder, W, row_of(k))
        _store(builder, _multiply_add(builder, value, step, _load(builder, address)), address)

    _loop(builder, start, stop, 1, add)


def _emit_add_dot(builder, length, first, values, step, next_values, W, out) -> None:
    """W[first + j] += values[j] · step and out += Σ_j next_values[j] · W[first + j]: each line is read once."""
    step = _load(builder, builder.bitcast(step, _VECTOR.as_pointer()))
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(UNROLL)]

    def visit(j, total):
        address = _line(builder, W, builder.add(first, j))
        value, following = (_spread(builder, builder.load(builder.gep(each, [j]))) for each in (values, next_values))
        line = _multiply_add(builder, value, step, _load(builder, address))
        _store(builder, line, address)
        builder.store(_multiply_add(builder, following, line, builder.load(total)), total)

    whole = builder.sub(length, builder.srem(length, _int(UNROLL)))
    _loop(builder, _int(0), whole, UNROLL, lambda j: [visit(builder.add(j, _int(u)), sums[u]) for u in range(UNROLL)])
    _loop(builder, whole, length, 1, lambda j: visit(j, sums[0]))
    _add_totals(builder, sums, out)


def _listed(builder, indices):
    """k -> indices[k], uint32."""
    return lambda k: builder.zext(builder.load(builder.gep(indices, [k])), _I64)


def _following(builder, first):
    """k -> first + k"""
    return lambda k: builder.add(first, k)


@intrinsic
def dot_sparse(typingctx, start, stop, indices, values, W, out):
    """out float32 [LANES] += Σ values[k] · W[indices[k]], k from start to stop; indices uint32, W float32, C order."""

    def codegen(context, builder, signature, args):
        start, stop, indices, *arrays = operands(context, builder, signature, args)
        _emit_dot(builder, start, stop, _listed(builder, indices), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, indices, values, W, out), codegen


@intrinsic
def add_sparse(typingctx, start, stop, indices, values, step, W):
    """W[indices[k]] += values[k] · step float32 [LANES], k from start to stop."""

    def codegen(context, builder, signature, args):
        start, stop, indices, *arrays = operands(context, builder, signature, args)
        _emit_add(builder, start, stop, _listed(builder, indices), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, indices, values, step, W), codegen


def _emit_prefetch(builder, address) -> None:
    pointer = builder.bitcast(address, _I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    read, keep, data = (ir.Constant(_I32, number) for number in (0, 3, 1))
    builder.call(prefetch, [pointer, read, keep, data])


@intrinsic
def prefetch_lines(typingctx, start, stop, indices, W):
    """Ask the cache for W[indices[k]], k from start to stop."""

    def codegen(context, builder, signature, args):
        start, stop, indices, W = operands(context, builder, signature, args)
        row_of = _listed(builder, indices)
        _loop(builder, start, stop, 1, lambda k: _emit_prefetch(builder, _line(builder, W, row_of(k))))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, indices, W), codegen


@intrinsic
def prefetch(typingctx, start, stop, array):
    """Ask the cache for array[start:stop] of 4-byte items."""

    def codegen(context, builder, signature, args):
        start, stop, array = operands(context, builder, signature, args)
        _loop(builder, start, stop, LANES, lambda k: _emit_prefetch(builder, builder.gep(array, [k])))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, array), codegen


@intrinsic
def dot_dense(typingctx, length, first, values, W, out):
    """out float32 [LANES] += Σ values[j] · W[first + j], j below length; values float32, contiguous."""

    def codegen(context, builder, signature, args):
        length, first, *arrays = operands(context, builder, signature, args)
        _emit_dot(builder, _int(0), length, _following(builder, first), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values, W, out), codegen


@intrinsic
def add_dense(typingctx, length, first, values, step, W):
    """W[first + j] += values[j] · step float32 [LANES], j below length; values float32, contiguous."""

    def codegen(context, builder, signature, args):
        length, first, *arrays = operands(context, builder, signature, args)
        _emit_add(builder, _int(0), length, _following(builder, first), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values, step, W), codegen


@intrinsic
def add_dot_dense(typingctx, length, first, values, step, next_values, W, out):
    """add_dense of the values, then dot_dense of the next ones."""

    def codegen(context, builder, signature, args):
        _emit_add_dot(builder, *operands(context, builder, signature, args))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values, step, next_values, W, out), codegen


@intrinsic
def lanes_above(typingctx, line, factor, threshold):
    """Bit b for each lane in which |factor · line[b]| (float32) is at least `threshold` (float32) and not 0; int64."""

    def codegen(context, builder, signature, args):
        line, factor, threshold = operands(context, builder, signature, args)
        value, zero = load_lanes(builder, line, 0) * spread(builder, factor), constant(builder, 0.0)
        magnitude = (value < zero).where(zero - value, value)
        above = (magnitude >= spread(builder, threshold)) & (magnitude > zero)
        return builder.zext(above.bits(), _I64)

    return types.int64(line, types.float32, types.float32), codegen


@njit(nogil=True)
def aligned_lines(n):
    """Zeros float32 [n, LANES], each row on one cache line."""
    room = np.zeros(n * LANES + LANES, np.float32)
    first = (-(room.ctypes.data // 4)) % LANES
    return room[first : first + n * LANES].reshape(n, LANES)
