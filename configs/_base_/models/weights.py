# The official ImageNet weights, by their names in checkpoints/catalog.yml. Those of Swin-T, -S and
# -B are from ImageNet-1K.
weights = dict(
    tiny='swin_tiny_in1k',
    small='swin_small_in1k',
    base='swin_base_in1k',
    base_22k='swin_base_in22k',
    large_22k='swin_large_in22k',
    large_22k_384='swin_large_in22k_384',
)
