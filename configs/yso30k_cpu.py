"""YSO Finna, a cut of 30,000 / 8,000 titles, with MiniLM on one CPU core.

    python - <<'END'
    import numpy as np
    rng = np.random.default_rng(0)
    for split, n, size in (("trn", 137308, 30000), ("tst", 34327, 8000)):
        np.savetxt(f"yso30k.{split}.idx", np.sort(rng.choice(n, size, replace=False)), "%d")
    END
    python -m xrt_jax.main --config=configs/yso30k_cpu.py --workdir=runs/yso30k --config.data.dir=DIR \\
        --config.encoder.name=MINILM --config.seed=0

The first command writes the lists of rows, to be laid in DIR; MINILM is all-MiniLM-L6-v2's folder or hub name.
P@1/3/5, seed 0 and 1, not fine-tuned (--config.do_fine_tune=False): 39.52/27.43/21.12 and 39.02/27.27/21.20, less than
3 minutes of training; XR-Linear 34.50/23.78/18.11 and 34.67/23.91/18.16. Fine-tuned 39.55/28.08/21.61 and
39.59/28.17/21.83, 27 minutes with other work beside, and both joined (xrt-jax evaluate --workdir=… --workdir=…)
40.36/28.73/22.16 and 40.39/28.69/22.34. Each on one core of a shared x86-64 server; docs/results.md has more.
"""

from configs import yso_finna


def get_config():
    config = yso_finna.get_config()
    config.data.trn_rows, config.data.tst_rows = "yso30k.trn.idx", "yso30k.tst.idx"
    config.data.dev_size = 500
    config.encoder.nr_buckets = 4
    config.encoder.tokens_a_batch = 3072
    config.matcher.first_bootstrap = "weighted-linear"
    config.matcher.max_steps = (250, 250, 300)
    config.matcher.batch_size = (32,)
    config.matcher.warmup_steps = (20,)
    config.matcher.learning_rate = (1e-4,)
    config.matcher.head_learning_rate = (5e-4,)
    config.matcher.log_steps = 25
    config.matcher.eval_steps = 125
    return config
