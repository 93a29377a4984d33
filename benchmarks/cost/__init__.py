"""What a hypergradient costs over plain training."""
