# Swin-B, ImageNet-1K from scratch, 224 × 224, 300 epochs.
_base_ = 'swin_t_imagenet.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
