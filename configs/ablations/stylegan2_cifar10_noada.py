# StyleGAN2 without ADA on CIFAR-10: FID 8.32 in Table 2 of SPI-GAN. Whether the paper flipped
# images is not known; as with ADA, not here.
_base_ = ["../stylegan2_cifar10.py"]
model = dict(augment=None)
