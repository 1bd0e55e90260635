import pytest


@pytest.fixture(params=["torch", "numba", "warp"])
def every_backend(request, monkeypatch):
    """Makes the calls of a test, which name no backend, go to each in turn. Warp draws on its CPU device."""
    if request.param == "warp":
        pytest.importorskip("warp", reason="the extra 'cuda' is not installed")
    monkeypatch.setenv("ABOUTFACE_RENDERER", request.param)
    return request.param
