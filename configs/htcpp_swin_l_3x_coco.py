# HTC++, Swin-L from ImageNet-22K, in the 3x schedule that the release's table has.
_base_ = 'htcpp_swin_l_coco.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
