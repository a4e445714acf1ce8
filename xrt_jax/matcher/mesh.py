"""The device mesh: batches are split over its `data` axis, rows of the head over its `label` axis."""

import jax
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
    return jax.device_put(tree, sharding(mesh))


def split_batch(mesh: Mesh, tree):
    """The arrays of a batch, split along their first axis over `data`."""
    return jax.device_put(tree, sharding(mesh, "data"))


def split_labels(mesh: Mesh, tree):
    """Arrays whose first axis is the level's labels, split over `label`."""
    return jax.device_put(tree, sharding(mesh, "label"))


def check_batch_size(mesh: Mesh, batch_size: int, key: str) -> None:
    """ValueError if a global batch cannot be split evenly over the data axis."""
    if batch_size % mesh.shape["data"]:
        raise ValueError(f"{key} is {batch_size}: it must be a multiple of the data devices, {mesh.shape['data']}")
