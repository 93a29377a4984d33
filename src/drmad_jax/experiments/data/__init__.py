"""Data sets and what is drawn from them: images, alphabets, satellite scenes, batches."""
