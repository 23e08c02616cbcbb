train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="ImageLMDB",
        path="data/celeba-lmdb/train.lmdb",
        pipeline=[dict(type="Resize", size=256)],
        image_size=256,
    ),
    sampler=dict(type="ResumableSampler"),
)
