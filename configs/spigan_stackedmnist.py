# StackedMNIST with SPI-GAN: not in its paper; the settings of spigan_cifar10.py at the size of
# DDGAN's Table 3. Augmentation is off: it flips, turns and recolours, which makes other digits of
# digits. As many images as ddgan_stackedmnist.py sees, 38.4 million. Made for 2 GPUs.
_base_ = [
    "_base_/models/spigan_32.py",
    "_base_/datasets/stackedmnist.py",
    "_base_/schedules/spigan_adam.py",
    "_base_/default_runtime.py",
]
model = dict(augment=None)
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=600_000)
