# LSUN Church Outdoor at 256 x 256 with SPI-GAN: FID 6.03 in the paper (Table 4). Made for 2 GPUs,
# as long as spigan_celebahq256.py: the paper does not say.
_base_ = [
    "_base_/models/spigan_256.py",
    "_base_/datasets/lsunchurch256.py",
    "_base_/schedules/spigan_adam.py",
    "_base_/default_runtime.py",
]
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=390_625)
