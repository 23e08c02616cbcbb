# Table 5 of SPI-GAN, fixed j, by Sec. 4.4's second reading, j from 0: every batch is also judged at
# t = 0, where the real image is the noise itself.
_base_ = ["spigan_cifar10_fixed.py"]
model = dict(from_zero=True)
