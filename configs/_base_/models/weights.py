# The official ImageNet weights. Those of Swin-T, -S and -B are from ImageNet-1K.
release = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0'
weights = dict(
    tiny=f'{release}/swin_tiny_patch4_window7_224.pth',
    small=f'{release}/swin_small_patch4_window7_224.pth',
    base=f'{release}/swin_base_patch4_window7_224.pth',
    base_22k=f'{release}/swin_base_patch4_window7_224_22k.pth',
    large_22k=f'{release}/swin_large_patch4_window7_224_22k.pth',
)
