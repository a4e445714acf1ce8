"""Eight virtual CPU devices for the tests in this process; commands in subprocesses see one."""

import os

# Both must be set before jax is imported. With fewer threads than devices, collectives on virtual devices abort.
os.environ["PJRT_NPROC"] = "16"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from toy import toy_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder of the toy data set."""
    return toy_dataset(tmp_path_factory.mktemp("toy") / "data")
