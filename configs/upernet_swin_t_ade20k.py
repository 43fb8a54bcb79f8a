# UPerNet, Swin-T from ImageNet-1K, 512 × 512, 160k iterations.
_base_ = [
    '_base_/models/upernet_swin.py',
    '_base_/datasets/ade20k_512.py',
    '_base_/schedules/ade20k_160k.py',
    '_base_/runtime/mmseg.py',
]
