"""Vector kernels over lanes: the weights of LANES sibling labels lie side by side, one cache line a feature.

What costs time in a linear model over sparse rows is not the arithmetic but the visit to each feature's weight. With
siblings side by side one visit serves all of them. LLVM does not vectorize such loops by itself (the accumulators go
through memory), so the kernels spell the vectors out; every lane sums in the same order on every machine.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # float32: one 64-byte cache line
UNROLL = 4  # independent sums that hide the latency of an addition

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FUSE = ("contract",)  # a multiplication and an addition may become one instruction


def _operands(context, builder, signature, args) -> list:
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
    totals = [builder.load(total) for total in sums]
    while len(totals) > 1:
        totals = [builder.fadd(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
    address = builder.bitcast(out, _VECTOR.as_pointer())
    _store(builder, builder.fadd(_load(builder, address), totals[0]), address)


def _emit_add(builder, start, stop, row_of, values, step, W) -> None:
    """W[row_of(k)] += values[k] · step for k from start to stop."""
    step = _load(builder, builder.bitcast(step, _VECTOR.as_pointer()))

    def add(k):
        value = _spread(builder, builder.load(builder.gep(values, [k])))
        address = _line(builder, W, row_of(k))
        _store(builder, _multiply_add(builder, value, step, _load(builder, address)), address)

    _loop(builder, start, stop, 1, add)


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
        start, stop, indices, *arrays = _operands(context, builder, signature, args)
        _emit_dot(builder, start, stop, _listed(builder, indices), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, indices, values, W, out), codegen


@intrinsic
def add_sparse(typingctx, start, stop, indices, values, step, W):
    """W[indices[k]] += values[k] · step float32 [LANES], k from start to stop."""

    def codegen(context, builder, signature, args):
        start, stop, indices, *arrays = _operands(context, builder, signature, args)
        _emit_add(builder, start, stop, _listed(builder, indices), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, indices, values, step, W), codegen


@intrinsic
def dot_dense(typingctx, length, first, values, W, out):
    """out float32 [LANES] += Σ values[j] · W[first + j], j below length; values float32, contiguous."""

    def codegen(context, builder, signature, args):
        length, first, *arrays = _operands(context, builder, signature, args)
        _emit_dot(builder, _int(0), length, _following(builder, first), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values, W, out), codegen


@intrinsic
def add_dense(typingctx, length, first, values, step, W):
    """W[first + j] += values[j] · step float32 [LANES], j below length; values float32, contiguous."""

    def codegen(context, builder, signature, args):
        length, first, *arrays = _operands(context, builder, signature, args)
        _emit_add(builder, _int(0), length, _following(builder, first), *arrays)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values, step, W), codegen


@njit(nogil=True)
def aligned_lines(n):
    """Zeros float32 [n, LANES], each row on one cache line."""
    room = np.zeros(n * LANES + LANES, np.float32)
    first = (-(room.ctypes.data // 4)) % LANES
    return room[first : first + n * LANES].reshape(n, LANES)
