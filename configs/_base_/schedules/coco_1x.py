# 12 epochs of 8 × 2 images, with linear warm-up over 500 iterations and steps after 8 and 11, as
# mmdet's own 1x. AdamW decays neither position embeddings nor norms.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    _delete_=True,
    type='swin_backbone.engine.amp.amp_where_possible',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    ),
)
