# Table 5 of SPI-GAN, K = 4: FID 5.49.
_base_ = ["../spigan_cifar10.py"]
model = dict(num_points=4)
