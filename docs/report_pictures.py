"""Pictures of a selection's page, `docs/pictures/report-*.png`, of `examples/image_folder.py`.

In an empty folder, with playwright and Chromium as `.ci/browser` has them:

    python REPOSITORY/docs/report_pictures.py
"""

import os
import runpy
import shutil
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SIZES = {1280: 1000, 390: 844}  # a screen, a phone


def main() -> None:
    """Writes a picture for each width and color scheme."""
    from playwright.sync_api import sync_playwright

    runpy.run_path(str(ROOT / "examples" / "image_folder.py"), run_name="__main__")
    page = Path("page/index.html").resolve().as_uri()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, height in SIZES.items():
            for scheme in ("light", "dark"):
                size = {"width": width, "height": height}
                context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
                shown = context.new_page()
                shown.goto(page)
                path = ROOT / "docs" / "pictures" / f"report-{width}-{scheme}.png"
                shown.screenshot(path=path)
                with Image.open(path) as image:
                    image.convert("RGB").quantize(256).save(path, optimize=True)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
