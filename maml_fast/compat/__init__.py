"""Drop-in replacements for well-known MAML code: only the import changes.

``MetaLearner`` and ``TutorialBaseNet`` replace the classes of a widely copied tutorial's notebook. ``dragen1860``
replaces the classes of MAML-Pytorch, the repository of that author. ``learn2learn`` and ``torchmeta`` replace the
libraries of these names: ``from maml_fast.compat import learn2learn as l2l``.
"""

from maml_fast.compat import dragen1860, learn2learn, torchmeta
from maml_fast.compat._tutorial import MetaLearner, TutorialBaseNet

__all__ = ["MetaLearner", "TutorialBaseNet", "dragen1860", "learn2learn", "torchmeta"]
