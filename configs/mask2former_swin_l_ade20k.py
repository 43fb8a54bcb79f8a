# Mask2Former for semantic segmentation, Swin-L from ImageNet-22K at 384 × 384, 640 × 640, 160k
# iterations: mmseg's recipe. Its head is mmdet's, which has to be installed, too.
_base_ = [
    __import__('mmseg').__path__[0]
    + '/.mim/configs/mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py',
    '_base_/models/weights.py',
    '_base_/runtime/swin.py',
]

model = dict(backbone=dict(init_cfg=dict(checkpoint={{_base_.weights.large_22k_384}})))

data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
data_roots = dict(ADE20K_ROOT=data_root)  # by the variable, which an error can name then
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
