"""Networks, and how tasks use them."""
