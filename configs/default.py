"""The fields of a run as they are by default; xrt_jax/default_config.py explains each of them.

The other configurations start from this one and change a few fields.
"""

from xrt_jax.default_config import get_config, tree

__all__ = ["get_config", "tree"]
