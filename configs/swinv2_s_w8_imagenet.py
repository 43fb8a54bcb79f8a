# Swin V2-S with windows of 8, ImageNet-1K from scratch, 256 × 256, 300 epochs.
_base_ = 'swinv2_t_w8_imagenet.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
