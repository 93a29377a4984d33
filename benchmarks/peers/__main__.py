"""The command: `python -m benchmarks.peers [--cases 50x1000 500x1000] [--subjects torch drmad]`."""

from benchmarks.peers import environment

if __name__ == "__main__":
    environment.enter("benchmarks.peers")
    from benchmarks.peers.command import main

    main()
