"""Data-set folders, TF-IDF, the embedded corpus, tokens and batches."""
