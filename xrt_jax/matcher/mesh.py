"""The device mesh: batches are split over its `data` axis, rows of the head over its `label` axis.

Its devices may be those of several processes. Each process then places its own devices' parts of the host arrays, of
which the rest need not be filled in (own_rows); what comes back is brought together on all.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(label_devices: int = 1, devices=None) -> Mesh:
    """Mesh ("data", "label") of all devices or those given; ValueError if label_devices does not divide them."""
    devices = jax.devices() if devices is None else devices
    if label_devices < 1 or len(devices) % label_devices:
        raise ValueError(f"mesh.label is {label_devices}: it must divide the number of devices, {len(devices)}")
    shape = (len(devices) // label_devices, label_devices)
    # Auto: the compiler places what the code does not; the default, Explicit, wants every sharding spelt out.
    return jax.make_mesh(shape, ("data", "label"), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Sharding by one mesh axis (or None) an array axis."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def replicate(mesh: Mesh, tree):
    """The tree's arrays whole on every device."""
    return _place(tree, sharding(mesh))


def split_batch(mesh: Mesh, tree):
    """The arrays of a batch, split along their first axis over `data`."""
    return _place(tree, sharding(mesh, "data"))


def own_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a batch, split over `data`, that are on this process's devices."""
    placement = sharding(mesh, "data")
    if placement.is_fully_addressable:
        return slice(0, batch_size)
    parts = [
        index[0].indices(batch_size) for index in placement.addressable_devices_indices_map((batch_size,)).values()
    ]
    return slice(min(start for start, *_ in parts), max(stop for _, stop, _ in parts))


def split_labels(mesh: Mesh, tree):
    """Arrays whose first axis is the level's labels, split over `label`."""
    return _place(tree, sharding(mesh, "label"))


def place_like(array: np.ndarray, like: jax.Array) -> jax.Array:
    """The host array on the devices that hold `like`, split as it; not bound to a device where `like` is not."""
    return _place(array, like.sharding) if like.committed else jax.device_put(array)


def _place(tree, placement: NamedSharding):
    if placement.is_fully_addressable:
        return jax.device_put(tree, placement)
    return jax.tree.map(lambda leaf: _place_part(leaf, placement), tree)


def _place_part(leaf, placement: NamedSharding) -> jax.Array:
    """This process's part of an array; device_put would first compare the whole array between all processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, placement)
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, placement, lambda index: array[index])


def gather(tree):
    """The arrays so that `fetch` need not wait for other processes: whole on each device, if parts are in others."""
    return jax.tree.map(lambda leaf: leaf if _is_here(leaf) else _whole(leaf), tree)


def fetch(tree):
    """Arrays of the devices or of the host as whole numpy arrays, perhaps views of the devices' memory.

    All processes must call it where parts are in others.
    """
    return jax.device_get(gather(tree))


def _is_here(leaf) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _whole(leaf: jax.Array) -> jax.Array:
    return jax.jit(_same, out_shardings=leaf.sharding.update(spec=PartitionSpec()))(leaf)


def _same(leaf):
    return leaf  # a function of the module, so that jax compiles it once for arrays of a kind


def check_batch_size(mesh: Mesh, batch_size: int, key: str) -> None:
    """ValueError if a global batch cannot be split evenly over the data axis."""
    if batch_size % mesh.shape["data"]:
        raise ValueError(f"{key} is {batch_size}: it must be a multiple of the data devices, {mesh.shape['data']}")
