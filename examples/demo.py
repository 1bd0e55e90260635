"""The main job from start to end, on a public-domain portrait or on your own photo.

make demo
make demo PHOTO=me.jpg
"""

import sys
from pathlib import Path

from aboutface.cli import main

OUTPUT = Path("outputs/demo")


def portrait() -> str:
    """NASA's portrait of Eileen Collins (public domain), which scikit-image ships."""
    from PIL import Image
    from skimage import data

    path = OUTPUT / "astronaut.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()).save(path)
    return str(path)


def demo(photo: str) -> int:
    """Run every verb that needs one photo; the first exit code that is not 0, else 0."""
    commands = [
        ["rotate", photo, "--yaw", "-45,-30,-15,0,15,30,45", "-o", str(OUTPUT / "views")],
        ["frontalize", photo, "-o", str(OUTPUT / "frontal.png")],
        ["reconstruct", photo, "-o", str(OUTPUT / "shape")],
        ["animate", photo, "--sweep", "yaw=-40:40", "-o", str(OUTPUT / "turn.mp4")],
    ]
    for command in commands:
        print("\n$ aboutface", *command, flush=True)
        code = main(command)
        if code:
            return code
    print(f"\nEverything is in {OUTPUT.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(demo(next(filter(None, sys.argv[1:]), None) or portrait()))
