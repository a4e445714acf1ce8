"""PECOS's side of tests/peers, run by the python of an environment that has libpecos.

    python pecos_worker.py FOLDER

Reads calls from its standard input, a JSON line each ({"call": name of a function below, "arguments": …}), and writes a
JSON line with the result or the error for each; matrices go through files in FOLDER (exchange.py).
"""

import importlib.util
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import scipy.sparse as sp
from exchange import decode, encode
from pecos.utils.cluster_util import ClusterChain
from pecos.utils.smat_util import CsrEnsembler, Metrics
from pecos.xmc import HierarchicalMLModel, Indexer, LabelEmbeddingFactory, MLModel
from pecos.xmc.xlinear.model import XLinearModel

# ---------------------------------------------------------------------------- models


def train(folder, X, Y, chain=None, R=None, given=None, tree=None, solver=({},), mining="tfn", beam=({},)):
    """Train into the folder; `tree` are fields of XLinearModel.TrainParams, `solver` and `beam` dicts a level."""
    train_params = XLinearModel.TrainParams(**(tree or {}))
    train_params.hlm_args = HierarchicalMLModel.TrainParams(
        neg_mining_chain=mining, model_chain=_one_or_all([MLModel.TrainParams(**level) for level in solver])
    )
    pred_params = XLinearModel.PredParams()
    pred_params.hlm_args = HierarchicalMLModel.PredParams(
        model_chain=_one_or_all([MLModel.PredParams(**level) for level in beam])
    )
    arguments = {"train_params": train_params, "pred_params": pred_params, "user_supplied_negatives": given}
    chain = None if chain is None else ClusterChain([C.tocsc() for C in chain])
    XLinearModel.train(X, Y.tocsc(), C=chain, R=None if R is None else R.tocsc(), **arguments).save(folder)


def _one_or_all(levels):
    return levels[0] if len(levels) == 1 else levels


def predict(folder, X, layout=None, codes=None, selected=None, **settings):
    """Load the folder, in Python or, with the name of a layout, for prediction only; predict."""
    how = {} if layout is None else {"is_predict_only": True, "weight_matrix_type": layout}
    model = XLinearModel.load(folder, **how)
    if codes is not None:
        settings["csr_codes"] = codes
    return model.predict(X, selected_outputs_csr=selected, **settings)


# ---------------------------------------------------------------------------- parameters

COMMANDS = {"xr_transformer": "xmc.xtransformer", "xr_linear": "xmc.xlinear", "distributed": "distributed.xmc.xlinear"}


def skeleton(kind):
    """What PECOS's command prints as the file of all parameters; None where it cannot be imported."""
    command = [sys.executable, "-m", f"pecos.{COMMANDS[kind]}.train", "--generate-params-skeleton"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in told.stderr:
        return None
    return json.loads(told.stdout)


# ---------------------------------------------------------------------------- trees


def label_embedding(Y, X, method, **settings):
    return LabelEmbeddingFactory.create(Y, X, method=method, **settings)


def cluster(Z, **settings):
    return Indexer.gen(Z, **settings).chain


def complete(C, **settings):
    return ClusterChain.from_partial_chain(C, **settings).chain


def save_chain(folder, chain):
    ClusterChain(chain).save(folder)


def load_chain(folder):
    return ClusterChain.load(folder).chain


def matching_chain(chain, matches):
    return ClusterChain(chain).generate_matching_chain(matches)


def relevance_chain(chain, relevances, norm, induce):
    return ClusterChain(chain).generate_relevance_chain(relevances, norm_type=norm, induce=induce)


# ---------------------------------------------------------------------------- predictions


def combine(method, predictions):
    return getattr(CsrEnsembler, method)(*predictions)


def vectorize(folder, learned, texts, settings):
    """Learn a tfidf vectorizer, save it to the folder, and what the saved one makes of the texts."""
    from pecos.utils.featurization.text.vectorizers import Vectorizer  # imports scikit-learn

    Vectorizer.train(learned, {"type": "tfidf", "kwargs": settings}).save(folder)
    return Vectorizer.load(folder).predict(texts)


def metrics(Y, P, topk):
    found = Metrics.generate(Y, P, topk=topk)
    return {"prec": list(map(float, found.prec)), "recall": list(map(float, found.recall)), "text": str(found)}


# ---------------------------------------------------------------------------- XR-Transformer


def has_transformers():
    """Whether this environment has what PECOS's XR-Transformer needs."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def train_transformer(folder, start, texts, Y, X, chain, beam, **train):
    """Train on the chain's levels from the encoder in `start`, save to the folder; `beam` as of train."""
    from pecos.xmc.xtransformer.model import XTransformer
    from pecos.xmc.xtransformer.module import MLProblemWithText

    matcher = {"init_model_dir": start, "max_steps": 3, "save_steps": 3, "learning_rate": 1e-3, "batch_gen_workers": 1}
    train = {"matcher_params_chain": matcher, "ranker_params": {"hlm_args": {"model_chain": {}}}, **train}
    pred = {
        "matcher_params_chain": {"truncate_length": 16},
        "ranker_params": {"hlm_args": {"model_chain": list(beam)}},
    }
    XTransformer.train(
        MLProblemWithText(texts, Y, X_feat=X),
        clustering=ClusterChain([C.tocsc() for C in chain]),
        train_params=XTransformer.TrainParams.from_dict(_with_defaults(XTransformer.TrainParams, train)),
        pred_params=XTransformer.PredParams.from_dict(_with_defaults(XTransformer.PredParams, pred)),
    ).save(folder)


def _with_defaults(cls, given):
    """The given parameters over PECOS's defaults; without these, from_dict leaves out whole sections."""
    return _over(cls.from_dict({}, recursive=True).to_dict(), given)


def _over(defaults, given):
    if isinstance(given, list):
        return [_over(defaults, level) for level in given]
    if not isinstance(given, dict):
        return given
    return {**defaults, **{key: _over(defaults.get(key), value) for key, value in given.items()}}


def predict_transformer(folder, texts, X=None, **settings):
    return _load(folder).predict(texts, X, batch_gen_workers=1, use_gpu=False, **settings)


def encode_transformer(folder, texts):
    return _load(folder).encode(texts, batch_gen_workers=1, use_gpu=False)


def _load(folder):
    from pecos.xmc.xtransformer.model import XTransformer

    return XTransformer.load(folder)


# ---------------------------------------------------------------------------- answering

CALLS = {
    f.__name__: f
    for f in (
        train,
        predict,
        label_embedding,
        cluster,
        complete,
        save_chain,
        load_chain,
        matching_chain,
        relevance_chain,
        combine,
        vectorize,
        metrics,
        skeleton,
        has_transformers,
        train_transformer,
        predict_transformer,
        encode_transformer,
    )
}


def _plain(value):
    """Sparse results as csr or csc, the only kinds with files that every scipy reads."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.tocsr() if sp.issparse(value) and value.format not in ("csr", "csc") else value


def answer(line: str, folder: Path) -> dict:
    """The result of one call, or the traceback of what it raised."""
    request = json.loads(line)
    try:
        result = CALLS[request["call"]](**decode(request["arguments"]))
        return {"result": encode(_plain(result), folder)}
    except Exception:
        return {"error": traceback.format_exc()}


def main() -> None:
    """Answers go to what was standard output; what PECOS prints goes to standard error."""
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(line, folder)), file=answers, flush=True)


if __name__ == "__main__":
    main()
