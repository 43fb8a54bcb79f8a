# DeepSpeed's ZeRO, stage 3: optimizer states, gradients and parameters sharded over the GPUs, in
# bfloat16. For the list of _base_, after a recipe, whose optim_wrapper may be of any type. A
# checkpoint is a folder in DeepSpeed's format, with the plain model's weights in weights.pth.
strategy = dict(
    type='swin_backbone.engine.deepspeed.AnyDeviceDeepSpeedStrategy',
    bf16=dict(enabled=True),
    inputs_to_half=['inputs'],
    zero_optimization=dict(
        stage=3,
        overlap_comm=True,
        contiguous_gradients=True,
        reduce_bucket_size=int(5e7),
    ),
)
