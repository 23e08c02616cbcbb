# CIFAR-10 with SPI-GAN, K = 2: FID 3.09 in the paper (Table 2). Made for 2 GPUs. The length is
# StyleGAN2-ADA's, 100 million images in batches of 64: the paper's is not known.
_base_ = [
    "_base_/models/spigan_32.py",
    "_base_/datasets/cifar10.py",
    "_base_/schedules/spigan_adam.py",
    "_base_/default_runtime.py",
]
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=1_562_500)
