"""The process behind the 3D Slicer module: `process` reads requests, `session` holds one registration."""
