"""Writes pecos_tfidf/: vectorizers that PECOS learned from a few texts, and the features that it makes of others.

Run with libpecos installed:  python tests/golden/make_pecos_tfidf_golden.py
"""

import json
import shutil
from pathlib import Path

import scipy.sparse as sp
from pecos.utils.featurization.text.vectorizers import Vectorizer

FOLDER = Path(__file__).with_name("pecos_tfidf")
LEARNED = ["red fox  Red, cat", "a cat and a red fox", "näh cat 日本", " x", "cat\tdog fox", "red cat red fox red"]
OTHERS = [
    *LEARNED,
    "",
    "  ",
    "fox cat",
    "fox unknown cat",
    "FOX\u00a0fox red  fox",
    "红 red\x85fox 😀",
    "a" * 30,
    "cat fox " * 40,
]
WORDS, CHARACTERS = {"ngram_range": [1, 2], "min_df_cnt": 2}, {"ngram_range": [2, 3], "analyzer": "char", "norm": "l1"}
VECTORIZERS = {
    "words": {"sublinear_tf": True, "add_one_idf": True, "ngram_range": [1, 3]},
    "words_cut": {"truncate_length": 3, "binary": True, "norm": "l1"},
    "words_counted": {"use_idf": False},
    "characters": {**CHARACTERS, "max_feature": 30},
    "characters_in_words": {"ngram_range": [2, 4], "analyzer": "char_wb"},
    "both": {"base_vect_configs": [WORDS, CHARACTERS]},
    "both_l1": {"norm_p": 1, "base_vect_configs": [WORDS, CHARACTERS]},
}


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, settings in VECTORIZERS.items():
        Vectorizer.train(LEARNED, {"type": "tfidf", "kwargs": settings}).save(str(FOLDER / name))
        X = Vectorizer.load(str(FOLDER / name)).predict(OTHERS, threads=1)
        sp.save_npz(FOLDER / f"{name}.npz", X)
    (FOLDER / "texts.json").write_text(json.dumps(OTHERS), encoding="utf-8")


if __name__ == "__main__":
    main()
