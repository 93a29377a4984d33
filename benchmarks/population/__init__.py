"""What a population of hyperparameter settings costs by `jax.vmap`, against a loop."""
