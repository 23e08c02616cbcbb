# 3,391 emoji at 64 x 64 pixels; docs/data.md says how the file is made.
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    pin_memory=True,
    dataset=dict(type="ImageMemmap", path="data/emoji64.npy", image_size=64),
    sampler=dict(type="ResumableSampler"),
)
