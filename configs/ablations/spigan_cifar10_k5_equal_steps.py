# A control of Table 5 of SPI-GAN, not in the paper: K = 5 with as many optimizer steps as K = 2,
# where spigan_cifar10_k5.py has as many iterations and images.
_base_ = ["spigan_cifar10_k5.py"]
train_cfg = dict(max_iters=625_000)
