# Swin-B, trained on ImageNet-1K at 224 × 224 and fine-tuned at 384 × 384 for 30 epochs, with
# windows of 12: the bias tables of 7 are resized. 8 × 64 images a step, two steps an update.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/imagenet_30e.py',
    '_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(arch='base', img_size=384, window_size=12, drop_path_rate=0.5),
    head=dict(in_channels=1024),
)
optim_wrapper = dict(accumulative_counts=2)
auto_scale_lr = dict(base_batch_size=512)
load_from = 'swin_base_in1k'
