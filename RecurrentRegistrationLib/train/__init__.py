"""Headless training: cases and pairs, synthetic images, objectives, and the engine that Lightning drives.

cases, sources, splits, pairing   what there is to train on, and who is held back
reading, store, augmentation      from files to tensors
synthetic, shapes, deformation, appearance, saturation_recovery   pairs without any file
schedule, terms, objective        what is minimised
module, data, configuration, run  Lightning, from a YAML file to weights
"""
