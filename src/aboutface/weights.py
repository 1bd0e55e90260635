"""Weights are records: where the file is, its hash, its licence, and what it was measured to do.

Small weights that this project trained lie in the package. Others belong to a dependency, or are downloaded once, by
`download`, into a cache folder: the variable ABOUTFACE_HOME, else the user's cache. Nothing is downloaded
unasked, and nothing at all while ABOUTFACE_OFFLINE is set.
"""

import hashlib
import http.client
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import AboutfaceError, MissingError, UsageError

_PACKAGE = Path(__file__).with_name("weights_data")
_DLIB = "face_recognition_models"
_BLOCK = 1 << 20

Progress = Callable[[int, int | None], object]
"""Called with the bytes so far and all bytes (None where the server does not tell)."""


@dataclass(frozen=True)
class Weights:
    """One weight file."""

    name: str
    """What `load` and `aboutface models` call it."""
    file: str
    """File name inside its folder."""
    licence: str
    """One line; of the weights, not of the code."""
    description: str = ""
    paper: str = ""
    url: str | None = None
    """Where `download` gets it; None: it comes with a package."""
    mirrors: tuple[str, ...] = ()
    """Further addresses, tried in this order."""
    sha256: str | None = None
    """Hex digest; None: not known here, the first download's is noted beside the file and checked from then on."""
    package: str | None = None
    """The dependency that brings the file."""
    added: str = ""
    """The command that makes it of the user's own files, for what cannot be had otherwise."""
    redistributable: bool | None = None
    """Whether the licence lets anyone pass the file on; None: it is not said here."""
    gated: bool = False
    """The licence must be accepted by name before the download."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the model was built and trained with."""
    scores: dict[str, float] = field(default_factory=dict)
    """What was measured."""

    @property
    def path(self) -> Path | None:
        """Where the file belongs, present or not; None where the dependency that brings it is not installed."""
        if self.optional:
            return home() / "weights" / self.file
        if self.package is None:
            return _PACKAGE / self.file
        # Found without importing: face_recognition_models needs pkg_resources, which setuptools no longer ships.
        spec = importlib.util.find_spec(self.package)
        folders = (spec.submodule_search_locations if spec else None) or []
        return next((Path(folder) / "models" / self.file for folder in folders), None)

    @property
    def present(self) -> bool:
        return self.path is not None and self.path.is_file()

    @property
    def optional(self) -> bool:
        """Whether its absence is no fault of the installation: it waits for a download, or for the user's files."""
        return self.url is not None or bool(self.added)

    @property
    def remedy(self) -> str:
        """The command that brings it."""
        if self.added:
            return self.added
        if self.url is not None:
            return f"aboutface models download {self.name}"
        return f"pip install --force-reinstall {(self.package or 'aboutface').replace('_', '-')}"


REGISTRY: dict[str, Weights] = {
    record.name: record
    for record in (
        Weights(
            "depthnet",
            "depthnet.safetensors",
            "Apache-2.0; trained on research-only landmark sets",
            "Depth of 68 landmarks, learned from 2D: by the affine that explains a second view, and a factorisation.",
            "Moniz et al., Unsupervised Depth Estimation, 3D Face Rotation and Replacement, NeurIPS 2018",
        ),
        Weights(
            "unsup3d",
            "unsup3d.safetensors",
            "Apache-2.0; trained on research-only photos",
            "Depth, albedo, view and light of a face at 128 pixels, learned from photos alone.",
            "Wu et al., Unsupervised Learning of Probably Symmetric Deformable 3D Objects, CVPR 2020",
        ),
        Weights(
            "deep3d",
            "deep3d.safetensors",
            "Apache-2.0; trained on research-only photos",
            "68 landmarks of a face, and coefficients of the ICT face model, pose, albedo and light, at 112 px.",
            "Deng et al., Accurate 3D Face Reconstruction with Weakly-Supervised Learning, CVPR workshops 2019",
        ),
        Weights(
            "deep3d-sets",
            "deep3d_sets.safetensors",
            "Apache-2.0; trained on research-only photos",
            "How far each of several photos of one person is to be trusted about the face's shape; belongs to deep3d.",
            "Deng et al., Accurate 3D Face Reconstruction with Weakly-Supervised Learning, CVPR workshops 2019",
        ),
        Weights(
            "mean_head",
            "mean_head.safetensors",
            "MIT, (c) 2020 USC Institute for Creative Technologies; its landmarks are a mean of a research-only set",
            "Average of random ICT-FaceKit heads, bent to the mean landmarks of real faces.",
            "Li et al., Learning Formation of Physically-Based Face Attributes, CVPR 2020",
        ),
        Weights(
            "dlib-landmarks",
            "shape_predictor_68_face_landmarks.dat",
            "non-commercial research (trained on iBUG 300-W)",
            "68 landmarks inside a box, by an ensemble of regression trees.",
            "Kazemi and Sullivan, One Millisecond Face Alignment, CVPR 2014",
            sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
            package=_DLIB,
        ),
        Weights(
            "dlib-cnn",
            "mmod_human_face_detector.dat",
            "public domain (CC0 1.0)",
            "Face detector, second try after HOG.",
            "King, Max-Margin Object Detection, arXiv 1502.00046",
            sha256="4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
            package=_DLIB,
        ),
        Weights(
            "dlib-embedding",
            "dlib_face_recognition_resnet_model_v1.dat",
            "public domain (CC0 1.0)",
            "Identity embedding of 128 numbers; one person below a distance of 0.6.",
            "He et al., Deep Residual Learning, CVPR 2016 (architecture)",
            sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            package=_DLIB,
            scores={"same_person_accuracy_at_0.6": 0.992},
        ),
        Weights(
            "mediapipe-face-landmarker",
            "face_landmarker.task",
            "Apache-2.0",
            "Face detector with 478 landmarks, for the detector `mediapipe`.",
            "Kartynnik et al., Real-time Facial Surface Geometry, arXiv 1907.06724",
            url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
        ),
        Weights(
            "vgg16",
            "vgg16-397923af.pth",
            "BSD-3-Clause (torchvision); trained on ImageNet, whose images are for non-commercial research",
            "Features in which `aboutface train unsup3d` compares pictures, where it is present; not needed to use it.",
            "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        Weights(
            "inception",
            "pt_inception-2015-12-05-6726825d.pth",
            "Apache-2.0 (pytorch-fid, of TensorFlow); trained on ImageNet, whose images are for non-commercial "
            "research",
            "Features in which `aboutface train stylegan2` compares sets of pictures (FID, KID), where it is present.",
            "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016",
            url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
        ),
        Weights(
            "ict",
            "ict.safetensors",
            "MIT, (c) 2020 USC Institute for Creative Technologies",
            "Morphable model of the whole head, eyes and mouth: 100 identities, 57 expressions; ICT-FaceKit light.",
            "Li et al., Learning Formation of Physically-Based Face Attributes, CVPR 2020",
            added="aboutface models download ict, or: aboutface models add ict FaceXModel",
            redistributable=True,
        ),
        Weights(
            "bfm09",
            "bfm09.safetensors",
            "academic use by signed agreement with the University of Basel; no passing on",
            "Morphable model of face shape and albedo; with Deep3D's files also its crop, and expressions.",
            "Paysan et al., A 3D Face Model for Pose and Illumination Invariant Face Recognition, AVSS 2009",
            added="aboutface models add bfm09 01_MorphableModel.mat (with the folder BFM of Deep3D, or its "
            "BFM_model_front.mat alone)",
            redistributable=False,
        ),
        Weights(
            "bfm17",
            "bfm17.safetensors",
            "non-commercial research, University of Basel; no passing on",
            "Morphable model of face shape, expression and albedo.",
            "Gerig et al., Morphable Face Models: An Open Framework, FG 2018",
            added="aboutface models add bfm17 model2017-1_bfm_nomouth.h5",
            redistributable=False,
        ),
        Weights(
            "bfm19",
            "bfm19.safetensors",
            "non-commercial research, University of Basel; no passing on",
            "Morphable model of face or head shape, expression and albedo.",
            "Gerig et al., Morphable Face Models: An Open Framework, FG 2018",
            added="aboutface models add bfm19 model2019_bfm.h5",
            redistributable=False,
        ),
        Weights(
            "flame",
            "flame.safetensors",
            "2017 to 2020: non-commercial research, MPI, no passing on; 2023 Open: CC-BY-4.0",
            "Morphable model of the whole head, with joints for neck, jaw and eyes.",
            "Li et al., Learning a Model of Facial Shape and Expression from 4D Scans, SIGGRAPH Asia 2017",
            added="aboutface models add flame generic_model.pkl landmark_embedding.npy",
            redistributable=False,
        ),
    )
}


def home() -> Path:
    """Folder for what is downloaded: the variable ABOUTFACE_HOME, else the user's cache folder."""
    chosen = os.environ.get("ABOUTFACE_HOME")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("aboutface")


def offline() -> bool:
    """Whether downloads are forbidden: ABOUTFACE_OFFLINE is set, and not to 0."""
    return os.environ.get("ABOUTFACE_OFFLINE", "0").lower() not in ("", "0", "false", "no")


def info(name: str) -> Weights:
    """The record of this name, with the card that the file itself carries (safetensors metadata, key "card").

    Raises:
        UsageError: no weights have this name.
    """
    record = REGISTRY.get(name)
    if record is None:
        raise UsageError(f"Unknown weights {name!r}: choose one of {', '.join(REGISTRY)}.")
    if record.file.endswith(".safetensors") and record.present:
        card = _card(record.path)
        known = {key: card[key] for key in ("licence", "description", "paper", "settings", "scores") if key in card}
        record = replace(record, **known)
    return record


def path(name: str) -> Path:
    """Path of the weight file.

    Raises:
        UsageError: no weights have this name.
        MissingError: the file is absent; the message says which command brings it.
    """
    record = info(name)
    if record.path is None or not record.present:
        raise MissingError(f"The weights {name} are not on this machine; run: {record.remedy}")
    return record.path


def load(name: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU, in the stored dtype (mostly float16).

    Raises:
        UsageError: no safetensors weights have this name.
        MissingError: the file is absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not info(name).file.endswith(".safetensors"):
        raise UsageError(f"The weights {name} are not tensors of this project.")
    file = path(name)
    try:
        return load_file(file)
    except SafetensorError:
        raise MissingError(f"The weights {name} are damaged: delete {file}, then install them again.") from None


def load_file(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and card of a weight file of the user's own, as `aboutface train` writes it.

    Raises UsageError where the file is absent or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file as read

    try:
        return read(file), _card(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file}: cannot be read as weights ({reason}); give a .safetensors file") from None


def verify(name: str) -> str:
    """The file's sha256; checked against the record, or against what the first download noted.

    Raises:
        MissingError: the file is absent, or differs.
    """
    file, found = path(name), digest(path(name))
    expected = info(name).sha256 or _noted(file)
    if expected is not None and found != expected:
        raise MissingError(f"The weights {name} are changed: sha256 of {file} is {found}, not {expected}.")
    return found


def download(name: str, progress: Progress | None = None, accept: Collection[str] = ()) -> Path:
    """Bring a file into the cache: whole and verified, or not at all. A broken download goes on where it stopped.

    Args:
        progress: called after each block with the bytes so far and all bytes.
        accept: names of the gated weights whose licences the user accepts.

    Raises:
        UsageError: unknown name, nothing to download, or the licence is not accepted.
        MissingError: no network allowed.
        AboutfaceError: no address delivers, or what it delivers has the wrong hash.
    """
    record = info(name)
    target = record.path
    if record.added:
        raise UsageError(f"The weights {name} are made of the user's own files; run: {record.added}")
    if record.url is None or target is None:
        raise UsageError(f"The weights {name} come with {record.package or 'aboutface'}: nothing to download.")
    if record.present:
        verify(name)
        return target
    if record.gated and name not in accept:
        raise UsageError(f"Licence of {name}: {record.licence}. To accept it, add --accept-license {name}")
    if offline():
        raise MissingError(f"{name} would be downloaded from {record.url}, but ABOUTFACE_OFFLINE is set.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = []
    # What an earlier attempt left may be stale and spoil the hash: then the address gets a second, fresh chance.
    addresses = (record.url,) * (2 if part.exists() else 1) + record.mirrors
    for url in addresses:
        try:
            _fetch(url, part, progress)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
            continue
        found = digest(part)
        if record.sha256 in (None, found):
            # The hash goes first: a file without one would look finished and unverified.
            _note(target).write_text(found + "\n")
            part.replace(target)
            return target
        part.unlink()
        failures.append(f"{url}: wrong content, sha256 {found} instead of {record.sha256}; removed")
    raise AboutfaceError(f"{name} could not be downloaded. " + "; ".join(failures))


def fetch(url: str, target: Path, progress: Progress | None = None) -> None:
    """Get one file, whole or not at all; a download that was cut off goes on where it stopped.

    Raises OSError or http.client.HTTPException where the address does not deliver.
    """
    part = target.with_name(target.name + ".part")
    _fetch(url, part, progress)
    part.replace(target)


def kept_file(name: str) -> Path:
    """Where a file of the user's own is kept. Raises UsageError for weights that come otherwise."""
    record = info(name)
    if not record.added or record.path is None:
        raise UsageError(f"The weights {name} are none of the user's own.")
    return record.path


def note_digest(name: str) -> None:
    """Note the hash of a file that was just put in its place: `verify` compares with it from then on."""
    file = kept_file(name)
    _note(file).write_text(digest(file) + "\n")


def remove(name: str) -> Path:
    """Delete a download, or a file made of the user's own; the place where it was.

    Raises UsageError for weights that come with a package, MissingError where there is nothing to delete.
    """
    record = info(name)
    if not record.optional:
        raise UsageError(f"The weights {name} come with {record.package or 'aboutface'} and stay.")
    file = path(name)
    file.unlink()
    _note(file).unlink(missing_ok=True)
    return file


def listing() -> list[dict[str, Any]]:
    """One entry per record, for `aboutface models list`; bytes and path are None where the file is absent."""
    entries = []
    for name in REGISTRY:
        record = info(name)
        present, file = record.present, record.path
        entries.append(
            {
                "name": name,
                "present": present,
                "bytes": file.stat().st_size if present and file else None,
                "licence": record.licence,
                "sha256": record.sha256 or (_noted(file) or digest(file) if present and file else None),
                "source": record.url or record.package or record.added or "aboutface",
                "redistributable": record.redistributable,
                "gated": record.gated,
                "description": record.description,
                "path": str(file) if present else None,
            }
        )
    return entries


def digest(file: Path) -> str:
    """sha256 of a file, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        # The part is as long as the file or longer, so it is of no use: begin anew.
        part.unlink()
        return _fetch(url, part, progress)
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        done = start
        with part.open("ab" if start else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
    if total is not None and done < total:
        raise OSError(f"the connection broke after {done} of {total} bytes")


def _card(file: Path | None) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            return json.loads((opened.metadata() or {}).get("card", "{}"))
    except (SafetensorError, ValueError):
        return {}


def _note(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _noted(file: Path) -> str | None:
    note = _note(file)
    return note.read_text().strip() if note.is_file() else None
