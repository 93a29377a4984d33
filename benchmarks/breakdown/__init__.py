"""Where the time of a training step and of a reverse step goes."""
