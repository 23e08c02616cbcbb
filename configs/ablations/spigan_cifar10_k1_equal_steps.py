# A control of Table 5 of SPI-GAN, not in the paper: K = 1 with as many optimizer steps as K = 2,
# where spigan_cifar10_k1.py has as many iterations and images.
_base_ = ["spigan_cifar10_k1.py"]
train_cfg = dict(max_iters=3_125_000)
