"""xrt_jax's side of benchmarks/encoder.py, a process that answers its calls: python encoder_ours.py FOLDER."""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import answer_calls

from xrt_jax.encoders.flops import forward_cost, forward_flops, matmul_ceiling, training_flops
from xrt_jax.encoders.huggingface import load_encoder
from xrt_jax.matcher.mesh import make_mesh, replicate, split_batch
from xrt_jax.matcher.optimizer import encoder_optimizer, head_optimizer
from xrt_jax.matcher.step import ByCluster, TrainBatch, init_state, make_embed_step, make_train_step


class Worker:
    """The product's own steps on the inputs that the driver has written."""

    def __init__(self, folder: Path):
        self.folder, self.arrays = folder, np.load(folder / "arrays.npz")
        self.settings = settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.dtype = jnp.dtype(settings["dtype"])
        self.mesh = make_mesh(devices=jax.devices()[:1])
        options = {"hidden_dropout": settings["dropout"], "attention_dropout": settings["dropout"]}
        options |= {"dtype": self.dtype, "attention": settings["attention"]}
        self.module, encoder = load_encoder(settings["encoder"], **options)
        adam = {"adam_epsilon": settings["adam_epsilon"], "max_grad_norm": settings["max_grad_norm"]}
        schedule = optax.constant_schedule(settings["learning_rate"])
        txs = (
            encoder_optimizer(schedule, weight_decay=settings["weight_decay"], **adam),
            head_optimizer(schedule, lazy=False, **adam),
        )
        head = {name: self.arrays[name] for name in ("W", "b")}
        self.cost = forward_cost(self.module, encoder, len(head["b"]))
        self.state = init_state(*replicate(self.mesh, (encoder, head)), *txs)
        self.step = make_train_step(
            self.module,
            *txs,
            loss=settings["loss"],
            width=settings["width"],
            nr_clusters=settings["nr_clusters"],
            mesh=self.mesh,
            strategy="whole",
            by_row=False,
        )
        self.embed_step = make_embed_step(self.module)
        self.parent_l, self.key = replicate(self.mesh, (self.arrays["parent"], jax.random.key(0)))
        self.ids_bt, self.mask_bt = split_batch(self.mesh, (self.arrays["ids"], self.arrays["mask"]))

    def train_batch(self, ids_bt, mask_bt) -> TrainBatch:
        """On the device, so that no transfer is timed; the labels are the same for every batch."""
        shortlists = ByCluster(*(self.arrays[name] for name in ("clusters", "labels", "values")))
        return split_batch(self.mesh, TrainBatch(ids_bt, mask_bt, shortlists, np.ones(len(ids_bt), np.float32)))

    def about(self) -> dict:
        """The device, its ceiling and the operations of a step."""
        lengths = np.full(self.ids_bt.shape[0], self.ids_bt.shape[1])
        return {
            "device": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "ceiling": matmul_ceiling(self.dtype) / len(jax.devices()),
            "train": training_flops(self.cost, lengths),
            "encode": forward_flops(self.cost._replace(text=self.cost.text - 2 * self.arrays["W"].size), lengths),
        }

    def embeddings(self) -> dict:
        """Written to ours.npy."""
        params = self.state.encoder
        np.save(self.folder / "ours.npy", self.embed_step(params, self.ids_bt, self.mask_bt))
        return {}

    def encode(self, times: int) -> dict:
        """Seconds of a pass without gradient."""
        start = time.perf_counter()
        for _ in range(times):
            found = self.embed_step(self.state.encoder, self.ids_bt, self.mask_bt)
        found.block_until_ready()
        return {"seconds": (time.perf_counter() - start) / times}

    def train(self, times: int) -> dict:
        """Seconds of an update; loss and gradient norm of the last, before it."""
        return self.updates(self.train_batch(self.ids_bt, self.mask_bt), times)

    def epoch(self, batch: int) -> dict:
        """Seconds of an update on a batch of texts, padded to its bucket."""
        return self.updates(self.train_batch(self.arrays[f"ids_{batch}"], self.arrays[f"mask_{batch}"]), 1)

    def updates(self, batch: TrainBatch, times: int) -> dict:
        jax.block_until_ready(batch)
        start = time.perf_counter()
        for _ in range(times):
            self.state, told = self.step(self.state, batch, self.parent_l, self.key)
        jax.block_until_ready((self.state, told))
        seconds = (time.perf_counter() - start) / times
        return {"seconds": seconds, "loss": float(told.loss), "gradient_norm": float(told.gradient_norm)}


if __name__ == "__main__":
    worker = Worker(Path(sys.argv[1]))
    answer_calls({name: getattr(worker, name) for name in ("about", "embeddings", "encode", "train", "epoch")})
