# ImageNet-1K at 224 × 224, 128 images a GPU, augmented as DeiT's. The folder, with train/ and val/,
# is data/imagenet, or what the environment variable IMAGENET_ROOT says.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

data_root = '{{$IMAGENET_ROOT:data/imagenet}}'
data_roots = dict(IMAGENET_ROOT=data_root)  # by the variable, which an error can name then
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(data_root=data_root, data_prefix='train'),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(data_root=data_root, data_prefix='val'),
)
test_dataloader = val_dataloader
