"""Write predictions as CSV and JSON, for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from maml_fast.deployment._adapted import Prediction

__all__ = ["as_csv", "as_json"]


def as_csv(predictions: Sequence[Prediction]) -> str:
    """One row per picture: picture, class, probability, then one column per class with its probability."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["picture", "class", "probability", *predictions[0].probabilities])
    for each in predictions:
        writer.writerow([each.picture, each.class_name, each.probability, *each.probabilities.values()])
    return buffer.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    """A list with one object per picture: picture, class, probability, and probabilities by class."""
    rows = [
        {
            "picture": each.picture,
            "class": each.class_name,
            "probability": each.probability,
            "probabilities": dict(each.probabilities),
        }
        for each in predictions
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
