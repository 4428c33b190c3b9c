"""Inner loops over all tasks of a meta-batch: what they compute, the engines that compute it, and its meta-gradient.

A call passes through these modules in this order:

1. ``_problem`` states what is computed: a :class:`~maml_fast.inner_loop._problem.InnerProblem`.
2. ``_plans`` chooses an engine for it, with ``_engines``, and keeps the choice for later calls of the same kind.
3. ``_native`` runs the whole inner loop in one call. ``_composed`` runs it in PyTorch operations, step by step in
   ``_walk``, and in ``_chunks`` and ``_segments`` if memory is short.
4. ``_gradient`` attaches the meta-gradient to the loss.
"""
