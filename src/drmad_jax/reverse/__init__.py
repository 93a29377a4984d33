"""The way back: how path, curvature and steps meet.

A reverse pass is three independent choices, held by `method.Reverse`:

- `paths`: where is step t linearised? Each path trains in its own way (`remember`, leaving a
  trace) and later hands the visited states, last to first, to a function `visit` (`revisit`).
- curvature (`training.curvature`): what stands for ∂g/∂w there. The gradient brings it along as its
  own derivative, so that one `jax.vjp` of a training step serves every optimizer.
- `steps`: which t are visited, and what a visit does (`take`): one reverse step, or a whole segment
  at once (`segments`, by `lanczos` and the optimizer's mean response, `optimizer_response`; the
  terms of its steps by `inside_segment`).

    run, state, hparams ──► path.remember ──► final state, trace
                                                  │  outer loss
                                                  ▼
          hypergradient ◄── path.revisit ◄── cotangent
                            visit = guard ∘ steps.take(run, hparams, state, cotangent, weight, at)

`stretches` puts an exact end after segments: two of these in turn, each over its stretch of the run
(`Run.stretch`). `optimizer_fit` finds out beforehand whether segments suit the optimizer.

`guard` watches the cotangent between visits and reports what it saw. A new path, curvature or way
of stepping is one more value on its axis: nothing here asks which one it has been given, only for
the properties that `paths.base.Path` and `steps.ReverseSteps` name.
"""
