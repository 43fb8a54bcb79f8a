# Fine-tuning: 30 epochs of 1024 images, 5 of them warm-up, at a small rate and next to no decay.
_base_ = 'imagenet_300e.py'

optim_wrapper = dict(optimizer=dict(lr=4e-5, weight_decay=1e-8))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=25,
        eta_min=4e-7,
        begin=5,
        end=30,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=30)
