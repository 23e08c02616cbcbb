# Table 5 of SPI-GAN, K = 1: FID 10.5.
_base_ = ["../spigan_cifar10.py"]
model = dict(num_points=1)
