# LSUN Church Outdoor at 256 x 256 as in the official release: 8 GPUs with 8 images each, 501
# epochs of 1875 iterations.
_base_ = [
    "_base_/models/ddgan_256.py",
    "_base_/datasets/lsunchurch256.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
train_cfg = dict(max_iters=939_375)
