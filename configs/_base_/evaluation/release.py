# The protocol of DDGAN's released evaluation (tools/test.py --preset release, docs/evaluation.md):
# samples as JPEG files of torchvision's quality, pytorch-fid's resizing, one split for IS.
evaluation = {
    "fid": dict(extractor=dict(type="InceptionExtractor", resize="pytorch"), jpeg=75),
    "is": dict(splits=1),
}
