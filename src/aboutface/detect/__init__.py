"""Faces in photos: one protocol, several backends, and landmarks or boxes from files."""

from .detector import Detector, choose, detect
from .from_file import read_box, read_landmarks
from .identity import SAME_PERSON, distance, embed

__all__ = ["SAME_PERSON", "Detector", "choose", "detect", "distance", "embed", "read_box", "read_landmarks"]
