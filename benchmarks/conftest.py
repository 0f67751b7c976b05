"""`pytest benchmarks --benchmark-only`: what is in folders has commands of its own."""

from pathlib import Path

collect_ignore = [path.name for path in Path(__file__).parent.iterdir() if path.is_dir()]
