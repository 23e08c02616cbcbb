# Table 2 of DDGAN, one-shot with augmentation: FID 13.2, recall 0.25. T = 1, and all that the
# discriminator sees is diffused to a random step of four but the last (App. C.4), which leaves the
# times 0, 1, 2 and 3.
_base_ = ["ddgan_cifar10_t1.py"]
model = dict(augment=dict(type="DiffusionAugmentation", num_steps=4))
