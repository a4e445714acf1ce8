"""Eight virtual CPU devices for the tests in this process; commands in subprocesses see one."""

import os

# Both must be set before jax is imported. With fewer threads than devices, collectives on virtual devices abort.
os.environ["PJRT_NPROC"] = "16"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["HF_HUB_OFFLINE"] = "1"
