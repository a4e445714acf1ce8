"""A configuration that --print_config printed, edited or not, or the config.json of a work directory.

    python -m xrt_jax.main --config=configs/demo.py --print_config > my.json
    python -m xrt_jax.main --config=configs/json.py:my.json --workdir=runs/my

Fields that the file leaves out are those of configs/default.py or, with method xr_linear, of configs/xlinear.py.
"""

from configs import default, xlinear
from xrt_jax.config import from_json, read_fields


def get_config(path=""):
    fields = read_fields(path) if path else {}
    base = xlinear if fields.get("method") == "xr_linear" else default
    return from_json(base.get_config(), fields, path)
