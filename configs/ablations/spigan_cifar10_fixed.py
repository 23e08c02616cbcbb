# Table 5 of SPI-GAN, fixed j: FID 20.8. Every batch is judged at t = 1/2 and 1, instead of at a
# random time and 1.
_base_ = ["../spigan_cifar10.py"]
model = dict(fixed_points=True)
