# ADE20K, crops of 640 × 640, two a GPU. The folder is data/ade/ADEChallengeData2016, or what the
# environment variable ADE20K_ROOT says.
_base_ = 'mmseg::_base_/datasets/ade20k_640x640.py'

data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
