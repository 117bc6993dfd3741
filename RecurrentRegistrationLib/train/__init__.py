"""The one trainer: cases and pairs, synthetic images, objectives, and the engine that Lightning drives.

cases, sources, splits, pairing   what there is to train on, and who is held back
subjects, starts                  pairs of labelled subjects as `register` would hand them to a method
reading, store, augmentation      from files to tensors
synthetic, shapes, deformation, appearance, saturation_recovery   pairs without any file
schedule, terms, objective        what is minimised
lesson                            what a part of a method learns first
module, data, configuration, run  Lightning, from a YAML file to weights
cards                             what is said of weights that are to ship
"""
