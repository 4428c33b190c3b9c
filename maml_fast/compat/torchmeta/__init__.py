"""Drop-in replacement for torchmeta: only the imports change.

    from maml_fast.compat.torchmeta.datasets.helpers import omniglot
    from maml_fast.compat.torchmeta.modules import MetaModule, MetaSequential, MetaConv2d
    from maml_fast.compat.torchmeta.utils.data import BatchMetaDataLoader
    from maml_fast.compat.torchmeta.utils.gradient_based import gradient_update_parameters

The modules, the loops over tasks and the sets of tasks are those of torchmeta 1.8 (Deleu et al. 2019), on current
versions of torch and without torchvision. :class:`maml_fast.MAML` takes the same models and batches, computes all tasks
at once and is several times as fast.
"""

from maml_fast.compat.torchmeta import datasets, modules, toy, transforms, utils

__all__ = ["datasets", "modules", "toy", "transforms", "utils"]
