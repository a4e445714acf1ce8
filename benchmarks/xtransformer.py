"""A run of XR-Transformer beside PECOS's on the same texts, features, encoder, trees and schedule: P@1/3/5 and time.

    python benchmarks/xtransformer.py RUN --peer-python PEERS/bin/python [--threads 1]

RUN is the work directory of a run of xrt_jax.main, whose config.json says what PECOS is to do; its metrics.json, once
it is there, is the other half of the table. PEERS is a virtual environment with torch==2.13.0, libpecos==1.2.8 and
transformers==4.49.0. What PECOS cannot be told: a first head other than at random, a rate of the head's own, pooling
(it takes BERT's pooler), attention dropout, padding to less than truncate_length, encoder.fine_tuned_share and hinges
steeper than l4.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import scipy.sparse as sp
from ml_collections import ConfigDict

from xrt_jax.config import from_json, read_fields, settings_of_level
from xrt_jax.default_config import get_config
from xrt_jax.disk import read_json, write_json
from xrt_jax.matcher.finetune import number_of_steps
from xrt_jax.metrics import precision_recall
from xrt_jax.stages import load_data, make_features, percent, ranker_levels, tree_levels
from xrt_jax.xlinear.postprocess import POST_PROCESSORS

WORKER = Path(__file__).resolve().parent / "xtransformer_pecos.py"
FINE_TUNING = ("batch_size", "learning_rate", "warmup_steps", "adam_epsilon", "weight_decay", "max_grad_norm")
SOLVER = ("Cp", "Cn", "threshold", "eps", "max_iter", "newton_eps")
TREE = ("nr_splits", "min_codes", "max_leaf_size", "spherical", "kmeans_max_iter")


def main() -> None:
    """Exports what PECOS needs, runs it unless it has run, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--peer-python", default=os.environ.get("XRT_PEERS_PYTHON"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    found = measure_peer(args.run, args.peer_python, args.threads)
    P, Y = sp.load_npz(args.run / "pecos" / "P.train.npz"), load_data(read_config(args.run), args.run).tst.Y
    rows = {"PECOS": percent(precision_recall(Y, P, 5))["prec"]}
    if (args.run / "metrics.json").is_file():
        ours = read_json(args.run / "metrics.json")
        rows |= {name: ours[name]["prec"] for name in ("xr_linear", "xr_transformer") if name in ours}
        print("seconds, ours:", json.dumps(ours["seconds"]))
    print("seconds, PECOS:", json.dumps({name: round(value, 1) for name, value in found["seconds"].items()}))
    print("| | P@1 | P@3 | P@5 |\n|---|---|---|---|")
    for name, prec in rows.items():
        print(f"| {name} | " + " | ".join(f"{prec[k - 1]:.2f}" for k in (1, 3, 5)) + " |")


def measure_peer(run: Path, python: str | None, threads: int, phase: str = "train") -> dict:
    """What a phase of the worker measures with the configuration of a work directory, unless it has done so."""
    inputs = run / "pecos"
    result = inputs / f"result.{phase}.json"
    if not result.is_file():
        if not (inputs / "params.json").is_file():
            config = read_config(run)
            if config.ranker_features != "both":
                sys.exit(f"{run}: ranker_features is {config.ranker_features}: name a run that ranks with both")
            export(config, load_data(config, run), run, inputs)
        write_json(result, run_peer(python, inputs, threads, phase))
    return read_json(result)


def read_config(run: Path) -> ConfigDict:
    """The configuration of a work directory; fields that its run did not know have their defaults."""
    path = run / "config.json"
    return from_json(get_config(), read_fields(path), path)


def export(config: ConfigDict, dataset, run: Path, inputs: Path) -> None:
    """Writes texts, features, labels and params.json for the worker."""
    inputs.mkdir(exist_ok=True)
    _, *features = make_features(config, dataset, run)
    for name, split, X in zip(("trn", "tst"), (dataset.trn, dataset.tst), features, strict=True):
        write_json(inputs / f"texts.{name}.json", list(split.texts))
        sp.save_npz(inputs / f"X.{name}.npz", X, compressed=False)
    sp.save_npz(inputs / "Y.trn.npz", dataset.trn.Y, compressed=False)
    write_json(inputs / "params.json", pecos_params(config, dataset))


def pecos_params(config: ConfigDict, dataset) -> dict:
    """The run's config in PECOS's words."""
    sizes = tree_levels(config, "preliminary_tree", dataset.trn.Y.shape[1])
    nr_matchers = sum(size <= config.matcher.max_match_clusters for size in sizes)
    matchers = [settings_of_level(config.matcher, t, nr_matchers, "matcher") for t in range(nr_matchers)]
    depth = len(ranker_levels(config, dataset.trn))
    rankers = [settings_of_level(config.ranker, t, depth, "ranker") for t in range(depth)]
    nr_texts = dataset.trn.Y.shape[0]
    train = {
        "preliminary_indexer_params": {key: config.preliminary_tree[key] for key in TREE} | {"seed": config.seed},
        "refined_indexer_params": {key: config.refined_tree[key] for key in TREE} | {"seed": config.seed},
        "matcher_params_chain": [fine_tuning(config, level, nr_texts) for level in matchers],
        "ranker_params": {
            "rel_mode": config.ranker.rel_mode,
            "rel_norm": config.ranker.rel_norm,
            "hlm_args": {
                "neg_mining_chain": [level["negative_sampling"] for level in rankers],
                "model_chain": [solver(config, level) for level in rankers],
            },
        },
        "do_fine_tune": config.do_fine_tune,
        "fix_clustering": config.fix_clustering,
        "max_match_clusters": config.matcher.max_match_clusters,
    }
    predict = {
        "matcher_params_chain": [
            {
                "only_topk": level["only_topk"],
                "post_processor": level["post_processor"],
                "truncate_length": config.encoder.truncate_length,
            }
            for level in matchers
        ],
        "ranker_params": {
            "hlm_args": {
                "model_chain": [
                    {"only_topk": level["only_topk"], "post_processor": known_hinge(level["post_processor"])}
                    for level in rankers
                ]
            }
        },
    }
    return {"seed": config.seed, "train_params": train, "pred_params": predict}


def known_hinge(post_processor: str) -> str:
    """The post-processor, or for a steeper hinge than PECOS has, its steepest."""
    return post_processor if post_processor in POST_PROCESSORS else re.sub(r"l\d+-", "l4-", post_processor)


def fine_tuning(config: ConfigDict, level: dict, nr_texts: int) -> dict:
    """Fine-tuning of a level; PECOS drops updates after the last checkpoint, so that one falls on the last."""
    batch_size = level["batch_size"] * level["gradient_accumulation"]
    length = {"num_epochs": level["num_epochs"], "max_steps": level["max_steps"]}
    steps = number_of_steps(nr_texts, batch_size=batch_size, **length)
    dropout = config.encoder.hidden_dropout
    return {
        **{key: level[key] for key in FINE_TUNING},
        "model_shortcut": str(Path(config.encoder.name).absolute()),
        "negative_sampling": level["negative_sampling"],
        "loss_function": level["loss"],
        "bootstrap_method": {"none": "no-bootstrap"}.get(level["bootstrap"], level["bootstrap"]),
        "lr_schedule": level["lr_schedule"],
        "gradient_accumulation_steps": level["gradient_accumulation"],
        "hidden_dropout_prob": 0.1 if dropout is None else dropout,
        "max_steps": steps,
        "save_steps": steps,
        "batch_gen_workers": 1,
        "use_gpu": False,
    }


def solver(config: ConfigDict, level: dict) -> dict:
    """Linear ranker of a level."""
    return {key: level[key] for key in SOLVER} | {"solver_type": level["solver"], "bias": config.ranker.bias}


def run_peer(python: str | None, inputs: Path, threads: int, phase: str) -> dict:
    """What the worker prints last."""
    if not python:
        sys.exit("--peer-python: name the python of an environment with PECOS")
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [python, str(WORKER), phase, str(inputs)]
    done = subprocess.run(command, env=env, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"PECOS, {phase}: status {done.returncode}, its last words are above")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
