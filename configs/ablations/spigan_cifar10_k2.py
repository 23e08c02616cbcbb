# Table 5 of SPI-GAN, K = 2: FID 3.09.
_base_ = ["../spigan_cifar10.py"]
model = dict(num_points=2)
