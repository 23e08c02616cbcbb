# Table 5 of SPI-GAN, K = 3: FID 8.45.
_base_ = ["../spigan_cifar10.py"]
model = dict(num_points=3)
