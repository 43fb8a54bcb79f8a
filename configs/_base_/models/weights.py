# The official ImageNet weights, by their names in checkpoints/catalog.yml. Those of Swin-T, -S and
# -B are from ImageNet-1K, and so are those of V2, trained at 256 × 256.
weights = dict(
    tiny='swin_tiny_in1k',
    small='swin_small_in1k',
    base='swin_base_in1k',
    base_22k='swin_base_in22k',
    large_22k='swin_large_in22k',
    large_22k_384='swin_large_in22k_384',
    v2_tiny_window8='swinv2_tiny_window8_in1k_256',
    v2_base_window16='swinv2_base_window16_in1k_256',
)
