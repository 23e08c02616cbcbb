# StackedMNIST, with the settings of CIFAR-10 but for the length of training (paper, App. C.5) and
# no flips, which would turn digits into other shapes.
_base_ = [
    "_base_/models/ddgan_32.py",
    "_base_/datasets/stackedmnist.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
train_cfg = dict(max_iters=150_000)
model = dict(data_preprocessor=dict(flip=False))
optim_wrapper = dict(discriminator=dict(optimizer=dict(lr=1.25e-4)))
