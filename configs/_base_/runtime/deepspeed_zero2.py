# DeepSpeed's ZeRO, stage 2: optimizer states and gradients sharded over the GPUs, in
# bfloat16. For the list of _base_, after a recipe whose optim_wrapper becomes
# dict(type='DeepSpeedOptimWrapper', optimizer=…), as this one's.
strategy = dict(
    type='DeepSpeedStrategy',
    bf16=dict(enabled=True),
    inputs_to_half=['inputs'],
    zero_optimization=dict(
        stage=2,
        overlap_comm=True,
        contiguous_gradients=True,
        reduce_bucket_size=int(5e7),
    ),
)
