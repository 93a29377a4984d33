"""How far to trust a hypergradient: agreement, metasmoothness, and methods side by side."""
