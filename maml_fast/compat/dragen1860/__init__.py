"""Drop-in replacement for dragen1860's MAML-Pytorch and its copies: only the imports change.

    from maml_fast.compat.dragen1860 import Meta  # instead of: from meta import Meta
    from maml_fast.compat.dragen1860 import OmniglotNShot  # instead of: from omniglotNShot import OmniglotNShot
    from maml_fast.compat.dragen1860 import MiniImagenet  # instead of: from MiniImagenet import MiniImagenet

    maml = Meta(args, config)
    accs = maml(x_spt, y_spt, x_qry, y_qry)

All tasks are computed at once, on the native kernels, with the original's results: the repository is first-order MAML.
"""

from maml_fast.compat.dragen1860._learner import Learner
from maml_fast.compat.dragen1860._meta import Meta
from maml_fast.compat.dragen1860._mini_imagenet import MiniImagenet
from maml_fast.compat.dragen1860._omniglot import OmniglotNShot

__all__ = ["Learner", "Meta", "MiniImagenet", "OmniglotNShot"]
