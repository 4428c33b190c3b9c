"""Adapt a trained run to a folder of photos, and save the result as a model that classifies other photos.

``support`` reads the photos with the ``preprocessing`` of training. ``module`` adapts a meta-learner to them and
returns an ordinary module; ``plain`` replaces its layers by PyTorch's own. ``judgement`` estimates the accuracy by
leaving each photo out in turn. ``adapted`` is the model together with its class names. ``file`` saves and opens it,
with its ``layers`` described as plain values, and ``formats`` exports it for other programs. ``adapting`` does all of
this for a run, ``sheet`` draws the photos, and ``tables`` writes predictions as CSV and JSON.
"""

from maml_fast.deployment._adapted import Adapted, Prediction
from maml_fast.deployment._adapting import AdaptedRun, adapt_run
from maml_fast.deployment._file import open_adapted, save_adapted
from maml_fast.deployment._module import deploy
from maml_fast.deployment._preprocessing import Preprocessing

__all__ = [
    "Adapted",
    "AdaptedRun",
    "Prediction",
    "Preprocessing",
    "adapt_run",
    "deploy",
    "open_adapted",
    "save_adapted",
]
