"""PyTorch's side of benchmarks/encoder.py, run by the python of an environment that has torch and transformers.

    python encoder_torch.py FOLDER

A process that answers its calls; numpy, torch and transformers only.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from measure import answer_calls, nr_threads

REQUIREMENTS = "torch==2.13.0 transformers==4.49.0"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
try:
    import torch
    from transformers import AutoConfig, AutoModel
except ImportError as error:
    sys.exit(f"{sys.executable} cannot import the peer ({error}): install {REQUIREMENTS} there")

# where the types of encoders keep their dropout rates
RATES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"),
    *("mlp_dropout", "embedding_dropout"),
)
POOLINGS = {  # of a model's output, the mask not needed by either
    "pooler": lambda out: out.pooler_output,
    "cls": lambda out: out.last_hidden_state[:, 0],
}


class Worker:
    """Steps as PECOS's matcher takes them, but for faster optimisers and a whole level's logits in one product."""

    def __init__(self, folder: Path):
        self.folder, self.arrays = folder, np.load(folder / "arrays.npz")
        self.settings = settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        torch.set_num_threads(nr_threads())
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = True  # as XLA does
        self.dtype = getattr(torch, settings["dtype"])
        config = AutoConfig.from_pretrained(settings["encoder"])
        for name in RATES:
            if hasattr(config, name):
                setattr(config, name, settings["dropout"])
        load = {"config": config, "attn_implementation": "sdpa", "torch_dtype": torch.float32}
        self.model = AutoModel.from_pretrained(settings["encoder"], **load).to(self.device)
        self.pool = POOLINGS[settings["pooling"]]
        self.dropout = torch.nn.Dropout(settings["dropout"])
        self.W, self.b = (torch.nn.Parameter(self.put(self.arrays[name])) for name in ("W", "b"))
        adam = {"lr": settings["learning_rate"], "eps": settings["adam_epsilon"], "fused": True}
        shared = [p for p in self.model.parameters() if p.ndim == 1]  # biases and norms: no decay
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": shared, "weight_decay": 0}]
        self.optimizers = (torch.optim.AdamW(groups, **adam), torch.optim.Adam([self.W, self.b], **adam))
        self.ids_bt, self.mask_bt = self.texts(self.arrays["ids"], self.arrays["mask"])
        self.y_bl, self.listed_bl = (self.put(self.arrays[name]) for name in ("y", "listed"))

    def put(self, array: np.ndarray):
        return torch.from_numpy(array).to(self.device)

    def texts(self, ids_bt: np.ndarray, mask_bt: np.ndarray):
        """Padded to the full length on the device, as PECOS keeps every text."""
        more = ((0, 0), (0, self.settings["length"] - ids_bt.shape[1]))
        ids_bt = np.pad(ids_bt, more, constant_values=self.settings["pad_id"])
        return self.put(ids_bt.astype(np.int64)), self.put(np.pad(mask_bt, more).astype(np.int64))

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def about(self) -> dict:
        """The version and the ceiling of this side."""
        return {"version": torch.__version__, "ceiling": self.matmul_ceiling()}

    def matmul_ceiling(self) -> float:
        """As xrt_jax.encoders.flops.matmul_ceiling: operations a second of large products."""
        drawn = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(self.device, self.dtype)
        for times in (1, 2, 4, 8, 16):
            x_ss = drawn.repeat(times, times)
            x_ss @ x_ss
            seconds = []
            for _ in range(5):
                self.wait()
                start = time.perf_counter()
                for _ in range(2):
                    x_ss @ x_ss
                self.wait()
                seconds.append((time.perf_counter() - start) / 2)
            if np.median(seconds) > 0.01:
                break
        return float(2 * (512 * times) ** 3 / np.median(seconds))

    def embed(self):
        self.model.eval()
        with torch.inference_mode(), self.autocast():
            return self.pool(self.model(self.ids_bt, attention_mask=self.mask_bt)).float()

    def embeddings(self) -> dict:
        """Written to torch.npy."""
        np.save(self.folder / "torch.npy", self.embed().cpu().numpy())
        return {}

    def encode(self, times: int) -> dict:
        """Seconds of a pass without gradient."""
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            self.embed()
        self.wait()
        return {"seconds": (time.perf_counter() - start) / times}

    def train(self, times: int) -> dict:
        """Seconds of an update; loss and gradient norm of the last, before it."""
        return self.updates(self.ids_bt, self.mask_bt, times)

    def epoch(self, batch: int) -> dict:
        """Seconds of an update on a batch of texts, padded to the full length."""
        return self.updates(*self.texts(self.arrays[f"ids_{batch}"], self.arrays[f"mask_{batch}"]), 1)

    def updates(self, ids_bt, mask_bt, times: int) -> dict:
        self.model.train()
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            loss, norms = self.update(ids_bt, mask_bt)
        self.wait()
        seconds = (time.perf_counter() - start) / times
        return {"seconds": seconds, "loss": loss.item(), "gradient_norm": torch.stack(norms).norm().item()}

    def update(self, ids_bt, mask_bt):
        """Loss, and gradient norms of encoder and head, each clipped on its own."""
        with self.autocast():
            emb_bd = self.dropout(self.pool(self.model(ids_bt, attention_mask=mask_bt)))
            logits_bl = torch.nn.functional.linear(emb_bd, self.W, self.b)
        positive_bl = self.y_bl > 0
        margin_bl = torch.where(positive_bl, logits_bl, -logits_bl).float()
        loss_bl = torch.relu(1 - margin_bl) ** 2 * torch.where(positive_bl, self.y_bl, 1.0)
        loss = ((loss_bl * self.listed_bl).sum(1) / self.settings["width"]).mean()
        loss.backward()
        norms = [
            torch.nn.utils.clip_grad_norm_(parameters, self.settings["max_grad_norm"])
            for parameters in (self.model.parameters(), (self.W, self.b))
        ]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norms


if __name__ == "__main__":
    worker = Worker(Path(sys.argv[1]))
    answer_calls({name: getattr(worker, name) for name in ("about", "embeddings", "encode", "train", "epoch")})
