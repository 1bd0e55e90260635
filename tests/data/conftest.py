"""Fixtures of the data tests; what makes their photos is in conftest_data.py."""

from conftest_data import people, tar_of_ten

__all__ = ["people", "tar_of_ten"]
