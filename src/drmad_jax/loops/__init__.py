"""(init, step) pairs for a loop of one's own, inside training or outside of it."""
