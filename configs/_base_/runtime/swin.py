# What every recipe here needs: the backbone, and a Runner that works on any device, checks the
# data's folders and classes first, and resumes exactly. Its import makes mmseg's test script heed
# it, too. The last leaves out what the frameworks warn of in their own code.
custom_imports = dict(
    imports=['swin_backbone', 'swin_backbone.engine.runner', 'swin_backbone.engine.quiet']
)
runner_type = 'swin_backbone.engine.resume.ResumingRunner'
