# Table 2 of DDGAN, one-shot with augmentation, with the paper's settings (App. C.4).
_base_ = ["ddgan_cifar10_t1.py"]
model = dict(augment=dict(type="DiffusionAugmentation", num_steps=4))
