"""What each method needs in memory, against the number of steps and of weights."""
