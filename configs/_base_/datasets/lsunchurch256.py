train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="ImageLMDB",
        path="data/lsun/church_outdoor_train_lmdb",
        num_images=120_000,
        pipeline=[dict(type="CentreCrop"), dict(type="Resize", size=256)],
        image_size=256,
    ),
    sampler=dict(type="ResumableSampler"),
)
