"""What runs in the process with the emulated device is not collected: elsewhere it has none."""

collect_ignore = [
    "arithmetic.py",
    "capture.py",
    "changes.py",
    "contract.py",
    "emulator.py",
    "inside.py",
    "loaders.py",
    "noted.py",
    "planted.py",
]
