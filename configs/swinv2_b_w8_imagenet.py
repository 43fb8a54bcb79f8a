# Swin V2-B with windows of 8, ImageNet-1K from scratch, 256 × 256, 300 epochs.
_base_ = 'swinv2_t_w8_imagenet.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
