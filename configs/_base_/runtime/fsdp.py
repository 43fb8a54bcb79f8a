# Parameters, gradients and optimizer states sharded over the GPUs by FSDP, a Swin block at a time,
# in bfloat16 over float32 master weights. For the list of _base_, after a recipe; the Runner that
# this needs is then chosen by itself. The checkpoint is one file, that the plain model loads.
# With state_dict_cfg='local' each process saves its shard, but torch's safe loading refuses those.
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
