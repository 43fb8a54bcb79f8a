# DeepSpeed's ZeRO, stage 3: optimizer states, gradients and parameters sharded over the GPUs, in
# bfloat16. For the list of _base_, after a recipe; with it goes
# optim_wrapper = dict(type='DeepSpeedOptimWrapper') in the config that lists it.
strategy = dict(
    type='DeepSpeedStrategy',
    bf16=dict(enabled=True),
    inputs_to_half=['inputs'],
    zero_optimization=dict(
        stage=3,
        overlap_comm=True,
        contiguous_gradients=True,
        reduce_bucket_size=int(5e7),
    ),
)
