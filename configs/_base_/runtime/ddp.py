# One whole model a GPU, gradients averaged (DDP): what --launcher pytorch does anyway, its settings
# in sight. For the list of _base_, after a recipe.
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel',
    broadcast_buffers=False,
    # Whatever is frozen, dropped or recomputed in the backbone, no parameter goes unused.
    find_unused_parameters=False,
    # Gradients live in the buckets that are sent: one copy less of them in memory.
    gradient_as_bucket_view=True,
)
