"""This package's methods beside every package that a user would pick instead.

    python -m benchmarks.peers

One file a package, all behind `Subject`; each subject runs in a process of its own.
"""
