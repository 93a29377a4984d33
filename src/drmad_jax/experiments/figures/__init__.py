"""What figures share: a style, and panels of values and images."""
