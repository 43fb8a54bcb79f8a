# Swin V2-L from ImageNet-22K at 192 × 192 with windows of 12, fine-tuned on ImageNet-1K at
# 384 × 384 with windows of 24, for 30 epochs. 8 × 64 images a step, two steps an update.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer_v2/tiny_256.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/imagenet_30e.py',
    '_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(
        arch='large',
        img_size=384,
        drop_path_rate=0.2,
        window_size=[24, 24, 24, 12],
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='Pretrained', checkpoint='swinv2_large_window12_in22k_192'),
    ),
    head=dict(in_channels=1536),
)
optim_wrapper = dict(accumulative_counts=2)
auto_scale_lr = dict(base_batch_size=512)
