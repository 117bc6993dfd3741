"""What a row of results can hold, and how each number is called, rounded and compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One number of a row.

    Attributes:
        title: for tables and axes, without the unit.
        unit: "mm", "%", "s" …; empty for none.
        digits: after the decimal point.
        better: +1 where more is better, -1 where less is, 0 where neither is.
        meaning: one sentence for a reader of the report.
    """

    title: str
    unit: str
    digits: int
    better: int
    meaning: str

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


MEASURES = {
    "dice": Measure("Dice", "", 3, 1, "overlap of warped and fixed labels, mean over structures"),
    "hausdorff_mm": Measure("HD", "mm", 2, -1, "largest surface distance, mean over structures"),
    "hausdorff95_mm": Measure("HD95", "mm", 2, -1, "95th percentile of the surface distances, mean over structures"),
    "surface_distance_mm": Measure("ASD", "mm", 2, -1, "average surface distance, both directions pooled"),
    "tre_mm": Measure("TRE", "mm", 2, -1, "mean distance of mapped landmarks to their partners"),
    "tre30_mm": Measure("TRE30", "mm", 2, -1, "what the worst 30 % of the landmarks exceed"),
    "tre_max_mm": Measure("worst TRE", "mm", 2, -1, "distance of the worst landmark"),
    "distance_mm": Measure("distance", "mm", 2, -1, "mean distance to the known mapping"),
    "distance_p95_mm": Measure("distance, 95th", "mm", 2, -1, "95th percentile of the distance to the known mapping"),
    "foreground_dice": Measure("foreground Dice", "", 3, 1, "overlap of the Otsu foregrounds"),
    "rmse": Measure("RMSE", "", 3, -1, "root mean squared difference of the intensities"),
    "correlation": Measure("NCC", "", 3, 1, "correlation of the intensities"),
    "mutual_information": Measure("NMI", "", 3, 1, "normalised mutual information, 1 to 2"),
    "seen_percent": Measure("seen", "%", 1, 0, "part of the region that maps inside the moving image"),
    "folded_voxels": Measure("folded voxels", "", 0, -1, "Jacobian determinant of 0 or less, whole fixed grid"),
    "folding_percent": Measure("folding", "%", 4, -1, "share of the folded voxels in the whole fixed grid"),
    "folding_magnitude": Measure("folding, sum |J|", "", 2, -1, "sum of |J| over the folded voxels"),
    "folded_in_mask": Measure("folded, mask", "", 0, -1, "folded voxels inside the mask"),
    "folded_in_labels": Measure("folded, labels", "", 0, -1, "folded voxels inside the fixed labels"),
    "log_jacobian_deviation": Measure("std log J", "", 3, 0, "standard deviation of log J over the region"),
    "jacobian_min": Measure("lowest J", "", 2, 0, "smallest Jacobian determinant in the region"),
    "jacobian_max": Measure("highest J", "", 2, 0, "largest Jacobian determinant in the region"),
    "inverse_mm": Measure("inverse residual", "mm", 3, -1, "mean distance after going there and back by the inverse"),
    "seconds": Measure("time", "s", 1, -1, "wall clock of the whole process: start, reading and writing included"),
    "cpu_seconds": Measure("CPU time", "s", 1, -1, "processor seconds of the whole process"),
    "peak_mib": Measure("peak memory", "MiB", 0, -1, "largest resident memory of the process"),
    "steps": Measure("steps", "", 0, 0, "steps of the method"),
    "parameters": Measure("parameters", "", 0, 0, "trainable parameters of the network"),
    "gmac": Measure("GMAC", "", 1, -1, "multiply-accumulate operations of one registration, in billions"),
    "transform_numbers": Measure("numbers", "", 0, 0, "numbers that the transform is made of"),
}
ACCURACY = ("tre_mm", "distance_mm", "dice", "foreground_dice")  # the first one known is what a manifest is about


def accuracy(known: set[str]) -> str:
    """The measure that methods are ranked by where the manifest names none."""
    return next((name for name in ACCURACY if name in known), ACCURACY[-1])
