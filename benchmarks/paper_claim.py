"""Is DrMAD 45 times faster, at a hundredth of the memory, than exact reversal?

    python -m benchmarks.paper_claim

DrMAD as published (Fu et al. 2016), and this package's, against three exact baselines: the original
reversal of Maclaurin et al. 2015, transcribed (eager NumPy, Python integers); the bit-exact
`reversible()`, compiled; and `checkpointed()`, compiled. The MLP of the paper at batch 50, at the
momentum of the paper and at that of its code; T = 500, from which the original at the paper's
T = 2000 is estimated, or `--steps 2000` with half an hour more. Runs in the peers' environment;
what is compared is in `benchmarks/peers/claim.py`.
"""

from benchmarks.peers import environment

if __name__ == "__main__":
    environment.enter("benchmarks.paper_claim")
    from benchmarks.peers.claim import main

    main()
