"""PECOS's side of benchmarks/xtransformer.py, run by the python of an environment that has PECOS and torch.

    python xtransformer_pecos.py train INPUTS        trains with INPUTS/params.json, predicts the test texts
    python xtransformer_pecos.py text-only INPUTS    after it: a ranker on the embeddings of its encoder, no features

INPUTS holds X.{trn,tst}.npz, texts.{trn,tst}.json, Y.trn.npz. Predictions go to INPUTS/P.PHASE.npz, a fine-tuned model
to INPUTS/model. A run that is stopped starts from nothing.
"""

import json
import random
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from measure import latencies, nr_threads, peak_memory, run_phase

NR_SINGLES = 50


def train(inputs: str) -> dict:
    """Seconds of training, by stage, and of prediction; bytes of memory of training."""
    folder = Path(inputs)
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    return fit_and_predict(folder, "train", params, with_features=True)


def text_only(inputs: str) -> dict:
    """As train, of the ranker alone."""
    folder = Path(inputs)
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    encoder = {"init_model_dir": str(folder / "model" / "text_encoder")}
    matcher = params["train_params"]["matcher_params_chain"][0] | encoder
    params["train_params"] |= {"do_fine_tune": False, "matcher_params_chain": [matcher]}
    return fit_and_predict(folder, "text-only", params, with_features=False)


def fit_and_predict(folder: Path, phase: str, params: dict, *, with_features: bool) -> dict:
    """What a phase measures."""
    import torch
    from pecos.xmc.xlinear.model import XLinearModel
    from pecos.xmc.xtransformer import matcher as matcher_module
    from pecos.xmc.xtransformer.model import XTransformer
    from pecos.xmc.xtransformer.module import MLProblemWithText

    torch.set_num_threads(nr_threads())
    random.seed(params["seed"])
    np.random.seed(params["seed"])
    torch.manual_seed(params["seed"])

    texts = {name: json.loads((folder / f"texts.{name}.json").read_text(encoding="utf-8")) for name in ("trn", "tst")}
    X = {name: sp.csr_matrix(sp.load_npz(folder / f"X.{name}.npz")) if with_features else None for name in texts}
    Y = sp.csr_matrix(sp.load_npz(folder / "Y.trn.npz"))
    seconds: dict[str, float] = {}
    for owner, method, stage in (
        (matcher_module.TransformerMatcher, "fine_tune_encoder", "fine-tune"),
        (matcher_module.TransformerMatcher, "predict", "score and embed"),
        (XLinearModel, "train", "ranker"),
    ):
        watch(owner, method, stage, seconds)
    start = time.perf_counter()
    model = XTransformer.train(
        MLProblemWithText(texts["trn"], Y, X_feat=X["trn"]),
        train_params=XTransformer.TrainParams.from_dict(params["train_params"]),
        pred_params=XTransformer.PredParams.from_dict(params["pred_params"]),
    )
    seconds["training"] = time.perf_counter() - start
    stages, memory = dict(seconds), peak_memory()
    if params["train_params"]["do_fine_tune"]:  # others it cannot save, and has no need to
        model.save(str(folder / "model"))

    # An encoder that was not fine-tuned forgets these and would take 128 tokens of a text, whatever it was trained on.
    told = model.get_pred_params()
    told.matcher_params_chain = XTransformer.PredParams.from_dict(params["pred_params"]).matcher_params_chain
    how = {"pred_params": told, "batch_size": 32, "batch_gen_workers": 1, "use_gpu": False}

    def predict(rows: slice):
        features = None if X["tst"] is None else X["tst"][rows]
        return model.predict(texts["tst"][rows], X_feat=features, **how)

    start = time.perf_counter()
    P = predict(slice(None))
    stages["prediction"] = time.perf_counter() - start
    sp.save_npz(folder / f"P.{phase}.npz", P)
    singles = [slice(row, row + 1) for row in range(min(NR_SINGLES, len(texts["tst"])))]
    return {"seconds": stages, "memory": memory, **latencies(predict, singles)}


def watch(owner, method: str, stage: str, seconds: dict[str, float]) -> None:
    """Adds the wall time of calls of owner.method to seconds[stage]."""
    inner = owner.__dict__[method]
    inner = getattr(inner, "__func__", inner)

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = inner(*args, **kwargs)
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
        return result

    setattr(owner, method, classmethod(timed) if isinstance(owner.__dict__[method], classmethod) else timed)


if __name__ == "__main__":
    run_phase({"train": train, "text-only": text_only})
