"""Evaluation: codecs, learned or classical, over folders of images.

interfaces   what is measured, and what measures
protocols    which part of each image is coded
dataset      the images of a folder
learned      codecs of this program as subjects
names        codecs, anchors and metrics by their names
runner       every image through every codec once, on one process or many
store        what was measured, on disk while it is measured
results      result files, in CompressAI's shape
"""
