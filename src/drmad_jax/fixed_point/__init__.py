"""Bit-exact reversal (Maclaurin et al. 2015): numbers, the bits that a product loses, one step.

`numbers` is fixed-point arithmetic in two words, `buffer` the information buffer, `step` one step
of momentum and its undoing, `sgd` the optimizer that users name, `blocks` which leaves of the
weights share rates and hence a buffer. The path made of them is `reverse.paths.reversal`.
"""
