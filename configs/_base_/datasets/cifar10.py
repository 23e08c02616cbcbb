train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    pin_memory=True,
    dataset=dict(type="CIFAR10", root="data/cifar10", split="train"),
    sampler=dict(type="ResumableSampler"),
)
