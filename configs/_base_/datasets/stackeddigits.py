train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    pin_memory=True,
    dataset=dict(type="StackedDigits", split="train"),
    sampler=dict(type="ResumableSampler"),
)
evaluation = dict(modes=dict(type="DigitModes", num=10_000))
