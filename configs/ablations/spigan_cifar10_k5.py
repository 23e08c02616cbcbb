# Table 5 of SPI-GAN, K = 5: FID 6.25.
_base_ = ["../spigan_cifar10.py"]
model = dict(num_points=5)
