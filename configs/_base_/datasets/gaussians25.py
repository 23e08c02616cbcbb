train_dataloader = dict(
    batch_size=512,
    num_workers=0,
    pin_memory=True,
    dataset=dict(type="Gaussians25"),
    sampler=dict(type="ResumableSampler"),
)
evaluation = dict(modes=dict(type="GaussianModes", num=10_000))
