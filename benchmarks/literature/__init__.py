"""What the experiments of `configs/` come to."""
