"""From a trained run and a folder of photos to a model that names others.

``support`` reads the photos by the ``preprocessing`` of training. ``module`` adapts a meta-learner to them and writes
it as an ordinary module, with ``plain`` layers. ``judgement`` tells how good that is, leaving each photo out in turn.
``adapted`` is the model with its classes, ``file`` keeps it, by a description of its ``layers``, and ``formats`` are
for other programs. ``adapting`` does all of this for a run, ``sheet`` draws it, and ``tables`` print what a model says.
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
