# Swin V2-B with windows of 16, ImageNet-1K from scratch, 256 × 256, 300 epochs.
_base_ = 'swinv2_b_w8_imagenet.py'

model = dict(backbone=dict(window_size=[16, 16, 16, 8]))
