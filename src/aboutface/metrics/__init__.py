"""Scores, as functions of tensors: they know no method and no data set."""

from .generated import frechet_distance, kernel_distance
from .keypoints import (
    OUTER_EYE_CORNERS,
    ShapeScore,
    centred,
    correlation,
    depth_corr,
    depth_corr_centred,
    gauge_score,
    keypoint_correlations,
    landmark_error,
    mse,
    mse_norm,
    random_depth_corr,
    similarity_score,
    without_plane,
)
from .surfaces import depth_mae, depth_mse, eroded, mad, masked_mean, side
from .views import LightError, ViewError, light_error, view_error, view_gauge

__all__ = [
    "OUTER_EYE_CORNERS",
    "LightError",
    "ShapeScore",
    "ViewError",
    "centred",
    "correlation",
    "depth_corr",
    "depth_corr_centred",
    "depth_mae",
    "depth_mse",
    "eroded",
    "frechet_distance",
    "gauge_score",
    "kernel_distance",
    "keypoint_correlations",
    "landmark_error",
    "light_error",
    "mad",
    "masked_mean",
    "mse",
    "mse_norm",
    "random_depth_corr",
    "side",
    "similarity_score",
    "view_error",
    "view_gauge",
    "without_plane",
]
