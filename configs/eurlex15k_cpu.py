"""EURLEX57K, the cut of 15,449 / 3,865 laws, with MiniLM on a CPU of 2 cores: less than one epoch of fine-tuning.

    python -m xrt_jax.main --config=configs/eurlex15k_cpu.py --workdir=runs/eurlex15k --config.data.dir=DIR \\
        --config.encoder.name=MINILM --config.seed=0

DIR holds EURLEX57K with the lists of rows subset15k.{trn,tst}.idx, MINILM is all-MiniLM-L6-v2's folder or hub name.
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
