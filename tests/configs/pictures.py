# The old name of images.py.
_base_ = ["images.py"]
