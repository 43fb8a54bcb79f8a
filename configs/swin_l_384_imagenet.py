# Swin-L from ImageNet-22K, fine-tuned on ImageNet-1K at 384 × 384 for 30 epochs, with windows of
# 12. 8 × 64 images a step, two steps an update.
_base_ = 'swin_b_384_imagenet.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='swin_large_in22k_384'),
    ),
    head=dict(in_channels=1536),
)
load_from = None
