# The papers measure 30,000 samples (DDGAN, App. C.3), against what is trained on: 27,000 images of
# NVAE's split or all 30,000, whichever the file holds.
evaluation = dict(fid=dict(num=30_000))
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
