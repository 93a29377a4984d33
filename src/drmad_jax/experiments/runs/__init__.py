"""Runs of an experiment: the loop, what it leaves in a folder, judging and comparing."""
