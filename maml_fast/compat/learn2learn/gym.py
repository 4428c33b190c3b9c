"""Reinforcement learning: not offered here."""

from maml_fast.compat.learn2learn._out import refuse

refuse("gym")
