# DINO on five scales, Swin-L from ImageNet-22K at 384 × 384, 36 epochs: mmdet's recipe.
_base_ = [
    'mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py',
    '_base_/models/weights.py',
    '_base_/runtime/swin.py',
]

model = dict(backbone=dict(init_cfg=dict(checkpoint={{_base_.weights.large_22k_384}})))

data_root = '{{$COCO_ROOT:data/coco}}'
data_roots = dict(COCO_ROOT=data_root)  # by the variable, which an error can name then
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
