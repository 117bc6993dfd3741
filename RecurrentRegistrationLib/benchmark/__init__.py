"""Registration methods side by side: the pairs of a manifest, each run in a process of its own, judged by one code."""
