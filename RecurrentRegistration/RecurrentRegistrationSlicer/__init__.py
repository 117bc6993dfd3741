"""What the module does in 3D Slicer's scene, one concern a file. Nothing here needs Qt, and nothing imports torch."""
