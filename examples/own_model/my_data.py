"""An own data file: 569 tumours, 30 measured features each, malignant or benign.

`breast_cancer.csv` is "Breast Cancer Wisconsin (Diagnostic)" by Wolberg, Street and Mangasarian,
UCI Machine Learning Repository, CC BY 4.0.
"""

import csv
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def splits(seed=0):
    """The three splits, raw; edgedistill applies the pre-processing and packs it in the bundle."""
    with (HERE / "breast_cancer.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    features = np.array([row[:-1] for row in rows], np.float32)
    labels = ["benign", "malignant"]
    targets = np.array([labels.index(row[-1]) for row in rows])
    order = np.random.default_rng(seed).permutation(len(rows))
    train, validation, test = np.split(order, [300, 400])
    return {
        "train": (features[train], targets[train]),
        "validation": (features[validation], targets[validation]),
        "test": (features[test], targets[test]),
        "labels": labels,
        "preprocessing": {
            "input": {
                "raw_shape": [features.shape[1]],
                "raw_dtype": "float32",
                "mean": features[train].mean(axis=0).tolist(),
                "std": features[train].std(axis=0).tolist(),
            }
        },
    }
