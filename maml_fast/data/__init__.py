"""From images on disk to episodes: image banks, data sets and the episode sampler."""
