"""What a parameters file of PECOS asks for, XR-Transformer, XR-Linear or distributed XR-Linear.

    python -m xrt_jax.main --config=configs/pecos.py:params.json --config.data.dir=DIR --workdir=runs/pecos

Keys that are unknown or have no effect here are told in warnings; --print_config shows the result. PECOS's batch_size
is that of one GPU: ",gpus=8" behind the file's name says how many it would train on. Without a file: PECOS's defaults.
"""

from configs import default, xlinear
from xrt_jax.pecos.params import apply_params, kind_of, read_params, tell


def get_config(argument=""):
    path, _, gpus = argument.partition(",gpus=")
    if gpus and not (gpus.isdigit() and int(gpus)):
        raise ValueError(f"{argument}: gpus= takes a whole number from 1 on")
    params = read_params(path) if path else {}
    config = (default if kind_of(params) == "xr_transformer" else xlinear).get_config()
    found = apply_params(config, params, nr_gpus=int(gpus) if gpus else None, source=path)
    if path:
        tell(found, path)
    return config
