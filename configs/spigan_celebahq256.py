# CelebA-HQ at 256 x 256 with SPI-GAN: FID 6.62 in the paper (Table 3). It trained for 6 days on 2
# A6000 GPUs (paper, Sec. 4.3); 25 million images in batches of 64 take StyleGAN2 3.6 days on 2 V100
# GPUs, and K = 2 judges each twice.
_base_ = [
    "_base_/models/spigan_256.py",
    "_base_/datasets/celebahq256.py",
    "_base_/schedules/spigan_adam.py",
    "_base_/default_runtime.py",
]
# StyleGAN2-ADA's target for CelebA-HQ, a set of only 30,000 images.
model = dict(augment=dict(target=0.5))
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=390_625)
