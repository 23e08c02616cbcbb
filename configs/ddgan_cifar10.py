# CIFAR-10 as in the official release: 4 GPUs with 64 images each, 1801 epochs of 195 iterations.
_base_ = [
    "_base_/models/ddgan_32.py",
    "_base_/datasets/cifar10.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
train_cfg = dict(max_iters=351_195)
optim_wrapper = dict(discriminator=dict(optimizer=dict(lr=1.25e-4)))
