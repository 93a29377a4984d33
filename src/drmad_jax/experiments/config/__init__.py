"""The configuration of an experiment: TOML in and out, checked key by key."""

from drmad_jax.experiments.config.experiment import (
    Config,
    differences,
    load,
    parse,
    to_toml,
    variant_names,
)

__all__ = ["Config", "differences", "load", "parse", "to_toml", "variant_names"]
