"""How long each method's program takes to build, and what it consists of."""
