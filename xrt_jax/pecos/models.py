"""Model folders of PECOS to model folders of ours and back.

    xrt-jax import-pecos PECOS_FOLDER --out=MODEL [--labels=names.txt] [--vectorizer=VECTORIZER_FOLDER]
    xrt-jax export-pecos MODEL --out=PECOS_FOLDER
    python -m xrt_jax.pecos.models import PECOS_FOLDER --out=MODEL        (or export)

An XLinearModel, an XTransformer or its text_encoder (TransformerMatcher) comes in; nothing in it is executed: the
fine-tuning head, which is a pickle and takes no part in predictions, stays behind. A tfidf vectorizer of PECOS, which
lies in a folder of its own, comes along where it is named; those of scikit-learn are pickles and are not opened. Out
goes what PECOS's XLinearModel.load or XTransformer.load opens. Both sides then predict the same from the same features.
"""

import shutil
import sys
from pathlib import Path

from absl import flags

from xrt_jax.data.pecos_tfidf import read_pecos_tfidf
from xrt_jax.data.text_files import read_lines
from xrt_jax.data.tfidf import load_tfidf, nr_columns, tfidf_of_pecos
from xrt_jax.disk import read_json, replace_folder, write_json
from xrt_jax.model import nr_given_features, save_model
from xrt_jax.report import keep_compiled, set_up_logging
from xrt_jax.xlinear.folder import load_ranker

# Our settings of passes over texts; they change no embedding but by rounding.
PASSES = {"nr_buckets": 4, "tokens_a_batch": 16384, "windows": 1}
# Classes of PECOS's encoders by model_type, with the pooling that they have; it knows no others.
ENCODER_CLASSES = {
    "bert": ("BertForXMC", "pooler"),
    "roberta": ("RobertaForXMC", "pooler"),
    "xlm-roberta": ("XLMRobertaForXMC", "pooler"),
    "distilbert": ("DistilBertForXMC", "cls"),
    "xlnet": ("XLNetForXMC", "summary"),
}
# What an encoder folder has for sentence-transformers, beside folders (encoders/sentence_transformers.py).
SENTENCE_TRANSFORMERS = ("modules.json", "sentence_bert_config.json")
HEAD_STAYS = "the fine-tuning head (text_model, a pickle) is left out: predictions do not need it"
FEATURES_STAY = (
    "features of the texts are to be given to predict (--features), unless PECOS's tfidf vectorizer is named here "
    "(--vectorizer)"
)


# ---------------------------------------------------------------------------- import


def import_pecos(
    folder: str | Path, out: str | Path, *, labels: str | Path | None = None, vectorizer: str | Path | None = None
) -> list[str]:
    """Writes the model folder `out` from a folder of PECOS and returns remarks on what it lacks, a line each.

    labels: a text file with the labels' names, a line each; None takes labels.txt of the folder, which export_pecos
    writes, or else numbers. vectorizer: folder of the tfidf vectorizer that made the features; None: they are to be
    given. FileNotFoundError or ValueError in one line for a folder that cannot be read.
    """
    folder, out = Path(folder), Path(out)
    check_new(out)
    kind = kind_of(folder)
    if kind == "XLinearModel":
        ranker, settings, encoder = load_linear(folder), {"model": "xr_linear"}, {}
    else:
        matcher = folder if kind == "TransformerMatcher" else folder / "text_encoder"
        has_ranker = kind == "XTransformer" and (folder / "concat_model").is_dir()
        ranker = load_linear(folder / "concat_model") if has_ranker else None
        settings, encoder = load_matcher(matcher)
        settings["model"] = "xr_transformer" if has_ranker else "encoder"
    nr_given = nr_given_features(ranker, encoder.get("module")) if ranker else 0
    if nr_given < 0:
        raise ValueError(f"{folder}: the concat_model has fewer features than the encoder's embeddings")
    tfidf = tfidf_of_pecos(*read_pecos_tfidf(vectorizer)) if vectorizer else None
    if tfidf and nr_columns(tfidf) != nr_given:
        raise ValueError(
            f"--vectorizer={vectorizer} makes {nr_columns(tfidf)} features, the model in {folder} takes {nr_given}: "
            "it is of another model"
        )
    names = label_names(folder, labels, 0 if ranker is None else ranker[-1].C.shape[0])
    card = f"---\nlibrary_name: xrt_jax\n---\n\nMade from a model of PECOS ({kind}) by xrt_jax.pecos.models.\n"
    save_model(
        out, settings=settings | {"normalize": False}, ranker=ranker, tfidf=tfidf, labels=names, card=card, **encoder
    )
    head = [HEAD_STAYS] if encoder and (matcher / "text_model").exists() else []
    return head + ([FEATURES_STAY] if nr_given and not tfidf else [])


def kind_of(folder: Path) -> str:
    """The name of PECOS's class of model that the folder holds."""
    path = folder / "param.json"
    param = read_object(path)
    meta = param.get("__meta__")
    name = str((meta if isinstance(meta, dict) and meta else param).get("class_fullname", param.get("model")))
    for kind in ("XLinearModel", "XTransformer", "TransformerMatcher"):
        if name.endswith(kind):
            return kind
    raise ValueError(f"{path}: models of class {name!r} are not read: only XLinearModel, XTransformer and its matcher")


def read_object(path: Path) -> dict:
    """A JSON object of a file of PECOS; FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; is this the folder of a model?")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def load_linear(folder: Path):
    """The ranker of an XLinearModel folder."""
    if read_object(folder / "ranker" / "param.json").get("is_mmap"):
        raise ValueError(f"{folder} is compiled for memory mapping: give the folder that it was compiled from")
    return load_ranker(folder)


def load_matcher(folder: Path) -> tuple[dict, dict]:
    """(settings of how texts are embedded, encoder arguments of save_model) of a TransformerMatcher folder."""
    from xrt_jax.encoders.huggingface import load_encoder

    for name in ("text_encoder", "text_tokenizer"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder / name}: there is no such folder; is {folder} a matcher of PECOS?")
    model_type = read_object(folder / "text_encoder" / "config.json").get("model_type")
    _, pooling = known_class(model_type, folder)
    module, params = load_encoder(folder / "text_encoder", pooling=pooling)
    path = folder / "param.json"
    param = read_object(path) if path.is_file() else {}  # PECOS does without it too
    pred = param.get("pred_params") or {}
    length = pred.get("truncate_length", 128) if isinstance(pred, dict) else None
    if not isinstance(length, int) or not 2 < length <= module.max_positions:
        raise ValueError(f"{path}: truncate_length is {length}: this encoder takes 3 to {module.max_positions} tokens")
    settings = {"pooling": pooling, "truncate_length": length, **PASSES}
    return settings, {"module": module, "encoder": params, "tokenizer_folder": folder / "text_tokenizer"}


def label_names(folder: Path, labels: str | Path | None, nr_labels: int) -> list[str]:
    """Names of a ranker's labels; ValueError if there are not as many as labels."""
    path = Path(labels) if labels else folder / "labels.txt"
    if not path.is_file():
        if labels:
            raise FileNotFoundError(f"--labels={labels}: there is no such file")
        return [str(label) for label in range(nr_labels)]
    names = read_lines(path)
    if nr_labels and len(names) != nr_labels:
        raise ValueError(f"{path} names {len(names)} labels, but the model in {folder} has {nr_labels}")
    return names


# ---------------------------------------------------------------------------- export


def export_pecos(model: str | Path, out: str | Path) -> list[str]:
    """Writes the folder `out` for PECOS from a model folder and returns remarks, a line each.

    ValueError in one line for what PECOS has not: other types of encoders, other poolings, several windows.
    """
    model, out = Path(model), Path(out)
    check_new(out)
    settings = read_object(model / "config.json")
    if "xrt_jax" not in settings:
        raise ValueError(f"{model} is not a model folder of xrt_jax")
    has_encoder, has_ranker = settings["model"] != "xr_linear", settings["model"] != "encoder"
    matcher = matcher_params(model, settings) if has_encoder else None
    with replace_folder(out) as tmp:
        if matcher:
            write_matcher(tmp / "text_encoder", model / "encoder", matcher)
        if has_ranker:
            shutil.copytree(model / "ranker", tmp / "concat_model" if has_encoder else tmp, dirs_exist_ok=True)
        if has_encoder:
            param = {"model": "XTransformer", "depth": 1, "nr_labels": matcher["nr_labels"]}
            if has_ranker:
                ranker = read_json(model / "ranker" / "ranker" / "param.json")
                param |= {key: ranker[key] for key in ("depth", "nr_labels")}
            write_json(tmp / "param.json", {**meta("xtransformer.model###XTransformer"), **param})
        shutil.copyfile(model / "labels.txt", tmp / "labels.txt")
    return export_notes(model, settings)


def matcher_params(model: Path, settings: dict) -> dict:
    """param.json of a TransformerMatcher; its head, which PECOS makes at random, has the two labels of its default."""
    config = read_object(model / "encoder" / "config.json")
    name, pooling = known_class(config.get("model_type"), model)
    if settings["pooling"] not in ("auto", pooling):
        raise ValueError(f"{model}: its pooling is {settings['pooling']}, but PECOS's of {name} is {pooling}")
    if settings.get("windows", 1) > 1:
        raise ValueError(f"{model} cuts texts into {settings['windows']} windows: PECOS cannot")
    return {
        **meta("xtransformer.matcher###TransformerMatcher"),
        "model": "TransformerMatcher",
        "text_encoder": name,
        "nr_labels": 2,
        "nr_features": None,
        "nr_codes": 1,
        "pred_params": {
            **meta("xtransformer.matcher###TransformerMatcher.PredParams"),
            "truncate_length": settings["truncate_length"],
        },
    }


def write_matcher(folder: Path, encoder: Path, param: dict) -> None:
    """A TransformerMatcher folder of an encoder folder."""
    write_json(folder / "param.json", param)
    for name in ("text_encoder", "text_tokenizer"):
        (folder / name).mkdir()
    for path in encoder.iterdir():
        if path.is_dir() or path.name in SENTENCE_TRANSFORMERS:
            continue
        is_model = path.name == "config.json" or path.suffix == ".safetensors"
        shutil.copyfile(path, folder / ("text_encoder" if is_model else "text_tokenizer") / path.name)
    config = read_json(encoder / "config.json") | {"architectures": [param["text_encoder"]]}
    if config["model_type"] == "xlnet":  # Hugging Face's default has a dense layer here, which PECOS turns off
        config |= {"summary_type": "last", "summary_use_proj": False, "summary_activation": "tanh"}
    write_json(folder / "text_encoder" / "config.json", config)


def export_notes(model: Path, settings: dict) -> list[str]:
    """What has to be known to predict the same in PECOS."""
    notes = []
    if (model / "tfidf").is_dir():
        count = nr_columns(load_tfidf(model / "tfidf"))
        notes.append(
            f"PECOS is to be given the {count:,} TF-IDF features: xrt_jax.data.tfidf, load_tfidf and transform"
        )
    elif settings["normalize"]:
        notes.append("PECOS is to be given features with rows of length 1")
    if settings["model"] != "xr_linear":
        notes.append(
            "the fine-tuning head is not in a model folder: PECOS warns, makes one at random, and does not use it"
        )
    return notes


# ---------------------------------------------------------------------------- both


def meta(class_name: str) -> dict:
    """PECOS's mark of the class that a file is of."""
    return {"__meta__": {"class_fullname": f"pecos.xmc.{class_name}"}}


def known_class(model_type, source: Path) -> tuple[str, str]:
    """(class, pooling) of an encoder type in PECOS."""
    if model_type not in ENCODER_CLASSES:
        raise ValueError(f"{source}: PECOS has no {model_type} encoders, only {', '.join(ENCODER_CLASSES)}")
    return ENCODER_CLASSES[model_type]


def check_new(out: Path) -> None:
    """ValueError if something is there already."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out={out} is there already: name a new folder")


# ---------------------------------------------------------------------------- command

USAGE = "import PECOS_FOLDER --out=MODEL or export MODEL --out=PECOS_FOLDER"


def main(argv: list[str]) -> int:
    """Exit status of the command: argv is its name, import or export, the folder to read, and flags."""
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_string("labels", None, "import: file of label names, a line each.", flag_values=values)
    flags.DEFINE_string("vectorizer", None, "import: folder of PECOS's tfidf vectorizer.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    set_up_logging()
    keep_compiled()
    try:
        words = values(argv)[1:]
        if values.help:
            print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
            return 0
        run(words, values.out, values.labels, values.vectorizer)
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(words: list[str], out: str | None, labels: str | None, vectorizer: str | None) -> None:
    """Does what the words ask for and prints the remarks; ValueError unless they are import or export and a folder."""
    if len(words) != 2 or words[0] not in ("import", "export") or not out:
        raise ValueError(f"say {USAGE}")
    verb, folder = words
    if verb == "export" and (labels or vectorizer):
        raise ValueError(f"--{'labels' if labels else 'vectorizer'} is for import: a model folder has its own")
    importing = verb == "import"
    notes = import_pecos(folder, out, labels=labels, vectorizer=vectorizer) if importing else export_pecos(folder, out)
    for note in notes:
        print(f"note: {note}")
    print(f"{'model' if verb == 'import' else 'PECOS'} folder: {out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
