"""One step of the dual coordinate descent for the hinge losses: one instance, LANES labels at once.

Hsieh et al., "A Dual Coordinate Descent Method for Large-scale Linear SVM" (2008), algorithm 3, with shrinking.
"""

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from xrt_jax.xlinear.lanes import LANES, Lanes, constant, load_lanes, operands, spread, store_lanes, truths
from xrt_jax.xlinear.masks import POSITIVE, VISITED

# The siblings' state, LANES floats each: margins, then steps; thresholds of shrinking; this pass's extreme projected
# gradients; 1 while a sibling takes part; 1 once it has left rows out.
MARGIN, HIGH, LOW, NEW_HIGH, NEW_LOW, LIVE, SHRUNK, SIBLINGS_STATE = range(8)
TINY_GRADIENT = 1e-12

MOVES, STAYS = 1, 2


@intrinsic
def hinge_step(typingctx, duals, masks, positive_cost, negative_cost, siblings, norm, own_square, squared):
    """Update a row's duals in every lane; the siblings' margins x·w + bias·b become the steps of y·dual.

    Args:
        duals: float32 [LANES]; masks: uint16 [NR_MASKS] (masks.py).
        positive_cost: float32 [LANES], negative_cost: float32; for the squared hinge 0.5 / cost.
        siblings: float32 [SIBLINGS_STATE, LANES].
        norm: float32, |x|² with the bias.
        own_square: float32, |x|² over the features of this row alone, whose weights are not stored: their part of the
            margin is added here.
        squared: boolean, whether the hinge is squared.

    Returns:
        int64, a sum of MOVES (some lane's dual changes) and STAYS (some lane will visit the row again).
    """

    def codegen(context, builder, signature, args):
        duals, masks, positive_cost, negative_cost, siblings, norm, own_square, squared = operands(
            context, builder, signature, args
        )
        masks = builder.bitcast(masks, ir.IntType(LANES).as_pointer())
        zero, one, inf = (constant(builder, value) for value in (0.0, 1.0, math.inf))
        positive, visited = (
            truths(builder, builder.load(builder.gep(masks, [ir.Constant(ir.IntType(64), number)])))
            for number in (POSITIVE, VISITED)
        )
        margin, high, low, new_high, new_low, live, shrunk = (
            load_lanes(builder, siblings, part) for part in (MARGIN, HIGH, LOW, NEW_HIGH, NEW_LOW, LIVE, SHRUNK)
        )
        dual = load_lanes(builder, duals, 0)
        sign = positive.where(one, zero - one)
        cost = positive.where(load_lanes(builder, positive_cost, 0), spread(builder, negative_cost))
        diagonal = Lanes(builder, builder.select(squared, cost.value, zero.value))
        upper = Lanes(builder, builder.select(squared, inf.value, cost.value))
        margin = margin + spread(builder, own_square) * (sign * dual)
        gradient = sign * margin - one + dual * diagonal
        at_zero, at_upper = dual <= zero, dual >= upper

        # at a bound, with a gradient beyond the last pass's extreme: left out from now on
        on = visited & (live > zero)
        beyond = (at_zero & (gradient > high)) | (at_upper & (gradient < low))
        leaves, takes_part = on & beyond, on & ~beyond

        projected = (at_zero & (gradient > zero)).where(zero, gradient)
        projected = (at_upper & (projected < zero)).where(zero, projected)
        seen_high = takes_part.where(projected, zero - inf)
        seen_low = takes_part.where(projected, inf)
        store_lanes((seen_high > new_high).where(seen_high, new_high), siblings, NEW_HIGH)
        store_lanes((seen_low < new_low).where(seen_low, new_low), siblings, NEW_LOW)
        store_lanes(leaves.where(one, shrunk), siblings, SHRUNK)
        still = visited & ~leaves
        builder.store(still.bits(), builder.gep(masks, [ir.Constant(ir.IntType(64), VISITED)]))

        target = dual - gradient / (spread(builder, norm) + diagonal)
        target = (target > zero).where(target, zero)
        target = (target < upper).where(target, upper)
        tiny = constant(builder, TINY_GRADIENT)
        moves = takes_part & ((projected > tiny) | (projected < zero - tiny))
        target = moves.where(target, dual)
        step = sign * (target - dual)
        store_lanes(target, duals, 0)
        store_lanes(step, siblings, MARGIN)

        integer = context.get_value_type(types.int64)
        none = ir.Constant(ir.IntType(LANES), 0)
        moved = builder.zext(builder.icmp_unsigned("!=", ((step > zero) | (step < zero)).bits(), none), integer)
        stays = builder.zext(builder.icmp_unsigned("!=", takes_part.bits(), none), integer)
        return builder.or_(moved, builder.shl(stays, integer(1)))

    signature = types.int64(
        duals, masks, positive_cost, types.float32, siblings, types.float32, types.float32, types.boolean
    )
    return signature, codegen
