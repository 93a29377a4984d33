"""How near each method comes to the exact hypergradient, and what tuning by it reaches."""
