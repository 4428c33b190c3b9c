"""Drop-in replacements for well-known MAML code, to be imported in its place.

``tutorial`` holds the classes of a tutorial's notebook, which can be had from here; ``learn2learn`` is the library's
name: ``from maml_fast.compat import learn2learn as l2l``.
"""

from maml_fast.compat import learn2learn
from maml_fast.compat._tutorial import MetaLearner, TutorialBaseNet

__all__ = ["MetaLearner", "TutorialBaseNet", "learn2learn"]
