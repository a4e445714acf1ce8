"""The head strategies of a level, side by side: milliseconds of a training step whose encoder is next to nothing.

    python benchmarks/head.py [--batch 32 --hidden 384 --repeats 15]

For levels of several sizes and shortlists of several lengths, steps of the three strategies (xrt_jax/matcher/head.py)
run in turns on the same batches; medians, with the making of the batches' lists on the host in the time. The last
columns say which one the cost model takes, and how much slower that is than the fastest.
"""

import argparse
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from xrt_jax.matcher.finetune import by_cluster, by_label, place_batch, place_parents
from xrt_jax.matcher.head import STRATEGIES, cheapest_strategy, random_head
from xrt_jax.matcher.mesh import make_mesh, split_labels
from xrt_jax.matcher.optimizer import encoder_optimizer, head_optimizer, make_schedule
from xrt_jax.matcher.step import TrainBatch, init_state, make_train_step

# labels of the level, clusters above it, clusters in a shortlist
LEVELS = [
    (512, 64, 20),
    (4_096, 512, 20),
    (32_768, 2_048, 20),
    (131_072, 8_192, 5),
    (131_072, 8_192, 20),
    (131_072, 2_048, 100),
    (524_288, 32_768, 5),
    (524_288, 32_768, 50),
]
NR_BATCHES = 4


class Words(nn.Module):
    """Mean of word vectors: gradients reach it, time does not."""

    hidden_size: int
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, ids_bt, mask_bt, *, deterministic):
        del mask_bt, deterministic
        hidden_btd = nn.Embed(64, self.hidden_size)(ids_bt)
        return hidden_btd, hidden_btd.mean(axis=1)


def make_level(nr_labels: int, nr_clusters: int, nr_matched: int, batch_size: int):
    """(Y, M, C) of NR_BATCHES random batches; an instance has three labels, in clusters of its shortlist."""
    rng = np.random.default_rng(0)
    n = NR_BATCHES * batch_size
    parents = np.arange(nr_labels) % nr_clusters
    C = csc_matrix((np.ones(nr_labels, np.float32), (np.arange(nr_labels), parents)), (nr_labels, nr_clusters))
    clusters = np.array([rng.choice(nr_clusters, nr_matched, replace=False) for _ in range(n)])
    M = csr_matrix(
        (np.ones(clusters.size, np.float32), clusters.ravel(), nr_matched * np.arange(n + 1)), (n, nr_clusters)
    )
    labels = np.sort(clusters[:, :3] + nr_clusters * rng.integers(0, nr_labels // nr_clusters, (n, 3)))
    Y = csr_matrix((np.ones(labels.size, np.float32), labels.ravel(), 3 * np.arange(n + 1)), (n, nr_labels))
    return Y, M, C


def measure(level: tuple[int, int, int], *, batch_size: int, hidden: int, repeats: int) -> tuple[dict[str, float], str]:
    """(milliseconds of a step by strategy, the strategy that auto takes)."""
    nr_labels = level[0]
    Y, M, C = make_level(*level, batch_size)
    mesh, module = make_mesh(), Words(hidden)
    ids = np.random.default_rng(1).integers(0, 64, (batch_size, 8)).astype(np.int32)
    mask, weight = np.ones_like(ids, bool), np.ones(batch_size, np.float32)
    encoder = module.init(jax.random.key(0), ids, mask, deterministic=True)["params"]
    schedule = make_schedule("constant", 1e-4, warmup_steps=0, max_steps=1)
    settings = {"adam_epsilon": 1e-8, "max_grad_norm": 1.0}
    encoder_tx = encoder_optimizer(schedule, weight_decay=0.0, **settings)
    head_tx = head_optimizer(schedule, lazy=True, **settings)
    listed = by_label(Y, M, C, most=0, nr_rows=nr_labels, seed=0)
    lists = {"whole": by_cluster(Y, M), "union": listed, "gather": listed}
    parent_l, key = place_parents(mesh, C), jax.random.key(0)
    rows = np.arange(NR_BATCHES * batch_size).reshape(NR_BATCHES, batch_size)
    common = {"loss": "squared-hinge", "width": 1000, "nr_clusters": level[1], "mesh": mesh, "by_row": True}
    steps = {name: make_train_step(module, encoder_tx, head_tx, strategy=name, **common) for name in STRATEGIES}
    states = {
        name: init_state(
            jax.tree.map(jnp.copy, encoder),
            split_labels(mesh, random_head(nr_labels, hidden, seed=0)),
            encoder_tx,
            head_tx,
        )
        for name in STRATEGIES
    }
    seconds = {name: [] for name in STRATEGIES}
    for number in range(repeats + NR_BATCHES):
        for name in STRATEGIES:
            start = time.perf_counter()
            batch = TrainBatch(ids, mask, lists[name](rows[number % NR_BATCHES], number), weight)
            states[name], told = steps[name](states[name], place_batch(mesh, batch), parent_l, key)
            told.loss.block_until_ready()
            if number >= NR_BATCHES:  # the rounds before compile
                seconds[name].append(time.perf_counter() - start)
    chosen = cheapest_strategy(
        [listed(part, 0) for part in rows],
        nr_labels=nr_labels,
        hidden_size=hidden,
        batch_size=batch_size,
        thinned=False,
    )
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}, chosen


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    print(f"{jax.devices()}, batch {args.batch}, hidden size {args.hidden}, float32; ms a step")
    print("| labels | clusters matched | whole | union | gather | auto | over the fastest |\n" + 7 * "|---" + "|")
    for level in LEVELS:
        found, chosen = measure(level, batch_size=args.batch, hidden=args.hidden, repeats=args.repeats)
        times = " | ".join(f"{found[name]:.1f}" for name in STRATEGIES)
        over = found[chosen] / min(found.values()) - 1
        print(f"| {level[0]:,} | {level[2]} of {level[1]:,} | {times} | {chosen} | {over:.0%} |", flush=True)


if __name__ == "__main__":
    main()
