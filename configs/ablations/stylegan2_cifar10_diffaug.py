# StyleGAN2 with DiffAugment on CIFAR-10: FID 5.79 in Table 2 of SPI-GAN. Zhao et al. use colour,
# translation and cutout. Whether the paper flipped images is not known: as with ADA, not here.
_base_ = ["../stylegan2_cifar10.py"]
model = dict(augment=dict(_delete_=True, type="DiffAugment"))
