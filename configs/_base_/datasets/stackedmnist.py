train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    pin_memory=True,
    dataset=dict(type="StackedMNIST", root="data/mnist", split="train"),
    sampler=dict(type="ResumableSampler"),
)
evaluation = dict(modes=dict(type="MnistModes", root="data/mnist", num=25_600))
