"""EURLEX57K, the cut of 15,449 / 3,865 laws, with MiniLM on one CPU core: one epoch of fine-tuning.

    python -m xrt_jax.main --config=configs/eurlex15k_cpu.py --workdir=runs/eurlex15k --config.data.dir=DIR \\
        --config.encoder.name=MINILM --config.seed=0

DIR holds EURLEX57K with the lists of rows subset15k.{trn,tst}.idx, MINILM is all-MiniLM-L6-v2's folder or hub name.
P@1/3/5, seed 0 and 1: 90.09/79.60/66.35 and 89.99/79.63/66.31; not fine-tuned: 89.60/79.73/66.28 and 89.88/79.71/66.36;
XR-Linear 89.81/79.12/66.07 and 89.81/79.16/66.14. 26 minutes on one core of a shared x86-64 server.
"""

from configs import eurlex57k


def get_config():
    config = eurlex57k.get_config()
    config.data.trn_rows, config.data.tst_rows = "subset15k.trn.idx", "subset15k.tst.idx"
    config.data.dev_size = 200
    config.encoder.truncate_length = 96
    config.encoder.nr_buckets = 2
    config.encoder.tokens_a_batch = 3072
    config.matcher.first_bootstrap = "weighted-linear"
    config.matcher.max_steps = (150, 350)
    config.matcher.warmup_steps = (20,)
    config.matcher.learning_rate = (1e-4,)
    config.matcher.head_learning_rate = (5e-4,)
    config.matcher.log_steps = 25
    config.matcher.eval_steps = 75
    return config
