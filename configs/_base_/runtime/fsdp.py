# Parameters, gradients and optimizer states sharded over the GPUs by FSDP, a Swin block at a time,
# in bfloat16 over float32 master weights. For the list of _base_, after a recipe; the Runner that
# this needs is then chosen by itself. A checkpoint is one file; with state_dict_cfg='local' it is a
# folder of a file a process, each with its own part. The plain model loads either.
strategy = dict(
    type='swin_backbone.engine.fsdp.AnyDeviceFSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        auto_wrap_policy='swin_backbone.engine.fsdp.wrap_swin_blocks',
        mixed_precision=dict(
            param_dtype='bfloat16', reduce_dtype='float32', buffer_dtype='float32'
        ),
        use_orig_params=True,
    ),
    activation_checkpointing=dict(check_fn='swin_backbone.engine.fsdp.is_swin_block'),
    state_dict_cfg='full',
)
