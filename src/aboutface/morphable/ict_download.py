"""The ICT model from its authors' own place: each file fetched, checked, and only then believed."""

import hashlib
import http.client
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .. import weights
from ..errors import AboutfaceError, MissingError, UsageError
from .ict import ICT_LICENCE, INDICES, NEUTRAL, kept_vertices

ICT_ADDRESS = "https://raw.githubusercontent.com/ICT-VGL/ICT-FaceKit/master/FaceXModel/"

# First 16 digits of sha256: of the file, for the indices; of the kept vertices in float32, for the neutral mesh; of
# their offsets from it in float16, for the others, because comments in the files change and vertices do not.
_PRINTS = """
vertex_indices:4f9b35306299980d
generic_neutral_mesh:c266b00b42dc383b identity000:7f603a25506475fb identity001:55282b43c3e94029
identity002:b51fdda06cf8cfe9 identity003:6ceeaf7400308dc2 identity004:6dc5542c5be38d1b identity005:69217966ab68d49a
identity006:865b1e13156b6720 identity007:c90213956525ed4e identity008:a49ca60debb78e37 identity009:51ea4eac1ee1c0b7
identity010:a1e663e8a189d664 identity011:c2a3bc13b8bcd2cb identity012:9e9fad286b41d130 identity013:948ff1ee6497f8b7
identity014:e04214a2e152440d identity015:b42fd9ab577343fc identity016:94a857c7e0096dfc identity017:7d02251230dcf2bf
identity018:f8164c89fbf6debb identity019:76d69cb94d04868b identity020:51154557d4eec818 identity021:0900683d3e2b4176
identity022:875b1b1d04a413a9 identity023:ce2bfc2d8a3e7cbb identity024:4a27ffb5f7a1f910 identity025:dcd9cbf8ed75100f
identity026:85366405a7c38206 identity027:eb88eaaccebcfebe identity028:a3f212308017a439 identity029:40cb6842f4b834b4
identity030:9df7dddc87221e3e identity031:e962538a78e07f9d identity032:44ab4191f83157f6 identity033:392b123be8440a1e
identity034:235224d8d8d8a72e identity035:feb90ebafe1c0f07 identity036:737f94bf04a7704d identity037:4852da82f7973269
identity038:b94d33fac7cc6b89 identity039:bc1bfcbaf48c5d8b identity040:0811f4a10c42b11d identity041:c6a9d2f703df695d
identity042:4c5261e827240065 identity043:53bb896c22bdefb2 identity044:3522ee2ba9d25414 identity045:2ad33bb8f19b03bd
identity046:677c635021d816fa identity047:27d9c725685cb3d1 identity048:182142610df580f8 identity049:ac5aaef3dd46f29a
identity050:81d3196fa1f37e26 identity051:2d978e3e414fed3e identity052:b2941f8a04a7893d identity053:451af4ef5496cb5c
identity054:079d526f28ef4b68 identity055:7fb217a2499ab8f7 identity056:0fca63ce9db0956f identity057:6a021002b5a80b5d
identity058:2c5d12029376c7d7 identity059:5adcfd2b9d2972e6 identity060:2a57697cf0ab35ce identity061:764dd658dcc6fd82
identity062:8b9f9ec737f2c6b1 identity063:d9b4177cac85ef65 identity064:07b010336ad5a01d identity065:6758e164c2ca535d
identity066:a94f2bf5a6a451b1 identity067:cc91b5e10a82db4a identity068:fcd131901b46bc9a identity069:4a228e1fa7cb3ded
identity070:6e4a8d469369d204 identity071:99f192890cc37861 identity072:a6e21184f9194589 identity073:8a553de8e22ec787
identity074:480ec42de055e1fa identity075:9c1990315f37ec6b identity076:8839530da2ff6a61 identity077:bd87f572aea630bd
identity078:c3edfba3f138e786 identity079:1dae5083613fee36 identity080:6cdbbd457a3c24e8 identity081:d28825c269bc6c17
identity082:a3f799efcede354c identity083:a73f25bbdd15d604 identity084:51b6f3be69881474 identity085:2f74d50aabbf4691
identity086:2233519792c20b6c identity087:5092fc5d127cd659 identity088:b124bf69f20fa093 identity089:b19f88f66c97fedd
identity090:6427dd40086922ca identity091:749e98eb1b548368 identity092:401abefeaa940f7e identity093:813ffef4010fa975
identity094:a751c0f91845adb8 identity095:ee94bfcfcfd9b4cd identity096:2c7553ec7611bfb8 identity097:0099f16b842a247a
identity098:218e5810a63f136c identity099:71c426797a9db2c0 PupilDilate_L:61196315a8e8d33c
PupilDilate_R:85746af7a21673e3 browDown_L:66355076fb177004 browDown_R:28893bff1aa5fe91
browInnerUp_L:6fa9cd36ac76b504 browInnerUp_R:49795885e558e253 browOuterUp_L:21b968eb988555ee
browOuterUp_R:ccfebf71ef0452e8 cheekPuff_L:98878c6741f1507d cheekPuff_R:7198c0ac23486e8c
cheekRaiser_L:407e33cb5d69a1cb cheekRaiser_R:8de79e4bd0a1e7ba cheekSquint_L:6f1cfbb358bd9ec6
cheekSquint_R:573504f788c646b0 eyeBlink_L:50493f7482566235 eyeBlink_R:c949a430fa223d96
eyeLookDown_L:35a82c559c8adf09 eyeLookDown_R:93f852f74fc8b748 eyeLookIn_L:c734f07eccf6e845
eyeLookIn_R:f5b197f8972d0536 eyeLookOut_L:dbb9c3e1a234d700 eyeLookOut_R:dff0c1ed19a294b5
eyeLookUp_L:e2a41f02a2af32f0 eyeLookUp_R:5976a155fddb98d7 eyeSquint_L:5777a63837bf13c6 eyeSquint_R:10a5aea494aa2aee
eyeWide_L:a70812a6db66e84e eyeWide_R:5ef5456768bbb9d3 jawForward:179ba1a5e4da1117 jawLeft:a05a2ec8e482a57b
jawOpen:1843c45c014e5a20 jawRight:723a9f593de4dea4 mouthClose:0aa1ce9d8eb3aa5c mouthDimple_L:c88eb78f5f56d27e
mouthDimple_R:a3d430b080b7d170 mouthFrown_L:cf7c5097019fbde8 mouthFrown_R:71c6279a4cd07af6
mouthFunnel:446c484d08581602 mouthLeft:7d6df803b30822b0 mouthLowerDown_L:40b7dfb642544796
mouthLowerDown_R:9cecfad87f1697c0 mouthPress_L:1fb15351db90b702 mouthPress_R:16e5c3a3d0af571a
mouthPucker:6f2e3b3db410757b mouthRight:6413349255b8aee1 mouthRollLower:918a4def2d055113
mouthRollUpper:eb67b01e9f1188c3 mouthShrugLower:4685c95398acaa0e mouthShrugUpper:7b99088dce0c3171
mouthSmile_L:71d0329ba635aaf4 mouthSmile_R:f5c5a908427030c6 mouthStretch_L:8022b96192fab0d8
mouthStretch_R:ef531ed219d74986 mouthUpperUp_L:f54040bae479a529 mouthUpperUp_R:217034e91537735c
noseSneer_L:9b9895e0956c8441 noseSneer_R:89bb4fe10746eef7
"""
ICT_PRINTS: dict[str, str] = {name: digits for name, _, digits in (entry.partition(":") for entry in _PRINTS.split())}


def download_ict(
    folder: Path,
    progress: weights.Progress | None = None,
    address: str | None = None,
    prints: Mapping[str, str] | None = None,
) -> None:
    """Fill `folder` with the model's 159 files (405 MB), one after the other; those that are there are only checked.

    Args:
        folder: made if missing; an interrupted download goes on in it.
        progress: called with the bytes so far, of all files.
        address: where the files are, to the last slash.
        prints: file name without suffix -> expected print; the whole model's if missing.

    Raises MissingError where no network is allowed, AboutfaceError where a file does not come or is another one.
    """
    address, prints = address or ICT_ADDRESS, prints or ICT_PRINTS
    if weights.offline():
        raise MissingError(f"ict would be downloaded from {address} ({ICT_LICENCE}), but ABOUTFACE_OFFLINE is set.")
    folder.mkdir(parents=True, exist_ok=True)
    neutral, before = None, 0
    # The offsets of all others start at the neutral mesh.
    for name in sorted(prints, key=lambda name: (name != Path(INDICES).stem, name != Path(NEUTRAL).stem, name)):
        file = folder / (INDICES if name == Path(INDICES).stem else f"{name}.obj")
        fetched = not file.exists()
        if fetched:
            _fetch(address + file.name, file, progress, before)
        found, vertices = _print(file, neutral)
        if found != prints[name] and not fetched:
            # What an earlier attempt left may be spoiled.
            file.unlink()
            _fetch(address + file.name, file, progress, before)
            found, vertices = _print(file, neutral)
        if found != prints[name]:
            file.unlink()
            raise AboutfaceError(
                f"{address}{file.name}: is not the file that is known (print {found} instead of {prints[name]}); "
                f"removed. Download the folder by hand and run: aboutface models add ict FOLDER"
            )
        neutral = vertices if file.name == NEUTRAL else neutral
        before += file.stat().st_size


def _fetch(url: str, file: Path, progress: weights.Progress | None, before: int) -> None:
    try:
        weights.fetch(url, file, None if progress is None else lambda done, _: progress(before + done, None))
    except (OSError, http.client.HTTPException) as error:
        raise AboutfaceError(f"{url}: {error}; run the command again, it goes on where it stopped") from None


def _print(file: Path, neutral: np.ndarray | None) -> tuple[str, np.ndarray | None]:
    """The file's print, and its kept vertices; "unreadable" where it has none."""
    if file.name == INDICES:
        return weights.digest(file)[:16], None
    try:
        vertices = kept_vertices(file)
    except UsageError:
        return "unreadable", None
    stored = vertices.astype(np.float32) if neutral is None else (vertices - neutral).astype(np.float16)
    return hashlib.sha256(stored.tobytes()).hexdigest()[:16], vertices
