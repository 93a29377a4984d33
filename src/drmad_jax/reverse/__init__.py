"""The way back: how path, curvature and steps meet.

A reverse pass is three independent choices, held by `method.Reverse`:

- `paths`: where is step t linearised? Each path carries what it remembers around the training state
  (`blank`, `step`, `note`: its track), and later hands the visited states, last to first, to a
  function `visit` (`revisit`, one visit a call).
- curvature (`training.curvature`): what stands for ∂g/∂w there. The gradient brings it along as its
  own derivative, so that one `jax.vjp` of a training step serves every optimizer.
- `steps`: which t are visited, and what a visit does (`take`): one reverse step, or a whole segment
  at once (`segments`, by `lanczos` and the optimizer's mean response, `optimizer_response`; the
  terms of its steps by `inside_segment`).

    run, state, hparams ──► begin ──► advance ──► ended ──► final state, what is left of the tape
                                     forward_loop               │  outer loss
                                                                ▼
         hypergradient ◄── arrived ◄── retreat ◄── turn ◄── cotangent
                                     reverse_loop
                    visit = guard ∘ steps.take(run, hparams, state, cotangent, weight, at)

Both loops begin and end anywhere, and what travels through them are pytrees of fixed shape: that is
how `hypergradient.pieces` cuts a run. `paths.schedule` says which states of the true trajectory are
stored, and how the others are had again.

`stretches` puts an exact end after segments: two of these in turn, each over its stretch of the run
(`Run.stretch`). `optimizer_fit` finds out beforehand whether segments suit the optimizer.

`guard` watches the cotangent between visits and reports what it saw. A new path, curvature or way
of stepping is one more value on its axis: nothing here asks which one it has been given, only for
the properties that `paths.base.Path` and `steps.ReverseSteps` name.
"""
